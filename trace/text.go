package trace

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"kstat/stats"
	"kstat/trace/header"
)

// text is packets as tcpdump -i any -n -S shows them, one per line:
//
//	12:34:56.123456 lo    Out IP 127.0.0.1.40000 > 127.0.0.1.80: Flags [S], seq 1, win 65535, options [mss 1460], length 0
//
// What cannot be read is named by its protocol, with the word [truncated] if the
// reason may be that only the first bytes are kept, else [malformed].
type text struct {
	names   *stats.Names
	devices devices

	second int64  // that stamp shows
	stamp  []byte // hh:mm:ss

	tcp     layers.TCP
	udp     layers.UDP
	icmp    layers.ICMPv4
	icmp6   layers.ICMPv6
	echo6   layers.ICMPv6Echo
	decoded []gopacket.LayerType
	parsers map[int]*gopacket.DecodingLayerParser // by protocol
}

func newText(names *stats.Names) *text {
	t := &text{names: names, devices: make(devices), second: -1}
	t.parsers = map[int]*gopacket.DecodingLayerParser{
		header.TCP:    gopacket.NewDecodingLayerParser(layers.LayerTypeTCP, &t.tcp),
		header.UDP:    gopacket.NewDecodingLayerParser(layers.LayerTypeUDP, &t.udp),
		header.ICMP:   gopacket.NewDecodingLayerParser(layers.LayerTypeICMPv4, &t.icmp),
		header.ICMPv6: gopacket.NewDecodingLayerParser(layers.LayerTypeICMPv6, &t.icmp6, &t.echo6),
	}
	for _, p := range t.parsers {
		p.IgnoreUnsupported = true
	}
	return t
}

func (*text) begin(buffer []byte) []byte { return buffer }

func (*text) missed(buffer []byte, n uint64) []byte {
	if n == 1 {
		return append(buffer, "# 1 packet missed\n"...)
	}
	return fmt.Appendf(buffer, "# %d packets missed\n", n)
}

func (t *text) packet(b []byte, s *stats.Sighting) []byte {
	b = t.time(b, s.Time)
	if device, out := deviceOf(s); device != 0 {
		direction := "In "
		if out {
			direction = "Out"
		}
		name := t.devices.name(device)
		b = append(append(b, ' '), name...)
		for range 5 - len(name) {
			b = append(b, ' ')
		}
		b = append(append(b, ' '), direction...)
	}
	return append(t.network(b, s), '\n')
}

// time appends hh:mm:ss.µs. The date has to be asked for once a second.
func (t *text) time(b []byte, now int64) []byte {
	if second := now / int64(time.Second); second != t.second || t.stamp == nil {
		t.second = second
		t.stamp = time.Unix(second, 0).AppendFormat(t.stamp[:0], "15:04:05.")
	}
	b = append(b, t.stamp...)
	dot := len(b) - 1
	b = number(b[:dot], "", uint32(1_000_000+now%int64(time.Second)/1000))
	b[dot] = '.' // where the million was
	return b
}

func (t *text) network(b []byte, s *stats.Sighting) []byte {
	family := " IP "
	if s.Class.Family() == stats.IPv6 {
		family = " IP6 "
	}
	b = append(b, family...)
	h := header.Parse(s.Head)
	if !h.Src.IsValid() || (h.Version == 6) != (s.Class.Family() == stats.IPv6) {
		return fmt.Appendf(b, "[%s], length %d", unread(s), s.Bytes)
	}
	b = address(b, h.Src, h.SrcPort)
	b = append(b, " > "...)
	b = address(b, h.Dst, h.DstPort)
	b = append(b, ": "...)
	length := max(0, int(s.Bytes)-h.Offset)
	switch {
	case h.Protocol < 0:
		return fmt.Appendf(b, "%s [%s], length %d", t.names.Name(stats.Other), unread(s), length)
	case h.Fragment > 0:
		return fmt.Appendf(b, "%s, fragment at %d, length %d", t.name(h.Protocol), h.Fragment, length)
	case t.parsers[h.Protocol] == nil:
		return fmt.Appendf(b, "%s, length %d", t.name(h.Protocol), length)
	}
	_ = t.parsers[h.Protocol].DecodeLayers(s.Head[h.Offset:], &t.decoded) // what could be read is enough
	if len(t.decoded) == 0 {
		return fmt.Appendf(b, "%s [%s], length %d", t.name(h.Protocol), unread(s), length)
	}
	switch h.Protocol {
	case header.TCP:
		return t.segment(b, length)
	case header.UDP:
		if stated := int(t.udp.Length) - 8; stated >= 0 {
			length = stated
		} else {
			length = max(0, length-8)
		}
		return number(b, "UDP, length ", uint32(length))
	case header.ICMP:
		kind := t.icmp.TypeCode.String()
		switch t.icmp.TypeCode.Type() {
		case layers.ICMPv4TypeEchoRequest:
			kind = fmt.Sprintf("echo request, id %d, seq %d", t.icmp.Id, t.icmp.Seq)
		case layers.ICMPv4TypeEchoReply:
			kind = fmt.Sprintf("echo reply, id %d, seq %d", t.icmp.Id, t.icmp.Seq)
		}
		return fmt.Appendf(b, "ICMP %s, length %d", kind, length)
	default:
		kind := t.icmp6.TypeCode.String()
		if len(t.decoded) > 1 {
			switch t.icmp6.TypeCode.Type() {
			case layers.ICMPv6TypeEchoRequest:
				kind = fmt.Sprintf("echo request, id %d, seq %d", t.echo6.Identifier, t.echo6.SeqNumber)
			case layers.ICMPv6TypeEchoReply:
				kind = fmt.Sprintf("echo reply, id %d, seq %d", t.echo6.Identifier, t.echo6.SeqNumber)
			}
		}
		return fmt.Appendf(b, "ICMP6, %s, length %d", kind, length)
	}
}

// unread says why something cannot be read.
func unread(s *stats.Sighting) string {
	if len(s.Head) < int(s.Bytes) {
		return "truncated"
	}
	return "malformed"
}

func address(b []byte, a netip.Addr, port int) []byte {
	b = a.AppendTo(b)
	if port >= 0 {
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(port), 10)
	}
	return b
}

// name returns the name of a protocol; as tcpdump puts it, if it has none.
func (t *text) name(protocol int) string {
	name := t.names.Name(stats.Protocol(protocol))
	if name[0] >= '0' && name[0] <= '9' && name == strconv.Itoa(protocol) {
		return "ip-proto-" + name
	}
	return name
}

// segment appends what tcpdump -S says of the TCP header. Length is that of the
// header and what follows.
func (t *text) segment(b []byte, length int) []byte {
	tcp := &t.tcp
	b = append(b, "Flags ["...)
	before := len(b)
	for _, f := range [...]struct {
		set    bool
		letter byte
	}{
		{tcp.FIN, 'F'}, {tcp.SYN, 'S'}, {tcp.RST, 'R'}, {tcp.PSH, 'P'}, {tcp.ACK, '.'},
		{tcp.URG, 'U'}, {tcp.ECE, 'E'}, {tcp.CWR, 'W'}, {tcp.NS, 'e'},
	} {
		if f.set {
			b = append(b, f.letter)
		}
	}
	if len(b) == before {
		b = append(b, "none"...)
	}
	b = append(b, ']')
	length = max(0, length-int(tcp.DataOffset)*4)
	switch {
	case length > 0:
		b = number(b, ", seq ", tcp.Seq)
		b = number(b, ":", tcp.Seq+uint32(length))
	case tcp.SYN || tcp.FIN || tcp.RST:
		b = number(b, ", seq ", tcp.Seq)
	}
	if tcp.ACK {
		b = number(b, ", ack ", tcp.Ack)
	}
	b = number(b, ", win ", uint32(tcp.Window))
	if tcp.URG {
		b = number(b, ", urg ", uint32(tcp.Urgent))
	}
	b = options(b, tcp.Options)
	return number(b, ", length ", uint32(length))
}

// number appends a word and a number: fmt would take a third of a line's time.
func number(b []byte, word string, n uint32) []byte {
	return strconv.AppendUint(append(b, word...), uint64(n), 10)
}
