package hook

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"kstat/lab/sandbox"
)

// TestTCPHolder: a holder is seen where listen(2) is refused, and nowhere else.
func TestTCPHolder(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.IPv6)
	addresses := []struct{ network, host string }{
		{"tcp4", "127.0.0.1"}, {"tcp4", "127.0.0.2"}, {"tcp4", "0.0.0.0"},
		{"tcp6", "::1"}, {"tcp", "::"}, {"tcp", "::ffff:127.0.0.1"},
	}
	for _, has := range addresses {
		first, err := net.Listen(has.network, net.JoinHostPort(has.host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(first.Addr().String()).Port()
		for _, wants := range addresses {
			addr := netip.AddrPortFrom(netip.MustParseAddr(wants.host), port)
			second, err := net.Listen(wants.network, addr.String())
			if err == nil {
				second.Close()
			}
			who, taken := TCPHolder(addr)
			if taken != (err != nil) || taken && !strings.HasPrefix(who, fmt.Sprintf("pid %d (", os.Getpid())) {
				t.Errorf("beside %v, %v: %v, %s; listen: %v", has, wants, taken, who, err)
			}
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if who, taken := TCPHolder(netip.AddrPortFrom(netip.MustParseAddr(has.host), port)); taken || who != Unseen {
			t.Errorf("%v, closed: %v, %s", has, taken, who)
		}
	}
}

// A connection is no listener.
func TestTCPHolderConnection(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []net.Addr{c.LocalAddr(), c.RemoteAddr()} {
		if who, taken := TCPHolder(netip.MustParseAddrPort(addr.String())); taken {
			t.Errorf("%v: %s", addr, who)
		}
	}
}

func TestParseSocket(t *testing.T) {
	for _, text := range []string{"", ":", "0100007F", "0100007F:10000", "0100007:0050", "0100007F00:0050", "zz00007F:0050", ":0050"} {
		if got, ok := parseSocket(text); ok {
			t.Errorf("%q: %v", text, got)
		}
	}
}
