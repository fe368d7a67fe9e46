package traffic

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

// overLo runs test for the addresses of lo, and a hook's truth.
func overLo(t *testing.T, test func(t *testing.T, addr netip.Addr, version int, w *truth)) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables)
	w := watch(t, here)
	t.Run("IPv4", func(t *testing.T) { test(t, netip.MustParseAddr("127.0.0.1"), 4, w.in(t)) })
	t.Run("IPv6", func(t *testing.T) {
		sandbox.Need(t, sandbox.IPv6)
		test(t, netip.MustParseAddr("::1"), 6, w.in(t))
	})
}

func TestConnections(t *testing.T) {
	overLo(t, func(t *testing.T, addr netip.Addr, version int, w *truth) {
		var c *Connections
		w.expect(of(version, unix.IPPROTO_TCP, 3*k), func() (err error) {
			c, err = Connect(addr, k)
			return err
		})
		for _, n := range []int{1, 1, 7} {
			before := c.Len()
			w.expect(of(version, unix.IPPROTO_TCP, uint64(n)), func() error { return c.Reset(n) })
			if c.Len() != before-n {
				t.Errorf("%d connections are left of %d, want %d fewer", c.Len(), before, n)
			}
		}
		w.expect(of(version, unix.IPPROTO_TCP, uint64(c.Len())), c.Close)
		w.expect(figures{}, c.Close)
	})
}

func TestConnectWithoutAnAddress(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	_, err := Connect(netip.MustParseAddr("192.0.2.1"), 1)
	if err == nil || !strings.HasPrefix(err.Error(), "connect 192.0.2.1 to itself: bind: ") {
		t.Errorf("got %v", err)
	}
}

func TestDatagrams(t *testing.T) {
	overLo(t, func(t *testing.T, addr netip.Addr, version int, w *truth) {
		w.expect(of(version, unix.IPPROTO_UDP, k), func() error { return Datagrams(addr, k) })
	})
}
