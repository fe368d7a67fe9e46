package stats

import "sync/atomic"

// undoLog holds what a change has overwritten, so that one which its process
// did not live to finish can be taken back. A process that is killed has made
// its stores up to some instruction, and none behind it: each entry is written
// before the store that it is about.
type undoLog struct {
	counter      atomic.Uint32
	pending      atomic.Uint64
	counted      atomic.Uint64
	publications atomic.Uint64
	dirty        [words]atomic.Uint64
	length       atomic.Uint64
	entries      [3 * NumClasses]undoEntry // each class once of each kind
	noted        [3][words]atomic.Uint64   // which are in entries
}

// undoEntry is the figures that one cell held.
type undoEntry struct {
	cell  atomic.Uint64 // kind and class
	value cell
}

// The cells of a class.
const (
	undoLive = iota
	undoPublished
	undoBase
)

// open begins a change. Bits of seen are never taken back: a class that was
// seen too early shows as 0.
func (u *undoLog) open(l *ledger) {
	for i, n := uint64(0), u.length.Load(); i < n; i++ {
		kind, class := split(u.entries[i].cell.Load())
		u.noted[kind][class/64].Store(0)
	}
	u.length.Store(0)
	u.counter.Store(l.counter.Load())
	u.pending.Store(l.pending.Load())
	u.counted.Store(l.counted.Load())
	u.publications.Store(l.publications.Load())
	for i := range u.dirty {
		u.dirty[i].Store(l.dirty[i].Load())
	}
}

// note keeps what a cell holds, if this change has not overwritten it yet.
func (u *undoLog) note(kind int, class Class, value Figures) {
	noted := &u.noted[kind][class/64]
	bit := uint64(1) << (class % 64)
	set := noted.Load()
	if set&bit != 0 {
		return
	}
	n := u.length.Load()
	e := &u.entries[n]
	e.cell.Store(uint64(kind)<<32 | uint64(class))
	e.value.store(value)
	u.length.Store(n + 1)
	noted.Store(set | bit)
}

// back takes the change back. It may itself be interrupted and begun again.
func (u *undoLog) back(l *ledger) {
	for i, n := uint64(0), u.length.Load(); i < n; i++ {
		e := &u.entries[i]
		kind, class := split(e.cell.Load())
		value := e.value.load()
		switch kind {
		case undoLive:
			l.live[class].store(value)
		case undoPublished:
			l.published[class].store(value)
		case undoBase:
			l.base[class].store(value)
		}
	}
	l.counter.Store(u.counter.Load())
	l.pending.Store(u.pending.Load())
	l.counted.Store(u.counted.Load())
	l.publications.Store(u.publications.Load())
	for i := range u.dirty {
		l.dirty[i].Store(u.dirty[i].Load())
	}
}

func split(cell uint64) (kind int, class Class) { return int(cell >> 32), Class(cell) }
