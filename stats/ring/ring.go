// Package ring passes numbered records from one writer to many readers, none of
// whom waits for another.
//
//	Claim, Put, Commit ─▶ the latest records ─▶ Reader.Next
//	                      bell ─▶ crier ─▶ wakes who waits
//
// The latest records are in a ring of atomics. Who writes takes no lock, waits
// for nobody and allocates nothing; a reader has a place of its own in the
// ring, and sees by a count of what was claimed that it was overtaken while it
// copied: then it is told how many records it has missed. A goroutine, the
// crier, wakes the readers that wait, once a millisecond at most. It lives as
// long as there are readers.
package ring

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// pause is between two times that readers are woken, so that many records cost
// one wake-up.
const pause = time.Millisecond

var (
	// ErrTooMany is what [Ring.Open] returns, wrapped.
	ErrTooMany = errors.New("too many readers")
	// ErrInterrupted and ErrNoNews are returned by [Reader.Next].
	ErrInterrupted = errors.New("interrupted")
	ErrNoNews      = errors.New("nothing new yet")
)

// Config says what a ring is like. All fields must be set.
type Config struct {
	Words   int        // of 64 bits in a record, the number not included
	Records int        // how many a reader can be behind
	Readers int        // how many there can be
	Watched func(bool) // is told that there are readers, and that there are none any more
}

// Ring is the latest records.
type Ring struct {
	config Config

	slots   atomic.Pointer[[]atomic.Uint64] // made by the first reader
	claimed atomic.Uint64                   // records that have, or are just getting, a slot
	added   atomic.Uint64                   // records that have one
	known   atomic.Uint64                   // none up to this number is still to be added

	news  atomic.Pointer[chan struct{}] // made by who waits, closed by the crier
	bell  chan struct{}                 // rung by who writes, for the crier
	ended atomic.Bool

	mu      sync.Mutex // nobody who writes takes it
	readers int
	stop    chan struct{} // ends the crier
}

// New returns a ring.
func New(c Config) *Ring { return &Ring{config: c, bell: make(chan struct{}, 1)} }

// Reader sees every record from when it was made, or how many it missed. Its
// methods are for one goroutine at a time.
type Reader struct {
	ring *Ring
	at   uint64 // how many were added before the one it looks for
	next uint64 // the number of that one
}

// Open returns a reader, which must be closed. It is shown the records whose
// number is higher than what last returns, which is called once
// [Config.Watched] was.
func (r *Ring) Open(last func() uint64) (*Reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readers == r.config.Readers {
		return nil, fmt.Errorf("%d read already: %w", r.readers, ErrTooMany)
	}
	if r.readers++; r.readers == 1 {
		if r.slots.Load() == nil {
			slots := make([]atomic.Uint64, r.config.Records*(1+r.config.Words))
			r.slots.Store(&slots)
		}
		r.stop = make(chan struct{})
		go r.cry(r.stop)
		r.config.Watched(true)
	}
	at := r.added.Load() // first, so that none comes between
	return &Reader{ring: r, at: at, next: last() + 1}, nil
}

// Close ends the reading.
func (r *Reader) Close() {
	g := r.ring
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readers--; g.readers == 0 {
		g.config.Watched(false)
		close(g.stop)
	}
}

// Finish says that nothing will be added any more: readers are shown what they
// have not seen, and then the end.
func (r *Ring) Finish() {
	r.ended.Store(true)
	r.wake()
}

// Next waits for the next record, puts its words into record and returns its
// number; or how many the reader has missed, if it was too slow, before it
// returns those that follow (record is then of no use). The error is io.EOF
// after [Ring.Finish],
// ErrInterrupted if interrupt was closed meanwhile, and ErrNoNews if it would
// have to wait and interrupt is nil.
func (r *Reader) Next(record []uint64, interrupt <-chan struct{}) (number, missed uint64, err error) {
	g := r.ring
	for {
		ended := g.ended.Load()
		if number, missed, ok := r.take(record); ok {
			return number, missed, nil
		}
		switch {
		case ended:
			return 0, 0, io.EOF
		case interrupt == nil:
			return 0, 0, ErrNoNews
		}
		news := g.await()
		if g.added.Load() != r.at || g.known.Load() >= r.next || g.ended.Load() {
			continue // it came before somebody could know that we wait
		}
		select {
		case <-news:
		case <-interrupt:
			return 0, 0, ErrInterrupted
		}
	}
}

// take returns what is there.
func (r *Reader) take(record []uint64) (number, missed uint64, ok bool) {
	g := r.ring
	records := uint64(g.config.Records)
	for {
		if known, added := g.known.Load(), g.added.Load(); r.at == added {
			if known < r.next {
				return 0, 0, false
			}
			missed, r.next = known+1-r.next, known+1
			return 0, missed, true
		}
		slot := g.slot(r.at)
		number = slot[0].Load()
		for i := range record {
			record[i] = slot[1+i].Load()
		}
		if g.claimed.Load()-r.at > records {
			// Not to the oldest: that would be overtaken again at once.
			r.at = g.added.Load() - records/2
			continue
		}
		if number > r.next {
			missed, r.next = number-r.next, number
			return 0, missed, true
		}
		r.at++
		if number == r.next { // else it is older than the reader
			r.next++
			return number, 0, true
		}
	}
}

// slot returns where the record is before which a number of them were added.
// There was a reader.
func (r *Ring) slot(before uint64) []atomic.Uint64 {
	width := uint64(1 + r.config.Words)
	at := before % uint64(r.config.Records) * width
	return (*r.slots.Load())[at : at+width]
}

// Claim announces that n records are going to be put. One goroutine at a time
// claims, puts and commits, and only while, or shortly after, there were
// readers.
func (r *Ring) Claim(n uint64) { r.claimed.Store(r.added.Load() + n) }

// Put stores the i-th of those that were claimed. Numbers ascend; one that is
// left out counts as missed.
func (r *Ring) Put(i, number uint64, record []uint64) {
	slot := r.slot(r.added.Load() + i)
	slot[0].Store(number)
	for i := range record {
		slot[1+i].Store(record[i])
	}
}

// Commit adds what was claimed.
func (r *Ring) Commit() {
	r.added.Store(r.claimed.Load())
	r.ring()
}

// Known says that no record up to a number will be added any more. Who puts
// calls it.
func (r *Ring) Known(number uint64) {
	r.known.Store(number)
	r.ring()
}

// ring tells the crier, if somebody waits. It neither waits nor allocates.
func (r *Ring) ring() {
	if r.news.Load() == nil {
		return
	}
	select {
	case r.bell <- struct{}{}:
	default: // it has been rung
	}
}

// cry wakes who waits whenever the bell was rung: there may be many of them,
// and who rings has packets to count.
func (r *Ring) cry(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-r.bell:
			r.wake()
			time.Sleep(pause)
		}
	}
}

// await returns a channel that is closed when there is news.
func (r *Ring) await() <-chan struct{} {
	fresh := make(chan struct{})
	for {
		if news := r.news.Load(); news != nil {
			return *news
		}
		if r.news.CompareAndSwap(nil, &fresh) {
			return fresh
		}
	}
}

func (r *Ring) wake() {
	if news := r.news.Swap(nil); news != nil {
		close(*news)
	}
}
