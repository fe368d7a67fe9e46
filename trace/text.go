package trace

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

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
}

func newText(names *stats.Names) *text {
	return &text{names: names, devices: make(devices), second: -1}
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
		return ending(append(b, t.names.Name(stats.Other)...), false, s, length)
	case h.Fragment > 0:
		return fmt.Appendf(b, "%s, fragment at %d, length %d", t.name(h.Protocol), h.Fragment, length)
	}
	upper := s.Head[h.Offset:]
	switch h.Protocol {
	case header.TCP:
		if tcp, ok := header.ParseTCP(upper); ok {
			return segment(b, &tcp, length)
		}
	case header.UDP:
		if stated, ok := header.ParseUDP(upper); ok {
			if stated == 0 {
				stated = length
			}
			return number(b, "UDP, length ", uint32(max(0, stated-8)))
		}
	case header.ICMP:
		if len(upper) >= 8 {
			b, whole := icmp(append(b, "ICMP "...), upper)
			return ending(b, whole, s, length)
		}
	case header.ICMPv6:
		if len(upper) >= 4 {
			b, whole := icmp6(append(b, "ICMP6, "...), upper)
			return ending(b, whole, s, length)
		}
	default:
		return ending(append(b, t.name(h.Protocol)...), true, s, length)
	}
	return ending(append(b, t.name(h.Protocol)...), false, s, length)
}

// ending appends how long something is, and if it is not whole, why.
func ending(b []byte, whole bool, s *stats.Sighting, length int) []byte {
	if !whole {
		b = append(append(append(b, " ["...), unread(s)...), ']')
	}
	return number(b, ", length ", uint32(length))
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

// segment appends what tcpdump -S says of a TCP header. Length is that of the
// header and what follows.
func segment(b []byte, tcp *header.Segment, length int) []byte {
	b = append(b, "Flags ["...)
	for i, letter := range []byte("FSRP.UEWe") {
		if tcp.Flags&(1<<i) != 0 {
			b = append(b, letter)
		}
	}
	if tcp.Flags == 0 {
		b = append(b, "none"...)
	}
	b = append(b, ']')
	length = max(0, length-tcp.Size)
	switch {
	case length > 0:
		b = number(b, ", seq ", tcp.Seq)
		b = number(b, ":", tcp.Seq+uint32(length))
	case tcp.Flags&(header.SYN|header.FIN|header.RST) != 0:
		b = number(b, ", seq ", tcp.Seq)
	}
	if tcp.Flags&header.ACK != 0 {
		b = number(b, ", ack ", tcp.Ack)
	}
	b = number(b, ", win ", uint32(tcp.Window))
	if tcp.Flags&header.URG != 0 {
		b = number(b, ", urg ", uint32(tcp.Urgent))
	}
	b = options(b, tcp.Options)
	return number(b, ", length ", uint32(length))
}

// number appends a word and a number: fmt would take a third of a line's time.
func number(b []byte, word string, n uint32) []byte {
	return strconv.AppendUint(append(b, word...), uint64(n), 10)
}
