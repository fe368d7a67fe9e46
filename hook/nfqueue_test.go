package hook

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

// newNFQueue, idleNFQueue and startedNFQueue are newEngine, idleEngine and
// started for tests that look into this engine.
func newNFQueue(t testing.TB, c Config) (*NFQueue, *stats.Table) {
	t.Helper()
	e, table := newEngine(t, c)
	return e.(*NFQueue), table
}

func idleNFQueue(t testing.TB, c Config) (*NFQueue, *stats.Table) {
	t.Helper()
	e, table := idleEngine(t, c)
	return e.(*NFQueue), table
}

func startedNFQueue(t testing.TB, c Config) (*NFQueue, *stats.Table) {
	t.Helper()
	e, table := started(t, c)
	return e.(*NFQueue), table
}

// TestOverrun: a queue of 8 is flooded. What does not fit passes, is delivered
// and shows as uncounted, to the packet.
func TestOverrun(t *testing.T) {
	c := quiet()
	c.QueueLen = 8
	e, table := startedNFQueue(t, c)
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

// TestSegments: super-packets of SCTP, which the kernel cuts before it queues them,
// are not taken for packets of another rule's.
func TestSegments(t *testing.T) {
	sandbox.Need(t, needed[KindNFQueue]...)
	e, table := newEngine(t, quiet())
	must(t, e.Start())
	s := e.(*NFQueue).session
	suspected := func(batch ...stats.Protocol) bool {
		for _, p := range batch {
			table.Add([]stats.Packet{{Class: stats.ClassOf(stats.IPv4, p), Bytes: 100}})
		}
		s.nft.Lock()
		defer s.nft.Unlock()
		must(t, e.(*NFQueue).inspectCounters(s))
		return s.strangers
	}
	if suspected(unix.IPPROTO_SCTP, unix.IPPROTO_SCTP, unix.IPPROTO_SCTP) {
		t.Error("segments are suspected")
	}
	if !suspected(unix.IPPROTO_TCP) {
		t.Error("another rule's packet is not suspected")
	}
}

// TestSeveralQueues: packets from two CPUs go to two queues, and the sum is
// exact, as is every publication.
func TestSeveralQueues(t *testing.T) {
	const senders, each = 4, 5_003
	c := quiet()
	c.Queue, c.Queues = 65534, 2 // to the last number
	c.QueueLen = senders * each  // one may get all of it
	e, table := startedNFQueue(t, c)
	must(t, table.SetCounter(7))
	peer := sandbox.Veth(t)
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

// TestTableIsOwned: a stranger cannot delete it.
func TestTableIsOwned(t *testing.T) {
	startedNFQueue(t, quiet())
	stranger, err := nftables.New()
	must(t, err)
	stranger.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	if err := stranger.Flush(); !errors.Is(err, unix.EPERM) {
		t.Errorf("a stranger deletes the table: got %v, want EPERM", err)
	}
}

// TestTwoTables: a second engine in the namespace has a table of its own.
func TestTwoTables(t *testing.T) {
	first, _ := startedNFQueue(t, quiet())
	c := quiet()
	c.Queue = 5
	startedNFQueue(t, c)
	if tables := kstatTables(t); len(tables) != 2 || tables[1] != "kstat-5" {
		t.Errorf("tables %q, want kstat and kstat-5", tables)
	}
	stop(t, first)
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
		e, table := newNFQueue(t, c)
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
	q, err := openQueue(c, number, func([]stats.Packet) uint64 { return 0 }, nil, func(error) {})
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
	e, _ := idleNFQueue(t, quiet())
	c, err := quiet().withDefaults()
	must(t, err)
	q, err := openQueue(c, 0, func([]stats.Packet) uint64 { panic("no such class") }, nil, e.fail)
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

// TestAllocsPerPacket floods the engine from another process and looks at how
// much this one allocates. Nobody runs it: proofs and inspections allocate by
// the second, a thousand objects, and not by the packet. The bench reads the line
// that it logs.
func TestAllocsPerPacket(t *testing.T) {
	e, table := idleEngine(t, quiet())
	must(t, e.Start())
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
	// The race detector's own are counted, too.
	if allocs > counted/1000 && !raceEnabled {
		t.Errorf("%d allocations for %d packets, want at most one per 1000", allocs, counted)
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

// TestQueueStatus: what waits in a queue shows, and is gone when it is
// answered.
func TestQueueStatus(t *testing.T) {
	sandbox.Need(t, sandbox.Root) // the kernel's list of queues is root's to see
	c := quiet()
	c.Queue, c.QueueLen = 5, 100
	e, table := newNFQueue(t, c)
	expect := func(waiting int) {
		t.Helper()
		status, err := e.Status()
		must(t, err)
		sum := 0
		for i, q := range status.Queues {
			if q.Number != uint16(5+i) || q.Capacity != 100 {
				t.Errorf("queue %d: %+v", i, q)
			}
			sum += q.Waiting
		}
		if len(status.Queues) != 1 || sum != waiting || status.Dropped != 0 {
			t.Errorf("%+v; want a queue with %d packets in it, and none dropped", status, waiting)
		}
	}
	expect(0) // stopped
	sink := newStoppable(table)
	startWith(t, e, sink.add)
	peer := sandbox.Veth(t)
	void := netip.AddrPortFrom(peer.Void4, 9)
	sink.stop()
	must(t, traffic.UDP(void, 1, 10)) // the reader takes it, and stands still
	sink.awaitStopped()
	must(t, traffic.UDP(void, 6, 10))
	expect(7)
	sink.goOn()
	stop(t, e)
	expect(0)
	if table.Counted() != 7 {
		t.Errorf("counted %d, want 7", table.Counted())
	}
}

// TestProofAmongLooks: who looks at the counters all the time, as many scrapes
// at once do, keeps nobody from proving that packets are read. Without a proof
// the rule would let them pass uncounted, and a reader that hangs would go
// unnoticed.
func TestProofAmongLooks(t *testing.T) {
	e, _ := idleNFQueue(t, quiet())
	must(t, e.Start())
	e.mu.RLock() // a look
	defer e.mu.RUnlock()
	must(t, e.proveOnce())
	select {
	case <-e.proved:
	default:
		t.Error("nothing was proved during a look")
	}
	if _, err := e.Status(); err != nil { // another one, at the same time
		t.Error(err)
	}
}

// TestLookWhileRuleIsReplaced: what the old rule has let pass is uncounted once,
// whenever somebody looks.
func TestLookWhileRuleIsReplaced(t *testing.T) {
	e, table := idleNFQueue(t, quiet())
	must(t, e.Start())
	r := e.session.rule
	must(t, r.conn.SetDeleteElements(r.armed, r.elems), r.conn.Flush()) // as after a second without a proof
	must(t, traffic.Ping(lo4, 5))
	replaced := make(chan error)
	go func() {
		e.session.nft.Lock()
		defer e.session.nft.Unlock()
		for range 5 {
			if err := e.repair(e.session, errors.New("a test")); err != nil {
				replaced <- err
				return
			}
		}
		replaced <- nil
	}()
	for looks := 0; ; looks++ {
		select {
		case err := <-replaced:
			must(t, err)
			if n, err := e.Uncounted(); n != 10 || err != nil || table.Counted() != 0 {
				t.Errorf("uncounted %d, %v, want 10; counted %d, want none", n, err, table.Counted())
			}
			t.Log(looks, "looks")
			return
		default:
			status, err := e.Status()
			if status.Uncounted != 10 && (err == nil || status.Uncounted > 10) {
				t.Fatalf("look %d: uncounted: %d, %v, want 10", looks, status.Uncounted, err)
			}
		}
	}
}

func TestQueueRows(t *testing.T) {
	const text = "    0   4242   13 2   128     5     7       99  1\n65535 4242 0 2 128 0 0 0 1\nshort 1 2\n"
	want := []queueRow{{0, 13, 12}, {65535, 0, 0}}
	if got := parseQueueRows(strings.NewReader(text)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
