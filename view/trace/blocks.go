package trace

import (
	"encoding/binary"
	"fmt"

	"kstat/trace/header"
)

// What there is in trace.pcapng, see kstat/trace.
const (
	blockStatistics = 5
	blockPacket     = 6

	packetFixed     = 28 // of a packet's block, in front of the packet
	statisticsFixed = 20
	optionLost      = 5 // isb_ifdrop
	pseudoHeader    = 20
	largestBlock    = 1 << 16
)

// cutBlock takes the first block off a pcapng stream; nil if it is not whole.
func cutBlock(text []byte) (block, rest []byte, err error) {
	if len(text) < 8 {
		return nil, text, nil
	}
	length := binary.LittleEndian.Uint32(text[4:])
	if length < 12 || length > largestBlock || length%4 != 0 {
		return nil, nil, fmt.Errorf("a block of %d bytes: this is no trace.pcapng", length)
	}
	if uint32(len(text)) < length {
		return nil, text, nil
	}
	return text[:length], text[length:], nil
}

// packetIn returns the header of the packet in a block; false if it has none.
func packetIn(block []byte) (h header.Header, ok bool) {
	if binary.LittleEndian.Uint32(block) != blockPacket || len(block) < packetFixed+4 {
		return h, false
	}
	captured := int(binary.LittleEndian.Uint32(block[20:]))
	if captured < pseudoHeader || captured > len(block)-packetFixed-4 {
		return h, false
	}
	return header.Parse(block[packetFixed+pseudoHeader : packetFixed+captured]), true
}

// lostIn returns how many packets have been missed by now, as a block says;
// false if it does not.
func lostIn(block []byte) (n uint64, ok bool) {
	const option = statisticsFixed + 4
	if binary.LittleEndian.Uint32(block) != blockStatistics || len(block) < option+8+4 ||
		binary.LittleEndian.Uint16(block[statisticsFixed:]) != optionLost {
		return 0, false
	}
	return binary.LittleEndian.Uint64(block[option:]), true
}
