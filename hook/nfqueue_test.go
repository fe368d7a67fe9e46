package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
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

// quiet is a Config at postrouting that logs nothing.
func quiet() Config {
	return Config{Point: Postrouting, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// newEngine returns an engine that runs until the test ends, and by then must
// have left nothing.
func newEngine(t testing.TB, c Config) (*NFQueue, *stats.Table) {
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
func idleEngine(t testing.TB, c Config) (*NFQueue, *stats.Table) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue, sandbox.NFTables)
	table := stats.NewTable()
	e, err := New(c, table)
	if err != nil {
		t.Fatal(err)
	}
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
func started(t testing.TB, c Config) (*NFQueue, *stats.Table) {
	t.Helper()
	e, table := newEngine(t, c)
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	return e, table
}

func kstatTables(t testing.TB) []string {
	t.Helper()
	names, err := sandbox.Tables(tableName)
	must(t, err)
	return names
}

func stop(t testing.TB, e *NFQueue) {
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
func expect(t testing.TB, e *NFQueue, table *stats.Table, want map[string]uint64) {
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
	sandbox.Need(t, sandbox.IPv6)
	e, table := started(t, quiet())
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
}

// TestKnownTrafficOverVeth: over a cable only our half leaves.
func TestKnownTrafficOverVeth(t *testing.T) {
	sandbox.Need(t, sandbox.IPv6)
	e, table := started(t, quiet())
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
}

// TestOddPackets sends headers of every kind through the real hook, the
// malformed ones included: each is counted once, where it belongs.
func TestOddPackets(t *testing.T) {
	sandbox.Need(t, sandbox.IPv6)
	e, table := started(t, quiet())
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
}

func TestBytes(t *testing.T) {
	e, table := started(t, quiet())
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
}

// TestSuperPackets: a bulk transfer is counted in the skbs that the rule sees,
// and its bytes are all there.
func TestSuperPackets(t *testing.T) {
	e, table := started(t, quiet())
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
}

func TestPublication(t *testing.T) {
	for _, n := range []int{1, 7, 10, 100} {
		for _, sent := range []int{n - 1, n, n + 1} {
			t.Run(fmt.Sprintf("N=%d/%d packets", n, sent), func(t *testing.T) {
				e, table := started(t, quiet())
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
}

// TestPoints: each hook sees what passes it, and a choice of family or devices
// leaves out the rest.
func TestPoints(t *testing.T) {
	sandbox.Need(t, sandbox.IPv6)
	only := func(p Point, change func(*Config)) Config {
		c := quiet()
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
}

// TestForward: what is routed through passes forward and postrouting, and
// nothing is input or output.
func TestForward(t *testing.T) {
	for _, p := range []Point{Forward, Postrouting, Input} {
		t.Run(p.String(), func(t *testing.T) {
			sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue)
			must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
			defer os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/all/send_redirects", []byte("0"), 0))
			c := quiet()
			c.Point = p
			e, table := newEngine(t, c)
			peer := sandbox.Veth(t)
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/veth0/send_redirects", []byte("0"), 0))
			must(t, e.Start())
			far := netip.MustParseAddrPort("192.0.2.1:9") // TEST-NET-1
			must(t, sandbox.Route(far.Addr(), peer.Void4), peer.Do(func() error { return sandbox.Route(far.Addr(), peer.Own4) }))
			must(t, peer.Do(func() error { return traffic.UDP(far, 17, 10) }))
			stop(t, e)
			want := map[string]uint64{"udp/ipv4": 17}
			if p == Input {
				want = nil
			}
			expect(t, e, table, want)
		})
	}
}

// TestStartAndStopAreExact: every packet after Start is counted, none after
// Stop, whatever came between.
func TestStartAndStopAreExact(t *testing.T) {
	e, table := newEngine(t, quiet())
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
}

func TestStartAndStopTwice(t *testing.T) {
	e, table := started(t, quiet())
	must(t, e.Start(), e.Start())
	must(t, traffic.Ping(lo4, 1))
	must(t, e.Stop(), e.Stop())
	expect(t, e, table, map[string]uint64{"icmp/ipv4": 2})
	must(t, e.Close(), e.Close()) // under its own feet
	if err := e.Start(); !errors.Is(err, ErrClosed) {
		t.Errorf("start after close: got %v, want ErrClosed", err)
	}
}

// TestThousandStartsUnderTraffic: the host loses no packet, and nothing is
// left, however often counting starts and stops while packets are on their
// way. A datagram is lost if its echo does not come.
func TestThousandStartsUnderTraffic(t *testing.T) {
	rounds := 1000
	if testing.Short() || raceEnabled {
		rounds = 100
	}
	c, beats := quiet(), make(chan struct{}, 1)
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
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// TestOverrun: a queue of 8 is flooded. What does not fit passes, is delivered
// and shows as uncounted, to the packet.
func TestOverrun(t *testing.T) {
	c := quiet()
	c.QueueLen = 8
	e, table := started(t, c)
	peer := sandbox.Veth(t)
	const sent = 200_000
	must(t, blast(netip.AddrPortFrom(peer.Void4, 9), sent))
	stop(t, e)
	missed, err := e.Uncounted()
	must(t, err)
	if counted := table.Counted(); counted+missed != sent {
		t.Errorf("counted %d + uncounted %d = %d, want %d", counted, missed, counted+missed, sent)
	} else {
		t.Logf("of %d packets %d counted, %d uncounted", sent, counted, missed)
	}
}

// TestSeveralQueues: packets from two CPUs go to two queues, and the sum is
// exact, as is every publication.
func TestSeveralQueues(t *testing.T) {
	c := quiet()
	c.Queue, c.Queues = 65534, 2 // to the last number
	e, table := started(t, c)
	must(t, table.SetCounter(7))
	peer := sandbox.Veth(t)
	const senders, each = 4, 5_003
	errs := make(chan error, senders)
	for range senders {
		go func() { errs <- traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), each, 10) }()
	}
	for range senders {
		must(t, <-errs)
	}
	stop(t, e)
	s := table.Snapshot()
	const sum = senders * each
	if s.Pending != sum%7 || s.Publications != sum/7 || s.Rows[0].Published.Packets != sum-sum%7 {
		t.Errorf("pending %d, publications %d, published %d; want %d, %d, %d",
			s.Pending, s.Publications, s.Rows[0].Published.Packets, sum%7, sum/7, sum-sum%7)
	}
	expect(t, e, table, map[string]uint64{"udp/ipv4": sum})
}

// TestFlushRuleset: the table is owned, and what others flush passes it by.
func TestFlushRuleset(t *testing.T) {
	e, table := started(t, quiet())
	must(t, traffic.Ping(lo4, 1))
	must(t, sandbox.FlushRuleset()) // another socket is another owner, as another process would be
	must(t, traffic.Ping(lo4, 2))
	expect(t, e, table, map[string]uint64{"icmp/ipv4": 6})

	stranger, err := nftables.New()
	must(t, err)
	stranger.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	if err := stranger.Flush(); !errors.Is(err, unix.EPERM) {
		t.Errorf("a stranger deletes the table: got %v, want EPERM", err)
	}
}

// TestTwoEngines: a second engine in the namespace has a table of its own.
func TestTwoEngines(t *testing.T) {
	first, firstTable := started(t, quiet())
	c := quiet()
	c.Queue, c.Point = 5, Input
	second, secondTable := started(t, c)
	must(t, traffic.Ping(lo4, 1))
	expect(t, first, firstTable, map[string]uint64{"icmp/ipv4": 2})
	expect(t, second, secondTable, map[string]uint64{"icmp/ipv4": 2})
	if tables := kstatTables(t); len(tables) != 2 || tables[1] != "kstat-5" {
		t.Errorf("tables %q, want kstat and kstat-5", tables)
	}
	stop(t, first)
	must(t, traffic.Ping(lo4, 1))
	expect(t, second, secondTable, map[string]uint64{"icmp/ipv4": 4})
}

// TestQueueTaken: whoever has the queue is named, and nothing is left of the
// attempt.
func TestQueueTaken(t *testing.T) {
	me := fmt.Sprintf("pid %d ", os.Getpid())
	taken := func(t *testing.T, err error) {
		t.Helper()
		if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), me) {
			t.Errorf("got %v, want EBUSY and %q", err, me)
		}
	}
	t.Run("by a kstatd that is stopped", func(t *testing.T) {
		sandbox.Need(t, sandbox.Namespaces)
		first, err := Reserve(quiet())
		must(t, err)
		defer first.Close()
		_, err = Reserve(quiet())
		taken(t, err)
	})
	t.Run("by a stranger, before", func(t *testing.T) {
		stranger(t, 9)
		c := quiet()
		c.Queue, c.Queues = 8, 2
		_, err := Reserve(c)
		taken(t, err)
		c.Queues = 1 // and 8 was given back
		r, err := Reserve(c)
		must(t, err)
		r.Close()
	})
	t.Run("by a stranger, since", func(t *testing.T) {
		c := quiet()
		c.Queue, c.Queues = 8, 2
		e, table := newEngine(t, c)
		release := stranger(t, 9)
		taken(t, e.Start())
		if e.Started() || len(kstatTables(t)) > 0 {
			t.Error("the refused start left something")
		}
		release()
		must(t, e.Start())
		must(t, traffic.Ping(lo4, 1))
		stop(t, e)
		expect(t, e, table, map[string]uint64{"icmp/ipv4": 2})
	})
}

// stranger binds a queue as another program would.
func stranger(t *testing.T, number uint16) (release func()) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue)
	if os.Getuid() != 0 || sandbox.Missing(sandbox.Root) != nil {
		sandbox.Need(t, sandbox.Root) // who holds a queue is root's to see
	}
	c, err := quiet().withDefaults()
	must(t, err)
	q, err := openQueue(c, number, func([]stats.Packet) {}, func(error) {})
	must(t, err)
	closed := false
	release = func() {
		if !closed {
			closed = true
			must(t, q.close())
		}
	}
	t.Cleanup(release)
	return release
}

// TestPanicWhileCounting: the packets are accepted all the same, the engine
// ends with the cause, and nothing is left.
func TestPanicWhileCounting(t *testing.T) {
	e, _ := idleEngine(t, quiet())
	c, err := quiet().withDefaults()
	must(t, err)
	q, err := openQueue(c, 0, func([]stats.Packet) { panic("no such class") }, e.fail)
	must(t, err)
	rule, err := addRule(c)
	must(t, err)
	e.mu.Lock()
	e.session = &session{table: e.table, queues: []*queue{q}}
	e.session.place(rule, e.table.Counted())
	e.mu.Unlock()

	must(t, traffic.Ping(lo4, 3)) // each must pass to be answered
	err = e.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "panic while counting: no such class") {
		t.Errorf("got %v, want the panic", err)
	}
	if n, err := e.Uncounted(); n != 6 || err != nil {
		t.Errorf("uncounted: got %d, %v, want 6", n, err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	e, table := idleEngine(t, quiet())
	must(t, e.Start())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	must(t, traffic.Ping(lo4, 1))
	cancel()
	must(t, <-ended)
	expect(t, e, table, map[string]uint64{"icmp/ipv4": 2})
}

// TestAllocsPerPacket floods the engine from another process and looks at how
// much this one allocates. The bench reads the line that it logs.
func TestAllocsPerPacket(t *testing.T) {
	e, table := started(t, quiet())
	peer := sandbox.Veth(t)
	cmd := sandbox.Command("/proc/self/exe", "-test.run=^TestRoleBlast$", "-test.count=1")
	cmd.Env = append(os.Environ(), blastTo+"="+netip.AddrPortFrom(peer.Void4, 9).String())
	var before, after runtime.MemStats
	must(t, traffic.Ping(lo4, 10)) // warm
	runtime.ReadMemStats(&before)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	runtime.ReadMemStats(&after)
	stop(t, e)
	missed, err := e.Uncounted()
	must(t, err)
	counted := table.Counted() - 20
	if counted+missed != blastSize {
		t.Errorf("counted %d + uncounted %d, want %d", counted, missed, blastSize)
	}
	allocs := after.Mallocs - before.Mallocs
	t.Logf("allocs/packet: %.6f over %d packets", float64(allocs)/float64(counted), counted)
	if allocs > counted/100 && !raceEnabled { // whose own ones are counted, too
		t.Errorf("%d allocations for %d packets, want at most one per 100", allocs, counted)
	}
}

const (
	blastTo   = "KSTAT_TEST_BLAST_TO"
	blastSize = 1_200_000
)

// TestRoleBlast is the other process of TestAllocsPerPacket.
func TestRoleBlast(t *testing.T) {
	to := os.Getenv(blastTo)
	if to == "" {
		return // an ordinary run
	}
	must(t, blast(netip.MustParseAddrPort(to), blastSize))
}

// blast sends datagrams as fast as one thread can.
func blast(to netip.AddrPort, n int) error { return traffic.UDP(to, n, 10) }
