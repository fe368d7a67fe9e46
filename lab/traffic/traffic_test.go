package traffic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/packets"
	"kstat/lab/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

// k is how often each function does what it does.
const k = 137

// A path is a way for packets to take: over lo, or over a cable.
type path struct {
	name    string
	version int // of IP
	icmp    int // its protocol
	dst     netip.Addr
	at      func(func() error) error // calls f where dst is
	answers uint64                   // of two packets, question and answer, those that pass our hook
}

// paths runs test for each path, and a hook's truth.
func paths(t *testing.T, test func(t *testing.T, p path, w *truth)) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables)
	w := watch(t, here)
	run := func(p path) {
		t.Run(fmt.Sprintf("%s/IPv%d", p.name, p.version), func(t *testing.T) {
			if p.version == 6 {
				sandbox.Need(t, sandbox.IPv6)
			}
			test(t, p, w.in(t))
		})
	}
	run(path{"lo", 4, unix.IPPROTO_ICMP, netip.MustParseAddr("127.0.0.1"), here, 2})
	run(path{"lo", 6, unix.IPPROTO_ICMPV6, netip.MustParseAddr("::1"), here, 2})
	peer := sandbox.Veth(t)
	run(path{"veth", 4, unix.IPPROTO_ICMP, peer.Addr4, peer.Do, 1})
	run(path{"veth", 6, unix.IPPROTO_ICMPV6, peer.Addr6, peer.Do, 1})
}

func TestTCPConnect(t *testing.T) {
	paths(t, func(t *testing.T, p path, w *truth) {
		dst := closedPort(t, p)
		w.expect(of(p.version, unix.IPPROTO_TCP, p.answers*k), func() error { return TCPConnect(dst, k) })
	})
}

func TestTCPConnectToOpenPort(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	l := listen(t, here, netip.MustParseAddr("127.0.0.1"))
	dst := l.Addr().(*net.TCPAddr).AddrPort()
	err := TCPConnect(dst, k)
	want := fmt.Sprintf("connect 1 to %s: not refused: somebody listens", dst)
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestClosedPortIsFree(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	addr := netip.MustParseAddr("127.0.0.1")
	first, err := ClosedPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(first))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	second, err := ClosedPort(addr)
	if err != nil || second == first {
		t.Errorf("closed port %s (%v) while somebody listens on %s", second, err, first)
	}
}

func TestUDP(t *testing.T) {
	for _, size := range []int{0, 1, 1400, 60000} { // the last in fragments, over a cable
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			paths(t, func(t *testing.T, p path, w *truth) {
				sink := openSink(t, p, func() (*Sink, error) { return UDPSink(p.dst) })
				w.expect(of(p.version, unix.IPPROTO_UDP, k), func() error { return UDP(sink.AddrPort, k, size) })
			})
		})
	}
}

// TestManyUDP overruns the sink's buffer.
func TestManyUDP(t *testing.T) {
	paths(t, func(t *testing.T, p path, w *truth) {
		const many = 20000
		sink := openSink(t, p, func() (*Sink, error) { return UDPSink(p.dst) })
		w.expect(of(p.version, unix.IPPROTO_UDP, many), func() error { return UDP(sink.AddrPort, many, 100) })
	})
}

func TestPing(t *testing.T) {
	paths(t, func(t *testing.T, p path, w *truth) {
		w.expect(of(p.version, p.icmp, p.answers*k), func() error { return Ping(p.dst, k) })
	})
}

func TestRaw(t *testing.T) {
	for _, protocol := range []uint8{47, 132, 253, 254} {
		t.Run(fmt.Sprint(protocol), func(t *testing.T) {
			paths(t, func(t *testing.T, p path, w *truth) {
				w.expect(of(p.version, int(protocol), k), func() error { return Raw(p.dst, protocol, []byte("kstat"), k) })
			})
		})
	}
}

// TestRawSink shows what a sink is for: with it, the peer has nothing to say.
func TestRawSink(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables, sandbox.IPv6)
	peer := sandbox.Veth(t)
	there := watch(t, peer.Do)
	for _, dst := range []netip.Addr{peer.Addr4, peer.Addr6} {
		send := func() error { return Raw(dst, unix.IPPROTO_SCTP, []byte("kstat"), 1) }
		before := there.read()
		if err := send(); err != nil {
			t.Error(err)
		}
		for late := time.Now().Add(10 * time.Second); maps.Equal(there.read(), before); time.Sleep(time.Millisecond) {
			if time.Now().After(late) { // the sender does not wait until the peer has it
				t.Fatalf("%s: a peer that does not know SCTP says nothing", dst)
			}
		}
		openSink(t, path{dst: dst, at: peer.Do}, func() (*Sink, error) { return RawSink(dst, unix.IPPROTO_SCTP) })
		there.expect(figures{}, send)
	}
}

func TestRawErrors(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.IPv6)
	four, six := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	short := packets.IPv4Cases(four, four)[0].Packet[:20]
	short[0] = 4<<4 | 6
	for what, c := range map[string]struct{ got, want error }{
		"protocol 255":               {Raw(four, 255, nil, 1), unix.EINVAL},
		"IPv4 to IPv6":               {RawIPv4Packet(six, make([]byte, 40)), unix.EAFNOSUPPORT},
		"IPv6 to IPv4":               {RawIPv6Packet(four, make([]byte, 40)), unix.EAFNOSUPPORT},
		"19 bytes":                   {RawIPv4Packet(four, make([]byte, 19)), unix.EINVAL},
		"39 bytes":                   {RawIPv6Packet(six, make([]byte, 39)), unix.EINVAL},
		"a header beyond the packet": {RawIPv4Packet(four, short), unix.EINVAL},
		"IPv4 beyond the MTU":        {RawIPv4Packet(four, make([]byte, 65537)), unix.EMSGSIZE},
		"IPv6 beyond the MTU":        {RawIPv6Packet(six, make([]byte, 65537)), unix.EMSGSIZE},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: error %v, want %v", what, c.got, c.want)
		}
	}
}

// nftSays is the protocol that nft sees, ipv6_find_hdr in
// net/ipv6/exthdrs_core.c that is, where it is not that of the Case. nft stops
// at an authentication header. And it passes over a header of which the first
// bytes are there without a look at whether the rest is.
var nftSays = map[string]int{
	"authentication":                      unix.IPPROTO_AH,
	"one of each":                         unix.IPPROTO_AH,
	"ends in the authentication header":   unix.IPPROTO_AH,
	"authentication header of 1028 bytes": unix.IPPROTO_AH,

	"ends in the header's second byte": unix.IPPROTO_TCP,
	"ends in the header":               unix.IPPROTO_TCP,
	"ends in the second header":        unix.IPPROTO_TCP,
	"ends in the fragment header":      unix.IPPROTO_TCP,
	"header length of 2048 bytes":      unix.IPPROTO_TCP,
}

// TestCases sends each packet to nobody, and asks nft for its protocol.
func TestCases(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables, sandbox.IPv6)
	w := watch(t, here)
	peer := sandbox.Veth(t)
	there := watch(t, peer.Do)

	check := func(version int, c packets.Case, send func() error) {
		t.Run(fmt.Sprintf("IPv%d/%s", version, c.Name), func(t *testing.T) {
			protocol, other := nftSays[c.Name]
			if !other {
				protocol = c.Protocol
			}
			want := of(version, protocol, 1)
			if protocol == packets.Unknown {
				want = figures{fmt.Sprint(version): 1}
			}
			w.in(t).expect(want, send)
		})
	}
	there.expect(figures{}, func() error {
		for _, c := range packets.IPv4Cases(peer.Own4, peer.Void4) {
			check(4, c, func() error { return RawIPv4Packet(peer.Void4, c.Packet) })
		}
		for _, c := range packets.IPv6Cases(peer.Own6, peer.Void6) {
			check(6, c, func() error { return RawIPv6Packet(peer.Void6, c.Packet) })
		}
		return nil
	})
}

// TestShortHeaders holds the kernel to what the comment says.
func TestShortHeaders(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables)
	w := watch(t, here)
	peer := sandbox.Veth(t)
	for _, c := range packets.IPv4ShortHeaders(peer.Own4, peer.Void4) {
		got := w.during(func() error {
			err := RawIPv4Packet(peer.Void4, c.Packet)
			if errors.Is(err, unix.EINVAL) {
				return nil
			}
			return err
		})
		if len(got) > 0 && !maps.Equal(got, of(4, unix.IPPROTO_TCP, 1)) {
			t.Errorf("%s: POSTROUTING saw %v", c.Name, got)
		}
	}
}

func TestStream(t *testing.T) {
	const size = 8 << 20
	paths(t, func(t *testing.T, p path, w *truth) {
		l := listen(t, p.at, p.dst)
		got := w.during(func() error { return Stream(l, size) })
		tcp := fmt.Sprintf("%d/%d", p.version, unix.IPPROTO_TCP)
		if n := got[tcp]; n < size/65536 || len(got) != 2 || got[fmt.Sprint(p.version)] != n {
			t.Errorf("POSTROUTING saw %v, want TCP only, no fewer than %d", got, size/65536)
		}
		w.expect(figures{}, func() error { return nil }) // at rest
	})
}

// TestStreamFromPeer sends the other way: only the answers pass our hook.
func TestStreamFromPeer(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	peer := sandbox.Veth(t)
	l := listen(t, here, peer.Own4)
	if err := peer.Do(func() error { return Stream(l, 1<<20) }); err != nil {
		t.Error(err)
	}
}

func TestStreamEmpty(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	l := listen(t, here, netip.MustParseAddr("127.0.0.1"))
	if err := Stream(l, 0); err != nil {
		t.Error(err)
	}
}

// TestCableIsSilent does everything at once and looks at both ends: nothing
// passes that has not been sent.
func TestCableIsSilent(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables, sandbox.IPv6)
	ours := watch(t, here)
	peer := sandbox.Veth(t)
	theirs := watch(t, peer.Do)
	if err := errors.Join(Ping(peer.Addr4, k), Ping(peer.Addr6, 2*k)); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(figures{"4": k, "4/1": k, "6": 2 * k, "6/58": 2 * k})
	if got := fmt.Sprint(ours.read()); got != want {
		t.Errorf("since before the cable, our hook saw %s, want %s", got, want)
	}
	if got := fmt.Sprint(theirs.read()); got != want {
		t.Errorf("the peer's hook saw %s, want %s", got, want)
	}
}

func closedPort(t *testing.T, p path) (dst netip.AddrPort) {
	t.Helper()
	err := p.at(func() (err error) {
		dst, err = ClosedPort(p.dst)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dst
}

// openSink opens a sink where the path leads.
func openSink(t *testing.T, p path, open func() (*Sink, error)) (s *Sink) {
	t.Helper()
	err := p.at(func() (err error) {
		s, err = open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func listen(t *testing.T, at func(func() error) error, addr netip.Addr) (l net.Listener) {
	t.Helper()
	err := at(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestEcho(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables)
	for _, lo := range []string{"127.0.0.1", "::1"} {
		ctx, cancel := context.WithCancel(t.Context())
		var exchanged atomic.Uint64
		ended := make(chan error, 1)
		go func() { ended <- Echo(ctx, netip.MustParseAddr(lo), 10*time.Second, &exchanged) }()
		for exchanged.Load() < 100 {
			runtime.Gosched()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
