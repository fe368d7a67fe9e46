package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/trace"
)

// all reads to the end of the daemon's trace.
func (w *watching) all() string {
	w.t.Helper()
	text, complaint, err := w.end()
	if complaint != "" || err != nil {
		w.t.Errorf("%s at the end: %q, %v", w.file, complaint, err)
	}
	return text
}

// tapped is a cat of a file whose reads wait, under load: what it reads is
// taken off it at once.
type tapped struct {
	t         *testing.T
	file      string
	cmd       *exec.Cmd
	out, errs bytes.Buffer
}

// tap starts a cat, and waits until it has opened the file.
func (d *running) tap(file string) *tapped {
	d.t.Helper()
	r := &tapped{t: d.t, file: file, cmd: sandbox.Command("cat", filepath.Join(d.dir, file))}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
	must(d.t, r.cmd.Start())
	sandbox.Await(d.t, "an open "+file, func() bool {
		open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", r.cmd.Process.Pid))
		return slices.ContainsFunc(open, func(fd string) bool {
			name, _ := os.Readlink(fd)
			return filepath.Base(name) == file
		})
	})
	return r
}

// end waits for the command's end.
func (r *tapped) end() (text, complaint string, err error) {
	err = r.cmd.Wait()
	return r.out.String(), r.errs.String(), err
}

// tally counts the lines of packets, and adds up what was missed.
func tally(t *testing.T, text string) (packets, missed uint64) {
	t.Helper()
	for line := range strings.Lines(text) {
		var n uint64
		if !strings.HasPrefix(line, "#") {
			packets++
		} else if k, err := fmt.Sscanf(line, "# %d packet", &n); k == 1 && n > 0 {
			missed += n
		} else {
			t.Fatalf("%q: %v", line, err)
		}
	}
	return packets, missed
}

// TestTrace: readers see a line for each packet, which says what was sent, and
// tcpdump and tshark read the same in the stream.
func TestTrace(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		sandbox.Need(t, sandbox.IPv6)
		dir := mountDir(t)
		d := start(t, dir, engine, "--start")
		peer := sandbox.Veth(t)
		must(t, traffic.Ping(lo, 3)) // before anybody reads
		texts := []*watching{d.cat("trace_pipe"), d.cat("trace_pipe")}
		stream := d.cat("trace.pcapng")

		lo6 := netip.IPv6Loopback()
		closed, err := traffic.ClosedPort(lo)
		must(t, err)
		closed6, err := traffic.ClosedPort(lo6)
		must(t, err)
		must(t,
			traffic.TCPConnect(closed, 2),
			traffic.TCPConnect(closed6, 1),
			traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 2, 10),
			traffic.UDP(netip.AddrPortFrom(peer.Void6, 53), 1, 1000),
			traffic.Ping(lo, 1),
			traffic.Ping(lo6, 1),
			traffic.Raw(peer.Void4, unix.IPPROTO_SCTP, make([]byte, 32), 1),
			traffic.Raw(peer.Void6, 253, []byte("experiment"), 1))
		syn := func(family string, to netip.AddrPort) []string {
			there, back := fmt.Sprintf(`%v\.\d+`, to.Addr()), fmt.Sprintf(`%v\.%d`, to.Addr(), to.Port())
			return []string{
				`lo    Out ` + family + ` ` + there + ` > ` + back + `: Flags \[S\], seq \d+, win \d+, options \[mss \d+,sackOK,TS val \d+ ecr 0,nop,wscale \d+\], length 0`,
				`lo    Out ` + family + ` ` + back + ` > ` + there + `: Flags \[R\.\], seq 0, ack \d+, win 0, length 0`,
			}
		}
		udp := fmt.Sprintf(`veth0 Out IP %v\.\d+ > %v\.9: UDP, length 10`, peer.Own4, peer.Void4)
		want := slices.Concat(syn("IP", closed), syn("IP", closed), syn("IP6", closed6), []string{
			udp, udp,
			fmt.Sprintf(`veth0 Out IP6 %v\.\d+ > %v\.53: UDP, length 1000`, peer.Own6, peer.Void6),
			`lo    Out IP 127.0.0.1 > 127.0.0.1: ICMP echo request, id \d+, seq \d+, length \d+`,
			`lo    Out IP 127.0.0.1 > 127.0.0.1: ICMP echo reply, id \d+, seq \d+, length \d+`,
			`lo    Out IP6 ::1 > ::1: ICMP6, echo request, id \d+, seq \d+, length \d+`,
			`lo    Out IP6 ::1 > ::1: ICMP6, echo reply, id \d+, seq \d+, length \d+`,
			fmt.Sprintf(`veth0 Out IP %v(\.0)? > %v(\.0)?: sctp, length 32`, peer.Own4, peer.Void4),
			fmt.Sprintf(`veth0 Out IP6 %v > %v: ip-proto-253, length 10`, peer.Own6, peer.Void6),
		})
		d.write("start", "0")
		for _, r := range append(texts, stream) { // a stop does not end the trace
			sandbox.Await(t, "a read of "+r.file, r.blocked)
		}
		d.end(unix.SIGTERM)
		text := texts[0].all()
		if again := texts[1].all(); again != text {
			t.Errorf("one reader sees\n%s, the other\n%s", text, again)
		}
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) != len(want) {
			t.Fatalf("%d lines for %d packets:\n%s", len(lines), len(want), text)
		}
		for i, line := range lines {
			if !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{6} ` + want[i] + `$`).MatchString(line) {
				t.Errorf("got\n%s\nwant\n%s", line, want[i])
			}
		}
		compare(t, lines, stream.all())
		nothingLeft(t, dir)
	})
}

// TestNoGopacket: nothing of gopacket is linked. Its tables would cost each
// process 6 MiB and 3 ms, whether anybody traces or not.
func TestNoGopacket(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Deps) == 0 {
		t.Fatal("no modules are known of this program")
	}
	for _, module := range info.Deps { // of the test, and so of the daemon
		if strings.Contains(module.Path, "gopacket") {
			t.Error(module.Path, "is linked")
		}
	}
}

// compare holds lines to what tcpdump and tshark read in the stream.
func compare(t *testing.T, lines []string, stream string) {
	t.Helper()
	theirs := sandbox.Through(t, []byte(stream), "tcpdump", "-n", "-S", "-r", "-")
	if len(theirs) != len(lines) {
		t.Fatalf("%d lines, %d of tcpdump's", len(lines), len(theirs))
	}
	for i, line := range lines {
		if strings.HasPrefix(theirs[i], between(line, "", " IP")+" IP bad-len 0") {
			continue // a super-packet of 64 KiB and more: IPv4 cannot say its length, but the hook does
		}
		// tcpdump looks into what it knows: it has words of its own for SCTP and DNS.
		if !strings.Contains(line, ": Flags") && !strings.Contains(line, ".9: UDP") && !strings.Contains(line, "ICMP") {
			line, _, _ = strings.Cut(line, ": ")
			theirs[i] = theirs[i][:min(len(line), len(theirs[i]))]
		}
		if line != theirs[i] {
			t.Errorf("we say\n%s\ntcpdump\n%s", line, theirs[i])
		}
	}
	var fields []string
	for _, f := range []string{"frame.time_epoch", "frame.interface_name", "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tcp.srcport", "udp.srcport", "tcp.dstport",
		"udp.dstport", "tcp.flags.str", "tcp.seq_raw", "tcp.len", "udp.length"} {
		fields = append(fields, "-e", f)
	}
	for i, row := range sandbox.Through(t, []byte(stream), "tshark", append([]string{"-r", "-", "-T", "fields", "-E", "separator=|"}, fields...)...) {
		is := strings.Split(row, "|")
		seconds, fraction, _ := strings.Cut(is[0], ".")
		second, err := strconv.ParseInt(seconds, 10, 64)
		must(t, err)
		at := func(address, port string) string {
			if port == "" {
				return address
			}
			return address + "." + port
		}
		ours := strings.Fields(lines[i])
		says := []string{time.Unix(second, 0).Format("15:04:05.") + fraction[:6], is[1], at(is[2]+is[3], is[6]+is[7]), at(is[4]+is[5], is[8]+is[9]) + ":"}
		if got := []string{ours[0], ours[1], ours[4], ours[6]}; !slices.Equal(got, says) && !strings.Contains(lines[i], "sctp") {
			t.Errorf("our line has %q, tshark %q", got, says)
		}
		length, _ := strconv.Atoi(ours[len(ours)-1])
		switch {
		case is[13] != "":
			if is[13] != strconv.Itoa(length+8) {
				t.Errorf("%s: tshark has a UDP length of %s", lines[i], is[13])
			}
		case is[12] != "":
			letters := strings.NewReplacer("·", "", "A", ".").Replace(is[10])
			if is[12] != strconv.Itoa(length) || !sameLetters(letters, between(lines[i], "Flags [", "]")) ||
				strings.Contains(lines[i], "seq") && !strings.HasPrefix(between(lines[i], "seq ", ","), is[11]) {
				t.Errorf("%s: tshark has flags %s, seq %s, length %s", lines[i], is[10], is[11], is[12])
			}
		}
	}
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

func sameLetters(a, b string) bool {
	x, y := []byte(a), []byte(b)
	slices.Sort(x)
	slices.Sort(y)
	return bytes.Equal(x, y)
}

// TestTraceStream: a transfer, with segments larger than any cable's, in the
// words of tcpdump and tshark.
func TestTraceStream(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start")
		text, stream := d.cat("trace_pipe"), d.cat("trace.pcapng")
		must(t, <-transfer(t, 1<<20))
		d.write("start", "0")
		counted := d.document().Live.Packets
		d.end(unix.SIGTERM)
		lines := strings.Split(strings.TrimSuffix(text.all(), "\n"), "\n")
		if uint64(len(lines)) != counted {
			t.Errorf("%d lines for %d packets", len(lines), counted)
		}
		compare(t, lines, stream.all())
	})
}

// TestTraceSlow: a reader that sleeps through more than is kept is told exactly
// how much that was; what it does see and one beside it sees add up as well.
func TestTraceSlow(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--queue-len=65536")
		peer := sandbox.Veth(t)
		to := netip.AddrPortFrom(peer.Void4, 9)
		sleeper, stream := d.cat("trace_pipe"), d.cat("trace.pcapng")
		for _, r := range []*watching{sleeper, stream} {
			must(t, sandbox.Stop(r.cmd.Process.Pid))
		}
		const enough = trace.Kept + 20_000 // with bpf the kernel keeps 11,900 on top
		var counted, sent uint64
		for counted < enough { // a busy machine may let some pass
			const burst = 500
			must(t, traffic.UDP(to, burst, 10))
			sent += burst
			sandbox.Await(t, "a count", func() bool {
				doc := d.document()
				counted = doc.Live.Packets
				return counted+doc.Uncounted == sent
			})
		}
		d.write("start", "0")
		for _, r := range []*watching{sleeper, stream} {
			must(t, r.cmd.Process.Signal(unix.SIGCONT))
		}
		rest := make(chan string)
		go func() { text, _, _ := stream.end(); rest <- text }()
		var seen, missed uint64
		for seen+missed < counted {
			line, err := sleeper.lines.ReadString('\n')
			must(t, err)
			packets, more := tally(t, line)
			seen += packets
			missed += more
		}
		if seen+missed != counted || missed < 4000 {
			t.Errorf("%d seen and %d missed of %d", seen, missed, counted)
		}
		sandbox.Await(t, "the stream's reader", stream.blocked)
		d.end(unix.SIGTERM)
		if text := sleeper.all(); text != "" {
			t.Errorf("behind the last: %q", text)
		}
		all := <-rest
		rows := sandbox.Through(t, []byte(all), "tshark", "-r", "-", "-T", "fields", "-e", "frame.drop_count")
		between := uint64(0)
		for _, row := range rows {
			n, _ := strconv.ParseUint(row, 10, 64)
			between += n
		}
		if lost := lostIn([]byte(all)); uint64(len(rows))+lost != counted || lost < 4000 || between > lost {
			t.Errorf("the stream has %d packets, and %d are missing, %d of them before another, of %d", len(rows), lost, between, counted)
		}
	})
}

// lostIn returns what the last statistics of a pcapng stream say, which tshark
// does not show.
func lostIn(stream []byte) (lost uint64) {
	for len(stream) > 0 {
		if binary.LittleEndian.Uint32(stream) == 5 { // an ISB, with isb_ifdrop as its only option
			lost = binary.LittleEndian.Uint64(stream[24:])
		}
		stream = stream[binary.LittleEndian.Uint32(stream[4:]):]
	}
	return lost
}

// TestTraceOverload: in a flood, what each reader sees and has missed is what was
// counted, to the packet.
func TestTraceOverload(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		// A proof that packets are read waits behind all that are queued, and the race detector takes long for each.
		d := start(t, mountDir(t), engine, "--start", "--queue-len=256")
		peer := sandbox.Veth(t)
		stop := flood(t, peer.Void4, 200_000)
		sandbox.Await(t, "traffic", func() bool { return d.document().Live.Packets > 1000 })
		readers := []*tapped{d.tap("trace_pipe"), d.tap("trace_pipe")}
		before := d.document().Live.Packets // all of them read by now
		sandbox.Await(t, "more traffic", func() bool { return d.document().Live.Packets > before+50_000 })
		sent := stop()
		d.write("start", "0")
		doc := d.document()
		if doc.Live.Packets+doc.Uncounted != sent {
			t.Errorf("%d counted and %d uncounted of %d", doc.Live.Packets, doc.Uncounted, sent)
		}
		d.end(unix.SIGTERM)
		for _, r := range readers {
			text, complaint, err := r.end()
			if complaint != "" || err != nil {
				t.Errorf("at the end: %q, %v", complaint, err)
			}
			packets, missed := tally(t, text)
			// Who has begun to read in the middle of it has begun between two counts.
			if all := packets + missed; all < doc.Live.Packets-before || all > doc.Live.Packets-1000 {
				t.Errorf("%d seen and %d missed; %d counted, %d of them before", packets, missed, doc.Live.Packets, before)
			}
			t.Logf("%d packets seen, %d missed", packets, missed)
		}
	})
}

// TestTraceRefuses: there are at most 16 readers, of both files together.
func TestTraceRefuses(t *testing.T) {
	d := start(t, mountDir(t))
	var all []*os.File
	for range trace.MaxReaders {
		f, err := os.Open(filepath.Join(d.dir, "trace_pipe"))
		must(t, err)
		all = append(all, f)
	}
	for _, name := range []string{"trace_pipe", "trace.pcapng"} {
		if f, err := os.Open(filepath.Join(d.dir, name)); !errors.Is(err, unix.ENFILE) {
			t.Errorf("one more %s: %v, %v", name, f, err)
		}
	}
	for _, f := range all {
		must(t, f.Close())
	}
}

// TestTraceOpens: a thousand readers that come and go leave no descriptor and no
// thread in the worker, and nothing is traced for them.
func TestTraceOpens(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start")
		count := func(what string) int {
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", d.worker(), what))
			must(t, err)
			return len(entries)
		}
		cycle := func(n int) {
			for i := range n {
				fd, err := unix.Open(filepath.Join(d.dir, []string{"trace_pipe", "trace.pcapng"}[i%2]), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
				must(t, err)
				if i%2 == 0 {
					if n, err := sandbox.Uninterrupted(func() (int, error) { return unix.Read(fd, make([]byte, 100)) }); err != unix.EAGAIN {
						t.Fatal("a packet nobody sent:", n, err)
					}
				}
				must(t, unix.Close(fd))
			}
		}
		cycle(10)
		descriptors, threads := count("fd"), count("task")
		cycle(100)
		beside := d.cat("trace_pipe") // to begin alone takes a grace period with bpf
		cycle(900)
		must(t, beside.cmd.Process.Kill())
		_, _, _ = beside.end()
		// The daemon itself may have opened some since.
		sandbox.Await(t, "as many descriptors as before", func() bool { return count("fd") <= descriptors+8 })
		if now := count("task"); now > threads+8 {
			t.Errorf("%d threads, before it were %d", now, threads)
		}
		must(t, traffic.Ping(lo, 5))
		r := d.cat("trace_pipe")
		must(t, traffic.Ping(lo, 1))
		d.end(unix.SIGTERM)
		if packets, missed := tally(t, r.all()); packets != 2 || missed != 0 {
			t.Errorf("%d packets, %d missed; want 2", packets, missed)
		}
	})
}

// TestFaultTraceWorkerKilled: while packets are traced under load the worker is
// killed. Its readers get an error, the host's traffic does not; who reads again
// sees packets again.
func TestFaultTraceWorkerKilled(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir := mountDir(t)
		d := start(t, dir, engine, "--start")
		peer := sandbox.Veth(t)
		moved := transfer(t, 128<<20)
		stop := flood(t, peer.Void4, 20_000)
		for i := range uint64(3) {
			text, stream := d.tap("trace_pipe"), d.tap("trace.pcapng")
			before := d.document().Live.Packets
			sandbox.Await(t, "traffic", func() bool { return d.document().Live.Packets > before+100 })
			must(t, unix.Kill(d.worker(), unix.SIGKILL))
			for _, r := range []*tapped{text, stream} {
				if _, complaint, err := r.end(); err == nil || !slices.ContainsFunc([]unix.Errno{unix.ECONNABORTED, unix.ENOTCONN, unix.EIO}, func(e unix.Errno) bool {
					return strings.HasSuffix(strings.ToLower(complaint), e.Error()+"\n")
				}) {
					t.Errorf("%s as the worker was killed: %q, %v", r.file, complaint, err)
				}
			}
			sandbox.Await(t, "the next worker", func() bool { return d.readable() && d.document().Restarts == i+1 })
		}
		must(t, <-moved)
		stop()
		d.write("start", "0") // what is queued is counted
		before := d.document().Live.Packets
		d.write("start", "1")
		r := d.cat("trace_pipe")
		must(t, traffic.Ping(lo, 2))
		d.write("start", "0")
		counted := d.document().Live.Packets - before
		d.end(unix.SIGTERM)
		if packets, missed := tally(t, r.all()); packets != 4 || missed != 0 || counted != 4 {
			t.Errorf("%d packets, %d missed, %d counted; want 4", packets, missed, counted)
		}
		nothingLeft(t, dir)
	})
}
