package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Through makes a network on top of the cable, at both its ends: vlan, macvlan,
// vxlan, gre, ipip, or esp, which is IPsec in transport mode. It returns the peer's
// IPv4 address there; nothing that nobody has sent passes. All is gone when the test
// ends.
func (p *Peer) Through(tb testing.TB, network string) (there netip.Addr) {
	tb.Helper()
	through, detach, err := attach(network, ends{p.Own4, p.Addr4})
	if err != nil {
		tb.Fatalf("make a %s: %v", network, err)
	}
	tb.Cleanup(func() {
		if err := detach(); err != nil {
			tb.Errorf("delete the %s: %v", network, err)
		}
	})
	err = p.Do(func() error {
		_, _, err := attach(network, ends{p.Addr4, p.Own4})
		return err
	})
	if err != nil {
		tb.Fatalf("make a %s at the peer: %v", network, err)
	}
	return through.there
}

// Lacks returns why the kernel cannot make a network, nil if it can.
func (p *Peer) Lacks(tb testing.TB, network string) (lack error) {
	tb.Helper()
	_, detach, err := attach(network, ends{p.Own4, p.Addr4})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOSYS) {
		return err
	}
	if err == nil {
		err = detach()
	}
	if err != nil {
		tb.Fatalf("try a %s: %v", network, err)
	}
	return nil
}

// attach makes a network at this end of the cable, and returns the addresses there.
func attach(network string, cable ends) (through ends, detach func() error, err error) {
	if network == "esp" {
		return encrypted(cable)
	}
	return device(cable, network)
}

// ends are the addresses of both ends, as one of them sees it.
type ends struct{ here, there netip.Addr }

// newLink returns a device of that kind, at this end of the cable.
func newLink(kind string, at netlink.LinkAttrs, cable ends) (netlink.Link, error) {
	from, to := net.IP(cable.here.AsSlice()), net.IP(cable.there.AsSlice())
	switch kind {
	case "vlan":
		return &netlink.Vlan{LinkAttrs: at, VlanId: 5}, nil
	case "macvlan":
		return &netlink.Macvlan{LinkAttrs: at, Mode: netlink.MACVLAN_MODE_BRIDGE}, nil
	case "vxlan":
		return &netlink.Vxlan{LinkAttrs: at, VxlanId: 5, SrcAddr: from, Group: to, Port: 4789}, nil
	case "gre":
		return &netlink.Gretun{LinkAttrs: at, Local: from, Remote: to}, nil
	case "ipip":
		return &netlink.Iptun{LinkAttrs: at, Local: from, Remote: to}, nil
	}
	return nil, fmt.Errorf("what is a %s?", kind)
}

// device makes a device at this end of the cable, and returns the addresses through it.
func device(cable ends, kind string) (through ends, detach func() error, err error) {
	at := func(a netip.Addr) (netip.Addr, net.HardwareAddr) {
		n := a.As4()[3]
		return netip.AddrFrom4([4]byte{10, 10, 0, n}), net.HardwareAddr{2, 0, 0, 10, 0, n}
	}
	here, mac := at(cable.here)
	there, far := at(cable.there)
	parent, err := netlink.LinkByName(vethName)
	if err != nil {
		return ends{}, nil, err
	}
	made, err := newLink(kind, netlink.LinkAttrs{Name: "net0", ParentIndex: parent.Attrs().Index}, cable)
	if err == nil {
		err = netlink.LinkAdd(made)
	}
	if err != nil {
		return ends{}, nil, err
	}
	detach = func() error { return netlink.LinkDel(made) }
	hears := kind != "gre" && kind != "ipip"
	for _, do := range []func() error{
		func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/net0/disable_ipv6", []byte("1"), 0) }, // it would send by itself
		func() error {
			if !hears {
				return nil
			}
			return netlink.LinkSetHardwareAddr(made, mac)
		},
		func() error {
			return netlink.AddrAdd(made, &netlink.Addr{IPNet: &net.IPNet{IP: here.AsSlice(), Mask: net.CIDRMask(24, 32)}})
		},
		func() error { return netlink.LinkSetUp(made) },
		func() error {
			if !hears {
				return nil
			}
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: made.Attrs().Index, State: unix.NUD_PERMANENT, IP: there.AsSlice(), HardwareAddr: far})
		},
	} {
		if err := do(); err != nil {
			return ends{}, nil, errors.Join(err, detach())
		}
	}
	return ends{here, there}, detach, nil
}

// encrypted has everything between the ends of the cable encrypted (ESP, transport
// mode), at this end.
func encrypted(cable ends) (through ends, detach func() error, err error) {
	detach = func() error {
		return errors.Join(netlink.XfrmPolicyFlush(), netlink.XfrmStateFlush(netlink.XFRM_PROTO_ESP))
	}
	whole := func(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }
	for dir, path := range map[netlink.Dir]ends{netlink.XFRM_DIR_OUT: cable, netlink.XFRM_DIR_IN: {cable.there, cable.here}} {
		from, to := path.here.AsSlice(), path.there.AsSlice()
		err = errors.Join(
			netlink.XfrmStateAdd(&netlink.XfrmState{
				Src: from, Dst: to, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Spi: int(path.here.As4()[3]), Reqid: 1,
				Auth:  &netlink.XfrmStateAlgo{Name: "hmac(sha256)", Key: make([]byte, 32), TruncateLen: 128},
				Crypt: &netlink.XfrmStateAlgo{Name: "cbc(aes)", Key: make([]byte, 16)},
			}),
			netlink.XfrmPolicyAdd(&netlink.XfrmPolicy{
				Src: whole(path.here), Dst: whole(path.there), Dir: dir,
				Tmpls: []netlink.XfrmPolicyTmpl{{Src: from, Dst: to, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Reqid: 1}},
			}))
		if err != nil {
			return ends{}, nil, errors.Join(err, detach())
		}
	}
	return cable, detach, nil
}
