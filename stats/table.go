package stats

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"kstat/stats/ring"
)

// DefaultCounter is how many packets a [Table] waits for between two
// publications if nobody says otherwise.
const DefaultCounter = 10

// ErrZeroCounter is returned by [Table.SetCounter] for 0: figures that are
// published after every 0 packets mean nothing.
var ErrZeroCounter = errors.New("counter must be 1 or more")

// Packet is what a Table needs to know of one packet.
type Packet struct {
	Class Class
	Bytes uint32 // length at the network layer, header included
}

// Table counts packets. The zero value is not ready; use [NewTable],
// [OpenTable] or [ViewTable].
type Table struct {
	*figures

	// write is held for the length of one batch, one SetCounter or one Reset.
	write  sync.Mutex
	ledger *ledger

	// These are in the place of ledger if somebody else writes.
	aside  *[NumClasses]row
	writer Writer

	feed *ring.Ring // of publications
}

// figures is what a Table shows, in one piece of memory without pointers.
//
// It is written while seq is odd, by one writer at a time, and read by
// anybody: hence atomics, which this package loads and stores but never needs
// to add to. The kernel writes it, too: struct figures of hook/bpf/count.c
// must be the same.
type figures struct {
	layout       atomic.Uint64 // figuresLayout, once it has been set up
	seq          atomic.Uint64 // odd while a writer is inside
	pending      atomic.Uint64 // < counter
	counted      atomic.Uint64
	publications atomic.Uint64
	interval     atomic.Uint64 // which one it is between two publications; never the same twice
	counter      atomic.Uint32
	watched      atomic.Uint32        // who is to be told of what, in bits: see feed.go
	atReset      atomic.Uint64        // what counted was at the last Reset
	seen         [words]atomic.Uint64 // classes whose live figures are not 0
	_            [64 - words*8%64]byte
	rows         [NumClasses]row
}

// view is figures that a kernel has written in two places, see there: what
// they say is to be added up.
type view struct {
	figures
	aside [NumClasses]row
}

// row is the figures of one class, in a cache line. The published ones are the
// live ones, but for a class that had a packet in the interval that goes on:
// its are previous. So whatever is to be published is so when the next interval
// begins, with one store.
type row struct {
	live     cell
	previous cell          // what live was before
	interval atomic.Uint64 // the one in which it had its last packet
	base     cell          // what live was at the last Reset
	_        [8]byte
}

// published returns the published figures, in an interval.
func (r *row) published(interval uint64) Figures {
	if r.interval.Load() == interval {
		return r.previous.load()
	}
	return r.live.load()
}

// ledger is figures that a process writes, and may not live to write to the
// end. It is written with Table.write held.
type ledger struct {
	figures
	undo undoLog
}

// words is how many 64-bit words hold one bit per class.
const words = (NumClasses + 63) / 64

// figuresLayout changes whenever the fields above do.
const figuresLayout = 0x6b73746174<<8 | 3 // "kstat", version 3

// LedgerSize is how many bytes of memory [OpenTable] needs, ViewSize how many
// [ViewTable].
const (
	LedgerSize = int(unsafe.Sizeof(ledger{}))
	ViewSize   = int(unsafe.Sizeof(view{}))
)

// cell is a pair of figures.
type cell struct{ packets, bytes atomic.Uint64 }

func (c *cell) load() Figures { return Figures{c.packets.Load(), c.bytes.Load()} }

func (c *cell) store(f Figures) {
	c.packets.Store(f.Packets)
	c.bytes.Store(f.Bytes)
}

// NewTable returns a table that publishes after every [DefaultCounter]
// packets.
func NewTable() *Table {
	t := tableIn(new(ledger))
	t.setUp()
	return t
}

func tableIn(l *ledger) *Table {
	t := &Table{figures: &l.figures, ledger: l}
	t.feed = t.newFeed()
	return t
}

// OpenTable returns a table that lives in memory, which must be aligned to 8
// bytes, and either zeros or the memory of an earlier table, whose figures then
// go on. A change that a process did not finish, because it was killed, is
// taken back. One process at a time may write.
//
// The error is for memory that is too small or holds something else.
func OpenTable(memory []byte) (*Table, error) {
	if len(memory) < LedgerSize {
		return nil, fmt.Errorf("a table needs %d bytes of memory, here are %d", LedgerSize, len(memory))
	}
	t := tableIn((*ledger)(unsafe.Pointer(unsafe.SliceData(memory))))
	switch t.layout.Load() {
	case 0:
		t.setUp()
	case figuresLayout:
		t.recover()
	default:
		return nil, errForeign
	}
	t.Forget() // whoever did was another process's
	return t, nil
}

var errForeign = errors.New("the memory holds another version's table")

// A Writer changes the figures of a table that others write: the kernel, for
// one.
type Writer interface {
	// SetCounter and Reset do what a Table's do. SetCounter is not called
	// with 0.
	SetCounter(n uint32) error
	Reset() error
	// Settle returns when every packet that was on its way to be counted has
	// been.
	Settle()
}

// ViewTable returns a table that shows what is in memory, as [OpenTable] does,
// and leaves every change to w. Its Add must not be called. Memory that is all
// zeros is set up, before w may write to it.
func ViewTable(memory []byte, w Writer) (*Table, error) {
	if len(memory) < ViewSize {
		return nil, fmt.Errorf("a view needs %d bytes of memory, here are %d", ViewSize, len(memory))
	}
	v := (*view)(unsafe.Pointer(unsafe.SliceData(memory)))
	t := &Table{figures: &v.figures, aside: &v.aside, writer: w}
	t.feed = t.newFeed()
	switch t.layout.Load() {
	case 0:
		t.setUp()
	case figuresLayout:
	default:
		return nil, errForeign
	}
	t.Forget()
	return t, nil
}

func (t *Table) setUp() {
	t.counter.Store(DefaultCounter)
	t.layout.Store(figuresLayout)
}

// recover takes back what a writer that was killed had begun.
func (t *Table) recover() {
	if t.seq.Load()%2 == 0 {
		return
	}
	t.ledger.undo.back(t.figures)
	t.seq.Add(1)
}

// Add counts the packets of a batch, in their order, and publishes if the
// batch holds a packet that is due to. It keeps no reference to batch and
// allocates nothing. Several goroutines may call it at once; a batch is then
// wholly before or wholly after another.
//
// A batch of any size can make several publications due. Nobody who reads can
// tell them from the last one: the caller releases the packets of a batch only
// after Add returned, so that all of them arrive at once for whoever looks. Only
// the last is carried out, which makes a counter of 1 as cheap as any other. But
// a [Watcher] is told of each.
//
// It returns how many packets were counted before the batch: the first has the
// next number.
func (t *Table) Add(batch []Packet) (before uint64) {
	if len(batch) == 0 {
		return t.Counted()
	}
	t.begin()
	before = t.counted.Load()
	whole := false
	defer func() {
		if !whole { // a panic: half a batch is none
			t.ledger.undo.back(t.figures)
		}
		t.end()
	}()

	every := uint64(t.counter.Load())
	arrived := t.pending.Load() + uint64(len(batch))
	after := arrived % every // packets behind the last publication
	told := false
	if arrived < every {
		t.count(batch)
	} else {
		if t.Watched() {
			t.announce(batch, every)
			told = true
		}
		last := len(batch) - int(after)
		t.count(batch[:last])
		t.publish()
		t.publications.Store(t.publications.Load() + arrived/every)
		t.count(batch[last:])
	}
	t.pending.Store(after)
	t.counted.Store(before + uint64(len(batch)))
	if told {
		t.feed.Commit()
	}
	whole = true
	return before
}

// count adds packets to the live figures. Traffic comes in runs of one class,
// so a run is summed up before it is stored.
func (t *Table) count(packets []Packet) {
	for len(packets) > 0 {
		class := packets[0].Class
		var run Figures
		for _, p := range packets {
			if p.Class != class {
				break
			}
			run.Packets++
			run.Bytes += uint64(p.Bytes)
		}
		packets = packets[run.Packets:]

		r := &t.rows[class]
		now := r.live.load()
		t.ledger.undo.note(class, r)
		if now.Packets == 0 {
			word := &t.seen[class/64]
			word.Store(word.Load() | 1<<(class%64))
		}
		if interval := t.interval.Load(); r.interval.Load() != interval {
			r.previous.store(now)
			r.interval.Store(interval)
		}
		r.live.store(now.Plus(run))
	}
}

// publish makes the live figures the published ones.
func (t *Table) publish() { t.interval.Store(t.interval.Load() + 1) }

// SetCounter makes n the number of packets between two publications. If that
// many are pending already, the figures are published at once. It returns
// ErrZeroCounter, and changes nothing, if n is 0. Another error is a [Writer]'s.
func (t *Table) SetCounter(n uint32) error {
	if n == 0 {
		return ErrZeroCounter
	}
	if t.writer != nil {
		return t.writer.SetCounter(n)
	}
	t.begin()
	defer t.end()
	t.counter.Store(n)
	if t.pending.Load() >= uint64(n) {
		t.publish()
		t.publications.Store(t.publications.Load() + 1)
		t.pending.Store(0)
		if t.Watched() {
			p := t.asPublished(time.Now().UnixNano())
			t.feed.Claim(1)
			t.put(0, &p)
			t.feed.Commit()
		}
	}
	return nil
}

// Reset sets every published and pending figure to zero. What [Row.Total] and
// [Table.Counted] tell goes on from where it was. The error is a [Writer]'s.
func (t *Table) Reset() error {
	if t.writer != nil {
		return t.writer.Reset()
	}
	t.begin()
	defer t.end()
	t.publish()
	for class := range t.rows {
		r := &t.rows[class]
		if now := r.live.load(); r.base.load() != now {
			t.ledger.undo.note(Class(class), r)
			r.base.store(now)
		}
	}
	t.pending.Store(0)
	t.atReset.Store(t.counted.Load())
	return nil
}

// Counter returns the number of packets between two publications.
func (t *Table) Counter() uint32 { return t.counter.Load() }

// Counted returns the number of packets added since the table was made. Reset
// does not touch it.
func (t *Table) Counted() uint64 { return t.counted.Load() }

// begin and end enclose every change.
func (t *Table) begin() {
	t.write.Lock()
	t.ledger.undo.open(t.figures)
	t.seq.Add(1)
}

func (t *Table) end() {
	t.seq.Add(1)
	t.write.Unlock()
}

// Figures is what is counted of one class.
type Figures struct {
	Packets uint64
	Bytes   uint64 // at the network layer, headers included
}

// Row is what a Snapshot knows of one class.
type Row struct {
	Class     Class
	Published Figures // since the last Reset, as of the last publication
	Live      Figures // since the last Reset, as of this moment
	Total     Figures // since the table was made: never decreases
}

// Snapshot is a Table at one moment: all of its figures belong together.
type Snapshot struct {
	Counter      uint32
	Pending      uint64 // packets since the last publication
	Publications uint64 // publications since the table was made
	Rows         []Row  // one per class that ever had a packet, ascending
}

// Snapshot copies the table. It waits for no lock; a writer that is inside is
// inside for the length of one batch.
func (t *Table) Snapshot() *Snapshot {
	s := &Snapshot{Rows: make([]Row, 0, 16)}
	for {
		before := t.seq.Load()
		if before%2 == 0 {
			t.copyTo(s)
			if t.seq.Load() == before {
				return s
			}
		}
		runtime.Gosched()
	}
}

func (t *Table) copyTo(s *Snapshot) {
	s.Counter = t.counter.Load()
	s.Pending = t.pending.Load()
	s.Publications = t.publications.Load()
	s.Rows = s.Rows[:0]
	interval := t.interval.Load()
	for word := range t.seen {
		for set := t.seen[word].Load(); set != 0; set &= set - 1 {
			class := word*64 + bits.TrailingZeros64(set)
			r := &t.rows[class]
			total, published, base := r.live.load(), r.published(interval), r.base.load()
			if t.aside != nil {
				more := &t.aside[class]
				total, published = total.Plus(more.live.load()), published.Plus(more.published(interval))
			}
			s.Rows = append(s.Rows, Row{
				Class:     Class(class),
				Published: published.minus(base),
				Live:      total.minus(base),
				Total:     total,
			})
		}
	}
}

func (f Figures) minus(g Figures) Figures {
	return Figures{f.Packets - g.Packets, f.Bytes - g.Bytes}
}

// Plus returns the sum of f and g.
func (f Figures) Plus(g Figures) Figures {
	return Figures{f.Packets + g.Packets, f.Bytes + g.Bytes}
}

// Published returns the published figures of protocol p in both families
// together.
func (s *Snapshot) Published(p Protocol) Figures {
	var sum Figures
	for i := range s.Rows {
		if s.Rows[i].Class.Protocol() == p {
			sum = sum.Plus(s.Rows[i].Published)
		}
	}
	return sum
}
