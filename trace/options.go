package trace

import (
	"encoding/binary"
	"fmt"

	"github.com/google/gopacket/layers"
)

// options appends TCP's options, as tcpdump has them.
func options(b []byte, all []layers.TCPOption) []byte {
	if len(all) == 0 {
		return b
	}
	b = append(b, ", options "...)
	separator := byte('[')
	for i := range all {
		b = append(b, separator)
		b = option(b, &all[i])
		separator = ','
	}
	return append(b, ']')
}

func option(b []byte, o *layers.TCPOption) []byte {
	data := o.OptionData
	word := func(i int) uint32 { return binary.BigEndian.Uint32(data[4*i:]) }
	switch kind := o.OptionType; {
	case kind == layers.TCPOptionKindEndList:
		return append(b, "eol"...)
	case kind == layers.TCPOptionKindNop:
		return append(b, "nop"...)
	case kind == layers.TCPOptionKindMSS && len(data) == 2:
		return fmt.Appendf(b, "mss %d", binary.BigEndian.Uint16(data))
	case kind == layers.TCPOptionKindWindowScale && len(data) == 1:
		return fmt.Appendf(b, "wscale %d", data[0])
	case kind == layers.TCPOptionKindSACKPermitted && len(data) == 0:
		return append(b, "sackOK"...)
	case kind == layers.TCPOptionKindTimestamps && len(data) == 8:
		return number(number(b, "TS val ", word(0)), " ecr ", word(1))
	case kind == layers.TCPOptionKindSACK && len(data) > 0 && len(data)%8 == 0:
		b = fmt.Appendf(b, "sack %d ", len(data)/8)
		for i := 0; i < len(data)/4; i += 2 {
			b = fmt.Appendf(b, "{%d:%d}", word(i), word(i+1))
		}
		return b
	default:
		b = fmt.Appendf(b, "unknown-%d", int(kind))
		if len(data) > 0 {
			b = fmt.Appendf(b, " 0x%x", data)
		}
		return b
	}
}
