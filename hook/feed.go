package hook

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"kstat/stats"
)

// feed passes on what the programs put into a ring of the kernel's: bpf/count.c
// fills it as long as somebody wants to be told.
type feed struct {
	ring   *ringbuf.Reader
	sink   sink
	record ringbuf.Record
	ended  bool
}

// A sink is where a feed's records go.
type sink interface {
	// known returns the highest number of which it is certain that its record
	// is in the ring by now, and those of all before it, or never will be.
	known() uint64
	// wanted reports whether somebody is being told.
	wanted() bool
	// add takes a record, which is good until it returns.
	add(sample []byte)
	// pass passes on what was added up to a number that was known before the
	// ring was read. It reports whether that was all.
	pass(known uint64) bool
}

const (
	// feedPause is between two looks at the ring. The kernel wakes whoever waits
	// only for what comes into an empty one: so this is how often, at most, it has
	// that to do beside counting packets.
	feedPause = time.Millisecond
	// feedLimit is how late somebody is told that the last ones were missed, as
	// the ring was full, when nothing follows.
	feedLimit = 100 * time.Millisecond
	// recordHeader is what the kernel adds to a record (BPF_RINGBUF_HDR_SZ).
	recordHeader = 8
)

// feeds returns what a started engine has to run.
func (h *programs) feeds(c Config, table *stats.Table) (all []*feed, err error) {
	f, err := h.feed(publicationsFile, &publicationSink{table: table, batch: make([]stats.Publication, 0, 256)})
	if err != nil {
		return nil, err
	}
	if c.Tracer == nil {
		return []*feed{f}, nil
	}
	g, err := h.feed(packetsFile, &packetSink{table: table, tracer: c.Tracer})
	if err != nil {
		return nil, errors.Join(err, f.ring.Close())
	}
	return []*feed{f, g}, nil
}

func (h *programs) feed(file int, to sink) (*feed, error) {
	fail := func(err error) (*feed, error) { return nil, fmt.Errorf("%s: %w", bpfFileNames[file], err) }
	fd, err := unix.FcntlInt(h.files[file].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return fail(err)
	}
	defer m.Close()
	ring, err := ringbuf.NewReader(m)
	if err != nil {
		return fail(err)
	}
	return &feed{ring: ring, sink: to}, nil
}

// run reads the ring until end is called, and then what is left in it.
func (f *feed) run() error {
	err := f.read()
	for err == nil && !f.ended {
		time.Sleep(feedPause)
		err = f.read()
	}
	if err != nil {
		err = fmt.Errorf("read what programs tell: %w", err)
	}
	return errors.Join(err, f.ring.Close())
}

// end makes run return. No packet is counted any more.
func (f *feed) end() error { return f.ring.Flush() }

// read waits for something, and reads until all that was counted by then has
// been passed on. What did not come was lost.
func (f *feed) read() error {
	var limit time.Time // none
	if f.sink.wanted() {
		limit = time.Now().Add(feedLimit)
	}
	f.ring.SetDeadline(limit)
	if _, err := f.next(); err != nil {
		return err
	}
	for {
		known := f.sink.known()
		for left := f.ring.AvailableBytes(); left > 0; {
			n, err := f.next()
			if err != nil {
				return err
			}
			left -= n
		}
		if f.sink.pass(known) {
			return nil
		}
		time.Sleep(feedPause)
	}
}

// next waits for a record, and adds it; or for the end, or the deadline. It
// returns how much of the ring it has freed.
func (f *feed) next() (freed int, err error) {
	switch err := f.ring.ReadInto(&f.record); {
	case errors.Is(err, ringbuf.ErrFlushed):
		f.ended = true
		return 0, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil
	case err != nil:
		return 0, err
	}
	f.sink.add(f.record.RawSample)
	return recordHeader + (len(f.record.RawSample)+7)&^7, nil
}

// aheadOfReal is how much of TAI, which the programs' times are, the real time
// lacks: whole seconds.
func aheadOfReal() int64 {
	var real, tai unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real) // neither can fail
	_ = unix.ClockGettime(unix.CLOCK_TAI, &tai)
	return int64(time.Duration(tai.Nano() - real.Nano()).Round(time.Second))
}

// publicationSink passes on publications. A program writes into the ring before
// its change is complete: so they come in order.
type publicationSink struct {
	table *stats.Table
	batch []stats.Publication
}

func (s *publicationSink) known() uint64 { return s.table.Publications() }

func (s *publicationSink) wanted() bool { return s.table.Watched() }

// add decodes a struct publication of bpf/count.c.
func (s *publicationSink) add(sample []byte) {
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(sample[8*i:]) }
	s.batch = append(s.batch, stats.Publication{Number: word(0), TCP: word(1), Packets: word(2), Time: int64(word(3))})
	if len(s.batch) == cap(s.batch) {
		s.announce()
	}
}

func (s *publicationSink) pass(known uint64) bool {
	s.announce()
	s.table.Announced(known)
	return true
}

func (s *publicationSink) announce() {
	if len(s.batch) == 0 {
		return
	}
	ahead := aheadOfReal()
	for i := range s.batch {
		s.batch[i].Time -= ahead
	}
	s.table.Announce(s.batch)
	s.batch = s.batch[:0]
}

// packetSink passes on packets. They come nearly in the order in which they
// were counted: whoever is in the ring first need not be counted first.
type packetSink struct {
	table  *stats.Table
	tracer Tracer
	come   []sighting
	batch  [batchLen]stats.Sighting
}

// sighting is struct sighting of bpf/count.c.
type sighting struct {
	number, time           uint64
	class, length, in, out uint32
	captured               uint32
	head                   [copyRange]byte
}

// sightingSize is how many bytes a sighting takes in the ring.
const sightingSize = 40 + copyRange

func (s *packetSink) known() uint64 { return s.table.Counted() }

func (s *packetSink) wanted() bool { return s.table.Traced() }

func (s *packetSink) add(sample []byte) {
	if len(sample) < sightingSize {
		return
	}
	word := func(at int) uint64 { return binary.NativeEndian.Uint64(sample[at:]) }
	half := func(at int) uint32 { return binary.NativeEndian.Uint32(sample[at:]) }
	s.come = append(s.come, sighting{
		number: word(0), time: word(8),
		class: half(16), length: half(20), in: half(24), out: half(28), captured: half(32),
		head: [copyRange]byte(sample[40:]),
	})
}

// pass passes on those that were counted by the time at which known was: all of
// these have come. The others wait.
func (s *packetSink) pass(known uint64) bool {
	if !s.wanted() { // for some time: room for a whole ring is not to be kept
		s.come = nil
		return true
	}
	byNumber := func(a, b sighting) int { return cmp.Compare(a.number, b.number) }
	if !slices.IsSortedFunc(s.come, byNumber) {
		slices.SortFunc(s.come, byNumber)
	}
	ahead := aheadOfReal()
	at := 0
	for at < len(s.come) && s.come[at].number <= known {
		n := 0
		for ; n < len(s.batch) && at < len(s.come) && s.come[at].number <= known; n++ {
			p := &s.come[at]
			s.batch[n] = stats.Sighting{
				Number: p.number,
				Packet: stats.Packet{Class: stats.Class(min(p.class, uint32(stats.NumClasses-1))), Bytes: p.length},
				Time:   int64(p.time) - ahead,
				In:     p.in,
				Out:    p.out,
				Head:   p.head[:min(p.captured, copyRange)],
			}
			at++
		}
		s.tracer.Trace(s.batch[:n])
	}
	s.tracer.Traced(known)
	s.come = s.come[:copy(s.come, s.come[at:])]
	return len(s.come) == 0
}
