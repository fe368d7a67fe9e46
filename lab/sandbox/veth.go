package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The names of both interfaces, and how the networks are cut.
const (
	vethName = "veth0"
	bits4    = 24
	bits6    = 64
)

// A Peer is a second network namespace at the other end of a cable.
//
// The cable carries what is sent through it and nothing else: no ARP, no
// neighbour discovery, no duplicate address detection, no router
// solicitations, no multicast listener reports. They need not be waited out,
// as none of them is ever begun. The interfaces have IFF_NOARP, which keeps the
// kernel from resolving addresses, from probing for duplicates and from
// joining the solicited-node groups that it would report (net/ipv6/ndisc.c,
// addrconf.c); they have no link-local address, from which alone routers are
// solicited; and the neighbours are entered for good. The one multicast
// group left, all nodes, is never reported (RFC 3810, section 6).
type Peer struct {
	Addr4, Addr6 netip.Addr // the peer's: 10.9.0.2, fd00:9::2
	Own4, Own6   netip.Addr // ours: 10.9.0.1, fd00:9::1

	// Void4 and Void6 are nobody's: packets to them leave through the cable
	// and are dropped at its end, and nothing ever answers. 10.9.0.3, fd00:9::3.
	Void4, Void6 netip.Addr

	ns netns.NsHandle
}

// end is one end of the cable.
type end struct {
	addr4, addr6 netip.Addr
	mac          net.HardwareAddr
}

// station returns the end whose addresses end in n.
func station(n byte) end {
	return end{
		addr4: netip.AddrFrom4([4]byte{10, 9, 0, n}),
		addr6: netip.AddrFrom16([16]byte{0: 0xfd, 3: 9, 15: n}),
		mac:   net.HardwareAddr{2, 0, 0, 9, 0, n},
	}
}

// Veth is [NewPeer] for a test, which it fails on an error. The peer is closed
// when the test ends.
func Veth(tb testing.TB) *Peer {
	tb.Helper()
	p, err := NewPeer()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// NewPeer makes a network namespace and a cable to it. When it returns, both
// ends are ready to send. There can be one peer at a time: a second one is
// EEXIST. Outside a sandbox it does nothing but return the error of
// [Missing].
func NewPeer() (*Peer, error) {
	if err := Missing(Namespaces); err != nil {
		return nil, err
	}
	own, far, void := station(1), station(2), station(3)

	ns, err := newNetwork()
	if err != nil {
		return nil, fmt.Errorf("make the peer's namespace: %w", err)
	}
	p := &Peer{
		Addr4: far.addr4, Addr6: far.addr6,
		Own4: own.addr4, Own6: own.addr6,
		Void4: void.addr4, Void6: void.addr6,
		ns: ns,
	}

	veth := netlink.NewVeth(netlink.LinkAttrs{Name: vethName, HardwareAddr: own.mac})
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = vethName, far.mac, netlink.NsFd(ns)
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, errors.Join(fmt.Errorf("add %s: %w", vethName, err), ns.Close())
	}

	steps := []func() error{
		func() error { return own.raise() },
		func() error { return p.Do(loopbackUp) },
		func() error { return p.Do(far.raise) },
		func() error { return own.meet(far, void) },
		func() error { return p.Do(func() error { return far.meet(own, void) }) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// Do calls f in the peer's namespace, on the calling goroutine, and returns
// its error. Sockets that f opens and processes that it starts live there, for
// as long as they like; goroutines that it starts do not.
func (p *Peer) Do(f func() error) error {
	return inNamespace(p.ns, f)
}

// Close pulls the cable and gives up the namespace, which ends with its last
// socket.
func (p *Peer) Close() error {
	var err error
	if link, e := netlink.LinkByName(vethName); e != nil {
		err = fmt.Errorf("find %s: %w", vethName, e)
	} else if e := netlink.LinkDel(link); e != nil {
		err = fmt.Errorf("delete %s: %w", vethName, e)
	}
	return errors.Join(err, p.ns.Close())
}

// addrs returns the end's addresses of the families that the machine has.
func (e end) addrs() []netip.Addr {
	if Missing(IPv6) != nil {
		return []netip.Addr{e.addr4}
	}
	return []netip.Addr{e.addr4, e.addr6}
}

// raise gives this end of the cable its addresses and brings it up, in the
// namespace of the calling thread.
func (e end) raise() error {
	link, err := netlink.LinkByName(vethName)
	if err != nil {
		return fmt.Errorf("find %s: %w", vethName, err)
	}
	if err := netlink.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("set %s noarp: %w", vethName, err)
	}
	for _, addr := range e.addrs() {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits4, 32)}}
		if addr.Is6() {
			if err := netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
				return fmt.Errorf("keep %s from link-local addresses: %w", vethName, err)
			}
			a.Mask = net.CIDRMask(bits6, 128)
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", addr, vethName, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", vethName, err)
	}
	return nil
}

// meet waits until this end is ready, and enters the others as its neighbours.
//
// The kernel takes notice of the carrier in one work queue
// (net/core/link_watch.c), and makes an IPv6 address local in another
// (addrconf_dad_work in net/ipv6/addrconf.c); without the one, it drops what is
// sent, and without the other, what arrives. No file or message says that both
// are done: ask.
func (e end) meet(others ...end) error {
	if err := await(vethName+" has a carrier", hasCarrier); err != nil {
		return err
	}
	link, err := netlink.LinkByName(vethName)
	if err != nil {
		return fmt.Errorf("find %s: %w", vethName, err)
	}
	for _, addr := range e.addrs() {
		err := await(fmt.Sprintf("%s is local", addr), func() (bool, error) { return isLocal(addr) })
		if err != nil {
			return err
		}
	}
	for _, other := range others {
		for _, addr := range other.addrs() {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex:    link.Attrs().Index,
				State:        unix.NUD_PERMANENT,
				IP:           addr.AsSlice(),
				HardwareAddr: other.mac,
			})
			if err != nil {
				return fmt.Errorf("enter neighbour %s: %w", addr, err)
			}
		}
	}
	return nil
}

// await polls until ready says so, or AwaitLimit has passed.
func await(what string, ready func() (bool, error)) error {
	for end := time.Now().Add(AwaitLimit); ; time.Sleep(time.Millisecond) {
		switch ok, err := ready(); {
		case err != nil:
			return fmt.Errorf("wait until %s: %w", what, err)
		case ok:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("wait until %s: not within %v", what, AwaitLimit)
		}
	}
}

func hasCarrier() (bool, error) {
	link, err := netlink.LinkByName(vethName)
	if err != nil {
		return false, err
	}
	return link.Attrs().OperState == netlink.OperUp, nil
}

// isLocal reports whether packets to addr are taken in rather than sent on.
func isLocal(addr netip.Addr) (bool, error) {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) {
		return false, nil
	}
	return err == nil && routes[0].Type == unix.RTN_LOCAL, err
}

// loopbackUp brings up lo of the calling thread's namespace.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// newNetwork makes a network namespace and leaves the caller in its own.
func newNetwork() (netns.NsHandle, error) {
	made := netns.None()
	err := inNamespace(netns.None(), func() (err error) {
		made, err = netns.New()
		return err
	})
	return made, err
}

// inNamespace calls f on a thread that is in the given network namespace, or
// in any if it is none, and puts the thread back. A thread that cannot be put
// back is never used again: it ends with the goroutine.
func inNamespace(ns netns.NsHandle, f func() error) (err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() {
		if e := netns.Set(home); e != nil {
			err = errors.Join(err, fmt.Errorf("return to own network namespace: %w", e))
		} else {
			runtime.UnlockOSThread()
		}
		home.Close()
	}()

	if ns.IsOpen() {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
	}
	return f()
}
