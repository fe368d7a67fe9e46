package hook

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// TCPHolder says who listens on TCP in this network namespace so that nobody
// else can listen on addr, and whether anybody does. A socket of all addresses
// of IPv6 is taken for one of IPv4 as well: the kernel does not tell which have
// been restricted.
func TCPHolder(addr netip.AddrPort) (who string, taken bool) {
	const listening = "0A" // TCP_LISTEN
	for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		for _, f := range table(path) { // sl local remote state queues timer retransmits uid timeout inode
			if len(f) < 10 || f[3] != listening {
				continue
			}
			if local, ok := parseSocket(f[1]); !ok || local.Port() != addr.Port() || !clash(local.Addr(), addr.Addr().Unmap().WithZone("")) {
				continue
			}
			if who := SocketHolder(f[9]); who != "" {
				return who, true
			}
			taken = true
		}
	}
	return Unseen, taken
}

// clash reports whether two sockets cannot both listen on a port.
func clash(a, b netip.Addr) bool {
	covers := func(a, b netip.Addr) bool { return a.IsUnspecified() && (a.Is6() || b.Is4()) }
	return a == b || covers(a, b) || covers(b, a)
}

// parseSocket parses an address and a port of /proc/net/tcp (net/ipv4/tcp_ipv4.c,
// get_tcp4_sock): words of 32 bits as they are in memory, printed as numbers.
func parseSocket(text string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(text, ":")
	bytes, err := hex.DecodeString(address)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(bytes)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(bytes); i += 4 {
		binary.NativeEndian.PutUint32(bytes[i:], binary.BigEndian.Uint32(bytes[i:]))
	}
	ip, ok := netip.AddrFromSlice(bytes)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), ok
}
