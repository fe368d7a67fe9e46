package hook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

// These are the faults that the engine itself must bear; those of whole
// processes are with cmd/kstatd. docs/reliability.md names them.

// scale returns full for make faults, and short else.
func scale(full, short int) int {
	if os.Getenv("KSTAT_FAULTS") == "full" {
		return full
	}
	return short
}

// TestFaultReaderStopped: with a queue of 8 and a reader that does not come
// back, of 20 packets 8 wait and 12 pass; when it comes back, all 20 have been
// delivered, 8 counted and exactly 12 uncounted.
func TestFaultReaderStopped(t *testing.T) {
	c := quiet()
	c.QueueLen = 8
	e, table := newNFQueue(t, c)
	sink := newStoppable(table)
	startWith(t, e, sink.add)
	peer := sandbox.Veth(t)
	arrived, err := receiver(peer)
	must(t, err)

	sink.overrun(t, arrived.at)
	stop(t, e)
	missed, err := e.Uncounted()
	must(t, err)
	if table.Counted() != 8 || missed != 12 {
		t.Errorf("counted %d, uncounted %d; want 8, 12", table.Counted(), missed)
	}
	if n := arrived.count(20); n != 20 {
		t.Errorf("%d of 20 packets were delivered", n)
	}
}

// TestFaultReaderHangs: a reader that blocks while the process lives. After
// about a second packets pass again, uncounted; nobody hears a sign of life
// meanwhile; and when the reader comes back, counting goes on.
func TestFaultReaderHangs(t *testing.T) {
	var beats atomic.Uint64
	c := quiet()
	c.Armed = 0 // the second of kstatd's
	c.Alive = func(Status) { beats.Add(1) }
	e, table := newNFQueue(t, c)
	sink := newStoppable(table)
	startWith(t, e, sink.add)
	peer := sandbox.Veth(t)
	void := netip.AddrPortFrom(peer.Void4, 9)

	sink.stop()
	must(t, traffic.UDP(void, 1, 10))
	sink.awaitStopped()
	began := time.Now()
	attempts := 0
	dialer := net.Dialer{Timeout: 50 * time.Millisecond, Control: func(string, string, syscall.RawConn) error {
		attempts++ // here, as the time may be over before there is a packet
		return nil
	}}
	for { // one that is caught stays so: TCP does not repeat what is still in a queue of its own host
		_, err := dialer.Dial("tcp", netip.AddrPortFrom(peer.Addr4, 9).String())
		if errors.Is(err, unix.ECONNREFUSED) {
			break
		}
		if time.Since(began) > sandbox.AwaitLimit {
			t.Fatal("no new connection gets through:", err)
		}
	}
	t.Logf("new connections get through after %v", time.Since(began).Round(time.Millisecond))
	silent := beats.Load()
	must(t, traffic.Ping(peer.Addr4, 5))
	if now := beats.Load(); now != silent {
		t.Errorf("%d signs of life from a reader that hangs", now-silent)
	}
	sink.goOn()
	for beats.Load() < silent+3 { // a proof, its renewal of the rule, and some time
		time.Sleep(time.Millisecond)
	}
	before := table.Counted()
	must(t, traffic.Ping(peer.Addr4, 3))
	if n := table.Counted() - before; n != 3 {
		t.Errorf("counted %d of 3 packets afterwards", n)
	}
	stop(t, e)
	missed, err := e.Uncounted()
	must(t, err)
	if sum := table.Counted() + missed; sum != uint64(1+attempts+5+3) {
		t.Errorf("counted %d + uncounted %d, want %d", table.Counted(), missed, 1+attempts+5+3)
	}
}

// TestFaultTinySocketBuffer: a burst that does not fit into the socket's
// buffer costs the host nothing, and is accounted for.
func TestFaultTinySocketBuffer(t *testing.T) {
	e, table := newNFQueue(t, quiet())
	sink := newStoppable(table)
	startWith(t, e, sink.add)
	must(t, unix.SetsockoptInt(e.session.queues[0].socket.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
	peer := sandbox.Veth(t)
	arrived, err := receiver(peer)
	must(t, err)
	sink.stop()
	must(t, traffic.UDP(arrived.at, 200, 10))
	sink.goOn()
	must(t, traffic.UDP(arrived.at, 5, 10)) // the reader lives
	stop(t, e)
	missed, err := e.Uncounted()
	must(t, err)
	if sum := table.Counted() + missed; sum != 205 || missed == 0 || table.Counted() < 5 {
		t.Errorf("counted %d + uncounted %d, want 205, of which some uncounted", table.Counted(), missed)
	} else {
		t.Logf("of 205 packets %d counted, %d uncounted", table.Counted(), missed)
	}
	if n := arrived.count(205); n != 205 {
		t.Errorf("%d of 205 packets were delivered", n)
	}
}

// TestFaultRuleGone: a rule that is gone is put back, at once if there is an
// event that tells of it, and counting goes on.
func TestFaultRuleGone(t *testing.T) {
	e, table := startedNFQueue(t, quiet())
	must(t, traffic.Ping(lo4, 1))
	for i, remove := range map[string]func(*rule) error{
		"rules": func(r *rule) error { r.conn.FlushChain(r.chain); return r.conn.Flush() },
		"table": func(r *rule) error { r.conn.DelTable(r.table); return r.conn.Flush() },
		"set": func(r *rule) error {
			r.conn.FlushChain(r.chain)
			r.conn.DelSet(r.armed)
			return r.conn.Flush()
		},
	} {
		t.Run(i, func(t *testing.T) {
			before, err := e.Status()
			must(t, err)
			e.session.nft.Lock()
			must(t, remove(e.session.rule)) // the owner alone can do that: another kernel might
			e.session.nft.Unlock()
			began := time.Now()
			for {
				now, err := e.Status()
				if err == nil && now.Repairs == before.Repairs+1 {
					break
				}
				if time.Since(began) > sandbox.AwaitLimit {
					t.Fatalf("not repaired: %+v, %v", now, err)
				}
				time.Sleep(time.Millisecond)
			}
			t.Logf("put back after %v", time.Since(began).Round(time.Millisecond))
			counted := table.Counted()
			must(t, traffic.Ping(lo4, 2))
			if n := table.Counted() - counted; n != 4 || !e.Started() {
				t.Errorf("counted %d of 4 packets afterwards, started %v", n, e.Started())
			}
		})
	}
}

// TestFaultRuleCannotBePutBack: then the engine ends, and says so.
func TestFaultRuleCannotBePutBack(t *testing.T) {
	e, _ := idleNFQueue(t, quiet())
	must(t, e.Start())
	other, err := nftables.New(nftables.AsLasting())
	must(t, err)
	defer other.CloseLasting()
	e.mu.Lock()
	e.session.rule.conn.DelTable(e.session.rule.table)
	must(t, e.session.rule.conn.Flush())
	for _, name := range []string{"kstat", "kstat-0"} {
		other.CreateTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name, Flags: nftables.TableFlagOwner})
	}
	must(t, other.Flush())
	e.mu.Unlock()
	err = e.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "put the rule back") || e.Started() {
		t.Errorf("got %v, started %v", err, e.Started())
	}
	must(t, other.CloseLasting())
}

// TestFaultForeignChains: base chains that others delete make the kernel drop
// what is queued. Counting goes on, at most a queue's depth is lost at a time,
// and it is told how often that has happened.
func TestFaultForeignChains(t *testing.T) {
	rounds := scale(1000, 200)
	e, table := startedNFQueue(t, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	peer := sandbox.Veth(t)
	var sent atomic.Uint64
	flood := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 100, 10); err != nil {
				flood <- err
				return
			}
			sent.Add(100)
		}
		flood <- nil
	}()
	stranger, err := nftables.New()
	must(t, err)
	accept := nftables.ChainPolicyAccept
	for i := range rounds {
		foreign := stranger.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: fmt.Sprintf("foreign%d", i)})
		stranger.AddChain(&nftables.Chain{
			Table: foreign, Name: "output", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
		must(t, stranger.Flush())
		stranger.DelTable(foreign)
		must(t, stranger.Flush())
	}
	cancel()
	must(t, <-flood)
	stop(t, e)
	status, err := e.Status()
	must(t, err)
	if sum := table.Counted() + status.Uncounted; sum != sent.Load() {
		t.Errorf("counted %d + uncounted %d, want %d", table.Counted(), status.Uncounted, sent.Load())
	}
	for end := time.Now().Add(sandbox.AwaitLimit); status.Flushes < uint64(rounds) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
		status, err = e.Status()
		must(t, err)
	}
	if status.Flushes != uint64(rounds) {
		t.Errorf("%d flushes noticed, want %d", status.Flushes, rounds)
	}
	t.Logf("%d chains made and deleted, %d packets sent and all accounted for", rounds, sent.Load())
}

// TestFaultAnotherStops: another kstatd's end deletes a base chain like anybody's,
// and whoever has the name kstat, that is noticed.
func TestFaultAnotherStops(t *testing.T) {
	first, _ := startedNFQueue(t, quiet())
	c := quiet()
	c.Queue = 5
	second, _ := startedNFQueue(t, c)
	stop(t, first)
	for end := time.Now().Add(sandbox.AwaitLimit); ; time.Sleep(time.Millisecond) {
		status, err := second.Status()
		must(t, err)
		if status.Flushes == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d flushes noticed, want 1", status.Flushes)
		}
	}
}

// TestFaultIDsWrap: packet ids are 32 bits and wrap; verdicts go by the last
// id of a batch, whatever its size.
func TestFaultIDsWrap(t *testing.T) {
	var verdict [verdictLen]byte
	for _, id := range []uint32{1<<32 - 1, 0, 1} {
		verdict = newVerdict(1)
		setVerdictID(&verdict, id)
		attrs, err := netlink.UnmarshalAttributes(verdict[unix.NLMSG_HDRLEN+nfgenmsgLen:])
		must(t, err)
		if got := uint32(attrs[0].Data[4])<<24 | uint32(attrs[0].Data[5])<<16 | uint32(attrs[0].Data[6])<<8 | uint32(attrs[0].Data[7]); got != id {
			t.Errorf("id %d became %d", id, got)
		}
	}
	s := &socket{}
	s.marked.Store(1<<32 - 2)
	for range 4 { // markers wrap, too
		first := s.marked.Add(1)
		s.passed.Store(first)
		if int32(s.passed.Load()-first) < 0 {
			t.Errorf("marker %d has not passed", first)
		}
	}
}

// TestFaultUncountedNeverNegative: strangers' packets in our queue make more
// counted than the rule has seen, which is not a loss, and no huge number.
func TestFaultUncountedNeverNegative(t *testing.T) {
	e, table := startedNFQueue(t, quiet())
	must(t, traffic.Ping(lo4, 1))
	table.Add([]stats.Packet{{}, {}, {}})
	if n, err := e.Uncounted(); n != 0 || err != nil {
		t.Errorf("uncounted %d, %v; want 0", n, err)
	}
}

// TestFaultCountersReset: anybody may set the counters of an owned table to zero
// (nft reset counters). What was uncounted stays so, what follows is exact, and no
// other rule is suspected.
func TestFaultCountersReset(t *testing.T) {
	c := quiet()
	c.QueueLen = 8
	e, table := newNFQueue(t, c)
	sink := newStoppable(table)
	startWith(t, e, sink.add)
	peer := sandbox.Veth(t)
	void := netip.AddrPortFrom(peer.Void4, 9)
	sent, lost := uint64(0), uint64(0)
	overrun := func() {
		t.Helper()
		sink.overrun(t, void)
		sent, lost = sent+20, lost+12
		for table.Counted() != sent-lost {
			time.Sleep(time.Millisecond)
		}
	}
	inspect := func() {
		t.Helper()
		e.session.nft.Lock()
		defer e.session.nft.Unlock()
		must(t, e.inspectCounters(e.session))
		if e.session.strangers {
			t.Error("another rule is suspected")
		}
	}
	expect := func() {
		t.Helper()
		if n, err := e.Uncounted(); n != lost || err != nil {
			t.Errorf("uncounted %d, %v; want %d", n, err, lost)
		}
	}
	reset := func() {
		t.Helper()
		stranger, err := nftables.New()
		must(t, err)
		_, err = stranger.ResetObjects(e.session.rule.table)
		must(t, err)
	}
	must(t, traffic.Ping(lo4, 15))
	sent += 30
	overrun()
	inspect()
	reset()
	inspect()
	expect()
	must(t, traffic.Ping(lo4, 3))
	sent += 6
	overrun()
	expect()
	inspect()
	reset()
	stop(t, e)
	expect()
}

// TestFaultLastToTrack: if nobody but our rule has connections tracked any more, its
// end, which ends that, costs none of the packets that are queued.
func TestFaultLastToTrack(t *testing.T) {
	e, table := newNFQueue(t, quiet())
	sink := newStoppable(table)
	startWith(t, e, sink.add)
	peer := sandbox.Veth(t)
	arrived, err := receiver(peer)
	must(t, err)
	t.Run("with others", func(t *testing.T) {
		track(t)
		must(t, e.session.rule.spareShared(e.config))
	})

	const sent = 8
	sink.stop()
	must(t, traffic.UDP(arrived.at, 1, 10))
	sink.awaitStopped()
	must(t, traffic.UDP(arrived.at, sent-1, 10), e.session.rule.disarm())
	_, _, err = Counters(e.session.rule.table.Name) // a socket's end has the kernel destroy what was deleted (nft_rcv_nl_event)
	must(t, err)
	sink.goOn()
	stop(t, e)
	if n := arrived.count(sent); n != sent {
		t.Errorf("%d of %d packets were delivered", n, sent)
	}
}

// startWith is Start with another sink for the packets.
func startWith(t *testing.T, e *NFQueue, sink func([]stats.Packet) uint64) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	q, err := openQueue(e.config, e.config.Queue, sink, nil, e.fail)
	must(t, err)
	r, err := addRule(e.config)
	must(t, err)
	e.session = &session{table: e.table, queues: []*queue{q}}
	e.session.place(r, e.table.Counted())
	e.started.Store(true)
}

// stoppable is a sink that can be made to stand still.
type stoppable struct {
	table   *stats.Table
	gate    chan struct{} // to be received from before each batch
	stopped chan struct{} // told when a batch waits
}

func newStoppable(table *stats.Table) *stoppable {
	s := &stoppable{table: table, gate: make(chan struct{}, 1), stopped: make(chan struct{}, 1)}
	s.gate <- struct{}{}
	return s
}

func (s *stoppable) add(batch []stats.Packet) uint64 {
	select {
	case <-s.gate:
	default:
		s.stopped <- struct{}{}
		<-s.gate
	}
	s.gate <- struct{}{}
	return s.table.Add(batch)
}

func (s *stoppable) stop()         { <-s.gate }
func (s *stoppable) awaitStopped() { <-s.stopped }
func (s *stoppable) goOn()         { s.gate <- struct{}{} }

// overrun stands still for 20 datagrams to an address. Of a queue of 8 it gets
// the 8 that wait, when it goes on, and 12 have passed.
func (s *stoppable) overrun(t *testing.T, to netip.AddrPort) {
	t.Helper()
	s.stop()
	must(t, traffic.UDP(to, 1, 10)) // the reader takes it, and stands still
	s.awaitStopped()
	must(t, traffic.UDP(to, 19, 10))
	s.goOn()
}

// arrivals counts datagrams at the peer.
type arrivals struct {
	at netip.AddrPort
	fd int
}

func receiver(peer *sandbox.Peer) (*arrivals, error) {
	a := new(arrivals)
	err := peer.Do(func() (err error) {
		a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(a.fd, &unix.SockaddrInet4{Addr: peer.Addr4.As4()}); err != nil {
			return err
		}
		name, err := unix.Getsockname(a.fd)
		if err != nil {
			return err
		}
		a.at = netip.AddrPortFrom(peer.Addr4, uint16(name.(*unix.SockaddrInet4).Port))
		return unix.SetsockoptTimeval(a.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	})
	return a, err
}

// count receives up to n datagrams, and waits for a missing one for seconds.
func (a *arrivals) count(n int) (got int) {
	defer unix.Close(a.fd)
	receive := func() (int, error) { return unix.Read(a.fd, make([]byte, 64)) }
	for ; got < n; got++ {
		if _, err := sandbox.Uninterrupted(receive); err != nil {
			return got
		}
	}
	return got
}

// TestFaultForeignTransaction: a transaction of somebody else's that takes
// long holds up the renewal, and packets pass uncounted; but a reader that
// works is not taken for one that hangs.
func TestFaultForeignTransaction(t *testing.T) {
	beats := make(chan struct{}, 1000)
	c := quiet()
	c.Armed = 0 // the second of kstatd's
	c.Alive = func(Status) { beats <- struct{}{} }
	e, table := startedNFQueue(t, c)
	e.session.nft.Lock() // as the kernel's commit mutex would be
	began := time.Now()
	n, sent := 0, uint64(0)
	for took := time.Duration(0); took < 2500*time.Millisecond || n < 5 && took < sandbox.AwaitLimit; took = time.Since(began) {
		select {
		case <-beats:
			n++
		default:
			must(t, traffic.Ping(lo4, 1))
			sent += 2
		}
	}
	if n < 5 {
		t.Errorf("%d signs of life in %v", n, time.Since(began))
	}
	e.session.nft.Unlock()
	before := table.Counted()
	sandbox.Await(t, "2 packets that are counted", func() bool { // when the rule is renewed
		must(t, traffic.Ping(lo4, 1))
		sent += 2
		was := before
		before = table.Counted()
		return before == was+2
	})
	status, err := e.Status()
	must(t, err)
	must(t, traffic.Ping(lo4, 5))
	if counted := table.Counted(); counted != before+10 || before+status.Uncounted != sent || status.Uncounted == 0 {
		t.Errorf("%d sent, %d counted, %d uncounted; then counted %d of 10", sent, before, status.Uncounted, counted-before)
	}
}
