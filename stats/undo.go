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
	interval     atomic.Uint64
	atReset      atomic.Uint64
	length       atomic.Uint64
	entries      [NumClasses]undoEntry // each class once
	noted        [words]atomic.Uint64  // which are in entries
}

// undoEntry is what one row held.
type undoEntry struct {
	class atomic.Uint64
	row   row
}

// copyFrom copies a row.
func (r *row) copyFrom(from *row) {
	r.live.store(from.live.load())
	r.previous.store(from.previous.load())
	r.interval.Store(from.interval.Load())
	r.base.store(from.base.load())
}

// open begins a change. Bits of seen are never taken back: a class that was
// seen too early shows as 0.
func (u *undoLog) open(f *figures) {
	for i, n := uint64(0), u.length.Load(); i < n; i++ {
		u.noted[u.entries[i].class.Load()/64].Store(0)
	}
	u.length.Store(0)
	u.counter.Store(f.counter.Load())
	u.pending.Store(f.pending.Load())
	u.counted.Store(f.counted.Load())
	u.publications.Store(f.publications.Load())
	u.interval.Store(f.interval.Load())
	u.atReset.Store(f.atReset.Load())
}

// note keeps what a row holds, if this change has not overwritten it yet.
func (u *undoLog) note(class Class, r *row) {
	noted := &u.noted[class/64]
	bit := uint64(1) << (class % 64)
	set := noted.Load()
	if set&bit != 0 {
		return
	}
	n := u.length.Load()
	e := &u.entries[n]
	e.class.Store(uint64(class))
	e.row.copyFrom(r)
	u.length.Store(n + 1)
	noted.Store(set | bit)
}

// back takes the change back. It may itself be interrupted and begun again.
func (u *undoLog) back(f *figures) {
	for i, n := uint64(0), u.length.Load(); i < n; i++ {
		e := &u.entries[i]
		f.rows[e.class.Load()].copyFrom(&e.row)
	}
	f.counter.Store(u.counter.Load())
	f.pending.Store(u.pending.Load())
	f.counted.Store(u.counted.Load())
	f.publications.Store(u.publications.Load())
	f.interval.Store(u.interval.Load())
	f.atReset.Store(u.atReset.Load())
}
