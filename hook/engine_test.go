package hook

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"kstat/lab/packets"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

var (
	lo4 = netip.MustParseAddr("127.0.0.1")
	lo6 = netip.MustParseAddr("::1")
)

// quiet is a Config at postrouting that logs nothing. A machine that is busy with
// other tests does not let packets pass.
func quiet() Config {
	return Config{Point: Postrouting, Armed: time.Minute, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// overEngines runs a test with every engine: what it expects is the contract.
func overEngines(t *testing.T, test func(*testing.T, Config)) {
	for kind := range KindAuto {
		t.Run(kind.String(), func(t *testing.T) {
			c := quiet()
			c.Engine = kind
			test(t, c)
		})
	}
}

// needed is what each engine cannot do without.
var needed = [...][]sandbox.Thing{
	KindNFQueue: {sandbox.Namespaces, sandbox.NFQueue, sandbox.NFTables},
	KindBPF:     {sandbox.Namespaces, sandbox.BPF},
}

// newEngine returns an engine that runs until the test ends, and by then must
// have left nothing.
func newEngine(t testing.TB, c Config) (Engine, *stats.Table) {
	t.Helper()
	e, table := idleEngine(t, c)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("run:", err)
		}
	})
	return e, table
}

// idleEngine returns an engine that nobody runs, and that is closed when the
// test ends.
func idleEngine(t testing.TB, c Config) (Engine, *stats.Table) {
	t.Helper()
	sandbox.Need(t, needed[c.Engine]...)
	holding, err := Hold(c)
	must(t, err)
	t.Cleanup(holding.Close)
	memory := make([]uint64, stats.LedgerSize/8)
	table, err := holding.Table(unsafe.Slice((*byte)(unsafe.Pointer(&memory[0])), stats.LedgerSize))
	must(t, err)
	e, err := holding.New(c, table)
	must(t, err)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error("close:", err)
		}
		if left := kstatTables(t); len(left) > 0 {
			t.Error("tables left:", left)
		}
	})
	return e, table
}

// started returns a new engine that counts.
func started(t testing.TB, c Config) (Engine, *stats.Table) {
	t.Helper()
	e, table := newEngine(t, c)
	must(t, e.Start())
	return e, table
}

func kstatTables(t testing.TB) []string {
	t.Helper()
	names, err := sandbox.Tables(tableName)
	must(t, err)
	return names
}

func stop(t testing.TB, e Engine) {
	t.Helper()
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// figures are live packets by protocol and family, as "tcp4", "other6".
func figures(table *stats.Table) map[string]uint64 {
	m := make(map[string]uint64)
	names := stats.BuiltinNames()
	for _, row := range table.Snapshot().Rows {
		m[fmt.Sprintf("%s/%v", names.Name(row.Class.Protocol()), row.Class.Family())] = row.Live.Packets
	}
	return m
}

// expect compares all figures, and that nothing went by uncounted.
func expect(t testing.TB, e Engine, table *stats.Table, want map[string]uint64) {
	t.Helper()
	got := figures(table)
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s: got %d packets, want %d", name, got[name], n)
		}
		delete(got, name)
	}
	for name, n := range got {
		t.Errorf("%s: got %d packets, want none", name, n)
	}
	if n, err := e.Uncounted(); n != 0 || err != nil {
		t.Errorf("uncounted: got %d, %v, want 0", n, err)
	}
}

// TestKnownTrafficOverLoopback: on lo a request and its answer both leave.
func TestKnownTrafficOverLoopback(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		sandbox.Need(t, sandbox.IPv6)
		e, table := started(t, c)
		for _, addr := range []netip.Addr{lo4, lo6} {
			closed, err := traffic.ClosedPort(addr)
			must(t, err)
			udp, err := traffic.UDPSink(addr)
			must(t, err)
			defer udp.Close()
			for _, protocol := range []uint8{unix.IPPROTO_SCTP, 253} {
				raw, err := traffic.RawSink(addr, protocol)
				must(t, err)
				defer raw.Close()
			}
			must(t,
				traffic.UDP(udp.AddrPort, 41, 100),
				traffic.Raw(addr, unix.IPPROTO_SCTP, make([]byte, 32), 11),
				traffic.Raw(addr, 253, []byte("experiment"), 13),
				traffic.TCPConnect(closed, 37),
				traffic.Ping(addr, 5))
		}
		// No stop: who has received an answer has been counted, and everything
		// that was queued before.
		expect(t, e, table, map[string]uint64{
			"tcp/ipv4": 74, "udp/ipv4": 41, "icmp/ipv4": 10, "sctp/ipv4": 11, "253/ipv4": 13,
			"tcp/ipv6": 74, "udp/ipv6": 41, "ipv6-icmp/ipv6": 10, "sctp/ipv6": 11, "253/ipv6": 13,
		})
	})
}

// TestKnownTrafficOverVeth: over a cable only our half leaves.
func TestKnownTrafficOverVeth(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		sandbox.Need(t, sandbox.IPv6)
		e, table := started(t, c)
		peer := sandbox.Veth(t)
		for _, addr := range []netip.Addr{peer.Addr4, peer.Addr6} {
			must(t,
				traffic.TCPConnect(netip.AddrPortFrom(addr, 9), 37),
				traffic.Ping(addr, 5))
		}
		for _, nobody := range []netip.Addr{peer.Void4, peer.Void6} {
			must(t,
				traffic.UDP(netip.AddrPortFrom(nobody, 9), 41, 100),
				traffic.Raw(nobody, unix.IPPROTO_SCTP, make([]byte, 32), 11),
				traffic.Raw(nobody, 253, []byte("experiment"), 13))
		}
		stop(t, e)
		expect(t, e, table, map[string]uint64{
			"tcp/ipv4": 37, "udp/ipv4": 41, "icmp/ipv4": 5, "sctp/ipv4": 11, "253/ipv4": 13,
			"tcp/ipv6": 37, "udp/ipv6": 41, "ipv6-icmp/ipv6": 5, "sctp/ipv6": 11, "253/ipv6": 13,
		})
	})
}

// TestOddPackets sends headers of every kind through the real hook, the
// malformed ones included: each is counted once, where it belongs.
func TestOddPackets(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		sandbox.Need(t, sandbox.IPv6)
		e, table := started(t, c)
		peer := sandbox.Veth(t)
		names := stats.BuiltinNames()
		want := make(map[string]uint64)
		for _, c := range packets.IPv4Cases(peer.Own4, peer.Void4) {
			must(t, traffic.RawIPv4Packet(peer.Void4, c.Packet))
			want[names.Name(stats.Protocol(c.Protocol))+"/ipv4"]++
		}
		for _, c := range packets.IPv6Cases(peer.Own6, peer.Void6) {
			must(t, traffic.RawIPv6Packet(peer.Void6, c.Packet))
			p := stats.Protocol(c.Protocol)
			if c.Protocol == packets.Unknown || c.Chain > copyRange {
				p = stats.Other
			}
			want[names.Name(p)+"/ipv6"]++
		}
		// A datagram that is fragmented behind the hook is one packet.
		must(t, traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 3, 5000))
		want["udp/ipv4"] += 3
		stop(t, e)
		expect(t, e, table, want)
	})
}

func TestBytes(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := started(t, c)
		peer := sandbox.Veth(t)
		must(t,
			traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 3, 72),   // 28 bytes of headers
			traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 2, 1000), // longer than the copy range
			traffic.UDP(netip.AddrPortFrom(peer.Void6, 9), 1, 52))   // 48 bytes of headers
		stop(t, e)
		rows := table.Snapshot().Rows
		if len(rows) != 2 || rows[0].Live != (stats.Figures{Packets: 5, Bytes: 300 + 2056}) || rows[1].Live != (stats.Figures{Packets: 1, Bytes: 100}) {
			t.Errorf("got %+v, want 5 packets of 2356 bytes and 1 of 100", rows)
		}
	})
}

// TestSuperPackets: a bulk transfer is counted in the skbs that the rule sees,
// and its bytes are all there.
func TestSuperPackets(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := started(t, c)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer listener.Close()
		const size = 8 << 20
		must(t, traffic.Stream(listener, size))
		stop(t, e)
		if n, err := e.Uncounted(); n != 0 || err != nil {
			t.Errorf("uncounted: got %d, %v, want 0", n, err)
		}
		live := table.Snapshot().Rows[0].Live
		if live.Bytes < size || live.Bytes > size+size/4 {
			t.Errorf("got %d bytes for a transfer of %d", live.Bytes, size)
		}
		if live.Packets > size/1448 {
			t.Errorf("%d packets: super-packets were cut up", live.Packets)
		}
	})
}

func TestPublication(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		for _, n := range []int{1, 7, 10, 100} {
			for _, sent := range []int{n - 1, n, n + 1} {
				t.Run(fmt.Sprintf("N=%d/%d packets", n, sent), func(t *testing.T) {
					e, table := started(t, c)
					must(t, table.SetCounter(uint32(n)))
					peer := sandbox.Veth(t)
					must(t, traffic.TCPConnect(netip.AddrPortFrom(peer.Addr4, 9), sent))
					s := table.Snapshot()
					published := uint64(sent - sent%n)
					if got := s.Published(stats.TCP).Packets; got != published || s.Pending != uint64(sent)-published {
						t.Errorf("nout %d, pending %d; want %d, %d", got, s.Pending, published, uint64(sent)-published)
					}
					expect(t, e, table, map[string]uint64{"tcp/ipv4": uint64(sent)})
				})
			}
		}
	})
}

// TestCounterAndReset: both take effect at once.
func TestCounterAndReset(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := started(t, c)
		want := func(when string, published, pending, total uint64) {
			t.Helper()
			s := table.Snapshot()
			if got := s.Published(1).Packets; got != published || s.Pending != pending || s.Rows[0].Total.Packets != total {
				t.Errorf("%s: published %d, pending %d, total %d; want %d, %d, %d",
					when, got, s.Pending, s.Rows[0].Total.Packets, published, pending, total)
			}
		}
		must(t, table.SetCounter(100), traffic.Ping(lo4, 4), table.SetCounter(9))
		want("counter above pending", 0, 8, 8)
		must(t, table.SetCounter(8))
		want("counter lowered to pending", 8, 0, 8)
		must(t, traffic.Ping(lo4, 3), table.SetCounter(5))
		want("counter lowered below pending", 14, 0, 14)
		must(t, traffic.Ping(lo4, 1), table.Reset())
		want("reset", 0, 0, 16)
		must(t, traffic.Ping(lo4, 3))
		want("6 packets after reset", 5, 1, 22)
		if err := table.SetCounter(0); !errors.Is(err, stats.ErrZeroCounter) {
			t.Errorf("counter 0: got %v", err)
		}
		must(t, table.SetCounter(1<<32-1), traffic.Ping(lo4, 50))
		want("the highest counter", 5, 101, 122)
		stop(t, e)
		must(t, table.SetCounter(1))
		want("counter lowered while stopped", 106, 0, 122)
	})
}

// TestFiguresBelongTogether: while packets leave from two threads, everything
// that a reader sees is of one moment, at which exactly every 7th packet has
// published; so too when the counter moves and figures are reset.
func TestFiguresBelongTogether(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		sandbox.Need(t, sandbox.IPv6)
		_, table := started(t, c)
		must(t, table.SetCounter(7))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var exchanged atomic.Uint64
		echoes := make(chan error, 2)
		for _, addr := range []netip.Addr{lo4, lo6} {
			go func() { echoes <- traffic.Echo(ctx, addr, 10*time.Second, &exchanged) }()
		}
		look := func(every uint64) *stats.Snapshot {
			s := table.Snapshot()
			var published, live uint64
			for _, row := range s.Rows {
				published += row.Published.Packets
				live += row.Live.Packets
			}
			if live-published != s.Pending || s.Pending >= uint64(s.Counter) || published%every != 0 || every > 1 && published != s.Publications*every {
				t.Fatalf("published %d, live %d, pending %d, publications %d, counter %d: %+v", published, live, s.Pending, s.Publications, s.Counter, s.Rows)
			}
			return s
		}
		var last uint64
		for last < 2000 {
			now := look(7).Published(17).Packets
			if now < last {
				t.Fatalf("published went from %d to %d", last, now)
			}
			last = now
		}
		for i := range uint32(300) {
			must(t, table.SetCounter(1+i%20))
			look(1)
			if i%50 == 0 {
				must(t, table.Reset())
				look(1)
			}
		}
		cancel()
		must(t, <-echoes, <-echoes)
	})
}

// TestPoints: each hook sees what passes it, and a choice of family or devices
// leaves out the rest.
func TestPoints(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		sandbox.Need(t, sandbox.IPv6)
		only := func(p Point, change func(*Config)) Config {
			c := c
			c.Point = p
			if change != nil {
				change(&c)
			}
			return c
		}
		for _, test := range []struct {
			name   string
			config Config
			want   map[string]uint64
		}{
			{"postrouting", only(Postrouting, nil), map[string]uint64{"icmp/ipv4": 2 + 3, "ipv6-icmp/ipv6": 2 + 3}},
			{"output", only(Output, nil), map[string]uint64{"icmp/ipv4": 2 + 3, "ipv6-icmp/ipv6": 2 + 3}},
			{"prerouting", only(Prerouting, nil), map[string]uint64{"icmp/ipv4": 2 + 3, "ipv6-icmp/ipv6": 2 + 3}},
			{"input", only(Input, nil), map[string]uint64{"icmp/ipv4": 2 + 3, "ipv6-icmp/ipv6": 2 + 3}},
			{"forward", only(Forward, nil), map[string]uint64{}},
			{"IPv4 only", only(Postrouting, func(c *Config) { c.Families = OnlyIPv4 }), map[string]uint64{"icmp/ipv4": 2 + 3}},
			{"IPv6 only", only(Postrouting, func(c *Config) { c.Families = OnlyIPv6 }), map[string]uint64{"ipv6-icmp/ipv6": 2 + 3}},
			{"no loopback", only(Postrouting, func(c *Config) { c.ExcludeLoopback = true }), map[string]uint64{"icmp/ipv4": 3, "ipv6-icmp/ipv6": 3}},
			{"no loopback at input", only(Input, func(c *Config) { c.ExcludeLoopback = true }), map[string]uint64{"icmp/ipv4": 3, "ipv6-icmp/ipv6": 3}},
		} {
			t.Run(test.name, func(t *testing.T) {
				e, table := started(t, test.config)
				peer := sandbox.Veth(t)
				must(t, traffic.Ping(lo4, 1), traffic.Ping(lo6, 1), traffic.Ping(peer.Addr4, 3), traffic.Ping(peer.Addr6, 3))
				stop(t, e)
				expect(t, e, table, test.want)
			})
		}
	})
}

// TestForward: what is routed through passes forward and postrouting, and
// nothing is input or output.
func TestForward(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		for _, p := range []Point{Forward, Postrouting, Input} {
			t.Run(p.String(), func(t *testing.T) {
				sandbox.Need(t, needed[c.Engine]...)
				must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
				defer os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
				must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/send_redirects", []byte("0"), 0))
				c := c
				c.Point = p
				e, table := newEngine(t, c)
				peer := sandbox.Veth(t)
				must(t, os.WriteFile("/proc/sys/net/ipv4/conf/veth0/send_redirects", []byte("0"), 0))
				must(t, e.Start())
				far := netip.MustParseAddrPort("192.0.2.1:9") // TEST-NET-1
				must(t, sandbox.Route(far.Addr(), peer.Void4), peer.Do(func() error { return sandbox.Route(far.Addr(), peer.Own4) }))
				before := transmitted(t, "veth0")
				must(t, peer.Do(func() error { return traffic.UDP(far, 17, 10) }))
				sandbox.Await(t, "17 packets to be passed on", func() bool { return transmitted(t, "veth0") >= before+17 })
				stop(t, e)
				want := map[string]uint64{"udp/ipv4": 17}
				if p == Input {
					want = nil
				}
				expect(t, e, table, want)
			})
		}
	})
}

// TestSharedConnection: where connections are tracked, the two copies of a
// broadcast or a multicast of this host's own, one of which comes back, share one
// that is not confirmed at postrouting. Both arrive all the same: see
// [rule.spareShared].
func TestSharedConnection(t *testing.T) {
	group := netip.MustParseAddr("239.8.8.8") // RFC 2365: nobody else's
	for _, test := range []struct {
		kind   string
		point  Point
		copies uint64 // that the hook sees
	}{{"broadcast", Postrouting, 2}, {"multicast", Postrouting, 2}, {"multicast", Output, 1}} {
		t.Run(fmt.Sprintf("%s/%v", test.kind, test.point), func(t *testing.T) {
			overEngines(t, func(t *testing.T, c Config) {
				c.Point = test.point
				e, table := newEngine(t, c)
				peer := sandbox.Veth(t)
				track(t)
				own := peer.Own4.As4()
				open := func() (fd int, port int) {
					fd, port, err := datagrams()
					must(t, err)
					t.Cleanup(func() { unix.Close(fd) })
					must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, own))
					return fd, port
				}
				here, port := open()
				to := own
				to[3] = 255
				if test.kind == "multicast" {
					to = group.As4()
					must(t, unix.SetsockoptIPMreq(here, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: to, Interface: own}))
				}
				must(t, e.Start())
				if e, ok := e.(*NFQueue); ok {
					awaitSparing(t, e, func() { must(t, knock(peer.Void4, unix.IPPROTO_UDP, 64)) })
				}
				const sent = 50
				before := figures(table)["udp/ipv4"]
				left := transmitted(t, "veth0")
				for range sent {
					from, _ := open() // another connection
					must(t, unix.Sendto(from, []byte("x"), 0, &unix.SockaddrInet4{Addr: to, Port: port}))
				}
				arrived := 0
				sandbox.Await(t, fmt.Sprintf("%d that come back", sent), func() bool {
					if _, err := unix.Read(here, make([]byte, 8)); err == nil {
						arrived++
					}
					return arrived == sent
				})
				sandbox.Await(t, fmt.Sprintf("%d that leave", sent), func() bool { return transmitted(t, "veth0") >= left+sent })
				stop(t, e)
				counted := figures(table)["udp/ipv4"] - before
				uncounted, err := e.Uncounted()
				must(t, err)
				spared := (test.copies - 1) * sent
				if c.Engine == KindBPF {
					spared = 0
				}
				// That somebody has joined the group may have been told, to another one, and spared.
				if counted != test.copies*sent-spared || uncounted < spared || spared == 0 && uncounted > 0 {
					t.Errorf("of %d packets %d counted, %d uncounted", test.copies*sent, counted, uncounted)
				}
			})
		})
	}
}

// TestAnswers: where connections are tracked, what the kernel answers to the first
// packet of one belongs to a connection that is not confirmed yet, which a queue
// does not take. It arrives all the same: see [rule.spareShared].
func TestAnswers(t *testing.T) {
	for _, answer := range []struct {
		name   string
		reject *expr.Reject // what is sent here
		ttl    int          // else of what is sent on
		proto  int          // of the answer
		is     func(segment []byte) bool
	}{
		{"reject", &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}, 64, unix.IPPROTO_ICMP, func(b []byte) bool { return b[0] == 3 }},
		{"reset", &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}, 64, unix.IPPROTO_TCP, func(b []byte) bool { return b[13]&4 != 0 }},
		{"time exceeded", nil, 1, unix.IPPROTO_ICMP, func(b []byte) bool { return b[0] == 11 }},
	} {
		t.Run(answer.name, func(t *testing.T) {
			overEngines(t, func(t *testing.T, c Config) {
				e, table := newEngine(t, c)
				peer := sandbox.Veth(t)
				track(t)
				set(t, "net/ipv4/icmp_ratelimit", "0")
				to := peer.Own4
				if answer.reject == nil {
					set(t, "net/ipv4/ip_forward", "1")
					to = netip.MustParseAddr("192.0.2.1") // TEST-NET-1
					must(t, sandbox.Route(to, peer.Void4), peer.Do(func() error { return sandbox.Route(to, peer.Own4) }))
				} else {
					filter(t, "refuse", nftables.ChainHookInput, "nft_reject_inet", answer.reject)
				}
				heard := -1
				must(t, peer.Do(func() (err error) {
					heard, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, answer.proto)
					return err
				}))
				t.Cleanup(func() { unix.Close(heard) })
				must(t, e.Start())
				if e, ok := e.(*NFQueue); ok {
					awaitSparing(t, e, func() { must(t, knock(peer.Void4, unix.IPPROTO_ICMP, 64)) })
				}
				before := table.Counted()
				const sent = 20
				for range sent {
					must(t, peer.Do(func() error { return knock(to, answer.proto, answer.ttl) }))
				}
				arrived := 0
				packet := make([]byte, 256)
				for late := time.Now().Add(sandbox.AwaitLimit); arrived < sent && time.Now().Before(late); {
					n, err := unix.Read(heard, packet)
					switch {
					case err != nil:
						time.Sleep(time.Millisecond)
					case n >= 40 && answer.is(packet[20:n]):
						arrived++
					}
				}
				stop(t, e)
				uncounted, err := e.Uncounted()
				must(t, err)
				if arrived != sent || table.Counted()-before+uncounted != sent || c.Engine == KindBPF && uncounted != 0 {
					t.Errorf("of %d answers %d arrived; counted %d, uncounted %d", sent, arrived, table.Counted()-before, uncounted)
				}
			})
		})
	}
}

// TestFloodedBroadcast: a bridge whose frames pass netfilter makes a copy for each
// port. They share a connection as well; none may be lost.
func TestFloodedBroadcast(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := newEngine(t, c)
		track(t)
		var ends [3]int // of the cables to the bridge's ports
		for i, name := range sandbox.Bridge(t, len(ends)) {
			ends[i] = frames(t, name)
		}
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 8, 0, 1}, DstIP: net.IP{10, 8, 0, 255}}
		frame := func(kind layers.EthernetType, port int) []byte {
			udp := &layers.UDP{SrcPort: layers.UDPPort(1000 + port), DstPort: 9}
			must(t, udp.SetNetworkLayerForChecksum(ip))
			b := gopacket.NewSerializeBuffer()
			must(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
				&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 8, 0, 1}, DstMAC: layers.EthernetBroadcast, EthernetType: kind}, ip, udp))
			return b.Bytes()
		}
		arrived := func(fd int) bool {
			_, err := unix.Read(fd, make([]byte, 256))
			return err == nil
		}
		for i, late := 1, time.Now().Add(sandbox.AwaitLimit); i < len(ends); time.Sleep(time.Millisecond) { // until the ports forward
			_, err := unix.Write(ends[0], frame(0x88b5, 0)) // for experiments; no hook sees it
			must(t, err)
			if arrived(ends[i]) {
				i++
			} else if time.Now().After(late) {
				t.Fatalf("the bridge does not forward to port %d", i)
			}
		}
		must(t, e.Start())
		const sent = 50
		for i := range sent {
			_, err := unix.Write(ends[0], frame(layers.EthernetTypeIPv4, i)) // each another connection
			must(t, err)
		}
		for i, fd := range ends[1:] {
			got, head := 0, make([]byte, 256)
			sandbox.Await(t, fmt.Sprintf("%d broadcasts at port %d", sent, i+1), func() bool {
				for {
					if _, err := unix.Read(fd, head); err != nil {
						return got == sent
					}
					if head[12] == 8 && head[13] == 0 { // ETH_P_IP
						got++
					}
				}
			})
		}
		stop(t, e)
		missed, err := e.Uncounted()
		must(t, err)
		want := uint64(0) // without br_netfilter no hook sees them
		if text, _ := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables"); string(text) == "1\n" {
			want = 2 * sent
		}
		if sum := table.Counted() + missed; sum != want {
			t.Errorf("counted %d, uncounted %d, want %d together", table.Counted(), missed, want)
		}
	})
}

// frames returns a socket for what arrives at a device, and for what it sends.
func frames(t *testing.T, device string) (fd int) {
	t.Helper()
	l, err := net.InterfaceByName(device)
	must(t, err)
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index}))
	return fd
}

// track has connections tracked until the test ends.
func track(t *testing.T) {
	t.Helper()
	filter(t, "track", nftables.ChainHookOutput, "nft_ct", &expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Counter{})
}

// filter adds a rule of somebody else's until the test ends, with an expression of a
// module that the kernel may lack.
func filter(t *testing.T, name string, at *nftables.ChainHook, module string, does ...expr.Any) {
	t.Helper()
	sandbox.Need(t, sandbox.NFTables)
	conn, err := nftables.New()
	must(t, err)
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	chain := conn.AddChain(&nftables.Chain{
		Table: table, Name: "filter", Type: nftables.ChainTypeFilter, Hooknum: at, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: does})
	if err := conn.Flush(); err != nil {
		sandbox.Lack(t, fmt.Errorf("needs an expression of %s: %w; modprobe %[1]s", module, err))
	}
	t.Cleanup(func() {
		conn.DelTable(table)
		must(t, conn.Flush())
	})
}

// transmitted returns how many packets have left by a device.
func transmitted(t *testing.T, device string) (n uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/dev")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if name, figures, _ := strings.Cut(strings.TrimSpace(line), ":"); name == device {
			n, err = strconv.ParseUint(strings.Fields(figures)[9], 10, 64)
			must(t, err)
		}
	}
	return n
}

// awaitSparing begins tracked connections, of a packet each, until the rule spares
// what shares one. While they begin, those of other tests may end.
func awaitSparing(t *testing.T, e *NFQueue, begin func()) {
	t.Helper()
	spares := func() bool {
		e.session.nft.Lock()
		defer e.session.nft.Unlock()
		return e.session.rule.shared
	}
	begun := e.table.Counted()
	sandbox.Await(t, "a rule that spares", func() bool {
		begin()
		begun++
		sandbox.Await(t, "a connection's packet", func() bool { return e.table.Counted() >= begun })
		must(t, e.tendOnce(false, false))
		return spares()
	})
}

// knock sends the first packet of a connection of its own.
func knock(to netip.Addr, proto, ttl int) error {
	kind := unix.SOCK_DGRAM
	if proto == unix.IPPROTO_TCP {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl); err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4(), Port: 9})
	if proto != unix.IPPROTO_TCP && err == nil {
		_, err = unix.Write(fd, []byte("x"))
	}
	if err == unix.EINPROGRESS {
		err = nil
	}
	return err
}

// set gives a sysctl another value until the test ends.
func set(t *testing.T, name, value string) {
	t.Helper()
	name = "/proc/sys/" + name
	old, err := os.ReadFile(name)
	must(t, err)
	must(t, os.WriteFile(name, []byte(value), 0))
	t.Cleanup(func() { must(t, os.WriteFile(name, old, 0)) })
}

// TestStartAndStopAreExact: every packet after Start is counted, none after
// Stop, whatever came between.
func TestStartAndStopAreExact(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := newEngine(t, c)
		sink, err := traffic.UDPSink(lo4)
		must(t, err)
		defer sink.Close()
		for round := range uint64(40) {
			must(t, traffic.UDP(sink.AddrPort, 2, 10))
			must(t, e.Start())
			if !e.Started() {
				t.Fatal("not started")
			}
			must(t, traffic.UDP(sink.AddrPort, 3, 10))
			stop(t, e)
			if e.Started() {
				t.Fatal("not stopped")
			}
			if got := table.Counted(); got != 3*(round+1) {
				t.Fatalf("round %d: counted %d, want %d", round, got, 3*(round+1))
			}
			if left := kstatTables(t); len(left) > 0 {
				t.Fatal("stopped, and there is a table:", left)
			}
		}
		expect(t, e, table, map[string]uint64{"udp/ipv4": 120})
	})
}

func TestStartAndStopTwice(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := started(t, c)
		must(t, e.Start(), e.Start())
		must(t, traffic.Ping(lo4, 1))
		must(t, e.Stop(), e.Stop())
		expect(t, e, table, map[string]uint64{"icmp/ipv4": 2})
		must(t, e.Close(), e.Close()) // under its own feet
		if err := e.Start(); !errors.Is(err, ErrClosed) {
			t.Errorf("start after close: got %v, want ErrClosed", err)
		}
	})
}

// TestFaultThousandStarts: the host loses no packet, and nothing is
// left, however often counting starts and stops while packets are on their
// way. A datagram is lost if its echo does not come.
func TestFaultThousandStarts(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		rounds := scale(1000, 100)
		c, beats := c, make(chan struct{}, 1)
		c.Alive = func(Status) {
			select {
			case beats <- struct{}{}:
			default:
			}
		}
		e, table := newEngine(t, c)
		<-beats // all of its goroutines are there
		descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()

		ctx, cancel := context.WithCancel(t.Context())
		var exchanged atomic.Uint64
		echoes := make(chan error, 2)
		for range 2 {
			go func() { echoes <- traffic.Echo(ctx, lo4, 10*time.Second, &exchanged) }()
		}
		for range rounds {
			must(t, e.Start())
			for before := table.Counted(); table.Counted() == before; {
				runtime.Gosched()
			}
			stop(t, e)
		}
		cancel()
		for range 2 {
			must(t, <-echoes)
		}
		counted := table.Counted()
		if n, err := e.Uncounted(); n != 0 || err != nil {
			t.Errorf("uncounted: got %d, %v, want 0", n, err)
		}
		t.Logf("%d starts and stops, %d datagrams exchanged and none lost, %d of them counted", rounds, exchanged.Load(), counted)
		if now := openDescriptors(t); now != descriptors {
			t.Errorf("%d descriptors open, before it were %d", now, descriptors)
		}
		for range 100 { // a goroutine may be on its way out
			if runtime.NumGoroutine() <= goroutines {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if now := runtime.NumGoroutine(); now > goroutines {
			t.Errorf("%d goroutines, before it were %d", now, goroutines)
		}
	})
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// TestFlushRuleset: what others flush is not what counts.
func TestFlushRuleset(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := started(t, c)
		must(t, traffic.Ping(lo4, 1))
		must(t, sandbox.FlushRuleset()) // another socket is another owner, as another process would be
		must(t, traffic.Ping(lo4, 2))
		expect(t, e, table, map[string]uint64{"icmp/ipv4": 6})
	})
}

// TestTwoEngines: of whatever kinds, at one hook, each counts for itself.
func TestTwoEngines(t *testing.T) {
	overEngines(t, func(t *testing.T, first Config) {
		overEngines(t, func(t *testing.T, second Config) {
			second.Queue = 5
			e1, table1 := started(t, first)
			e2, table2 := started(t, second)
			must(t, traffic.Ping(lo4, 1))
			expect(t, e1, table1, map[string]uint64{"icmp/ipv4": 2})
			expect(t, e2, table2, map[string]uint64{"icmp/ipv4": 2})
			stop(t, e1)
			must(t, traffic.Ping(lo4, 1))
			expect(t, e1, table1, map[string]uint64{"icmp/ipv4": 2})
			expect(t, e2, table2, map[string]uint64{"icmp/ipv4": 4})
		})
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := idleEngine(t, c)
		must(t, e.Start())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		must(t, traffic.Ping(lo4, 1))
		cancel()
		must(t, <-ended)
		expect(t, e, table, map[string]uint64{"icmp/ipv4": 2})
	})
}

// blast sends datagrams as fast as one thread can.
func blast(to netip.AddrPort, n int) error { return traffic.UDP(to, n, 10) }
