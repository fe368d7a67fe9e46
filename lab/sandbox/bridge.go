package sandbox

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

// Bridge makes a bridge, and cables to its ports, in this namespace, and returns
// the names of the cables' far ends. They have no addresses, and nothing that
// nobody has sent passes them. All is gone when the test ends.
func Bridge(tb testing.TB, ports int) (ends []string) {
	tb.Helper()
	Need(tb, Namespaces)
	add := func(l netlink.Link) {
		tb.Helper()
		if err := netlink.LinkAdd(l); err != nil {
			Lack(tb, fmt.Errorf("needs a device of type %s: %w", l.Type(), err))
		}
		tb.Cleanup(func() {
			if err := netlink.LinkDel(l); err != nil {
				tb.Errorf("delete %s: %v", l.Attrs().Name, err)
			}
		})
		up(tb, l.Attrs().Name)
	}
	snoop := false // else it reports a group of its own
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge0"}, MulticastSnooping: &snoop}
	add(bridge)
	for i := range ports {
		port := netlink.NewVeth(netlink.LinkAttrs{Name: fmt.Sprintf("port%d", i)})
		port.PeerName = fmt.Sprintf("end%d", i)
		add(port)
		if err := netlink.LinkSetMaster(port, bridge); err != nil {
			tb.Fatalf("put %s into the bridge: %v", port.Name, err)
		}
		up(tb, port.PeerName)
		ends = append(ends, port.PeerName)
	}
	return ends
}

// up brings a device up, without IPv6, which would send by itself.
func up(tb testing.TB, name string) {
	tb.Helper()
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		tb.Fatalf("bring %s up: %v", name, err)
	}
}
