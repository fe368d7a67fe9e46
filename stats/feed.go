package stats

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Publication is what was published at one publication.
type Publication struct {
	Number  uint64 // the first since the table was made is 1
	TCP     uint64 // packets of TCP since the last Reset, both families
	Packets uint64 // those of all protocols
	Time    int64  // nanoseconds since 1970
}

// Kept is how many publications a [Watcher] can be behind.
const Kept = 4096

// maxWatchers is how many watchers a table has at most: everybody may read the
// figures, and the process that counts is to live.
const maxWatchers = 1024

// pause is between two times that watchers are woken, so that many publications
// cost one wake-up.
const pause = time.Millisecond

var (
	// ErrTooManyWatchers is returned by [Table.Watch].
	ErrTooManyWatchers = errors.New("1024 watch already")
	// ErrInterrupted and ErrNoNews are returned by [Watcher.Next].
	ErrInterrupted = errors.New("interrupted")
	ErrNoNews      = errors.New("no publication yet")
)

// feed is the latest publications. One goroutine at a time adds, any number
// read, and neither waits for the other: a watcher that was overtaken while it
// copied a slot sees so in claimed.
type feed struct {
	slots   atomic.Pointer[[Kept]slot] // made by the first watcher
	claimed atomic.Uint64              // publications that have, or are just getting, a slot
	added   atomic.Uint64              // publications that have one
	known   atomic.Uint64              // none up to this number is still to be added

	news  atomic.Pointer[chan struct{}] // made by who waits, closed by the crier
	bell  chan struct{}                 // rung by who adds, for the crier
	ended atomic.Bool

	mu       sync.Mutex // nobody who adds takes it
	watchers int
	stop     chan struct{} // ends the crier
}

type slot struct {
	number, tcp, packets atomic.Uint64
	time                 atomic.Int64
}

// Watcher sees every publication from when it was made, or how many it missed.
// Its methods are for one goroutine at a time.
type Watcher struct {
	table *Table
	feed  *feed
	at    uint64 // how many were added before the one it looks for
	next  uint64 // the number of that one
}

// Watch returns a watcher, which must be closed. Every publication after Watch
// has returned is to be seen; those before are not.
func (t *Table) Watch() (*Watcher, error) {
	f := &t.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers == maxWatchers {
		return nil, ErrTooManyWatchers
	}
	if f.watchers++; f.watchers == 1 {
		if f.slots.Load() == nil {
			f.slots.Store(new([Kept]slot))
			f.bell = make(chan struct{}, 1)
		}
		f.stop = make(chan struct{})
		go f.cry(f.stop)
		t.watched.Store(1)
	}
	at := f.added.Load() // first, so that none comes between
	return &Watcher{table: t, feed: f, at: at, next: t.Publications() + 1}, nil
}

// Close ends the watch. While nobody watches, publications are not added.
func (w *Watcher) Close() {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers--; f.watchers == 0 {
		w.table.watched.Store(0)
		close(f.stop)
	}
}

// Finish says that nothing will be published any more: watchers are shown what
// they have not seen, and then the end.
func (t *Table) Finish() {
	t.feed.ended.Store(true)
	t.feed.wake()
}

// Next waits for the next publication and returns it; or how many the watcher
// has missed, if it was too slow, before it returns those that follow. The error
// is io.EOF after [Table.Finish], ErrInterrupted if interrupt was closed
// meanwhile, and ErrNoNews if it would have to wait and interrupt is nil.
func (w *Watcher) Next(interrupt <-chan struct{}) (p Publication, missed uint64, err error) {
	for {
		ended := w.feed.ended.Load()
		if p, missed, ok := w.take(); ok {
			return p, missed, nil
		}
		switch {
		case ended:
			return Publication{}, 0, io.EOF
		case interrupt == nil:
			return Publication{}, 0, ErrNoNews
		}
		news := w.feed.await()
		if w.feed.added.Load() != w.at || w.feed.known.Load() >= w.next || w.feed.ended.Load() {
			continue // it came before somebody could know that we wait
		}
		select {
		case <-news:
		case <-interrupt:
			return Publication{}, 0, ErrInterrupted
		}
	}
}

// take returns what is there.
func (w *Watcher) take() (p Publication, missed uint64, ok bool) {
	f := w.feed
	for {
		if known, added := f.known.Load(), f.added.Load(); w.at == added {
			if known < w.next {
				return Publication{}, 0, false
			}
			missed, w.next = known+1-w.next, known+1
			return Publication{}, missed, true
		}
		p = f.slots.Load()[w.at%Kept].load()
		if f.claimed.Load()-w.at > Kept {
			// Not to the oldest: that would be overtaken again at once.
			w.at = f.added.Load() - Kept/2
			continue
		}
		if p.Number > w.next {
			missed, w.next = p.Number-w.next, p.Number
			return Publication{}, missed, true
		}
		w.at++
		if p.Number == w.next { // else it is older than the watcher
			w.next++
			return p, 0, true
		}
	}
}

func (s *slot) load() Publication {
	return Publication{Number: s.number.Load(), TCP: s.tcp.Load(), Packets: s.packets.Load(), Time: s.time.Load()}
}

func (s *slot) store(p *Publication) {
	s.number.Store(p.Number)
	s.tcp.Store(p.TCP)
	s.packets.Store(p.Packets)
	s.time.Store(p.Time)
}

// claim announces that n are going to be put.
func (f *feed) claim(n uint64) { f.claimed.Store(f.added.Load() + n) }

// put stores the i-th of those that were claimed.
func (f *feed) put(i uint64, p *Publication) { f.slots.Load()[(f.added.Load()+i)%Kept].store(p) }

// commit adds what was claimed.
func (f *feed) commit() {
	f.added.Store(f.claimed.Load())
	f.ring()
}

// ring tells the crier, if somebody waits. It neither waits nor allocates.
func (f *feed) ring() {
	if f.news.Load() == nil {
		return
	}
	select {
	case f.bell <- struct{}{}:
	default: // it has been rung
	}
}

// cry wakes who waits whenever the bell was rung: there may be many of them,
// and who rings has packets to count.
func (f *feed) cry(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-f.bell:
			f.wake()
			time.Sleep(pause)
		}
	}
}

// await returns a channel that is closed when there is news.
func (f *feed) await() <-chan struct{} {
	fresh := make(chan struct{})
	for {
		if news := f.news.Load(); news != nil {
			return *news
		}
		if f.news.CompareAndSwap(nil, &fresh) {
			return fresh
		}
	}
}

func (f *feed) wake() {
	if news := f.news.Swap(nil); news != nil {
		close(*news)
	}
}

// announce puts every publication that a batch makes due, each with the
// figures of its own packet, and leaves it to the caller to commit them. The
// batch has not been counted yet.
func (t *Table) announce(batch []Packet, every uint64) {
	pending := t.pending.Load()
	t.feed.claim((pending + uint64(len(batch))) / every)
	p := t.asPublished(time.Now().UnixNano())
	first := p.Number
	for _, n := range batch {
		if n.Class.Protocol() == TCP {
			p.TCP++
		}
		p.Packets++
		if pending++; pending == every {
			p.Number++
			t.feed.put(p.Number-first-1, &p)
			pending = 0
		}
	}
}

// asPublished is a publication of what has been counted by now. The caller
// holds t.write.
func (t *Table) asPublished(now int64) Publication {
	p := Publication{
		Number:  t.publications.Load(),
		Packets: t.counted.Load() - t.atReset.Load(),
		Time:    now,
	}
	for _, f := range []Family{IPv4, IPv6} {
		r := &t.rows[ClassOf(f, TCP)]
		p.TCP += r.live.packets.Load() - r.base.packets.Load()
	}
	return p
}

// Publications returns how many there have been since the table was made: all
// of them are complete, and who watches by now is told of all that follow.
func (t *Table) Publications() uint64 {
	for {
		before := t.seq.Load()
		if before%2 == 0 {
			n := t.publications.Load()
			if t.seq.Load() == before {
				return n
			}
		}
		runtime.Gosched()
	}
}

// Announce is for whoever publishes in the place of a table that is a view: it
// shows publications to those who watch. Numbers ascend; one that is left out
// counts as missed. One goroutine at a time may call it.
func (t *Table) Announce(publications []Publication) {
	if t.watched.Load() == 0 {
		return
	}
	t.feed.claim(uint64(len(publications)))
	for i := range publications {
		t.feed.put(uint64(i), &publications[i])
	}
	t.feed.commit()
}

// Announced says that no publication up to a number will be announced any
// more. The same goroutine calls it.
func (t *Table) Announced(number uint64) {
	t.feed.known.Store(number)
	t.feed.ring()
}
