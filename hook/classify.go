package hook

import (
	"encoding/binary"

	"kstat/stats"
)

// IPv6 extension headers, which are walked over to find the upper-layer
// protocol: the set of ipv6_ext_hdr() in net/ipv6/exthdrs_core.c. "No next
// header" (59) ends a chain and is counted as what it is; ESP (50) hides what
// follows and is counted as ESP.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// Classify tells the protocol of a packet from its first bytes, the network
// header being the first. A header that is malformed, and a chain of IPv6
// extension headers that does not end within packet, give [stats.Other]. It
// never looks at lengths that the header claims, since a GSO packet's may be
// 0, and allocates nothing.
func Classify(family stats.Family, packet []byte) stats.Class {
	protocol := stats.Other
	if family == stats.IPv6 {
		protocol = classifyIPv6(packet)
	} else {
		protocol = classifyIPv4(packet)
	}
	return stats.ClassOf(family, protocol)
}

func classifyIPv4(packet []byte) stats.Protocol {
	if len(packet) < ipv4HeaderLen || packet[0]>>4 != 4 {
		return stats.Other
	}
	headerLen := int(packet[0]&0x0f) * 4
	if headerLen < ipv4HeaderLen || headerLen > len(packet) {
		return stats.Other
	}
	return stats.Protocol(packet[9])
}

func classifyIPv6(packet []byte) stats.Protocol {
	if len(packet) < ipv6HeaderLen || packet[0]>>4 != 6 {
		return stats.Other
	}
	next, rest := packet[6], packet[ipv6HeaderLen:]
	for {
		var headerLen int
		switch next {
		default:
			return stats.Protocol(next)
		case extHopByHop, extRouting, extDestination:
			if len(rest) < 2 {
				return stats.Other
			}
			headerLen = (int(rest[1]) + 1) * 8
		case extAuth:
			if len(rest) < 2 || rest[1] < 1 {
				return stats.Other
			}
			headerLen = (int(rest[1]) + 2) * 4 // RFC 4302, section 2.2: 12 bytes at least
		case extFragment:
			headerLen = 8
		}
		if headerLen > len(rest) {
			return stats.Other
		}
		if next == extFragment && binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
			return laterFragment(rest[0])
		}
		next, rest = rest[0], rest[headerLen:]
	}
}

// laterFragment classifies a fragment that is not the first: what follows its
// fragment header is the middle of a packet. The header names the upper-layer
// protocol, unless another extension header stood before that in the first
// fragment, which is not here to see.
func laterFragment(next byte) stats.Protocol {
	switch next {
	case extHopByHop, extRouting, extFragment, extAuth, extDestination:
		return stats.Other
	}
	return stats.Protocol(next)
}
