package packets

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// TestChains checks where the upper layer begins.
func TestChains(t *testing.T) {
	four, six := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00:9::1")
	for _, c := range IPv4Cases(four, four) {
		packet := gopacket.NewPacket(c.Packet, layers.LayerTypeIPv4, gopacket.Default)
		ip, ok := packet.NetworkLayer().(*layers.IPv4)
		if !ok || len(ip.Contents) != c.Chain || int(ip.Protocol) != c.Protocol || int(ip.Length) != len(c.Packet) {
			t.Errorf("IPv4 %s: gopacket says %v", c.Name, packet)
		}
	}
	for _, c := range IPv6Cases(six, six) {
		if c.Protocol == Unknown {
			if c.Chain != len(c.Packet) {
				t.Errorf("IPv6 %s: a chain of %d bytes in a packet of %d", c.Name, c.Chain, len(c.Packet))
			}
			continue
		}
		if c.Name == "fragment, later" {
			continue
		}
		// What is behind the chain is what the upper layer would send.
		if want := segment(six, six, uint8(c.Protocol)); string(c.Packet[c.Chain:]) != string(want) {
			t.Errorf("IPv6 %s: behind %d bytes %x, want %x", c.Name, c.Chain, c.Packet[c.Chain:], want)
		}
	}
}
