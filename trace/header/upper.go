package header

import "encoding/binary"

// Segment is a TCP header.
type Segment struct {
	Seq, Ack       uint32
	Flags          uint16 // FIN and those that follow it, of which NS is the last
	Window, Urgent uint16
	Size           int    // with the options, in bytes
	Options        []byte // of the packet, up to the end of the list, which is its last byte if there is one
}

// Flags of a [Segment].
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
	NS
)

// ParseTCP reads a TCP header. It reports whether it is whole and makes sense.
func ParseTCP(b []byte) (s Segment, ok bool) {
	if len(b) < 20 {
		return Segment{}, false
	}
	s = Segment{
		Seq:    binary.BigEndian.Uint32(b[4:]),
		Ack:    binary.BigEndian.Uint32(b[8:]),
		Flags:  binary.BigEndian.Uint16(b[12:]) & 0x1ff,
		Window: binary.BigEndian.Uint16(b[14:]),
		Urgent: binary.BigEndian.Uint16(b[18:]),
		Size:   int(b[12]>>4) * 4,
	}
	if s.Size < 20 || s.Size > len(b) {
		return Segment{}, false
	}
	all := b[20:s.Size]
	rest := all
	for len(rest) > 0 {
		kind, _, next, ok := Option(rest)
		if !ok {
			return Segment{}, false
		}
		if rest = next; kind == OptionEnd {
			break
		}
	}
	s.Options = all[:len(all)-len(rest)]
	return s, true
}

// TCP options (TCPOPT_…).
const (
	OptionEnd           = 0
	OptionNop           = 1
	OptionMSS           = 2
	OptionWindowScale   = 3
	OptionSACKPermitted = 4
	OptionSACK          = 5
	OptionTimestamps    = 8
)

// Option reads the first of TCP's options, and returns those behind it. Those of
// a [Segment] are always ok.
func Option(b []byte) (kind byte, data, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, nil, false
	}
	switch kind = b[0]; kind {
	case OptionEnd, OptionNop:
		return kind, nil, b[1:], true
	}
	if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
		return 0, nil, nil, false
	}
	return kind, b[2:b[1]], b[b[1]:], true
}

// ParseUDP reads a UDP header, and returns the length that it states, itself
// included. 0 is one that does not fit into it. It reports whether the header is
// whole and makes sense.
func ParseUDP(b []byte) (length int, ok bool) {
	if len(b) < 8 {
		return 0, false
	}
	length = int(binary.BigEndian.Uint16(b[4:]))
	return length, length == 0 || length >= 8
}
