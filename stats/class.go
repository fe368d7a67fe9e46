package stats

// Family is the address family of a packet.
type Family uint8

// The families that the inet hooks of netfilter see.
const (
	IPv4 Family = iota
	IPv6
)

// String returns the family as the tree spells it.
func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// Protocol is an IP protocol number, 0 to 255 as in the header's field, or
// [Other].
type Protocol uint16

const (
	// TCP is IPPROTO_TCP.
	TCP Protocol = 6
	// Other stands for a packet whose protocol cannot be known: a malformed
	// header, or a chain of IPv6 extension headers that runs past the captured
	// bytes. Such a packet is counted here and never guessed at.
	Other Protocol = 256
)

// Class is a protocol in a family, as an index: the protocol in the upper
// bits, the family in the lowest. Classes in ascending order are thus sorted
// by protocol number, IPv4 before IPv6, with Other last.
type Class uint16

// NumClasses is one more than the highest Class.
const NumClasses = (int(Other) + 1) * 2

// ClassOf returns the class of protocol p in family f. A p above Other is
// Other.
func ClassOf(f Family, p Protocol) Class {
	return Class(min(p, Other)<<1) | Class(f&1)
}

// Family returns the family of c.
func (c Class) Family() Family { return Family(c & 1) }

// Protocol returns the protocol of c.
func (c Class) Protocol() Protocol { return Protocol(c >> 1) }
