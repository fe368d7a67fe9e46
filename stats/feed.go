package stats

import (
	"runtime"
	"time"

	"kstat/stats/ring"
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

var (
	// ErrTooManyWatchers is wrapped by what [Table.Watch] returns.
	ErrTooManyWatchers = ring.ErrTooMany
	// ErrInterrupted and ErrNoNews are returned by [Watcher.Next].
	ErrInterrupted = ring.ErrInterrupted
	ErrNoNews      = ring.ErrNoNews
)

// Who is to be told of what happens: the bits of figures.watched.
const (
	watchesPublications = 1 << iota
	watchesPackets
)

// tell sets one of these bits, or clears it.
func (t *Table) tell(bit uint32, on bool) {
	if on {
		t.watched.Or(bit)
	} else {
		t.watched.And(^bit)
	}
}

// publicationWords is how many words of a record there are: what a
// [Publication] has beside its number.
const publicationWords = 3

func (t *Table) newFeed() *ring.Ring {
	return ring.New(ring.Config{
		Words:   publicationWords,
		Records: Kept,
		Readers: maxWatchers,
		Watched: func(on bool) { t.tell(watchesPublications, on) },
	})
}

// Watcher sees every publication from when it was made, or how many it missed.
// Its methods are for one goroutine at a time.
type Watcher struct{ reader *ring.Reader }

// Watch returns a watcher, which must be closed. Every publication after Watch
// has returned is to be seen; those before are not.
func (t *Table) Watch() (*Watcher, error) {
	reader, err := t.feed.Open(t.Publications)
	if err != nil {
		return nil, err
	}
	return &Watcher{reader}, nil
}

// Close ends the watch. While nobody watches, publications are not added.
func (w *Watcher) Close() { w.reader.Close() }

// Finish says that nothing will be published any more: watchers are shown what
// they have not seen, and then the end.
func (t *Table) Finish() { t.feed.Finish() }

// Next waits for the next publication and returns it; or how many the watcher
// has missed, if it was too slow, before it returns those that follow. The error
// is io.EOF after [Table.Finish], ErrInterrupted if interrupt was closed
// meanwhile, and ErrNoNews if it would have to wait and interrupt is nil.
func (w *Watcher) Next(interrupt <-chan struct{}) (p Publication, missed uint64, err error) {
	var words [publicationWords]uint64
	number, missed, err := w.reader.Next(words[:], interrupt)
	if err != nil || missed > 0 {
		return Publication{}, missed, err
	}
	return Publication{Number: number, TCP: words[0], Packets: words[1], Time: int64(words[2])}, 0, nil
}

// put stores the i-th of the publications that were claimed.
func (t *Table) put(i uint64, p *Publication) {
	t.feed.Put(i, p.Number, []uint64{p.TCP, p.Packets, uint64(p.Time)})
}

// announce puts every publication that a batch makes due, each with the
// figures of its own packet, and leaves it to the caller to commit them. The
// batch has not been counted yet.
func (t *Table) announce(batch []Packet, every uint64) {
	pending := t.pending.Load()
	t.feed.Claim((pending + uint64(len(batch))) / every)
	p := t.asPublished(time.Now().UnixNano())
	first := p.Number
	for _, n := range batch {
		if n.Class.Protocol() == TCP {
			p.TCP++
		}
		p.Packets++
		if pending++; pending == every {
			p.Number++
			t.put(p.Number-first-1, &p)
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
	if !t.Watched() {
		return
	}
	t.feed.Claim(uint64(len(publications)))
	for i := range publications {
		t.put(uint64(i), &publications[i])
	}
	t.feed.Commit()
}

// Announced says that no publication up to a number will be announced any
// more. The same goroutine calls it.
func (t *Table) Announced(number uint64) { t.feed.Known(number) }

// Watched reports whether there is a [Watcher].
func (t *Table) Watched() bool { return t.watched.Load()&watchesPublications != 0 }

// Sighting is a packet as it looked when it was counted, for those who trace.
type Sighting struct {
	Number uint64 // among all that the table has counted: the first is 1
	Packet
	Time    int64  // nanoseconds since 1970
	In, Out uint32 // the devices' indexes; 0 is none
	Head    []byte // the first bytes, from the network header on
}

// Trace says whether somebody wants to be shown the packets themselves, see
// [Table.Traced]. When it has returned from being told so, every packet that
// will be counted from then on has seen it.
func (t *Table) Trace(on bool) {
	t.tell(watchesPackets, on)
	if on && t.writer != nil {
		t.writer.Settle()
	}
}

// Traced reports whether whoever sees packets is to show them, too, each as a
// [Sighting].
func (t *Table) Traced() bool { return t.watched.Load()&watchesPackets != 0 }

// Forget is for whoever outlives a process that watched, or let others: nobody
// does any more.
func (t *Table) Forget() { t.watched.Store(0) }
