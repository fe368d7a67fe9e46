package hook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"kstat/stats"
)

// feed passes on what the programs say of publications: bpf/count.c fills a
// ring as long as somebody watches.
type feed struct {
	ring   *ringbuf.Reader
	table  *stats.Table
	record ringbuf.Record
	batch  []stats.Publication
	ended  bool
}

// feedPause is between two looks at the ring. The kernel wakes whoever waits
// only for what comes into an empty one: so this is how often, at most, it has
// that to do beside counting packets.
const feedPause = time.Millisecond

func (h *programs) feed(table *stats.Table) (*feed, error) {
	fd, err := unix.FcntlInt(h.files[publicationsFile].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("publications: %w", err)
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("publications: %w", err)
	}
	defer m.Close()
	ring, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, fmt.Errorf("publications: %w", err)
	}
	return &feed{ring: ring, table: table, batch: make([]stats.Publication, 0, 256)}, nil
}

// run reads the ring until end is called, and then what is left in it.
func (f *feed) run() error {
	err := f.read()
	for err == nil && !f.ended {
		time.Sleep(feedPause)
		err = f.read()
	}
	if err != nil {
		err = fmt.Errorf("read publications: %w", err)
	}
	return errors.Join(err, f.ring.Close())
}

// end makes run return. No packet is counted any more.
func (f *feed) end() error { return f.ring.Flush() }

// read waits for something, and reads until nothing is left. What was published
// by then and did not come was lost: a program writes into the ring before its
// change is complete.
func (f *feed) read() error {
	if err := f.next(); err != nil {
		return err
	}
	for {
		for f.ring.AvailableBytes() > 0 {
			if err := f.next(); err != nil {
				return err
			}
		}
		published := f.table.Publications()
		if f.ring.AvailableBytes() == 0 {
			f.pass()
			f.table.Announced(published)
			return nil
		}
	}
}

// next waits for a record, or the end.
func (f *feed) next() error {
	err := f.ring.ReadInto(&f.record)
	switch {
	case errors.Is(err, ringbuf.ErrFlushed):
		f.ended = true
		return nil
	case err == nil:
		f.add()
	}
	return err
}

// add decodes the record: struct publication of bpf/count.c.
func (f *feed) add() {
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(f.record.RawSample[8*i:]) }
	f.batch = append(f.batch, stats.Publication{Number: word(0), TCP: word(1), Packets: word(2), Time: int64(word(3))})
	if len(f.batch) == cap(f.batch) {
		f.pass()
	}
}

// pass passes on the batch. What it has of times is TAI, which differs from the
// real time by whole seconds.
func (f *feed) pass() {
	if len(f.batch) == 0 {
		return
	}
	var real, tai unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real) // neither can fail
	_ = unix.ClockGettime(unix.CLOCK_TAI, &tai)
	ahead := time.Duration(tai.Nano() - real.Nano()).Round(time.Second)
	for i := range f.batch {
		f.batch[i].Time -= int64(ahead)
	}
	f.table.Announce(f.batch)
	f.batch = f.batch[:0]
}
