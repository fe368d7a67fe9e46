package trace

import (
	"encoding/binary"
	"fmt"

	"kstat/trace/header"
)

// options appends TCP's options, as tcpdump has them.
func options(b, all []byte) []byte {
	if len(all) == 0 {
		return b
	}
	b = append(b, ", options "...)
	separator := byte('[')
	for len(all) > 0 {
		kind, data, rest, _ := header.Option(all)
		b = option(append(b, separator), kind, data)
		separator, all = ',', rest
	}
	return append(b, ']')
}

func option(b []byte, kind byte, data []byte) []byte {
	word := func(i int) uint32 { return binary.BigEndian.Uint32(data[4*i:]) }
	switch {
	case kind == header.OptionEnd:
		return append(b, "eol"...)
	case kind == header.OptionNop:
		return append(b, "nop"...)
	case kind == header.OptionMSS && len(data) == 2:
		return number(b, "mss ", uint32(binary.BigEndian.Uint16(data)))
	case kind == header.OptionWindowScale && len(data) == 1:
		return number(b, "wscale ", uint32(data[0]))
	case kind == header.OptionSACKPermitted && len(data) == 0:
		return append(b, "sackOK"...)
	case kind == header.OptionTimestamps && len(data) == 8:
		return number(number(b, "TS val ", word(0)), " ecr ", word(1))
	case kind == header.OptionSACK && len(data) > 0 && len(data)%8 == 0:
		b = fmt.Appendf(b, "sack %d ", len(data)/8)
		for i := 0; i < len(data)/4; i += 2 {
			b = fmt.Appendf(b, "{%d:%d}", word(i), word(i+1))
		}
		return b
	default:
		b = fmt.Appendf(b, "unknown-%d", kind)
		if len(data) > 0 {
			b = fmt.Appendf(b, " 0x%x", data)
		}
		return b
	}
}
