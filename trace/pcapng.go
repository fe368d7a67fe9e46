package trace

import (
	"encoding/binary"
	"time"

	"kstat/stats"
)

// pcapng is packets as Wireshark and tcpdump read them: one section, whose
// interface 0 is nobody's and has the number of missed packets, and one more
// interface for each device. As in a capture of all devices (tcpdump -i any), a
// packet has a pseudo-header of Linux's in front, which names the device and the
// direction.
//
// https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html,
// https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html
type pcapng struct {
	begun   bool
	devices devices
	numbers map[uint32]uint32 // of interfaces, by device
	lost    uint64            // by now
	gap     uint64            // since the last packet
}

// Types of blocks and options, little-endian all of them.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	byteOrderMagic = 0x1a2b3c4d
	linuxSLL2      = 276 // LINKTYPE_LINUX_SLL2

	optionEnd         = 0
	optionApplication = 4 // shb_userappl
	optionName        = 2 // if_name
	optionDescription = 3 // if_description
	optionResolution  = 9 // if_tsresol
	optionFlags       = 2 // epb_flags
	optionGap         = 4 // epb_dropcount
	optionLost        = 5 // isb_ifdrop

	nanoseconds = 9 // if_tsresol: 10^-9

	flagInbound  = 1
	flagOutbound = 2
)

// The pseudo-header.
const (
	sll2Size       = 20
	etherIPv4      = 0x0800
	etherIPv6      = 0x86dd
	arphrdNone     = 0xfffe // no link layer
	packetHost     = 0      // it came in
	packetOutgoing = 4
)

func newPcapng() *pcapng {
	return &pcapng{devices: make(devices), numbers: map[uint32]uint32{0: 0}}
}

var little = binary.LittleEndian

// block appends a block: its length stands in front of what body appends, and
// behind.
func block(b []byte, kind uint32, body func([]byte) []byte) []byte {
	start := len(b)
	b = little.AppendUint32(b, kind)
	b = little.AppendUint32(b, 0)
	b = body(b)
	size := uint32(len(b) - start + 4)
	little.PutUint32(b[start+4:], size)
	return little.AppendUint32(b, size)
}

// blockOption appends an option, and what fills it up to 32 bits.
func blockOption(b []byte, code uint16, value []byte) []byte {
	b = little.AppendUint16(b, code)
	b = little.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

func (p *pcapng) begin(b []byte) []byte {
	if p.begun {
		return b
	}
	p.begun = true
	b = block(b, blockSection, func(b []byte) []byte {
		b = little.AppendUint32(b, byteOrderMagic)
		b = append(b, 1, 0, 0, 0)              // version 1.0
		b = little.AppendUint64(b, ^uint64(0)) // the length is not known
		b = blockOption(b, optionApplication, []byte("kstatd"))
		return blockOption(b, optionEnd, nil)
	})
	return p.device(b, "kstat", "packets without a device, and the number of missed ones")
}

func (*pcapng) device(b []byte, name, description string) []byte {
	return block(b, blockInterface, func(b []byte) []byte {
		b = little.AppendUint16(b, linuxSLL2)
		b = little.AppendUint16(b, 0)
		b = little.AppendUint32(b, sll2Size+Captured)
		b = blockOption(b, optionName, []byte(name))
		if description != "" {
			b = blockOption(b, optionDescription, []byte(description))
		}
		b = blockOption(b, optionResolution, []byte{nanoseconds})
		return blockOption(b, optionEnd, nil)
	})
}

func (p *pcapng) packet(b []byte, s *stats.Sighting) []byte {
	device, out := deviceOf(s)
	number, ok := p.numbers[device]
	if !ok {
		number = uint32(len(p.numbers))
		p.numbers[device] = number
		b = p.device(b, p.devices.name(device), "")
	}
	ether, direction, flags := uint16(etherIPv4), byte(packetHost), byte(flagInbound)
	if s.Class.Family() == stats.IPv6 {
		ether = etherIPv6
	}
	if out {
		direction, flags = packetOutgoing, flagOutbound
	}
	return block(b, blockPacket, func(b []byte) []byte {
		b = little.AppendUint32(b, number)
		b = moment(b, s.Time)
		b = little.AppendUint32(b, uint32(sll2Size+len(s.Head)))
		b = little.AppendUint32(b, sll2Size+max(s.Bytes, uint32(len(s.Head))))
		b = binary.BigEndian.AppendUint16(b, ether)
		b = append(b, 0, 0)
		b = binary.BigEndian.AppendUint32(b, device)
		b = binary.BigEndian.AppendUint16(b, arphrdNone)
		b = append(b, direction, 0) // no address
		b = append(b, make([]byte, 8)...)
		b = append(b, s.Head...)
		b = append(b, make([]byte, -len(s.Head)&3)...)
		if device != 0 {
			b = blockOption(b, optionFlags, []byte{flags, 0, 0, 0})
		}
		if p.gap > 0 {
			b = blockOption(b, optionGap, little.AppendUint64(nil, p.gap))
			p.gap = 0
		}
		return blockOption(b, optionEnd, nil)
	})
}

// moment appends a time.
func moment(b []byte, nanoseconds int64) []byte {
	b = little.AppendUint32(b, uint32(nanoseconds>>32))
	return little.AppendUint32(b, uint32(nanoseconds))
}

// missed writes the statistics of interface 0: how many have been missed by
// now. The next packet says how many that were since the one before.
func (p *pcapng) missed(b []byte, n uint64) []byte {
	p.lost += n
	p.gap += n
	return block(b, blockStatistics, func(b []byte) []byte {
		b = little.AppendUint32(b, 0)
		b = moment(b, time.Now().UnixNano())
		b = blockOption(b, optionLost, little.AppendUint64(nil, p.lost))
		return blockOption(b, optionEnd, nil)
	})
}
