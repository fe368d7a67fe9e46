package trace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"kstat/trace/header"
)

// icmp appends what tcpdump says of an ICMP message, which has 8 bytes at least.
// If it is too short for that, it appends what can be said, and false.
func icmp(b, message []byte) (_ []byte, whole bool) {
	kind, code := message[0], message[1]
	id, seq := binary.BigEndian.Uint16(message[4:]), binary.BigEndian.Uint16(message[6:])
	switch kind {
	case 0: // ICMP_ECHOREPLY, and so on
		return fmt.Appendf(b, "echo reply, id %d, seq %d", id, seq), true
	case 3:
		return unreachable(b, code, seq, message[8:])
	case 4:
		return append(b, "source quench"...), true
	case 5:
		return redirect(b, code, netip.AddrFrom4([4]byte(message[4:])), message[8:])
	case 8:
		return fmt.Appendf(b, "echo request, id %d, seq %d", id, seq), true
	case 9:
		return append(b, "router advertisement"...), true
	case 10:
		return append(b, "router solicitation"...), true
	case 11:
		switch code {
		case 0:
			return append(b, "time exceeded in-transit"...), true
		case 1:
			return append(b, "ip reassembly time exceeded"...), true
		}
		return fmt.Appendf(b, "time exceeded-#%d", code), true
	case 12:
		if code != 0 {
			return fmt.Appendf(b, "parameter problem - code %d", code), true
		}
		return fmt.Appendf(b, "parameter problem - octet %d", message[4]), true
	case 13:
		return fmt.Appendf(b, "time stamp query id %d seq %d", id, seq), true
	case 14:
		return fmt.Appendf(b, "time stamp reply id %d seq %d", id, seq), true
	case 15:
		return append(b, "information request"...), true
	case 16:
		return append(b, "information reply"...), true
	case 17:
		return append(b, "address mask request"...), true
	case 18:
		if len(message) < 12 {
			return append(b, "address mask"...), false
		}
		return fmt.Appendf(b, "address mask is 0x%08x", binary.BigEndian.Uint32(message[8:])), true
	}
	return fmt.Appendf(b, "type-#%d", kind), true
}

// unreached are tcpdump's words for a destination that cannot be reached, by
// ICMP's code; % is its address. Those for "" say more.
var unreached = [...]string{
	"net % unreachable", "host % unreachable", "", "", "",
	"% unreachable - source route failed",
	"net % unreachable - unknown", "host % unreachable - unknown",
	"% unreachable - source host isolated",
	"net % unreachable - admin prohibited", "host % unreachable - admin prohibited",
	"net % unreachable - tos prohibited", "host % unreachable - tos prohibited",
	"host % unreachable - admin prohibited filter",
	"host % unreachable - host precedence violation", "host % unreachable - precedence cutoff",
}

// unreachable says what a packet could not reach.
func unreachable(b []byte, code byte, mtu uint16, packet []byte) (_ []byte, whole bool) {
	h := header.Parse(packet)
	port, hasPort := portOf(h, packet)
	switch {
	case h.Version != 4 || !h.Dst.IsValid() || code == 3 && !hasPort:
	case code == 2:
		return fmt.Appendf(b, "%v protocol %d unreachable", h.Dst, packet[9]), true
	case code == 3 && (h.Protocol == header.TCP || h.Protocol == header.UDP):
		return fmt.Appendf(b, "%v %s port %d unreachable", h.Dst, transport(h), port), true
	case code == 3:
		return fmt.Appendf(b, "%v protocol %d port %d unreachable", h.Dst, h.Protocol, port), true
	case code == 4 && mtu > 0:
		return fmt.Appendf(b, "%v unreachable - need to frag (mtu %d)", h.Dst, mtu), true
	case code == 4:
		return fmt.Appendf(b, "%v unreachable - need to frag", h.Dst), true
	case int(code) < len(unreached):
		before, after, _ := strings.Cut(unreached[code], "%")
		return append(h.Dst.AppendTo(append(b, before...)), after...), true
	default:
		return fmt.Appendf(b, "%v unreachable - #%d", h.Dst, code), true
	}
	return fmt.Appendf(b, "destination unreachable, code %d", code), false
}

// redirect says which way a packet should have gone.
func redirect(b []byte, code byte, gateway netip.Addr, packet []byte) (_ []byte, whole bool) {
	h := header.Parse(packet)
	if h.Version != 4 || !h.Dst.IsValid() {
		return fmt.Appendf(b, "redirect to %v, code %d", gateway, code), false
	}
	tos, to := "", "to"
	switch code {
	case 0, 2:
		to = "to net"
	case 1, 3:
		to = "to host"
	}
	switch {
	case code > 3:
		tos = fmt.Sprintf("-#%d", code)
	case code > 1:
		tos = "-tos"
	}
	return fmt.Appendf(b, "redirect%s %v %s %v", tos, h.Dst, to, gateway), true
}

// icmp6 appends what tcpdump says of an ICMPv6 message, which has 4 bytes at
// least, likewise.
func icmp6(b, message []byte) (_ []byte, whole bool) {
	kind, code, rest := message[0], message[1], message[4:]
	if int(kind) >= len(kinds6) || kinds6[kind] == "" {
		return fmt.Appendf(b, "unknown icmp6 type (%d)", kind), true
	}
	b = append(b, kinds6[kind]...)
	short := len(rest) < 4
	first := uint32(0)
	if !short {
		first = binary.BigEndian.Uint32(rest)
	}
	switch kind {
	case 1: // ICMPV6_DEST_UNREACH, and so on
		return unreachable6(b, code, rest[min(4, len(rest)):])
	case 2:
		if short {
			return b, false
		}
		return number(b, ", mtu ", first), true
	case 3:
		return exceeded6(b, code, rest[min(4, len(rest)):])
	case 4:
		problems := [...]string{"erroneous", "next header", "option", "incomplete header chain"}
		switch {
		case int(code) >= len(problems):
			return fmt.Appendf(b, ", code-#%d", code), true
		case short:
			return b, false
		}
		return fmt.Appendf(b, ", %s - octet %d", problems[code], first), true
	case 128, 129:
		if short {
			return b, false
		}
		return fmt.Appendf(b, ", id %d, seq %d", first>>16, uint16(first)), true
	case 135, 136:
		if len(rest) < 20 {
			return b, false
		}
		relation := ", who has "
		if kind == 136 {
			relation = ", tgt is "
		}
		return address6(append(b, relation...), rest[4:]), true
	case 137:
		if len(rest) < 36 {
			return b, false
		}
		b = address6(append(b, ", "...), rest[20:])
		return address6(append(b, " to "...), rest[4:]), true
	case 143:
		if short {
			return b, false
		}
		return fmt.Appendf(b, ", %d group record(s)", uint16(first)), true
	}
	return b, true
}

// kinds6 are ICMPv6's types.
var kinds6 = [...]string{
	1: "destination unreachable", 2: "packet too big", 3: "time exceeded in-transit", 4: "parameter problem",
	128: "echo request", 129: "echo reply",
	130: "multicast listener query", 131: "multicast listener report", 132: "multicast listener done", 143: "multicast listener report v2",
	133: "router solicitation", 134: "router advertisement",
	135: "neighbor solicitation", 136: "neighbor advertisement", 137: "redirect",
	138: "router renumbering", 139: "who-are-you request", 140: "who-are-you reply",
	141: "inverse neighbor solicitation", 142: "inverse neighbor advertisement",
	144: "ha discovery request", 145: "ha discovery reply", 146: "mobile router solicitation", 147: "mobile router advertisement",
	155: "RPL", 200: "mtrace response", 201: "mtrace message",
}

func unreachable6(b []byte, code byte, packet []byte) (_ []byte, whole bool) {
	whys := [...]string{"unreachable route", "unreachable prohibited", "beyond scope", "unreachable address", "unreachable port"}
	if int(code) >= len(whys) {
		return fmt.Appendf(b, ", unknown unreach code (%d)", code), true
	}
	b = append(append(b, ", "...), whys[code]...)
	h := header.Parse(packet)
	port, hasPort := portOf(h, packet)
	switch {
	case h.Version != 6 || !h.Dst.IsValid() || code == 4 && !hasPort:
		return b, false
	case code == 2:
		return fmt.Appendf(b, " %v, source address %v", h.Dst, h.Src), true
	case code == 4 && (h.Protocol == header.TCP || h.Protocol == header.UDP):
		return fmt.Appendf(b, ", %v %s port %d", h.Dst, transport(h), port), true
	case code == 4:
		return fmt.Appendf(b, ", %v protocol %d port %d unreachable", h.Dst, h.Protocol, port), true
	}
	return h.Dst.AppendTo(append(b, ' ')), true
}

func exceeded6(b []byte, code byte, packet []byte) (_ []byte, whole bool) {
	switch code {
	case 0:
		h := header.Parse(packet)
		if h.Version != 6 || !h.Dst.IsValid() {
			return b, false
		}
		return h.Dst.AppendTo(append(b, " for "...)), true
	case 1:
		return append(b, " (reassembly)"...), true
	}
	return fmt.Appendf(b, ", unknown code (%d)", code), true
}

// portOf returns the destination port of a packet whose header is h. Like
// tcpdump, it believes that there is one in any upper layer.
func portOf(h header.Header, packet []byte) (port uint16, ok bool) {
	if h.Protocol < 0 || h.Fragment > 0 || len(packet) < h.Offset+4 {
		return 0, false
	}
	return binary.BigEndian.Uint16(packet[h.Offset+2:]), true
}

func transport(h header.Header) string {
	if h.Protocol == header.TCP {
		return "tcp"
	}
	return "udp"
}

func address6(b, from []byte) []byte { return netip.AddrFrom16([16]byte(from)).AppendTo(b) }
