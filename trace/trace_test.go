package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"go.uber.org/goleak"

	"kstat/lab/packets"
	"kstat/lab/sandbox"
	"kstat/stats"
	"kstat/stats/ring"
	"kstat/trace/header"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	four = [2]netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")}
	six  = [2]netip.Addr{netip.MustParseAddr("fd00:9::1"), netip.MustParseAddr("fd00:9::2")}
	noon = time.Date(2026, 11, 20, 12, 34, 56, 123456789, time.Local)
)

// lo is the device of most packets here.
func lo(t testing.TB) uint32 {
	i, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return uint32(i.Index)
}

// seen is a packet as it is shown, if it leaves by lo.
func seen(t testing.TB, packet []byte) stats.Sighting {
	family, protocol := stats.IPv4, stats.Other
	h := header.Parse(packet[:min(len(packet), Captured)])
	if h.Version == 6 {
		family = stats.IPv6
	}
	if h.Protocol >= 0 {
		protocol = stats.Protocol(h.Protocol)
	}
	return stats.Sighting{
		Packet: stats.Packet{Class: stats.ClassOf(family, protocol), Bytes: uint32(len(packet))},
		Time:   noon.UnixNano(),
		Out:    lo(t),
		Head:   packet[:min(len(packet), Captured)],
	}
}

// build joins the layers of a packet between two addresses.
func build(t testing.TB, between [2]netip.Addr, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	protocol := map[gopacket.LayerType]layers.IPProtocol{
		layers.LayerTypeTCP: layers.IPProtocolTCP, layers.LayerTypeUDP: layers.IPProtocolUDP,
		layers.LayerTypeICMPv4: layers.IPProtocolICMPv4, layers.LayerTypeICMPv6: layers.IPProtocolICMPv6,
	}[all[0].LayerType()]
	var network gopacket.SerializableLayer
	if between[0].Is4() {
		network = &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: protocol, SrcIP: between[0].AsSlice(), DstIP: between[1].AsSlice()}
	} else {
		network = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: between[0].AsSlice(), DstIP: between[1].AsSlice()}
	}
	if sum, ok := all[0].(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := sum.SetNetworkLayerForChecksum(network.(gopacket.NetworkLayer)); err != nil {
			t.Fatal(err)
		}
	}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append([]gopacket.SerializableLayer{network}, all...)...)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func tcpOption(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
	return layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: data}
}

// aCase is a packet and what is said of it, behind the addresses.
type aCase struct {
	packet []byte
	want   string
	alike  bool // tcpdump says the same
}

func cases(t testing.TB) (all []aCase) {
	add := func(between [2]netip.Addr, want string, all2 ...gopacket.SerializableLayer) {
		all = append(all, aCase{build(t, between, all2...), want, true})
	}
	payload := func(n int) gopacket.Payload { return gopacket.Payload(bytes.Repeat([]byte{0x55}, n)) }
	for _, between := range [][2]netip.Addr{four, six} {
		ports := func(tcp layers.TCP) *layers.TCP {
			tcp.SrcPort, tcp.DstPort, tcp.Seq, tcp.Window = 40000, 40001, 4294967290, 512
			return &tcp
		}
		tcp := func(want string, header layers.TCP, n int) {
			add(between, "40000 > 40001: "+want, ports(header), payload(n))
		}
		tcp("Flags [S], seq 4294967290, win 512, length 0", layers.TCP{SYN: true}, 0)
		tcp("Flags [S.], seq 4294967290, ack 7, win 512, length 0", layers.TCP{SYN: true, ACK: true, Ack: 7}, 0)
		tcp("Flags [.], ack 7, win 512, length 0", layers.TCP{ACK: true, Ack: 7}, 0)
		tcp("Flags [P.], seq 4294967290:4, ack 7, win 512, length 10", layers.TCP{PSH: true, ACK: true, Ack: 7}, 10)
		tcp("Flags [.], seq 4294967290:1394, ack 7, win 512, length 1400", layers.TCP{ACK: true, Ack: 7}, 1400)
		tcp("Flags [F.], seq 4294967290, ack 7, win 512, length 0", layers.TCP{FIN: true, ACK: true, Ack: 7}, 0)
		tcp("Flags [R], seq 4294967290, win 512, length 0", layers.TCP{RST: true}, 0)
		tcp("Flags [none], win 512, length 0", layers.TCP{}, 0)
		tcp("Flags [SEW], seq 4294967290, win 512, length 0", layers.TCP{SYN: true, ECE: true, CWR: true}, 0)
		tcp("Flags [.U], seq 4294967290:4294967291, ack 7, win 512, urg 1, length 1", layers.TCP{ACK: true, URG: true, Ack: 7, Urgent: 1}, 1)
		tcp("Flags [S], seq 4294967290, win 512, options [mss 1460,sackOK,TS val 1 ecr 2,nop,wscale 7], length 0", layers.TCP{SYN: true, Options: []layers.TCPOption{
			tcpOption(layers.TCPOptionKindMSS, 5, 180), tcpOption(layers.TCPOptionKindSACKPermitted),
			tcpOption(layers.TCPOptionKindTimestamps, 0, 0, 0, 1, 0, 0, 0, 2), {OptionType: layers.TCPOptionKindNop}, tcpOption(layers.TCPOptionKindWindowScale, 7),
		}}, 0)
		tcp("Flags [.], ack 7, win 512, options [nop,nop,sack 2 {16909060:16909061}{5:6}], length 0", layers.TCP{ACK: true, Ack: 7, Options: []layers.TCPOption{
			{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
			tcpOption(layers.TCPOptionKindSACK, 1, 2, 3, 4, 1, 2, 3, 5, 0, 0, 0, 5, 0, 0, 0, 6),
		}}, 0)
		tcp("Flags [S], seq 4294967290, win 512, options [unknown-200 0x0102,nop,eol], length 0", layers.TCP{SYN: true, Options: []layers.TCPOption{
			tcpOption(200, 1, 2), {OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindEndList},
		}}, 0)
		add(between, "40000 > 40001: UDP, length 0", &layers.UDP{SrcPort: 40000, DstPort: 40001})
		add(between, "40000 > 40001: UDP, length 1200", &layers.UDP{SrcPort: 40000, DstPort: 40001}, payload(1200))
	}
	echo := layers.CreateICMPv4TypeCode
	add(four, " > : ICMP echo request, id 77, seq 3, length 40", &layers.ICMPv4{TypeCode: echo(8, 0), Id: 77, Seq: 3}, payload(32))
	add(four, " > : ICMP echo reply, id 77, seq 3, length 308", &layers.ICMPv4{TypeCode: echo(0, 0), Id: 77, Seq: 3}, payload(300))
	for i, what := range []string{"request", "reply"} {
		add(six, " > : ICMP6, echo "+what+", id 77, seq 3, length 40",
			&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(uint8(128+i), 0)}, &layers.ICMPv6Echo{Identifier: 77, SeqNumber: 3}, payload(32))
	}
	return all
}

// line is what is expected of a case, from the family on.
func (c *aCase) line() string {
	between, family := four, "IP"
	if c.packet[0]>>4 == 6 {
		between, family = six, "IP6"
	}
	ports, rest, _ := strings.Cut(c.want, ": ")
	src, dst, _ := strings.Cut(ports, " > ")
	join := func(a netip.Addr, port string) string {
		if port == "" {
			return a.String()
		}
		return a.String() + "." + port
	}
	return fmt.Sprintf("%s %s > %s: %s", family, join(between[0], src), join(between[1], dst), rest)
}

// show shows packets to a reader and returns what it is given.
func show(t testing.TB, open func(*Trace) (*Reader, error), all ...stats.Sighting) []byte {
	t.Helper()
	trace := New(stats.NewTable(), stats.BuiltinNames())
	r, err := open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range all {
		all[i].Number = uint64(i + 1)
	}
	trace.Trace(all)
	trace.Finish()
	return rest(t, r)
}

// rest reads to the end.
func rest(t testing.TB, r *Reader) (text []byte) {
	t.Helper()
	for {
		more, err := r.Next(text, 1<<16, nil)
		if errors.Is(err, io.EOF) {
			return text
		}
		if err != nil {
			t.Fatal(err)
		}
		text = more
	}
}

// TestLines: every kind of packet, in tcpdump's words.
func TestLines(t *testing.T) {
	var shown []stats.Sighting
	var want []string
	for _, c := range cases(t) {
		shown = append(shown, seen(t, c.packet))
		want = append(want, "12:34:56.123456 lo    Out "+c.line())
	}
	got := strings.Split(strings.TrimSuffix(string(show(t, (*Trace).Text, shown...)), "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines for %d packets", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got\n%s\nwant\n%s", got[i], want[i])
		}
	}
}

// TestLinesOfTheRest: what else may be seen.
func TestLinesOfTheRest(t *testing.T) {
	udp := build(t, four, &layers.UDP{SrcPort: 40000, DstPort: 40001}, gopacket.Payload("kstat"))
	with := func(change func(s *stats.Sighting)) stats.Sighting {
		s := seen(t, bytes.Clone(udp))
		change(&s)
		return s
	}
	raw := func(protocol byte, offset uint16) []byte {
		p := bytes.Clone(udp)
		p[9] = protocol
		binary.BigEndian.PutUint16(p[6:], offset/8)
		return p
	}
	super := build(t, four, &layers.TCP{SrcPort: 1, DstPort: 2, ACK: true, Window: 1}, gopacket.Payload(make([]byte, 60000)))
	super[2], super[3] = 0, 0 // its length does not fit
	for _, c := range []struct {
		name string
		s    stats.Sighting
		want string
	}{
		{"a device that is gone", with(func(s *stats.Sighting) { s.Out = 1 << 30 }), " if1073741824 Out IP 10.9.0.1.40000 > 10.9.0.2.40001: UDP, length 5"},
		{"no device", with(func(s *stats.Sighting) { s.Out = 0 }), " IP 10.9.0.1.40000 > 10.9.0.2.40001: UDP, length 5"},
		{"coming in", with(func(s *stats.Sighting) { s.In, s.Out = s.Out, 0 }), " lo    In  IP 10.9.0.1.40000 > 10.9.0.2.40001: UDP, length 5"},
		{"a protocol without a name", seen(t, raw(253, 0)), " lo    Out IP 10.9.0.1 > 10.9.0.2: ip-proto-253, length 13"},
		{"one with a name", seen(t, raw(47, 0)), " lo    Out IP 10.9.0.1 > 10.9.0.2: gre, length 13"},
		{"one with ports", seen(t, raw(132, 0)), " lo    Out IP 10.9.0.1.40000 > 10.9.0.2.40001: sctp, length 13"},
		{"a later fragment", seen(t, raw(17, 1480)), " lo    Out IP 10.9.0.1 > 10.9.0.2: udp, fragment at 1480, length 13"},
		{"a super-packet", seen(t, super), " lo    Out IP 10.9.0.1.1 > 10.9.0.2.2: Flags [.], seq 0:60000, ack 0, win 1, length 60000"},
		{"a header that is not all there", with(func(s *stats.Sighting) { s.Head = s.Head[:24] }), " lo    Out IP 10.9.0.1.40000 > 10.9.0.2.40001: udp [truncated], length 13"},
		{"ports that are not all there", with(func(s *stats.Sighting) { s.Head = s.Head[:23] }), " lo    Out IP 10.9.0.1 > 10.9.0.2: udp [truncated], length 13"},
		{"half a network header", with(func(s *stats.Sighting) { s.Head = s.Head[:19] }), " lo    Out IP [truncated], length 33"},
		{"nothing", with(func(s *stats.Sighting) { s.Head = nil }), " lo    Out IP [truncated], length 33"},
		{"an empty packet", with(func(s *stats.Sighting) { s.Head, s.Bytes = nil, 0 }), " lo    Out IP [malformed], length 0"},
		{"short of its own header", with(func(s *stats.Sighting) { s.Head[0] = 0x4f }), " lo    Out IP 10.9.0.1 > 10.9.0.2: other [malformed], length 33"},
		{"the other version", with(func(s *stats.Sighting) { s.Head[0] = 0x65 }), " lo    Out IP [malformed], length 33"},
		{"a TCP offset of 4 bytes", with(func(s *stats.Sighting) {
			s.Head = append(s.Head[:20:20], 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1<<4, 2, 0, 0, 0, 0, 0, 0)
			s.Head[9], s.Bytes = 6, 40
		}), " lo    Out IP 10.9.0.1.1 > 10.9.0.2.2: tcp [malformed], length 20"},
	} {
		if got := string(show(t, (*Trace).Text, c.s)); got != "12:34:56.123456"+c.want+"\n" {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, "12:34:56.123456"+c.want)
		}
	}
}

// TestMessagesCutOff: of a message that is not all there is said what can be.
func TestMessagesCutOff(t *testing.T) {
	about := func(between [2]netip.Addr) gopacket.Payload {
		return build(t, between, &layers.UDP{SrcPort: 40000, DstPort: 40001})
	}
	of4 := func(kind, code uint8) []byte {
		return build(t, four, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code), Id: 2560, Seq: 1}, about(four))
	}
	of6 := func(kind, code uint8) []byte {
		return build(t, six, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}, append(gopacket.Payload{0, 0, 5, 0}, about(six)...))
	}
	for _, c := range []struct {
		message []byte
		kept    int // behind the IP header
		want    string
	}{
		{of4(3, 3), 7, "icmp [truncated]"},
		{of4(8, 0), 8, "ICMP echo request, id 2560, seq 1"},
		{of4(3, 3), 8, "ICMP destination unreachable, code 3 [truncated]"},
		{of4(3, 3), 8 + 20 + 3, "ICMP destination unreachable, code 3 [truncated]"},
		{of4(3, 3), 8 + 20 + 4, "ICMP 10.9.0.2 udp port 40001 unreachable"},
		{of4(3, 1), 8 + 20, "ICMP host 10.9.0.2 unreachable"},
		{of4(5, 1), 8 + 19, "ICMP redirect to 10.0.0.1, code 1 [truncated]"},
		{of4(18, 0), 11, "ICMP address mask [truncated]"},
		{of6(128, 0), 3, "ipv6-icmp [truncated]"},
		{of6(128, 0), 4, "ICMP6, echo request [truncated]"},
		{of6(128, 0), 8, "ICMP6, echo request, id 0, seq 1280"},
		{of6(1, 4), 4, "ICMP6, destination unreachable, unreachable port [truncated]"},
		{of6(1, 4), 8 + 40 + 3, "ICMP6, destination unreachable, unreachable port [truncated]"},
		{of6(1, 4), 8 + 40 + 4, "ICMP6, destination unreachable, unreachable port, fd00:9::2 udp port 40001"},
		{of6(1, 0), 8 + 39, "ICMP6, destination unreachable, unreachable route [truncated]"},
		{of6(2, 0), 7, "ICMP6, packet too big [truncated]"},
		{of6(3, 0), 8 + 39, "ICMP6, time exceeded in-transit [truncated]"},
		{of6(4, 0), 7, "ICMP6, parameter problem [truncated]"},
		{of6(135, 0), 23, "ICMP6, neighbor solicitation [truncated]"},
		{of6(137, 0), 39, "ICMP6, redirect [truncated]"},
		{of6(143, 0), 7, "ICMP6, multicast listener report v2 [truncated]"},
	} {
		s := seen(t, c.message)
		s.Head = s.Head[:header.Parse(s.Head).Offset+c.kept]
		line := string(show(t, (*Trace).Text, s))
		_, got, _ := strings.Cut(line, "9.0.2: ")
		if s.Class.Family() == stats.IPv6 {
			_, got, _ = strings.Cut(line, ":9::2: ")
		}
		if want := fmt.Sprintf("%s, length %d\n", c.want, len(c.message)-header.Parse(s.Head).Offset); got != want {
			t.Errorf("got %qwant %q", got, want)
		}
	}
}

// TestChains: behind all chains of extension headers there are, each packet is
// shown as what it is counted as.
func TestChains(t *testing.T) {
	for _, c := range slices.Concat(packets.IPv4Cases(four[0], four[1]), packets.IPv6Cases(six[0], six[1]), packets.IPv4ShortHeaders(four[0], four[1])) {
		h := header.Parse(c.Packet[:min(len(c.Packet), Captured)])
		want := c.Protocol
		if c.Protocol == packets.Unknown || c.Chain > Captured || strings.HasPrefix(c.Name, "header of") {
			want = -1
		}
		if h.Protocol != want || want >= 0 && h.Offset != c.Chain {
			t.Errorf("%s: protocol %d at %d, want %d at %d", c.Name, h.Protocol, h.Offset, want, c.Chain)
		}
		line := string(show(t, (*Trace).Text, seen(t, c.Packet)))
		if said := strings.Contains(line, "other ["); said != (want < 0) {
			t.Errorf("%s: %s", c.Name, line)
		}
	}
}

// TestTcpdump: what tcpdump makes of the stream are our own lines.
func TestTcpdump(t *testing.T) {
	var shown []stats.Sighting
	for _, c := range cases(t) {
		shown = append(shown, seen(t, c.packet))
	}
	theirs := sandbox.Through(t, show(t, (*Trace).Pcapng, shown...), "tcpdump", "-n", "-S", "-r", "-")
	ours := strings.Split(strings.TrimSuffix(string(show(t, (*Trace).Text, shown...)), "\n"), "\n")
	if len(theirs) != len(ours) {
		t.Fatalf("%d packets, %d of tcpdump's:\n%s", len(ours), len(theirs), strings.Join(theirs, "\n"))
	}
	for i, our := range ours {
		if our != theirs[i] {
			t.Errorf("we say\n%s\ntcpdump\n%s", our, theirs[i])
		}
	}
}

// messages are ICMP and ICMPv6 of all types, and all codes where they say much,
// about packets of UDP, of TCP, and of ICMP.
func messages(t testing.TB) (all [][]byte) {
	for _, between := range [][2]netip.Addr{four, six} {
		var about []gopacket.Payload
		for _, upper := range []gopacket.SerializableLayer{
			&layers.UDP{SrcPort: 40000, DstPort: 40001}, &layers.TCP{SrcPort: 40000, DstPort: 40001, SYN: true}, &layers.ICMPv4{Id: 258, Seq: 772},
		} {
			about = append(about, build(t, between, upper, gopacket.Payload("16 bytes of data")))
		}
		for kind := range uint8(255) {
			codes, packets := uint8(2), about[:1]
			if kind < 13 {
				codes = 18
			}
			switch {
			case between == four && kind == 3: // who is unreachable
				packets = about
			case between == six && kind == 1: // likewise; tcpdump has no words for the others
				codes, packets = 5, about[:2]
			}
			for code := range codes {
				for _, packet := range packets {
					if between == six {
						head := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
						all = append(all, build(t, six, head, append(gopacket.Payload{0, 0, 5, 0}, packet...)))
						continue
					}
					head := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, code), Id: 2560, Seq: uint16(code % 3 * 100)}
					all = append(all, build(t, four, head, packet))
				}
			}
		}
	}
	return all
}

// TestTcpdumpMessages: what hosts tell each other by ICMP and ICMPv6 is told in
// tcpdump's words.
func TestTcpdumpMessages(t *testing.T) {
	var shown []stats.Sighting
	for _, m := range messages(t) {
		shown = append(shown, seen(t, m))
	}
	ours := strings.Split(strings.TrimSuffix(string(show(t, (*Trace).Text, shown...)), "\n"), "\n")
	var theirs []string
	for _, line := range sandbox.Through(t, show(t, (*Trace).Pcapng, shown...), "tcpdump", "-n", "-S", "-r", "-") {
		if line != "" && line[0] != '\t' { // it shows the bytes of what it does not know
			theirs = append(theirs, strings.ReplaceAll(line, ",  ", ", "))
		}
	}
	if len(theirs) != len(ours) {
		t.Fatalf("%d packets, %d of tcpdump's:\n%s", len(ours), len(theirs), strings.Join(theirs, "\n"))
	}
	for i, our := range ours {
		said := our
		if h := header.Parse(shown[i].Head); slices.Contains(shorter[h.Protocol], shown[i].Head[h.Offset]) {
			said, _, _ = strings.Cut(our, ", length ")
			theirs[i] = theirs[i][:min(len(said), len(theirs[i]))]
		}
		if said != theirs[i] {
			t.Errorf("we say\n%s\ntcpdump\n%s", our, theirs[i])
		}
	}
}

// shorter are the types of messages of which tcpdump says more, by protocol.
var shorter = map[int][]byte{
	header.ICMP:   {9, 14},
	header.ICMPv6: {130, 131, 132, 138, 139, 140, 144, 146, 155},
}

// TestTshark: time to the nanosecond, device, direction, lengths and how many
// packets are missing in front of each are what tshark reads in the stream.
func TestTshark(t *testing.T) {
	trace := New(stats.NewTable(), stats.BuiltinNames())
	r, err := trace.Pcapng()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var want []string
	number, gap := uint64(0), uint64(0)
	for i, c := range cases(t) {
		s := seen(t, c.packet)
		gap = uint64(i % 3) // some are missed
		number += 1 + gap
		s.Number = number
		s.Time += int64(i) * 1_000_000_007
		name, direction, lost := "lo", "0x00000002", ""
		switch i % 4 {
		case 2:
			s.In, s.Out, direction = s.Out, 0, "0x00000001"
		case 3:
			s.In, s.Out, name, direction = 0, 0, "kstat", ""
		}
		if gap > 0 {
			lost = fmt.Sprint(gap)
		}
		trace.Trace([]stats.Sighting{s})
		at := time.Unix(0, s.Time)
		want = append(want, fmt.Sprintf("%d.%09d|%s|%s|%s|%d|%d", at.Unix(), at.Nanosecond(), name, direction, lost, sll2Size+len(c.packet), sll2Size+min(Captured, len(c.packet))))
	}
	trace.Traced(number + 1000)
	trace.Finish()
	stream := rest(t, r)
	got := sandbox.Through(t, stream, "tshark", "-r", "-", "-T", "fields", "-E", "separator=|",
		"-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.drop_count", "-e", "frame.len", "-e", "frame.cap_len")
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if dropped, want := droppedIn(t, stream), number+1000-uint64(len(want)); dropped != want {
		t.Errorf("%d packets missed, the stream says %d", want, dropped)
	}
}

// droppedIn returns what the last statistics of interface 0 say, which tshark
// does not show.
func droppedIn(t *testing.T, stream []byte) (last uint64) {
	t.Helper()
	for at := 0; at < len(stream); {
		kind, length := binary.LittleEndian.Uint32(stream[at:]), int(binary.LittleEndian.Uint32(stream[at+4:]))
		if kind == 5 {
			if code := binary.LittleEndian.Uint16(stream[at+20:]); code != 5 {
				t.Fatalf("option %d in statistics", code)
			}
			last = binary.LittleEndian.Uint64(stream[at+24:])
		}
		at += length
	}
	return last
}

// TestEmptyStream: a stream without a packet is one.
func TestEmptyStream(t *testing.T) {
	if got := sandbox.Through(t, show(t, (*Trace).Pcapng), "tshark", "-r", "-"); !slices.Equal(got, []string{""}) {
		t.Errorf("got %q", got)
	}
}

// TestMissed: a reader that is too slow is told exactly how many packets it
// missed, and what it sees follows without a hole.
func TestMissed(t *testing.T) {
	table := stats.NewTable()
	trace := New(table, stats.BuiltinNames())
	slow, err := trace.Text()
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	packet := build(t, four, &layers.UDP{SrcPort: 40000, DstPort: 40001})
	const sent = Kept + 5000
	for n := uint64(1); n <= sent; n++ {
		binary.BigEndian.PutUint16(packet[4:], uint16(n)) // the identification
		s := seen(t, packet)
		s.Number = n
		trace.Trace([]stats.Sighting{s})
		table.Add([]stats.Packet{s.Packet})
	}
	late, err := trace.Text()
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	trace.Traced(sent + 1)
	trace.Finish()
	lines := strings.Split(strings.TrimSuffix(string(rest(t, slow)), "\n"), "\n")
	const missed = sent - Kept/2
	if first, last := lines[0], lines[len(lines)-1]; len(lines) != Kept/2+2 || first != fmt.Sprintf("# %d packets missed", missed) || last != "# 1 packet missed" {
		t.Errorf("%d lines, the first is %q, the last %q; want %d missed", len(lines), first, last, missed)
	}
	if got := string(rest(t, late)); got != "# 1 packet missed\n" {
		t.Errorf("who comes later is shown %q", got)
	}
}

// TestReaders: there can be so many, and not more; while there are none, the
// table does not say that it is traced.
func TestReaders(t *testing.T) {
	table := stats.NewTable()
	trace := New(table, stats.BuiltinNames())
	for range 100 {
		var all []*Reader
		for i := range MaxReaders {
			r, err := []func() (*Reader, error){trace.Text, trace.Pcapng}[i%2]()
			if err != nil || !table.Traced() {
				t.Fatal(err, table.Traced())
			}
			all = append(all, r)
		}
		if _, err := trace.Text(); !errors.Is(err, ring.ErrTooMany) {
			t.Fatal("one too many:", err)
		}
		for _, r := range all {
			r.Close()
		}
		if table.Traced() {
			t.Fatal("nobody reads, and the table is traced")
		}
	}
}

// TestSmallBuffer: Next gives one packet at least, and not much more than it is
// asked for.
func TestSmallBuffer(t *testing.T) {
	trace := New(stats.NewTable(), stats.BuiltinNames())
	r, err := trace.Text()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := seen(t, build(t, four, &layers.UDP{SrcPort: 40000, DstPort: 40001}))
	for n := range uint64(1000) {
		s.Number = n + 1
		trace.Trace([]stats.Sighting{s})
	}
	total := 0
	for _, size := range []int{1, 100, 4096, 1 << 20} {
		got, err := r.Next(nil, size, nil)
		lines := bytes.Count(got, []byte("\n"))
		if err != nil || lines == 0 || size < mostOfOne && lines != 1 || len(got) > max(size, mostOfOne) {
			t.Errorf("%d bytes: %d lines of %d bytes, %v", size, lines, len(got), err)
		}
		total += lines
	}
	if _, err := r.Next(nil, 1, nil); total != 1000 || !errors.Is(err, ring.ErrNoNews) {
		t.Errorf("%d lines, %v", total, err)
	}
}

// TestAllocatesNothing: who counts is not slowed down by the collector.
func TestAllocatesNothing(t *testing.T) {
	trace := New(stats.NewTable(), stats.BuiltinNames())
	r, err := trace.Text()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	batch := make([]stats.Sighting, 64)
	for i := range batch {
		batch[i] = seen(t, cases(t)[i%20].packet)
	}
	if a := testing.AllocsPerRun(1000, func() { trace.Trace(batch) }); a != 0 {
		t.Errorf("%v allocations for a batch, want 0", a)
	}
}

// beginning is words that a message's line has to have, by gopacket.
func beginning(s *stats.Sighting) string {
	h := header.Parse(s.Head)
	if h.Protocol < 0 || h.Fragment > 0 || (h.Version == 6) != (s.Class.Family() == stats.IPv6) {
		return ""
	}
	upper := s.Head[h.Offset:]
	switch h.Protocol {
	case header.ICMP:
		var m layers.ICMPv4
		switch err := m.DecodeFromBytes(upper, gopacket.NilDecodeFeedback); {
		case err != nil:
			return ": icmp ["
		case m.TypeCode.Type() == layers.ICMPv4TypeEchoRequest:
			return fmt.Sprintf(": ICMP echo request, id %d, seq %d, length ", m.Id, m.Seq)
		case m.TypeCode.Type() == layers.ICMPv4TypeEchoReply:
			return fmt.Sprintf(": ICMP echo reply, id %d, seq %d, length ", m.Id, m.Seq)
		}
		return ": ICMP "
	case header.ICMPv6:
		var m layers.ICMPv6
		var echo layers.ICMPv6Echo
		err := m.DecodeFromBytes(upper, gopacket.NilDecodeFeedback)
		if err != nil {
			return ": ipv6-icmp ["
		}
		whole := echo.DecodeFromBytes(m.Payload, gopacket.NilDecodeFeedback) == nil
		switch kind := m.TypeCode.Type(); {
		case kind == layers.ICMPv6TypeEchoRequest && whole:
			return fmt.Sprintf(": ICMP6, echo request, id %d, seq %d, length ", echo.Identifier, echo.SeqNumber)
		case kind == layers.ICMPv6TypeEchoReply && whole:
			return fmt.Sprintf(": ICMP6, echo reply, id %d, seq %d, length ", echo.Identifier, echo.SeqNumber)
		}
		return ": ICMP6, "
	}
	return ""
}

// FuzzForms: whatever is seen becomes one line, and one block; messages are what
// gopacket reads in them.
func FuzzForms(f *testing.F) {
	for _, c := range cases(f) {
		f.Add(c.packet[:min(len(c.packet), Captured)], uint32(len(c.packet)), uint16(0))
	}
	for i, m := range messages(f) {
		f.Add(m[:min(len(m)-i%16, Captured)], uint32(len(m)), uint16(seen(f, m).Class))
	}
	for _, c := range packets.IPv6Cases(six[0], six[1]) {
		f.Add(c.Packet[:min(len(c.Packet), Captured)], uint32(len(c.Packet)), uint16(1))
	}
	form, names := newPcapng(), stats.BuiltinNames()
	lines := newText(names)
	buffer := form.begin(nil)
	f.Fuzz(func(t *testing.T, packet []byte, length uint32, class uint16) {
		s := stats.Sighting{
			Packet: stats.Packet{Class: stats.Class(class) % stats.Class(stats.NumClasses), Bytes: length},
			Time:   noon.UnixNano(),
			Head:   packet[:min(len(packet), Captured)],
		}
		line := lines.packet(nil, &s)
		if len(line) > mostOfOne || bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' || bytes.ContainsFunc(line[:len(line)-1], func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q", line)
		}
		if want := beginning(&s); !bytes.Contains(line, []byte(want)) {
			t.Errorf("%q, want %q", line, want)
		}
		buffer = form.packet(buffer[:0], &s)
		if size := int(binary.LittleEndian.Uint32(buffer[4:])); size != len(buffer) || size > mostOfOne {
			t.Errorf("a block of %d bytes says it has %d", len(buffer), size)
		}
	})
}

func BenchmarkTrace(b *testing.B) {
	trace := New(stats.NewTable(), stats.BuiltinNames())
	r, err := trace.Text()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	batch := make([]stats.Sighting, 64)
	for i := range batch {
		batch[i] = seen(b, cases(b)[i%20].packet)
	}
	for b.Loop() {
		trace.Trace(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/packet")
}

func BenchmarkLine(b *testing.B) {
	lines := newText(stats.BuiltinNames())
	for _, i := range []int{10, 13} {
		s := seen(b, cases(b)[i].packet)
		b.Run(cases(b)[i].want[:20], func(b *testing.B) {
			var buffer []byte
			for b.Loop() {
				buffer = lines.packet(buffer[:0], &s)
			}
		})
	}
}
