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

// ErrClosed is returned by [NFQueue.Start] and [NFQueue.Stop] of an engine
// that has ended. It wraps ENODEV.
var ErrClosed = fmt.Errorf("the engine has ended: %w", unix.ENODEV)

// NFQueue is the engine that gets packets from NFQUEUE. Its methods may be
// called by any goroutine.
type NFQueue struct {
	config Config
	table  *stats.Table

	reservations []*reservation
	// failed is told when a session cannot go on.
	failed chan error

	// mu is held for the length of a transition.
	mu      sync.Mutex
	session *session // nil when stopped
	closed  bool
	// missed is what sessions that ended did not count.
	missed uint64

	// started mirrors session != nil, for those who must not wait.
	started atomic.Bool
}

// New returns an engine that adds to table what it sees. It reserves the
// queue numbers of c among the kstatds of this network namespace, and does
// nothing else before Start: there is no rule and no queue. [NFQueue.Close],
// which is also the end of [NFQueue.Run], gives the numbers back.
//
// The error wraps EBUSY and names the holder if a number is taken.
func New(c Config, table *stats.Table) (*NFQueue, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &NFQueue{config: c, table: table, failed: make(chan error, 1)}
	for i := range c.Queues {
		queue := c.Queue + uint16(i)
		r, err := reserve(queue)
		if err != nil {
			e.release()
			return nil, err
		}
		e.reservations = append(e.reservations, r)
		if who := queueHolder(queue); who != "" {
			e.release()
			return nil, errQueueTaken(queue, who)
		}
	}
	return e, nil
}

func errQueueTaken(queue uint16, who string) error {
	return fmt.Errorf("queue %d is held by %s: stop that, or choose another number with --queue: %w", queue, who, unix.EBUSY)
}

func (e *NFQueue) release() {
	for _, r := range e.reservations {
		r.close()
	}
	e.reservations = nil
}

// Run keeps the engine until ctx ends or packets can no longer be read, which
// is its error, and closes it.
func (e *NFQueue) Run(ctx context.Context) error {
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-e.failed:
	}
	return errors.Join(cause, e.Close())
}

// Close stops the engine for good. Nothing is left of it.
func (e *NFQueue) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.stopLocked()
	e.closed = true
	e.release()
	return err
}

// Name returns the engine's name.
func (e *NFQueue) Name() string { return "nfqueue" }

// Point returns the name of the hook.
func (e *NFQueue) Point() string { return e.config.Point.String() }

// Started reports whether packets are being counted. It waits for nobody.
func (e *NFQueue) Started() bool { return e.started.Load() }

// Start begins to count: every packet that arrives at the hook after it
// returned is seen. It does nothing if the engine is started already. The
// error wraps an errno that says why: EBUSY, EPERM, EOPNOTSUPP, ….
func (e *NFQueue) Start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
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
	return nil
}

// Stop ends counting: when it returns no packet is in flight and the figures
// are final. It does nothing if the engine is stopped already.
func (e *NFQueue) Stop() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	return e.stopLocked()
}

func (e *NFQueue) stopLocked() error {
	if e.session == nil {
		return nil
	}
	missed, err := e.session.close()
	if n := e.session.refused(); n > 0 {
		e.config.Log.Warn("packets were gone before they were accepted: somebody deleted a base chain", "verdicts", n)
	}
	e.missed += missed
	e.session = nil
	e.started.Store(false)
	return err
}

// Uncounted returns how many packets passed the hook while the engine was
// started and were not counted. At rest it is exact; under load it leaves out
// what may still be on its way.
func (e *NFQueue) Uncounted() (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session == nil {
		return e.missed, nil
	}
	missed, err := e.session.uncounted()
	return e.missed + missed, err
}

// session is the time between a start and a stop.
type session struct {
	table  *stats.Table
	before uint64 // what table had counted when the session began
	rule   *rule
	queues []*queue
}

// open starts a session. The queues come before the rule: a queue drops
// packets between its binding and the end of its configuration.
func (e *NFQueue) open() (_ *session, err error) {
	s := &session{table: e.table, before: e.table.Counted()}
	defer func() {
		if err != nil {
			s.unbind()
		}
	}()
	for i := range e.config.Queues {
		q, err := openQueue(e.config, e.config.Queue+uint16(i), e.table.Add, e.fail)
		if err != nil {
			return nil, err
		}
		s.queues = append(s.queues, q)
	}
	s.rule, err = addRule(e.config)
	if err != nil {
		return nil, err
	}
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

// close ends the session and returns how many packets it did not count. It
// goes on after an error, so that as little as possible is left.
func (s *session) close() (missed uint64, err error) {
	errs := []error{s.rule.disarm()}
	gracePeriod()
	for _, q := range s.queues {
		errs = append(errs, q.socket.drain(drainLimit))
	}
	missed, err = s.uncounted()
	errs = append(errs, err, s.unbind())
	awaitIdleQueues()
	errs = append(errs, s.rule.remove())
	return missed, errors.Join(errs...)
}

func (s *session) unbind() error {
	var errs []error
	for _, q := range s.queues {
		errs = append(errs, q.close())
	}
	return errors.Join(errs...)
}

// uncounted returns how many of the packets that the rule has seen were not
// counted. Its order makes the error one-sided: what is still waiting when the
// counter has been read may be counted a moment later, and is no loss.
func (s *session) uncounted() (uint64, error) {
	seen, err := s.rule.seen()
	if err != nil {
		return 0, err
	}
	onItsWay := uint64(waiting(s.holds))
	counted := s.table.Counted() - s.before + onItsWay
	return seen - min(seen, counted), nil
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
// synchronize_rcu(). Kernels with nohz_full refuse it; there a pause has to
// do, which is a thousand times longer than a packet is inside a rule.
func gracePeriod() {
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	if errno != 0 {
		time.Sleep(50 * time.Millisecond)
	}
}

const membarrierGlobal = 1 << 0 // MEMBARRIER_CMD_GLOBAL

// awaitIdleQueues waits, for a short while, for a moment in which no queue of
// the network namespace holds a packet. Deleting a base chain makes the kernel
// drop what is queued anywhere in the namespace (nf_queue_nf_hook_drop): our
// queues are empty by then, those of a firewall or an IDS beside us may not
// be.
func awaitIdleQueues() {
	for range 200 {
		if waiting(func(int) bool { return true }) == 0 {
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
func openQueue(c Config, number uint16, sink func([]stats.Packet), fail func(error)) (*queue, error) {
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
	s, err := openSocket(number, c.QueueLen, sink, func(err error) {
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
			who = unseen
		}
		return errQueueTaken(number, who)
	}
	return fmt.Errorf("queue %d: %w", number, err)
}

// close lets go-nfqueue unbind, waits until the kernel has confirmed it, and
// closes the socket.
func (q *queue) close() error {
	q.cancel()
	var late error
	select {
	case <-q.socket.unbound:
	case <-time.After(drainLimit):
		late = fmt.Errorf("unbind queue %d: %w", q.number, os.ErrDeadlineExceeded)
	}
	return errors.Join(late, q.nfqueue.Close())
}

// libraryLog hands go-nfqueue's messages to a logger. All of them are details.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Debugf(format string, args ...any) {
	l.log.Debug(fmt.Sprintf(format, args...), "from", "go-nfqueue")
}
func (l libraryLog) Errorf(format string, args ...any) { l.Debugf(format, args...) }
