package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"kstat/stats"
)

// copyRange is how many bytes of each packet are looked at: enough for the
// chains of IPv6 extension headers that occur.
const copyRange = 128

// ErrClosed is returned by Start and Stop of an engine that has ended. It wraps
// ENODEV.
var ErrClosed = fmt.Errorf("the engine has ended: %w", unix.ENODEV)

// NFQueue is the engine that gets packets from NFQUEUE. Its methods may be
// called by any goroutine.
type NFQueue struct {
	config Config
	table  *stats.Table

	// failed is told when a session cannot go on.
	failed chan error
	// changed is told that somebody has changed the host's rules, proved that
	// packets are being read and answered. Each holds one.
	changed, proved chan struct{}

	// mu is held for the length of a transition, and for reading for that of
	// a proof or a look at the counters: however many look, without a pause,
	// the proof need not wait for them.
	mu      sync.RWMutex
	session *session // nil when stopped
	closed  bool

	// transition is when the Start or Stop began that holds mu; nil if none does.
	transition atomic.Pointer[time.Time]
	// started mirrors session != nil, and named the name of its table or of the
	// last one's, for those who must not wait.
	started atomic.Bool
	named   atomic.Pointer[string]
	flushes atomic.Uint64

	tracing *tracing // nil if nobody ever traces

	// status is without what the session adds, latest with it, as of the last
	// look. statusMu is taken last.
	statusMu       sync.Mutex
	status, latest Status
}

// New returns an engine that adds to table what it sees. It does nothing
// before Start: there is no rule and no queue.
func New(c Config, table *stats.Table) (*NFQueue, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &NFQueue{
		config:  c,
		table:   table,
		failed:  make(chan error, 1),
		changed: make(chan struct{}, 1),
		proved:  make(chan struct{}, 1),
		status:  c.Before,
		latest:  c.Before,
	}
	e.flushes.Store(c.Before.Flushes)
	if c.Tracer != nil {
		e.tracing = &tracing{table: table, tracer: c.Tracer}
	}
	return e, nil
}

const (
	// proveEvery is how often a started engine proves that it works.
	proveEvery = 250 * time.Millisecond
	// inspectEvery is how many proofs there are to one look at the rules.
	inspectEvery = 4
	// transitionLimit is how long a Start or a Stop may take before it counts
	// as hung. Both wait for nftables, where others may be busy for seconds.
	transitionLimit = 10 * time.Second
)

// Run keeps the engine until ctx ends, or until packets can no longer be
// counted, which is its error; then it closes it. Meanwhile it proves time and
// again that packets are read and answered, renews the rule when that is so,
// and puts a rule back that is gone.
//
// The proof and the rule are kept by two goroutines: a large transaction of
// somebody else's holds up the renewal, which lets packets pass, and must not
// make a reader that works look dead.
func (e *NFQueue) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() { e.watch(ctx) })
	g.Go(func() { e.tend(ctx) })
	err := errors.Join(e.prove(ctx), e.Close())
	cancel()
	g.Wait()
	return err
}

// prove sends a marker through every queue's reader, four times a second. When
// all are back it says so.
func (e *NFQueue) prove(ctx context.Context) error {
	tick := time.NewTicker(proveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-e.failed:
			return err
		case <-tick.C:
		}
		switch err := e.proveOnce(); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			// The reader does not answer. It may yet come back; whoever
			// watches this process hears nothing until then.
			e.config.Log.Warn("packets are not being read", "err", err)
			continue
		case err != nil:
			return err
		}
		if e.config.Alive != nil {
			e.statusMu.Lock()
			status := e.latest
			e.statusMu.Unlock()
			e.config.Alive(status)
		}
	}
}

func (e *NFQueue) proveOnce() error {
	if !e.mu.TryRLock() {
		began := e.transition.Load()
		if began != nil && time.Since(*began) > transitionLimit {
			return fmt.Errorf("a start or a stop: %w", os.ErrDeadlineExceeded)
		}
		return nil
	}
	defer e.mu.RUnlock()
	if e.session == nil {
		return nil
	}
	for _, q := range e.session.queues {
		if err := q.socket.drain(e.config.Armed / 2); err != nil { // less than the rule stays armed
			return err
		}
	}
	select {
	case e.proved <- struct{}{}:
	default: // the last one was not used yet
	}
	return nil
}

// tend renews the rule after each proof, and looks at it from time to time.
func (e *NFQueue) tend(ctx context.Context) {
	for n := 1; ; n++ {
		renew, inspect := false, n%inspectEvery == 0
		select {
		case <-ctx.Done():
			return
		case <-e.proved:
			renew = true
		case <-e.changed:
			inspect = true
		}
		if err := e.tendOnce(renew, inspect); err != nil {
			e.fail(err)
		}
	}
}

func (e *NFQueue) tendOnce(renew, inspect bool) (err error) {
	e.mu.RLock()
	s := e.session
	e.mu.RUnlock()
	if s == nil {
		return nil
	}
	s.nft.Lock()
	defer s.nft.Unlock()
	if s.over {
		return nil
	}
	if renew {
		err = s.rule.arm()
	}
	if err == nil && inspect {
		err = s.rule.intact()
	}
	if err != nil {
		if err := e.repair(s, err); err != nil {
			return err
		}
	}
	e.spareShared(s)
	if inspect {
		if err := e.inspectCounters(s); err != nil {
			e.config.Log.Warn("the rule's counters cannot be read", "err", err)
		}
	}
	return nil
}

// spareShared has the rule spare what shares a new connection, at the hooks that
// see it, if connections are tracked: if one has begun since the session has. The
// caller holds s.nft.
func (e *NFQueue) spareShared(s *session) {
	if s.rule.shared || s.trackless || e.config.Point != Output && e.config.Point != Postrouting {
		return
	}
	now := connections()
	if now <= s.fewest {
		s.fewest = now
		return
	}
	if err := s.rule.spareShared(e.config); err != nil {
		s.trackless = true
		e.config.Log.Warn("some packets of new connections may be lost: REJECTs, and broadcasts that come back", "err", err)
	}
}

// inspectCounters keeps the status as of now. It notices counters that somebody
// has set to zero, and packets of another rule's. The caller holds s.nft.
func (e *NFQueue) inspectCounters(s *session) error {
	now, err := s.read()
	if err != nil {
		return err
	}
	switch {
	case now.seen < s.last.seen || now.unarmed < s.last.unarmed:
		e.beginAnew(s, now)
		now.missed = now.unarmed
	case !s.strangers && now.strange > 0 && uint64(now.strange) > segments(s.table):
		s.strangers = true
		e.config.Log.Warn("another rule sends packets to our queue, and they are counted as well: choose another number with --queue",
			"counted", now.seen+uint64(now.strange), "seen", now.seen)
	}
	s.last = now
	e.statusMu.Lock()
	e.latest = e.describe(s, now)
	e.statusMu.Unlock()
	return nil
}

// beginAnew takes counters that somebody has set to zero for those of a new
// rule. Of what they had seen and nobody has counted, that is kept which the
// last inspection saw; what they have seen since is taken for counted. The
// caller holds s.nft.
func (e *NFQueue) beginAnew(s *session, now reading) {
	e.keep(s, s.last.missed)
	s.place(s.rule, s.table.Counted()+uint64(now.queues.waiting(s.holds))-now.seen)
	e.opened(s)
	e.config.Log.Warn("somebody has set the rule's counters to zero: what passed uncounted in the last second is in no figure")
}

// keep makes what the session has missed the engine's, until the session has
// been placed anew.
func (e *NFQueue) keep(s *session, missed uint64) {
	e.statusMu.Lock()
	defer e.statusMu.Unlock()
	e.status.Uncounted += missed
	e.latest = e.status
	s.counters.Store(nil) // or a look would add them again
}

// repair puts a new rule in the place of one that is gone or was changed. What
// the old one's counters said last is kept, what they have seen since is lost
// with them. The caller holds s.nft.
func (e *NFQueue) repair(s *session, cause error) error {
	now, err := s.read()
	if err != nil { // the counters are gone: what they said at the last look
		e.statusMu.Lock()
		now.missed = e.latest.Uncounted - e.status.Uncounted
		e.statusMu.Unlock()
	}
	e.keep(s, now.missed)
	_ = s.rule.conn.CloseLasting()
	gracePeriod()
	before := e.table.Counted() + uint64(readQueues().waiting(s.holds))
	r, err := addRule(e.config)
	if err != nil {
		return fmt.Errorf("put the rule back: %w (it was gone: %w)", err, cause)
	}
	s.place(r, before)
	e.opened(s)
	e.statusMu.Lock()
	e.status.Repairs++
	repairs := e.status.Repairs
	e.latest = e.status
	e.statusMu.Unlock()
	e.config.Log.Warn("the rule was gone or changed, and has been put back", "err", cause, "repairs", repairs)
	return nil
}

// opened tells of a rule that has just been added.
func (e *NFQueue) opened(s *session) {
	e.named.Store(&s.rule.table.Name)
	if e.config.Opened == nil {
		return
	}
	e.statusMu.Lock()
	base := e.status.Uncounted
	e.statusMu.Unlock()
	e.config.Opened(Opened{Table: s.rule.table.Name, Counted: s.before.Load(), Uncounted: base})
}

// Name returns the engine's name.
func (e *NFQueue) Name() string { return KindNFQueue.String() }

// Point returns the name of the hook.
func (e *NFQueue) Point() string { return e.config.Point.String() }

// Started reports whether packets are being counted. It waits for nobody.
func (e *NFQueue) Started() bool { return e.started.Load() }

// Start begins to count: every packet that arrives at the hook after it
// returned is seen. It does nothing if the engine is started already. The
// error wraps an errno that says why: EBUSY, EPERM, EOPNOTSUPP, ….
func (e *NFQueue) Start() error {
	e.begin()
	defer e.end()
	switch {
	case e.closed:
		return ErrClosed
	case e.session != nil:
		return nil
	}
	s, err := e.open()
	if err != nil {
		return err
	}
	e.session = s
	e.started.Store(true)
	e.opened(s)
	return nil
}

// Stop ends counting: when it returns no packet is in flight and the figures
// are final. It does nothing if the engine is stopped already.
func (e *NFQueue) Stop() error {
	e.begin()
	defer e.end()
	if e.closed {
		return ErrClosed
	}
	return e.stopLocked()
}

// Close stops the engine for good. Nothing is left of it.
func (e *NFQueue) Close() error {
	e.begin()
	defer e.end()
	err := e.stopLocked()
	e.closed = true
	return err
}

// begin and end enclose a transition.
func (e *NFQueue) begin() {
	e.mu.Lock()
	now := time.Now()
	e.transition.Store(&now)
}

func (e *NFQueue) end() {
	e.transition.Store(nil)
	e.mu.Unlock()
}

func (e *NFQueue) stopLocked() error {
	s := e.session
	if s == nil {
		return nil
	}
	s.nft.Lock()
	_ = e.inspectCounters(s) // close says what cannot be read
	s.nft.Unlock()
	missed, dropped, err := s.close()
	if n := s.refused(); n > 0 {
		e.config.Log.Warn("packets were gone before they were accepted: somebody deleted a base chain", "verdicts", n)
	}
	e.statusMu.Lock()
	e.status.Uncounted += missed
	e.status.Dropped += dropped
	e.status.Flushes = e.flushes.Load()
	e.latest = e.status
	e.statusMu.Unlock()
	e.session = nil
	e.started.Store(false)
	if e.config.Opened != nil {
		e.config.Opened(Opened{})
	}
	return err
}

// Uncounted returns how many packets passed the hook while the engine was
// started and were not counted. At rest it is exact; under load it leaves out
// what may still be on its way.
func (e *NFQueue) Uncounted() (uint64, error) {
	s, err := e.Status()
	return s.Uncounted, err
}

// Status returns what there is to tell beside the figures.
func (e *NFQueue) Status() (Status, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.look(e.session)
}

// look keeps the status of a session, or of none, and returns it.
func (e *NFQueue) look(s *session) (Status, error) {
	var now reading
	var err error
	if s == nil {
		now.queues = readQueues()
		e.statusMu.Lock()
	} else {
		for of := s.counters.Load(); ; of = s.counters.Load() {
			now, err = s.read()
			e.statusMu.Lock()
			if of == s.counters.Load() {
				break
			}
			e.statusMu.Unlock() // meanwhile it has got another rule
		}
	}
	defer e.statusMu.Unlock()
	status := e.describe(s, now)
	if err == nil {
		e.latest = status
	}
	return status, err
}

// describe returns the status with what the session has added by now, or
// nobody if it is nil. The caller holds statusMu.
func (e *NFQueue) describe(s *session, now reading) Status {
	status := e.status
	if now.queues.seen {
		status.Queues = e.config.queues(s, now.queues)
	}
	if s != nil {
		status.Dropped += now.queues.dropped(s.holds)
	}
	status.Uncounted += now.missed
	status.Flushes = e.flushes.Load()
	return status
}

// queues returns the state of the queues of c, which s has bound, or nobody if
// it is nil.
func (c Config) queues(s *session, table queueTable) []Queue {
	queues := make([]Queue, c.Queues)
	for i := range queues {
		queues[i] = Queue{Number: c.Queue + uint16(i), Capacity: c.QueueLen}
	}
	for _, r := range table.rows {
		if s != nil && s.holds(r.number) {
			queues[r.number-int(c.Queue)].Waiting = r.waiting
		}
	}
	return queues
}

// session is the time between a start and a stop.
type session struct {
	table  *stats.Table
	queues []*queue

	// nft is held while the rule is used, but for reading its counters.
	nft  sync.Mutex
	rule *rule
	last reading // at the last inspection
	over bool    // close has begun

	// before is what table had counted when the rule's counters were 0.
	before atomic.Uint64
	// counters is the name of the table that holds the rule's counters, another
	// pointer whenever they begin at 0; nil while they are being replaced, when
	// their share is in the engine's status.
	counters atomic.Pointer[string]

	strangers bool   // another rule uses our queues, and that was said
	fewest    uint64 // the smallest number of connections that was seen while the rule did not spare any
	trackless bool   // the rule cannot spare them, and that was said
}

// place makes r the session's rule, whose counters were 0 when before packets
// had been counted.
func (s *session) place(r *rule, before uint64) {
	s.rule, s.last = r, reading{}
	s.before.Store(before)
	name := r.table.Name
	s.counters.Store(&name)
}

// open starts a session. The queues come before the rule: a queue drops
// packets between its binding and the end of its configuration.
func (e *NFQueue) open() (_ *session, err error) {
	s := &session{table: e.table, fewest: connections()}
	defer func() {
		if err != nil {
			s.unbind()
		}
	}()
	for i := range e.config.Queues {
		q, err := openQueue(e.config, e.config.Queue+uint16(i), e.table.Add, e.tracing, e.fail)
		if err != nil {
			return nil, err
		}
		s.queues = append(s.queues, q)
	}
	before := e.table.Counted()
	r, err := addRule(e.config)
	if err != nil {
		return nil, err
	}
	s.place(r, before)
	return s, nil
}

// fail ends Run. Readers call it; the first error is kept.
func (e *NFQueue) fail(err error) {
	select {
	case e.failed <- err:
	default:
	}
}

// drainLimit is how long a stop waits for packets to be answered. A reader
// that lives needs a few milliseconds.
const drainLimit = 2 * time.Second

// close ends the session and returns how many packets it did not count, and
// how many its queues have dropped. It goes on after an error, so that as
// little as possible is left.
func (s *session) close() (missed, dropped uint64, _ error) {
	s.nft.Lock()
	defer s.nft.Unlock()
	s.over = true
	errs := []error{s.rule.disarm()}
	gracePeriod()
	for _, q := range s.queues {
		errs = append(errs, q.socket.drain(drainLimit))
	}
	now, err := s.read()
	errs = append(errs, err, s.unbind())
	awaitIdleQueues()
	errs = append(errs, s.rule.remove())
	return now.missed, now.queues.dropped(s.holds), errors.Join(errs...)
}

func (s *session) unbind() error {
	var errs []error
	for _, q := range s.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}

// reading is what the rule's counters say at one moment.
type reading struct {
	seen, unarmed uint64
	missed        uint64 // of these, how many were not counted
	strange       int64  // how many more were counted than seen
	queues        queueTable
}

// read reads the counters. Its order makes the errors one-sided: what is still
// waiting when they have been read may be counted a moment later, and is no
// loss; what was counted before they are read has been seen.
func (s *session) read() (r reading, err error) {
	counters := s.counters.Load()
	if counters == nil {
		return reading{queues: readQueues()}, nil
	}
	counted := s.table.Counted() - s.before.Load() // it may be "negative", by what was waiting at before
	r.seen, r.unarmed, err = Counters(*counters)
	r.queues = readQueues()
	if err != nil {
		return r, err
	}
	r.strange = int64(counted - r.seen)
	counted = s.table.Counted() - s.before.Load() + uint64(r.queues.waiting(s.holds))
	r.missed = r.unarmed + uint64(max(0, int64(r.seen-counted)))
	return r, nil
}

// segments returns how many of the packets counted may be parts of others: the
// kernel cuts super-packets of SCTP, and of nothing else, before it queues them
// (nfqnl_enqueue_packet in net/netfilter/nfnetlink_queue.c).
func segments(table *stats.Table) (n uint64) {
	for _, row := range table.Snapshot().Rows {
		if row.Class.Protocol() == unix.IPPROTO_SCTP {
			n += row.Total.Packets
		}
	}
	return n
}

// refused returns how many verdicts found none of their packets.
func (s *session) refused() (n uint64) {
	for _, q := range s.queues {
		n += q.socket.refused.Load()
	}
	return n
}

// holds reports whether the session is bound to the queue of a number.
func (s *session) holds(number int) bool {
	return slices.ContainsFunc(s.queues, func(q *queue) bool { return int(q.number) == number })
}

// gracePeriod waits until every CPU that was inside the rule when it was
// called has left it: membarrier(2) with MEMBARRIER_CMD_GLOBAL is
// synchronize_rcu(). Kernels with nohz_full refuse it, and with one CPU it
// does nothing (kernel/sched/membarrier.c); there a pause has to do, which is
// a thousand times longer than a packet is inside a rule.
func gracePeriod() {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	online, _ := os.ReadFile("/sys/devices/system/cpu/online")
	if errno != 0 || !strings.ContainsAny(string(online), "-,") {
		time.Sleep(50 * time.Millisecond)
	}
}

const membarrierGlobal = 1 << 0 // MEMBARRIER_CMD_GLOBAL

// awaitIdleQueues waits, for a short while, for a moment in which no queue of
// the network namespace holds a packet. Taking a base chain or a BPF program
// from its hook makes the kernel drop what is queued anywhere in the namespace
// (nf_queue_nf_hook_drop): our queues are empty by then, those of a firewall or
// an IDS beside us may not be.
func awaitIdleQueues() {
	for range 200 {
		if readQueues().waiting(func(int) bool { return true }) == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// queue is one bound NFQUEUE and its reader.
type queue struct {
	number  uint16
	nfqueue *nfqueue.Nfqueue
	socket  *socket
	cancel  context.CancelFunc
}

// openQueue binds a queue, configures it and starts its reader.
func openQueue(c Config, number uint16, sink func([]stats.Packet) uint64, trace *tracing, fail func(error)) (*queue, error) {
	nf, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      number,
		MaxQueueLen:  c.QueueLen,
		MaxPacketLen: copyRange,
		Copymode:     nfqueue.NfQnlCopyPacket,
		// GSO: a super-packet is one packet, as the rule sees it, and is not
		// cut up first. Fail-open: a full queue lets packets pass.
		Flags:    nfqueue.NfQaCfgFlagGSO | nfqueue.NfQaCfgFlagFailOpen,
		AfFamily: unix.AF_UNSPEC,
		Logger:   libraryLog{c.Log},
	})
	if err != nil {
		return nil, fmt.Errorf("queue %d: %w", number, err)
	}
	s, err := openSocket(number, c.QueueLen, sink, trace, func(err error) {
		fail(fmt.Errorf("queue %d: %w", number, err))
	})
	if err != nil {
		return nil, errors.Join(err, nf.Close())
	}
	if err := nf.Con.Close(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	nf.Con = netlink.NewConn(s, s.portID)

	ctx, cancel := context.WithCancel(context.Background())
	q := &queue{number: number, nfqueue: nf, socket: s, cancel: cancel}
	err = nf.RegisterWithErrorFunc(ctx,
		func(nfqueue.Attribute) int { return 0 }, // the socket keeps packets to itself
		func(error) int { return 1 })             // the socket has reported it
	if err != nil {
		cancel()
		nf.Close()
		return nil, bindError(number, err)
	}
	return q, nil
}

// bindError explains why a queue could not be bound. A queue that another
// socket holds gives EPERM, as does a missing capability; but that one fails an
// earlier step, which only go-nfqueue's words tell.
func bindError(number uint16, err error) error {
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EPERM) && strings.Contains(err.Error(), "requested queue") {
		who := queueHolder(number)
		if who == "" {
			who = Unseen
		}
		return errQueueTaken(number, who)
	}
	if errors.Is(err, unix.EINVAL) { // no such netlink subsystem
		return fmt.Errorf("queue %d: this kernel has no NFQUEUE: load or build nfnetlink_queue: %w (%w)", number, unix.EOPNOTSUPP, err)
	}
	return fmt.Errorf("queue %d: %w; it takes CAP_NET_ADMIN in this network namespace", number, err)
}

// close lets go-nfqueue unbind, waits until the kernel has confirmed it, and
// closes the socket. A reader that does not come back is left alone: closing
// the socket unbinds as well, and this process is not going to last.
func (q *queue) close() error {
	q.cancel()
	select {
	case <-q.socket.gone:
		return q.nfqueue.Close()
	case <-time.After(drainLimit):
		return errors.Join(fmt.Errorf("unbind queue %d: %w", q.number, os.ErrDeadlineExceeded), q.socket.Close())
	}
}

// libraryLog hands go-nfqueue's messages to a logger. All of them are details.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Debugf(format string, args ...any) {
	l.log.Debug(fmt.Sprintf(format, args...), "from", "go-nfqueue")
}
func (l libraryLog) Errorf(format string, args ...any) { l.Debugf(format, args...) }
