package trace

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kstat/lab/packets"
	"kstat/lab/sandbox"
	"kstat/stats"
	origin "kstat/trace"
	"kstat/trace/header"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var names = stats.BuiltinNames()

// traced returns what the two files give for packets of all kinds, of which the
// third and the last one are missed.
func traced(t testing.TB) (lines, stream []byte, all [][]byte) {
	for _, c := range slices.Concat(
		packets.IPv4Cases(netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")),
		packets.IPv4Cases(netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("192.168.1.7")),
		packets.IPv6Cases(netip.MustParseAddr("fd00:9::1"), netip.MustParseAddr("fd00:9::2")),
		packets.IPv6Cases(netip.MustParseAddr("::ffff:10.9.0.1"), netip.MustParseAddr("fd00::7"))) {
		all = append(all, c.Packet)
	}
	trace := origin.New(stats.NewTable(), names)
	text, err := trace.Text()
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	pcapng, err := trace.Pcapng()
	if err != nil {
		t.Fatal(err)
	}
	defer pcapng.Close()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range all {
		head := p[:min(len(p), origin.Captured)]
		h := header.Parse(head)
		family, protocol := stats.IPv4, stats.Other
		if h.Version == 6 {
			family = stats.IPv6
		}
		if h.Protocol >= 0 {
			protocol = stats.Protocol(h.Protocol)
		}
		s := stats.Sighting{
			Number: uint64(i + 1),
			Packet: stats.Packet{Class: stats.ClassOf(family, protocol), Bytes: uint32(len(p))},
			Time:   time.Now().UnixNano(), Head: head,
		}
		if i > 1 {
			s.Number++
		}
		if i%3 > 0 {
			s.Out = uint32(lo.Index)
		}
		trace.Trace([]stats.Sighting{s})
	}
	trace.Traced(uint64(len(all) + 2))
	trace.Finish()
	drain := func(r *origin.Reader) (all []byte) {
		for {
			more, err := r.Next(all, 1<<16, nil)
			if errors.Is(err, io.EOF) {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			all = more
		}
	}
	return drain(text), drain(pcapng), all
}

func tcpdump(t *testing.T, stream []byte, filter ...string) []string {
	t.Helper()
	return sandbox.Through(t, stream, "tcpdump", append([]string{"-n", "-S", "-t", "-x", "-r", "-"}, filter...)...)
}

// TestFilterAsTcpdump: for each filter, what we leave of a stream is what tcpdump
// leaves of it. Only what libpcap looks at can be compared: it does not walk over
// extension headers, and so sees no protocol behind them.
func TestFilterAsTcpdump(t *testing.T) {
	_, stream, _ := traced(t)
	plain := func(h *header.Header) bool { return h.Version == 4 || h.Offset == 40 }
	simple := new(bytes.Buffer)
	if _, err := Blocks(t.Context(), bytes.NewReader(stream), simple, Options{Names: names, Filter: plain}); err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{
		"", "ip", "ip6", "tcp", "udp", "icmp", "icmp6", "sctp", "esp", "ip proto 253", "ip6 proto 17",
		"host 10.9.0.2", "src host 10.9.0.2", "dst host 10.9.0.2", "src 10.9.0.1", "dst 192.168.1.7", "host fd00:9::2", "src host ::ffff:10.9.0.1",
		"net 10.9.0.0/16", "src net 192.168.0.0/16", "dst net 192.168.0.0/16", "net fd00:9::/32", "dst net fd00::/16", "net 0.0.0.0/0",
		"port 1", "port 2", "src port 1", "dst port 1", "tcp port 2", "udp dst port 2", "udp src port 2", "portrange 2-10", "src portrange 1-1", "port 3",
		"not tcp", "! udp and ip", "tcp or udp", "tcp || udp && ip6", "udp or tcp and ip6", "ip6 and tcp or udp", "not (tcp or udp)", "(ip6) and (dst port 2)",
		"not not ip", "ip and host 10.9.0.1 and not udp", "ip6 host fd00:9::1", "ip host 10.9.0.1",
	} {
		f, err := ParseFilter(filter, names)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		ours := new(bytes.Buffer)
		s, err := Blocks(t.Context(), bytes.NewReader(simple.Bytes()), ours, Options{Names: names, Filter: f})
		if err != nil || s.Shown > s.Seen || s.Missed != 2 {
			t.Errorf("%s: %v, %v", filter, s, err)
		}
		got, want := tcpdump(t, ours.Bytes()), tcpdump(t, simple.Bytes(), strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(filter))...)
		if !slices.Equal(got, want) {
			t.Errorf("%s: we leave\n%stcpdump\n%s", filter, strings.Join(got, ""), strings.Join(want, ""))
		}
	}
}

// TestLinesAndBlocks: a filter leaves the same packets of lines as of blocks.
func TestLinesAndBlocks(t *testing.T) {
	lines, stream, all := traced(t)
	for _, filter := range []string{
		"", "ip6", "tcp", "not udp", "proto 253", "proto esp", "ip proto udp", "proto ipv6-nonxt", "port 1", "src port 1", "tcp port 2", "host 10.9.0.2",
		"src net 10.0.0.0/8", "net fd00::/16 and not tcp", "src ::ffff:10.9.0.1", "icmp or esp", "portrange 1-2",
	} {
		f, err := ParseFilter(filter, names)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		var text, blocks bytes.Buffer
		a, err1 := Lines(t.Context(), bytes.NewReader(lines), &text, Options{Names: names, Filter: f})
		b, err2 := Blocks(t.Context(), bytes.NewReader(stream), &blocks, Options{Names: names, Filter: f})
		if a != b || a.Missed != 2 || a.Seen != uint64(len(all)) || filter == "" && a.Shown != a.Seen || a.Shown == 0 && filter != "icmp" || err1 != nil || err2 != nil {
			t.Errorf("%s: %v, %v of lines, %v, %v of blocks", filter, a, err1, b, err2)
		}
		if n := uint64(strings.Count(text.String(), "\n")); n != a.Shown+2 {
			t.Errorf("%s: %d lines for %v", filter, n, a)
		}
	}
}

// TestFilterErrors: each is a line that says what is wrong.
func TestFilterErrors(t *testing.T) {
	for filter, want := range map[string]string{
		"frob":                               `"frob" where a protocol, or ip, ip6, proto, host, net, port, portrange, src, dst is expected`,
		"tcp udp":                            `"udp" where and, or, or the end is expected`,
		"tcp and":                            `it ends where a protocol, or ip, ip6, proto, host, net, port, portrange, src, dst is expected`,
		"(tcp":                               `it ends where ) is expected`,
		"tcp )":                              `")" where and, or, or the end is expected`,
		"port http":                          `"http" where a port, 0 to 65535, is expected`,
		"port 65536":                         `"65536" where a port, 0 to 65535, is expected`,
		"port 1-2":                           `"1-2" where a port, 0 to 65535, is expected`,
		"portrange 7":                        `"7" where a range of ports, like 6000-6008, is expected`,
		"portrange 7-6":                      `"7-6" where a range of ports, like 6000-6008, is expected`,
		"host example.org":                   `"example.org" where an address, like 10.0.0.1 or ::1, is expected`,
		"host fe80::1%lo":                    `"fe80::1%lo" where an address, like 10.0.0.1 or ::1, is expected`,
		"src":                                `it ends where an address, like 10.0.0.1 or ::1, is expected`,
		"net 10.1.0.0/8":                     `"10.1.0.0/8" where a network, like 10.0.0.0/8 or fd00::/8, with no bit set behind it, is expected`,
		"proto 256":                          `"256" where a protocol, by a name of /etc/protocols or its number is expected`,
		"proto":                              `it ends where a protocol, by a name of /etc/protocols or its number is expected`,
		"253":                                `"253" where a protocol, or ip, ip6, proto, host, net, port, portrange, src, dst is expected`,
		strings.Repeat("not ", 1000) + "tcp": `more than 100 parentheses or nots in each other`,
	} {
		if f, err := ParseFilter(filter, names); err == nil || err.Error() != "filter: "+want || f != nil {
			t.Errorf("%.30s: %v", filter, err)
		}
	}
}

// TestColumns: what people see.
func TestColumns(t *testing.T) {
	const in = `12:34:56.000001 lo    Out IP 127.0.0.1.40000 > 127.0.0.1.80: Flags [S], seq 1, win 2, length 0
12:34:56.000002 lo    Out IP 127.0.0.1.80 > 127.0.0.1.40000: Flags [R.], seq 0, ack 2, win 0, length 0
# 7 packets missed
12:34:56.000003 a-long-device Out IP6 fd00:9::1.40000 > fd00:9::2.40001: UDP, length 5
12:34:56.000004 lo    In  IP 127.0.0.1 > 127.0.0.1: ICMP echo request, id 1, seq 1, length 8
12:34:56.000005 IP 10.0.0.1 > 10.0.0.2: ip-proto-253, length 8
# 1 packet missed
12:34:56.000006 lo    Out IP [truncated], length 8
`
	const want = `12:34:56.000001  lo    Out  IP   127.0.0.1.40000 > 127.0.0.1.80      Flags [S], seq 1, win 2, length 0
12:34:56.000002  lo    Out  IP   127.0.0.1.80 > 127.0.0.1.40000      Flags [R.], seq 0, ack 2, win 0, length 0
# 7 packets missed
12:34:56.000003  a-long-device Out  IP6  fd00:9::1.40000 > fd00:9::2.40001   UDP, length 5
12:34:56.000004  lo            In   IP   127.0.0.1 > 127.0.0.1               ICMP echo request, id 1, seq 1, length 8
12:34:56.000005                     IP   10.0.0.1 > 10.0.0.2                 ip-proto-253, length 8
# 1 packet missed
12:34:56.000006  lo            Out  IP                                       [truncated], length 8
`
	var out bytes.Buffer
	s, err := Lines(t.Context(), strings.NewReader(in), &out, Options{Names: names})
	if out.String() != want || s != (Summary{6, 6, 8}) || err != nil {
		t.Errorf("%v, %v, got\n%swant\n%s", s, err, out.String(), want)
	}
	if s.String() != "6 packets shown, 8 missed" || (Summary{9, 1, 0}).String() != "1 packets shown of 9, 0 missed" || (Summary{1, 1, 0}).String() != "1 packet shown, 0 missed" {
		t.Error(s, Summary{9, 1, 0}, Summary{1, 1, 0})
	}
	var colored bytes.Buffer
	if _, err := Lines(t.Context(), strings.NewReader(in), &colored, Options{Names: names, Color: true}); err != nil {
		t.Fatal(err)
	}
	bare := colored.String()
	for _, sequence := range []string{plain, dim, red, green, yellow, magenta, cyan} {
		if !strings.Contains(bare, sequence) {
			t.Errorf("%q is not there", sequence)
		}
		bare = strings.ReplaceAll(bare, sequence, "")
	}
	if bare != want {
		t.Errorf("without its colors:\n%s", bare)
	}
}

// chunks reads a text in pieces of a size.
type chunks struct {
	text []byte
	size int
}

func (c *chunks) Read(b []byte) (int, error) {
	n := copy(b[:min(len(b), c.size)], c.text)
	if c.text = c.text[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// TestPieces: however reads cut it, what comes out is the same; and so many
// packets are enough.
func TestPieces(t *testing.T) {
	lines, stream, all := traced(t)
	var want bytes.Buffer
	if _, err := Lines(t.Context(), bytes.NewReader(lines), &want, Options{Names: names}); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 7, 100, 5000} {
		var text, blocks bytes.Buffer
		if s, err := Lines(t.Context(), &chunks{lines, size}, &text, Options{Names: names}); err != nil || text.String() != want.String() || s.Shown != uint64(len(all)) {
			t.Errorf("lines in pieces of %d: %v, %v", size, s, err)
		}
		if s, err := Blocks(t.Context(), &chunks{stream, size}, &blocks, Options{Names: names}); err != nil || !bytes.Equal(blocks.Bytes(), stream) || s.Shown != uint64(len(all)) {
			t.Errorf("blocks in pieces of %d: %v, %v", size, s, err)
		}
		blocks.Reset()
		text.Reset()
		if s, err := Lines(t.Context(), &chunks{lines, size}, &text, Options{Names: names, Count: 3}); err != nil || s != (Summary{3, 3, 1}) || strings.Count(text.String(), "\n") != 4 {
			t.Errorf("3 lines: %v, %v:\n%s", s, err, text.String())
		}
		if s, err := Blocks(t.Context(), &chunks{stream, size}, &blocks, Options{Names: names, Count: 3}); err != nil || s != (Summary{3, 3, 1}) || !bytes.HasPrefix(stream, blocks.Bytes()) {
			t.Errorf("3 blocks: %v, %v", s, err)
		}
	}
}

// TestEnds: with the context, with an error of either side, and with a text that
// is none.
func TestEnds(t *testing.T) {
	lines, stream, _ := traced(t)
	failed := errors.New("the worker has died")
	for name, f := range map[string]func(context.Context, io.Reader, io.Writer, Options) (Summary, error){"lines": Lines, "blocks": Blocks} {
		in := lines
		if name == "blocks" {
			in = stream
		}
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		ended := make(chan Summary)
		go func() {
			s, err := f(ctx, r, io.Discard, Options{Names: names})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			ended <- s
		}()
		if _, err := w.Write(in); err != nil {
			t.Fatal(err)
		}
		cancel()
		<-ended
		w.CloseWithError(failed)
		r, w = io.Pipe()
		go func() {
			_, _ = w.Write(in)
			w.CloseWithError(failed)
		}()
		if s, err := f(t.Context(), r, io.Discard, Options{Names: names}); !errors.Is(err, failed) || s.Shown == 0 {
			t.Errorf("%s: %v, %v", name, s, err)
		}
		out, far := io.Pipe()
		out.CloseWithError(failed)
		if _, err := f(t.Context(), bytes.NewReader(in), far, Options{Names: names}); !errors.Is(err, failed) {
			t.Errorf("%s: %v", name, err)
		}
		var shown bytes.Buffer
		s, err := f(t.Context(), io.MultiReader(bytes.NewReader(in), strings.NewReader("GET / HTTP/1.1\n\n")), &shown, Options{Names: names})
		if err == nil || s.Shown == 0 || shown.Len() == 0 {
			t.Errorf("%s, and then something else: %v, %v, %d bytes", name, s, err, shown.Len())
		}
	}
}

// TestDied: an error of the disk that is written to is none of the daemon's.
func TestDied(t *testing.T) {
	for _, c := range []struct {
		op    string
		errno syscall.Errno
		want  bool
	}{
		{"read", syscall.EIO, true},
		{"read", syscall.ENOTCONN, true},
		{"read", syscall.ECONNABORTED, true},
		{"read", syscall.EINVAL, false},
		{"write", syscall.EIO, false},
	} {
		if got := Died(&fs.PathError{Op: c.op, Err: c.errno}); got != c.want {
			t.Errorf("%s, %v: %v", c.op, c.errno, got)
		}
	}
}

// FuzzFilter: no filter makes the parser fail but by an error, and what it lets
// pass of lines it lets pass of headers.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{"tcp and (port 80 or not host 10.0.0.1)", "ip6 proto 17 || src net fd00::/8", "((", "! ! udp portrange 1-2"} {
		f.Add(text, []byte{0x45, 0, 0, 20})
	}
	f.Fuzz(func(t *testing.T, text string, packet []byte) {
		filter, err := ParseFilter(text, names)
		if err != nil && (strings.Contains(err.Error(), "\n") && !strings.Contains(text, "\n")) {
			t.Errorf("%q", err)
		}
		if filter != nil && err == nil {
			h := header.Parse(packet)
			filter(&h)
		}
		if l, ok := cutLine([]byte(text)); ok && l.missed == 0 {
			newNumbers(names).header(&l)
		}
		for rest := packet; ; {
			block, more, err := cutBlock(rest)
			if err != nil || block == nil {
				break
			}
			packetIn(block)
			lostIn(block)
			rest = more
		}
	})
}
