// Package header reads the first bytes of a packet: the network layer, and the
// headers of TCP and UDP.
package header

import (
	"encoding/binary"
	"net/netip"
)

// Header is what the network layer says of a packet, which may be cut off
// anywhere. The zero value is a packet of which nothing can be said.
type Header struct {
	Version  int // 4 or 6; 0 if it is neither
	Src, Dst netip.Addr
	// Protocol is the upper layer's, behind the extension headers of IPv6; -1
	// if they do not end within the bytes, or are malformed.
	Protocol int
	Offset   int // where the upper layer begins
	Fragment int // where in the datagram that is, in bytes, if not at its beginning
	// SrcPort and DstPort are those of TCP, UDP, UDP-Lite, SCTP and DCCP. -1 is
	// none, or none that can be seen.
	SrcPort, DstPort int
}

// Protocol numbers (IPPROTO_…).
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58

	dccp    = 33
	sctp    = 132
	udpLite = 136

	hopByHop       = 0
	routing        = 43
	fragment       = 44
	authentication = 51
	destination    = 60
)

// Parse reads a header. It believes no length but those of headers, as that of
// a super-packet may be 0.
func Parse(packet []byte) Header {
	h := Header{Protocol: -1, SrcPort: -1, DstPort: -1}
	if len(packet) == 0 {
		return h
	}
	switch packet[0] >> 4 {
	case 4:
		h.Version = 4
		h.parseIPv4(packet)
	case 6:
		h.Version = 6
		h.parseIPv6(packet)
	}
	if h.Protocol < 0 || h.Fragment > 0 || len(packet) < h.Offset+4 {
		return h
	}
	switch h.Protocol {
	case TCP, UDP, udpLite, sctp, dccp:
		h.SrcPort = int(binary.BigEndian.Uint16(packet[h.Offset:]))
		h.DstPort = int(binary.BigEndian.Uint16(packet[h.Offset+2:]))
	}
	return h
}

func (h *Header) parseIPv4(packet []byte) {
	if len(packet) < 20 {
		return
	}
	h.Src = netip.AddrFrom4([4]byte(packet[12:]))
	h.Dst = netip.AddrFrom4([4]byte(packet[16:]))
	length := int(packet[0]&0xf) * 4
	if length < 20 || length > len(packet) {
		return
	}
	h.Protocol, h.Offset = int(packet[9]), length
	h.Fragment = int(binary.BigEndian.Uint16(packet[6:])&0x1fff) * 8
}

func (h *Header) parseIPv6(packet []byte) {
	if len(packet) < 40 {
		return
	}
	h.Src = netip.AddrFrom16([16]byte(packet[8:]))
	h.Dst = netip.AddrFrom16([16]byte(packet[24:]))
	next, at := int(packet[6]), 40
	for {
		rest := packet[at:]
		size := 8
		switch next {
		default:
			h.Protocol, h.Offset = next, at
			return
		case hopByHop, routing, destination, authentication:
			if len(rest) < 2 || next == authentication && rest[1] < 1 {
				return
			}
			size = (int(rest[1]) + 1) * 8
			if next == authentication {
				size = (int(rest[1]) + 2) * 4
			}
		case fragment:
		}
		if size > len(rest) {
			return
		}
		if next == fragment {
			h.Fragment = int(binary.BigEndian.Uint16(rest[2:]) &^ 7)
		}
		next, at = int(rest[0]), at+size
		if h.Fragment > 0 { // what follows is the middle of a datagram
			if !extension(next) {
				h.Protocol, h.Offset = next, at
			}
			return
		}
	}
}

func extension(next int) bool {
	switch next {
	case hopByHop, routing, fragment, authentication, destination:
		return true
	}
	return false
}
