package hook

import (
	"bytes"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"kstat/stats"
)

// v4 returns an IPv4 header of words times 4 bytes for a protocol.
func v4(words int, protocol byte) []byte {
	h := make([]byte, max(words*4, 20))
	h[0], h[8], h[9] = 4<<4|byte(words), 64, protocol
	return h
}

// v6 returns an IPv6 header for a next header, and what follows it.
func v6(next byte, rest ...[]byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 6<<4, next, 64
	return bytes.Join(append([][]byte{h}, rest...), nil)
}

// ext returns an extension header of 8 bytes units, or an authentication
// header of 4 byte units minus 2, as the field length says.
func ext(next, length byte, size int) []byte {
	h := make([]byte, size)
	h[0], h[1] = next, length
	return h
}

// fragment returns a fragment header at an offset in units of 8 bytes.
func fragment(next byte, offset uint16, more bool) []byte {
	h := []byte{next, 0, byte(offset >> 5), byte(offset << 3), 0, 0, 0, 1}
	if more {
		h[3] |= 1
	}
	return h
}

// classifyCase is a packet with an answer.
type classifyCase struct {
	name   string
	family stats.Family
	packet []byte
	want   stats.Protocol
}

func classifyCases() []classifyCase {
	const tcp, udp, icmp6, none, esp, sctp = 6, 17, 58, 59, 50, 132
	other := stats.Other
	wrongVersion := v4(5, tcp)
	wrongVersion[0] = 5<<4 | 5
	ones := bytes.Repeat([]byte{0xff}, 128)
	return []classifyCase{
		{"v4 TCP", stats.IPv4, v4(5, tcp), tcp},
		{"v4 with 40 bytes of options", stats.IPv4, v4(15, udp), udp},
		{"v4 protocol 0", stats.IPv4, v4(5, 0), 0},
		{"v4 protocol 255", stats.IPv4, v4(5, 255), 255},
		{"v4 extension header numbers are protocols", stats.IPv4, v4(5, extAuth), extAuth},
		{"v4 header of 16 bytes", stats.IPv4, v4(4, tcp), other},
		{"v4 header of 0 bytes", stats.IPv4, v4(0, tcp), other},
		{"v4 truncated", stats.IPv4, v4(5, tcp)[:19], other},
		{"v4 options truncated", stats.IPv4, v4(15, tcp)[:59], other},
		{"v4 nothing", stats.IPv4, nil, other},
		{"v4 of version 5", stats.IPv4, wrongVersion, other},
		{"v4 packet under v6", stats.IPv6, v4(15, tcp), other},
		{"v6 packet under v4", stats.IPv4, v6(tcp), other},
		{"v4 all ones", stats.IPv4, ones, other},
		{"v6 all ones", stats.IPv6, ones, other},

		{"v6 TCP", stats.IPv6, v6(tcp), tcp},
		{"v6 SCTP", stats.IPv6, v6(sctp), sctp},
		{"v6 protocol 253", stats.IPv6, v6(253), 253},
		{"v6 no next header", stats.IPv6, v6(none), none},
		{"v6 ESP", stats.IPv6, v6(esp, make([]byte, 8)), esp},
		{"v6 truncated", stats.IPv6, v6(tcp)[:39], other},
		{"v6 nothing", stats.IPv6, nil, other},
		{"v6 hop-by-hop", stats.IPv6, v6(extHopByHop, ext(icmp6, 0, 8)), icmp6},
		{"v6 hop-by-hop of 16 bytes", stats.IPv6, v6(extHopByHop, ext(udp, 1, 16)), udp},
		{"v6 hop-by-hop, 1 byte short", stats.IPv6, v6(extHopByHop, ext(udp, 1, 15)), other},
		{"v6 hop-by-hop, 1 byte in all", stats.IPv6, v6(extHopByHop, []byte{udp}), other},
		{"v6 hop-by-hop, missing", stats.IPv6, v6(extHopByHop), other},
		{"v6 routing", stats.IPv6, v6(extRouting, ext(tcp, 2, 24)), tcp},
		{"v6 destination options", stats.IPv6, v6(extDestination, ext(sctp, 0, 8)), sctp},
		{"v6 authentication header", stats.IPv6, v6(extAuth, ext(tcp, 4, 24)), tcp},
		{"v6 authentication header, short", stats.IPv6, v6(extAuth, ext(tcp, 4, 23)), other},
		{"v6 authentication header of 8 bytes", stats.IPv6, v6(extAuth, ext(tcp, 0, 24)), other},
		{"v6 chain of all", stats.IPv6, v6(extHopByHop, ext(extDestination, 0, 8), ext(extRouting, 0, 8), ext(extFragment, 0, 8),
			fragment(extAuth, 0, true), ext(extDestination, 1, 12), ext(udp, 0, 8)), udp},
		{"v6 11 headers in 128 bytes", stats.IPv6, v6(extDestination, bytes.Repeat(ext(extDestination, 0, 8), 10), ext(tcp, 0, 8)), tcp},
		{"v6 chain that runs past the capture", stats.IPv6, v6(extDestination, bytes.Repeat(ext(extDestination, 0, 8), 11)), other},
		{"v6 ends at no next header", stats.IPv6, v6(extDestination, ext(none, 0, 8), ext(tcp, 0, 8)), none},
		{"v6 first fragment", stats.IPv6, v6(extFragment, fragment(tcp, 0, true)), tcp},
		{"v6 atomic fragment", stats.IPv6, v6(extFragment, fragment(udp, 0, false)), udp},
		{"v6 later fragment", stats.IPv6, v6(extFragment, fragment(udp, 185, false)), udp},
		{"v6 later fragment of a chain", stats.IPv6, v6(extFragment, fragment(extDestination, 185, false), ext(tcp, 0, 8)), other},
		{"v6 fragment header truncated", stats.IPv6, v6(extFragment, fragment(udp, 0, false)[:7]), other},
	}
}

func TestClassify(t *testing.T) {
	for _, test := range classifyCases() {
		t.Run(test.name, func(t *testing.T) {
			class := Classify(test.family, test.packet)
			if class.Protocol() != test.want || class.Family() != test.family {
				t.Errorf("got protocol %d of %v, want %d of %v", class.Protocol(), class.Family(), test.want, test.family)
			}
		})
	}
}

// FuzzClassify compares Classify with gopacket, which decodes each header on
// its own.
func FuzzClassify(f *testing.F) {
	addPackets(f)
	f.Fuzz(func(t *testing.T, six bool, packet []byte) {
		family, oracle := stats.IPv4, oracleIPv4
		if six {
			family, oracle = stats.IPv6, oracleIPv6
		}
		got := Classify(family, packet)
		if want := oracle(packet); got.Protocol() != want {
			t.Errorf("%v packet %x: got protocol %d, gopacket says %d", family, packet, got.Protocol(), want)
		}
		if got.Family() != family {
			t.Errorf("family %v became %v", family, got.Family())
		}
	})
}

// addPackets is what both fuzz targets begin with.
func addPackets(f *testing.F) {
	f.Add(false, v4(5, 6))
	f.Add(false, v4(15, 17))
	f.Add(false, v4(3, 17))
	f.Add(true, v6(58))
	f.Add(true, v6(extHopByHop, ext(extDestination, 0, 8), ext(extRouting, 0, 8), fragment(extAuth, 0, true), ext(17, 1, 12)))
	f.Add(true, v6(extFragment, fragment(60, 3, true)))
}

// oracleIPv4 trusts a header that gopacket can decode. gopacket refuses more:
// lengths that do not fit and options that are malformed, which say nothing
// about the protocol. For those it has at least filled in the fixed fields.
func oracleIPv4(packet []byte) stats.Protocol {
	var ip layers.IPv4
	err := ip.DecodeFromBytes(packet, gopacket.NilDecodeFeedback)
	if err != nil && (len(packet) < 20 || ip.IHL < 5 || int(ip.IHL)*4 > len(packet)) || ip.Version != 4 {
		return stats.Other
	}
	return stats.Protocol(ip.Protocol)
}

// oracleIPv6 walks the chain with gopacket's decoders of single headers.
func oracleIPv6(packet []byte) stats.Protocol {
	var ip layers.IPv6
	if err := ip.DecodeFromBytes(packet, gopacket.NilDecodeFeedback); err != nil && len(packet) < 40 || ip.Version != 6 {
		return stats.Other
	}
	next, rest := ip.NextHeader, packet[40:]
	for {
		switch next {
		case layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Routing, layers.IPProtocolIPv6Destination:
			var skip layers.IPv6ExtensionSkipper
			if skip.DecodeFromBytes(rest, gopacket.NilDecodeFeedback) != nil {
				return stats.Other
			}
			next, rest = skip.NextHeader, skip.LayerPayload()
		case layers.IPProtocolIPv6Fragment:
			h, ok := gopacket.NewPacket(rest, layers.LayerTypeIPv6Fragment, gopacket.NoCopy).
				Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
			if !ok {
				return stats.Other
			}
			next, rest = h.NextHeader, h.LayerPayload()
			if h.FragmentOffset != 0 {
				rest = nil // the middle of a packet: no header can be read from it
			}
		case layers.IPProtocolAH:
			h, ok := gopacket.NewPacket(rest, layers.LayerTypeIPSecAH, gopacket.NoCopy).
				Layer(layers.LayerTypeIPSecAH).(*layers.IPSecAH)
			if !ok {
				return stats.Other
			}
			next, rest = h.NextHeader, h.LayerPayload()
		default:
			return stats.Protocol(next)
		}
	}
}

func TestClassifyAllocatesNothing(t *testing.T) {
	packet := v6(extHopByHop, ext(extDestination, 0, 8), ext(6, 0, 8))
	if a := testing.AllocsPerRun(1000, func() { Classify(stats.IPv6, packet) }); a != 0 {
		t.Errorf("%v allocations, want 0", a)
	}
}

func BenchmarkClassify(b *testing.B) {
	for name, packet := range map[string][]byte{
		"v4 TCP":            v4(5, 6),
		"v6 TCP":            v6(6),
		"v6 three headers":  v6(extHopByHop, ext(extDestination, 0, 8), fragment(60, 0, true), ext(6, 0, 8)),
		"v6 eleven headers": v6(extDestination, bytes.Repeat(ext(extDestination, 0, 8), 10), ext(6, 0, 8)),
	} {
		family := stats.IPv6
		if packet[0]>>4 == 4 {
			family = stats.IPv4
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Classify(family, packet)
			}
		})
	}
}
