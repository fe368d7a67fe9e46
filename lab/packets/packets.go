// Package packets makes IP packets, well-formed and not, each with what it is to
// be counted as. [kstat/lab/traffic.RawIPv4Packet] and RawIPv6Packet send them.
package packets

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Unknown is the protocol of a packet whose headers do not lead to one.
const Unknown = -1

// A Case is a packet with an answer: what it is to be counted as.
type Case struct {
	Name   string
	Packet []byte // from the IP header on

	// Protocol is that of the upper layer, as in /etc/protocols, or Unknown
	// for an IPv6 chain that is malformed or not all there. All headers of
	// RFC 8200, section 4, are passed over, with the exception of the
	// encrypted one. In a later fragment, it is what the fragment header says
	// comes first behind it.
	Protocol int

	// Chain is the number of bytes before the upper layer's header. Whoever
	// captures fewer cannot know the protocol. It is the packet's whole
	// length if Protocol is Unknown.
	Chain int
}

// IPv4Cases returns packets from src to dst, both IPv4, that are well-formed.
func IPv4Cases(src, dst netip.Addr) []Case {
	ip := layers.IPv4{Version: 4, TTL: 64, Id: 1, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	build := func(name string, change func(*layers.IPv4), upper layers.IPProtocol) Case {
		h := ip
		h.Protocol = upper
		change(&h)
		c := Case{Name: name, Protocol: int(upper)}
		c.Packet = serialize(&h, gopacket.Payload(segment(src, dst, uint8(upper))))
		c.Chain = int(c.Packet[0]&0xf) * 4
		return c
	}
	option := func(length int) layers.IPv4Option { // experimental (RFC 4727), copied into fragments
		return layers.IPv4Option{OptionType: 158, OptionLength: uint8(length), OptionData: make([]byte, length-2)}
	}

	return []Case{
		build("tcp", func(*layers.IPv4) {}, unix.IPPROTO_TCP),
		build("udp", func(*layers.IPv4) {}, unix.IPPROTO_UDP),
		build("protocol 253", func(*layers.IPv4) {}, 253),
		build("4 bytes of options", func(h *layers.IPv4) { h.Options = []layers.IPv4Option{option(4)} }, unix.IPPROTO_TCP),
		build("40 bytes of options", func(h *layers.IPv4) { h.Options = []layers.IPv4Option{option(40)} }, unix.IPPROTO_UDP),
		build("first fragment", func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments }, unix.IPPROTO_UDP),
		build("middle fragment", func(h *layers.IPv4) { h.Flags, h.FragOffset = layers.IPv4MoreFragments, 185 }, unix.IPPROTO_UDP),
		build("last fragment", func(h *layers.IPv4) { h.FragOffset = 8191 }, unix.IPPROTO_TCP),
	}
}

// IPv4ShortHeaders returns IPv4 packets that say their header is shorter than it
// can be. Linux 6.18 refuses to send them, and no IP layer lets them in, so they
// are for whoever reads bytes. The protocol is in its place all the same.
func IPv4ShortHeaders(src, dst netip.Addr) []Case {
	var cases []Case
	for words := range byte(5) {
		c := IPv4Cases(src, dst)[0]
		c.Name = fmt.Sprintf("header of %d bytes", words*4)
		c.Packet[0] = 4<<4 | words
		cases = append(cases, c)
	}
	return cases
}

// IPv6Cases returns packets from src to dst, both IPv6. The payload length in
// the IPv6 header is right if the name does not say otherwise.
func IPv6Cases(src, dst netip.Addr) []Case {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP

	// good is a chain that leads to the upper layer.
	good := func(name string, upper uint8, headers ...extension) Case {
		packet := ipv6(src, dst, upper, segment(src, dst, upper), headers...)
		return Case{name, packet, int(upper), len(packet) - len(segment(src, dst, upper))}
	}
	// cut is a good chain that ends after n bytes.
	cut := func(name string, n int, headers ...extension) Case {
		packet := setLength(good(name, tcp, headers...).Packet[:n])
		return Case{name, packet, Unknown, n}
	}
	// patched is a good packet with one byte changed.
	patched := func(c Case, at int, to byte, protocol int) Case {
		c.Packet[at] = to
		if c.Protocol = protocol; protocol == Unknown {
			c.Chain = len(c.Packet)
		}
		return c
	}
	// endless is a chain of nothing but headers, up to the last byte.
	endless := func(name string, n int) Case {
		packet := ipv6(src, dst, unix.IPPROTO_DSTOPTS, nil, repeat(n, destination(8))...)
		return Case{name, packet, Unknown, len(packet)}
	}
	later := func(name string, upper uint8) Case { // a fragment without the upper header
		packet := ipv6(src, dst, upper, make([]byte, 64), fragment(1232, true))
		return Case{name, packet, int(upper), ipv6Header + 8}
	}
	orphan := func(name string) Case { // a later fragment of a datagram that began with more headers
		c := later(name, unix.IPPROTO_DSTOPTS)
		c.Protocol, c.Chain = Unknown, len(c.Packet)
		return c
	}

	return []Case{
		good("tcp", tcp),
		good("udp", udp),
		good("protocol 253", 253),
		good("no next header", unix.IPPROTO_NONE),
		good("encrypted", unix.IPPROTO_ESP),

		good("hop-by-hop", tcp, hopByHop(8)),
		good("routing", tcp, routing(dst)),
		good("destination options", udp, destination(16)),
		good("authentication", tcp, authentication()),
		good("fragment, first", udp, fragment(0, true)),
		good("fragment, first and only", tcp, fragment(0, false)),
		later("fragment, later", udp),
		orphan("fragment, later, with options in front"),
		good("one of each", tcp, hopByHop(8), destination(8), routing(dst), fragment(0, true), authentication(), destination(8)),

		good("one header of 256 bytes", tcp, destination(256)),
		good("one header of 1048 bytes", tcp, destination(1048)),
		good("16 headers", udp, repeat(16, destination(8))...),
		good("chain of 128 bytes", tcp, hopByHop(88)),
		good("chain of 136 bytes", tcp, hopByHop(96)),

		cut("ends before the header", 40, destination(8)),
		cut("ends in the header's first byte", 41, destination(8)),
		cut("ends in the header's second byte", 42, destination(8)),
		cut("ends in the header", 44, destination(8)),
		cut("ends in the second header", 50, hopByHop(8), destination(24)),
		cut("ends in the fragment header", 44, fragment(0, true)),
		cut("ends in the authentication header", 52, authentication()),
		endless("headers to the end", 100),

		patched(good("header length of 2048 bytes", tcp, destination(8)), ipv6Header+1, 255, Unknown),
		patched(good("authentication header of 1028 bytes", tcp, authentication()), ipv6Header+1, 255, Unknown),
		patched(patched(good("payload length 0", tcp), 4, 0, tcp), 5, 0, tcp),
		patched(patched(good("payload length 65535", udp), 4, 255, udp), 5, 255, udp),
	}
}

// ipv6Header is the length of the fixed header.
const ipv6Header = 40

// An extension is an IPv6 extension header. Its first byte, the kind of the
// next header, is filled in by whoever chains it.
type extension struct {
	kind  uint8 // as in the next header field before it
	bytes []byte
}

// options is a header of n bytes, a multiple of 8, filled with PadN options.
func options(kind uint8, n int) extension {
	const longest = 2 + 255 // a PadN option
	b := make([]byte, 2, n)
	b[1] = uint8(n/8 - 1)
	for len(b) < n {
		size := min(n-len(b), longest)
		if rest := n - len(b) - size; rest == 1 {
			size-- // one byte cannot be a PadN
		}
		b = append(b, 1, uint8(size-2))
		b = append(b, make([]byte, size-2)...)
	}
	return extension{kind, b}
}

func hopByHop(n int) extension    { return options(unix.IPPROTO_HOPOPTS, n) }
func destination(n int) extension { return options(unix.IPPROTO_DSTOPTS, n) }

// routing is a segment routing header (RFC 8754) that has reached its last
// segment.
func routing(last netip.Addr) extension {
	return extension{unix.IPPROTO_ROUTING, append([]byte{0, 2, 4, 0, 0, 0, 0, 0}, last.AsSlice()...)}
}

// fragment is a fragment header; the offset is in bytes, a multiple of 8.
func fragment(offset uint16, more bool) extension {
	if more {
		offset |= 1
	}
	b := binary.BigEndian.AppendUint16([]byte{0, 0}, offset)
	return extension{unix.IPPROTO_FRAGMENT, binary.BigEndian.AppendUint32(b, 1)}
}

// authentication has its length in units of 4 bytes, unlike all others.
func authentication() extension {
	const size = 12 + 12 // a 96-bit integrity check value
	b := make([]byte, size)
	b[1] = size/4 - 2
	return extension{unix.IPPROTO_AH, b}
}

func repeat(n int, e extension) []extension { return slices.Repeat([]extension{e}, n) }

// ipv6 chains the headers in front of the upper layer.
func ipv6(src, dst netip.Addr, upper uint8, payload []byte, headers ...extension) []byte {
	kinds := make([]uint8, 0, len(headers)+1)
	for _, h := range headers {
		kinds = append(kinds, h.kind)
	}
	kinds = append(kinds, upper)

	b := []byte{6 << 4, 0, 0, 0, 0, 0, kinds[0], 64}
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	for i, h := range headers {
		b = append(b, kinds[i+1])
		b = append(b, h.bytes[1:]...)
	}
	return setLength(append(b, payload...))
}

// setLength sets the payload length of an IPv6 packet to what is there.
func setLength(packet []byte) []byte {
	packet = bytes.Clone(packet)
	binary.BigEndian.PutUint16(packet[4:], uint16(len(packet)-ipv6Header))
	return packet
}

// segment is what the upper layer sends: a TCP SYN, a UDP datagram, or 16 bytes
// of zeros.
func segment(src, dst netip.Addr, protocol uint8) []byte {
	network := gopacket.NetworkLayer(&layers.IPv4{Protocol: layers.IPProtocol(protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()})
	if src.Is6() {
		network = &layers.IPv6{NextHeader: layers.IPProtocol(protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	switch protocol {
	case unix.IPPROTO_TCP:
		tcp := &layers.TCP{SrcPort: 1, DstPort: 2, SYN: true, Window: 1024}
		tcp.SetNetworkLayerForChecksum(network)
		return serialize(tcp)
	case unix.IPPROTO_UDP:
		udp := &layers.UDP{SrcPort: 1, DstPort: 2}
		udp.SetNetworkLayerForChecksum(network)
		return serialize(udp, gopacket.Payload("kstat"))
	}
	return make([]byte, 16)
}

// serialize joins layers, with lengths and checksums. It panics if they do not
// fit together, which is a mistake in this file.
func serialize(all ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...)
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}
