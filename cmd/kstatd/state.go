package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
	"kstat/metrics"
	"kstat/stats"
)

// state is what outlives a worker: memory that the supervisor holds and the
// worker counts in. One worker at a time writes it, but for what the
// supervisor says of its workers.
type state struct {
	table *stats.Table
	*record

	// proved is the worker's own: when it last proved that it works.
	proved atomic.Pointer[time.Time]
}

// record is the part of the memory behind the table.
type record struct {
	// By the worker.
	started   atomic.Bool   // what was last written to start
	beats     atomic.Uint64 // how often it has proved that it works
	uncounted atomic.Uint64
	repairs   atomic.Uint64
	flushes   atomic.Uint64
	dropped   atomic.Uint64
	links     [len(hook.Links{})]atomic.Uint32 // that packets are counted by, see hook.Opened
	rule      struct {                         // that packets are queued by, likewise
		kind               atomic.Uint32 // of its table's name
		counted, uncounted atomic.Uint64
	}

	// By the supervisor.
	engine   atomic.Int32 // a hook.Kind
	held     atomic.Int32 // how many files a worker gets of what the engine holds
	restarts atomic.Uint64

	// By the supervisor, before there is a worker.
	born      atomic.Int64 // when the figures were 0, in nanoseconds since 1970
	listening atomic.Int32 // how many sockets a worker gets
	guarded   atomic.Bool  // there is a token
	token     metrics.Token

	// By the worker: what metrics have shown of counters that a worker which
	// dies does not keep to the last.
	shown struct{ uncounted, repairs, flushes, dropped atomic.Uint64 }

	// Begun by the supervisor, ended by the worker.
	gaps  [keptGaps]gap
	began atomic.Uint64 // how many gaps have begun
	ended atomic.Uint64 // how many have ended: began, or one less
}

// gap is a time without counting, in nanoseconds since 1970.
type gap struct{ from, to atomic.Int64 }

const keptGaps = 16

// stateSize is how many bytes of memory a state takes.
const stateSize = stats.LedgerSize + int(unsafe.Sizeof(record{}))

// newMemory returns memory of this process alone for a state.
func newMemory() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(new([stateSize / 8]uint64))), stateSize)
}

// mapMemory returns the memory of a state that a file holds: zeros, or an
// earlier worker's.
func mapMemory(file *os.File) ([]byte, error) {
	memory, err := unix.Mmap(int(file.Fd()), 0, stateSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the figures: %w", err)
	}
	return memory, nil
}

// recordIn returns the part behind the table.
func recordIn(memory []byte) *record { return (*record)(unsafe.Pointer(&memory[stats.LedgerSize])) }

// openState returns the state in memory, whose figures are where holding has
// them.
func openState(memory []byte, holding hook.Holding) (*state, error) {
	table, err := holding.Table(memory)
	if err != nil {
		return nil, err
	}
	return &state{table: table, record: recordIn(memory)}, nil
}

// newStateFile returns a file in memory for a state.
func newStateFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("kstat", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the figures: %w", err)
	}
	file := os.NewFile(uintptr(fd), "kstat")
	if err := file.Truncate(int64(stateSize)); err != nil {
		file.Close()
		return nil, fmt.Errorf("memory for the figures: %w", err)
	}
	return file, nil
}

// before is the engine's status as of the last beat.
func (s *state) before() hook.Status {
	return hook.Status{
		Uncounted: s.uncounted.Load(),
		Repairs:   s.repairs.Load(),
		Flushes:   s.flushes.Load(),
		Dropped:   s.dropped.Load(),
	}
}

// beat keeps the engine's status and says that the worker works. The engine
// calls it, on one goroutine. A rule that had to be put back may have been gone
// since the engine's last look at it, about a second before: that is a gap.
func (s *state) beat(status hook.Status) {
	now := time.Now()
	if status.Repairs != s.repairs.Load() {
		s.beginGap(s.proved.Load().Add(-time.Second))
		s.endGap(now)
	}
	s.proved.Store(&now)
	s.uncounted.Store(status.Uncounted)
	s.repairs.Store(status.Repairs)
	s.flushes.Store(status.Flushes)
	s.dropped.Store(status.Dropped)
	s.beats.Add(1)
}

// The kinds of names that a rule's table has.
const (
	noTable = iota
	firstTable
	fallbackTable
)

// opened keeps where packets are seen. The engine calls it.
func (s *state) opened(o hook.Opened) {
	for i, link := range o.Links {
		s.links[i].Store(link)
	}
	s.rule.kind.Store(noTable)
	s.rule.counted.Store(o.Counted)
	s.rule.uncounted.Store(o.Uncounted)
	switch o.Table {
	case "":
	case tableNames[firstTable]:
		s.rule.kind.Store(firstTable)
	default:
		s.rule.kind.Store(fallbackTable)
	}
}

// kept returns the links that packets are counted by.
func (s *state) kept() (links hook.Links) {
	for i := range links {
		links[i] = s.links[i].Load()
	}
	return links
}

// queueing reports whether there is a rule that queues packets for a worker.
func (s *state) queueing() bool { return s.rule.kind.Load() != noTable }

// rescue reads the counters of a worker's rule in the place of that worker,
// which hangs and is about to be killed, as they go with it: what they have
// seen and it has not counted is uncounted, what is in its queues included,
// because the kernel is going to drop that.
func (s *state) rescue(c hook.Config) error {
	if !s.queueing() {
		return nil
	}
	kind := s.rule.kind.Load()
	table := tableNames[kind]
	if kind == fallbackTable {
		table = fmt.Sprintf(table, c.Queue)
	}
	seen, unarmed, err := hook.Counters(table)
	if err != nil {
		return err
	}
	counted := s.table.Counted() - s.rule.counted.Load()
	s.uncounted.Store(s.rule.uncounted.Load() + unarmed + uint64(max(0, int64(seen-counted))))
	return nil
}

var tableNames = [...]string{firstTable: "kstat", fallbackTable: "kstat-%d"}

// beginGap notes that counting has ceased, if it was on and has not ceased
// before.
func (s *state) beginGap(at time.Time) {
	began := s.began.Load()
	if !s.started.Load() || began != s.ended.Load() {
		return
	}
	g := &s.gaps[began%keptGaps]
	g.from.Store(at.UnixNano())
	g.to.Store(0)
	s.began.Store(began + 1)
}

// endGap notes that counting goes on.
func (s *state) endGap(at time.Time) {
	began := s.began.Load()
	if began == s.ended.Load() {
		return
	}
	s.gaps[(began-1)%keptGaps].to.Store(at.UnixNano())
	s.ended.Store(began)
}

// health is what the tree shows of all that.
func (s *state) health(status hook.Status) fs.Health {
	h := fs.Health{Restarts: s.restarts.Load(), Repairs: status.Repairs, Flushes: status.Flushes, Gaps: []fs.Gap{}}
	began, ended := s.began.Load(), s.ended.Load()
	for i := began - min(began, keptGaps); i < began; i++ {
		g := &s.gaps[i%keptGaps]
		from, to := time.Unix(0, g.from.Load()), time.Unix(0, g.to.Load())
		open := i >= ended
		if open {
			to = time.Now()
		}
		seconds := max(0, to.Sub(from).Seconds()) // somebody may have set the clock
		h.Gaps = append(h.Gaps, fs.Gap{Since: from, Seconds: seconds, Open: open})
	}
	return h
}
