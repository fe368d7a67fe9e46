package trace

import (
	"encoding/binary"

	"kstat/stats"
	"kstat/stats/ring"
)

const (
	// Kept is how many packets a reader can be behind.
	Kept = 1 << 14
	// MaxReaders is how many readers there are at most, of both files: each
	// costs the process that counts some time for every packet.
	MaxReaders = 16
	// Captured is how many bytes of a packet are kept.
	Captured = 128
)

// Trace is the latest packets that a table has counted, while there are readers.
type Trace struct {
	ring   *ring.Ring
	table  *stats.Table
	names  *stats.Names
	record [words]uint64 // who calls Trace has it
}

// What a record is: a [stats.Sighting] but for its number.
const (
	wordTime  = iota
	wordClass // and how many bytes were captured, in the upper half
	wordBytes
	wordDevices // in, and out in the upper half
	wordHead
	words = wordHead + Captured/8
)

// New returns a trace of what table counts. Names are those of protocols.
func New(table *stats.Table, names *stats.Names) *Trace {
	return &Trace{
		ring:  ring.New(ring.Config{Words: words, Records: Kept, Readers: MaxReaders, Watched: table.Trace}),
		table: table,
		names: names,
	}
}

// Trace keeps packets. It waits for nobody and allocates nothing.
func (t *Trace) Trace(seen []stats.Sighting) {
	t.ring.Claim(uint64(len(seen)))
	for i := range seen {
		s := &seen[i]
		head := s.Head[:min(len(s.Head), Captured)]
		t.record[wordTime] = uint64(s.Time)
		t.record[wordClass] = uint64(s.Class) | uint64(len(head))<<32
		t.record[wordBytes] = uint64(s.Bytes)
		t.record[wordDevices] = uint64(s.In) | uint64(s.Out)<<32
		n := wordHead
		for ; len(head) >= 8; n++ {
			t.record[n] = binary.NativeEndian.Uint64(head)
			head = head[8:]
		}
		if len(head) > 0 {
			var last [8]byte
			copy(last[:], head)
			t.record[n] = binary.NativeEndian.Uint64(last[:])
			n++
		}
		t.ring.Put(uint64(i), s.Number, t.record[:n])
	}
	t.ring.Commit()
}

// Traced says that no packet up to a number will be shown any more.
func (t *Trace) Traced(number uint64) { t.ring.Known(number) }

// Finish says that there will be no packets any more: readers are shown what
// they have not seen, and then the end.
func (t *Trace) Finish() { t.ring.Finish() }

// Reader is somebody who reads one of the forms that packets have.
type Reader struct {
	ring *ring.Reader
	form form

	record [words]uint64
	head   [Captured]byte
}

// A form appends to what there is.
type form interface {
	begin(buffer []byte) []byte
	packet(buffer []byte, s *stats.Sighting) []byte
	missed(buffer []byte, n uint64) []byte
}

// mostOfOne is how much one packet takes in any form, at most.
const mostOfOne = 1024

func (t *Trace) open(f form) (*Reader, error) {
	r, err := t.ring.Open(t.table.Counted)
	if err != nil {
		return nil, err
	}
	return &Reader{ring: r, form: f}, nil
}

// Text returns a reader of lines like tcpdump's. It must be closed.
func (t *Trace) Text() (*Reader, error) { return t.open(newText(t.names)) }

// Pcapng returns a reader of a pcapng stream. It must be closed.
func (t *Trace) Pcapng() (*Reader, error) { return t.open(newPcapng()) }

// Close ends the reading. While nobody reads, packets are not kept.
func (r *Reader) Close() { r.ring.Close() }

// Next appends to buffer what there is and returns it. If there is nothing it
// waits; it ends when size bytes are nearly there, or when it would have to wait
// again. The error is io.EOF after [Trace.Finish], [ring.ErrInterrupted] if
// interrupt was closed meanwhile, and [ring.ErrNoNews] if it would have to wait
// and interrupt is nil.
func (r *Reader) Next(buffer []byte, size int, interrupt <-chan struct{}) ([]byte, error) {
	before := len(buffer)
	buffer = r.form.begin(buffer)
	for {
		if len(buffer) > before {
			interrupt = nil
		}
		number, missed, err := r.ring.Next(r.record[:], interrupt)
		switch {
		case err != nil && len(buffer) > before:
			return buffer, nil // it comes again
		case err != nil:
			return nil, err
		case missed > 0:
			buffer = r.form.missed(buffer, missed)
		default:
			s := r.sighting(number)
			buffer = r.form.packet(buffer, &s)
		}
		if len(buffer)+mostOfOne > before+size {
			return buffer, nil
		}
	}
}

// sighting reads the record. Its head is good until the next one.
func (r *Reader) sighting(number uint64) stats.Sighting {
	captured := min(int(r.record[wordClass]>>32), Captured)
	for i := range (captured + 7) / 8 {
		binary.NativeEndian.PutUint64(r.head[8*i:], r.record[wordHead+i])
	}
	return stats.Sighting{
		Number: number,
		Packet: stats.Packet{
			Class: stats.Class(r.record[wordClass]),
			Bytes: uint32(r.record[wordBytes]),
		},
		Time: int64(r.record[wordTime]),
		In:   uint32(r.record[wordDevices]),
		Out:  uint32(r.record[wordDevices] >> 32),
		Head: r.head[:captured],
	}
}
