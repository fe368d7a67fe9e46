package stats

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	tcp4  = ClassOf(IPv4, TCP)
	tcp6  = ClassOf(IPv6, TCP)
	udp4  = ClassOf(IPv4, 17)
	other = ClassOf(IPv6, Other)
)

// packets returns n packets of a class, 100 bytes each.
func packets(class Class, n int) []Packet {
	batch := make([]Packet, n)
	for i := range batch {
		batch[i] = Packet{Class: class, Bytes: 100}
	}
	return batch
}

func nout(t *Table) uint64 { return t.Snapshot().Published(TCP).Packets }

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// TestPublicationAtExactlyN is the contract's own example, and its neighbours:
// however the packets are cut into batches, the figures move at every N-th
// packet and hold what had arrived by then.
func TestPublicationAtExactlyN(t *testing.T) {
	for _, n := range []uint32{1, 2, 7, 10, 64, 100, 1000} {
		for _, size := range []int{1, 3, 64, 1000} {
			table := NewTable()
			if err := table.SetCounter(n); err != nil {
				t.Fatal(err)
			}
			stream := make([]Packet, 2500)
			for i := range stream {
				class := []Class{tcp4, udp4, tcp6, other}[i%4]
				stream[i] = Packet{Class: class, Bytes: uint32(40 + i)}
			}
			for sent := 0; sent < len(stream); {
				end := min(sent+size, len(stream))
				table.Add(stream[sent:end])
				sent = end

				s := table.Snapshot()
				published := sent - sent%int(n)
				wantPublished := make(map[Class]Figures)
				for _, p := range stream[:published] {
					wantPublished[p.Class] = wantPublished[p.Class].Plus(Figures{1, uint64(p.Bytes)})
				}
				for _, row := range s.Rows {
					if row.Published != wantPublished[row.Class] {
						t.Fatalf("N=%d, batches of %d, %d sent, class %d: published %v, want %v",
							n, size, sent, row.Class, row.Published, wantPublished[row.Class])
					}
				}
				if s.Pending != uint64(sent%int(n)) || s.Publications != uint64(sent/int(n)) {
					t.Fatalf("N=%d, batches of %d, %d sent: pending %d, publications %d", n, size, sent, s.Pending, s.Publications)
				}
			}
			want(t, "counted", table.Counted(), 2500)
		}
	}
}

func TestContractExample(t *testing.T) {
	table := NewTable()
	table.Add(packets(tcp4, 9))
	want(t, "nout after 9 packets", nout(table), 0)
	table.Add(packets(udp4, 1))
	want(t, "nout after the 10th", nout(table), 9)
	table.Add(packets(tcp6, 5))
	want(t, "nout after the 15th", nout(table), 9)
	want(t, "pending", table.Snapshot().Pending, 5)
}

func TestSetCounter(t *testing.T) {
	table := NewTable()
	table.Add(packets(tcp4, 7))
	if err := table.SetCounter(0); err != ErrZeroCounter {
		t.Errorf("counter 0: got %v, want ErrZeroCounter", err)
	}
	want(t, "counter after a refused change", table.Counter(), 10)
	if err := table.SetCounter(8); err != nil {
		t.Fatal(err)
	}
	want(t, "nout with counter above pending", nout(table), 0)
	if err := table.SetCounter(7); err != nil {
		t.Fatal(err)
	}
	want(t, "nout with counter lowered to pending", nout(table), 7)
	want(t, "pending after publication", table.Snapshot().Pending, 0)
	table.Add(packets(tcp4, 5))
	if err := table.SetCounter(3); err != nil {
		t.Fatal(err)
	}
	want(t, "nout with counter lowered below pending", nout(table), 12)
	if err := table.SetCounter(1<<32 - 1); err != nil {
		t.Fatal(err)
	}
	table.Add(packets(tcp4, 100))
	want(t, "nout with the highest counter", nout(table), 12)
}

func TestReset(t *testing.T) {
	table := NewTable()
	table.Add(packets(tcp4, 25))
	table.Add(packets(udp4, 3))
	table.Reset()
	s := table.Snapshot()
	want(t, "pending after reset", s.Pending, 0)
	for _, row := range s.Rows {
		want(t, "published after reset", row.Published, Figures{})
		want(t, "live after reset", row.Live, Figures{})
	}
	want(t, "total TCP after reset", s.Rows[0].Total, Figures{25, 2500})
	want(t, "counted after reset", table.Counted(), 28)

	table.Add(packets(tcp4, 9))
	want(t, "nout 9 packets after reset", nout(table), 0)
	table.Add(packets(tcp4, 1))
	want(t, "nout 10 packets after reset", nout(table), 10)
}

// TestCountersBeyond32Bits: figures are 64 bits wide, in packets and bytes.
func TestCountersBeyond32Bits(t *testing.T) {
	table := NewTable()
	start := Figures{1<<32 - 1, 1<<63 + 5}
	table.rows[tcp4].live.store(start)
	table.rows[tcp4].previous.store(start)
	table.seen[tcp4/64].Store(1 << (tcp4 % 64))
	table.Add([]Packet{{Class: tcp4, Bytes: 1<<32 - 1}})
	want(t, "live", table.Snapshot().Rows[0].Live, Figures{1 << 32, 1<<63 + 1<<32 + 4})
}

// TestSnapshotIsOneMoment runs writers against readers. Each batch holds as
// many TCP as UDP packets and the counter is a multiple of both, so that every
// snapshot in which they differ was torn.
func TestSnapshotIsOneMoment(t *testing.T) {
	table := NewTable()
	if err := table.SetCounter(8); err != nil {
		t.Fatal(err)
	}
	batch := append(packets(tcp4, 4), packets(udp4, 4)...)
	const writers, readers, rounds = 4, 4, 2000
	var writing, reading sync.WaitGroup
	var done atomic.Bool
	for range writers {
		writing.Go(func() {
			for range rounds {
				table.Add(batch)
			}
		})
	}
	for range readers {
		reading.Go(func() {
			var last uint64
			for !done.Load() {
				s := table.Snapshot()
				if len(s.Rows) == 0 {
					continue
				}
				if len(s.Rows) != 2 || s.Rows[0].Published != s.Rows[1].Published || s.Rows[0].Live != s.Rows[1].Live {
					t.Errorf("torn snapshot: %+v", s)
					return
				}
				if now := s.Published(TCP).Packets; now < last {
					t.Errorf("published TCP went from %d to %d", last, now)
					return
				} else {
					last = now
				}
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	want(t, "nout", nout(table), writers*rounds*4)
	want(t, "counted", table.Counted(), writers*rounds*8)
}

// TestSeveralQueues: whoever adds, every N-th packet publishes, and nothing is
// lost between them.
func TestSeveralQueues(t *testing.T) {
	table := NewTable()
	if err := table.SetCounter(7); err != nil {
		t.Fatal(err)
	}
	var queues sync.WaitGroup
	const perQueue = 10007
	for q := range uint64(3) {
		queues.Go(func() {
			random := rand.New(rand.NewPCG(1, q))
			for left := perQueue; left > 0; {
				n := min(left, 1+random.IntN(64))
				table.Add(packets(tcp4, n))
				left -= n
			}
		})
	}
	queues.Wait()
	const sum = 3 * perQueue
	s := table.Snapshot()
	want(t, "nout", s.Published(TCP).Packets, sum-sum%7)
	want(t, "pending", s.Pending, sum%7)
	want(t, "publications", s.Publications, sum/7)
}

func TestAddAllocatesNothing(t *testing.T) {
	for _, n := range []uint32{1, 10} {
		table := NewTable()
		if err := table.SetCounter(n); err != nil {
			t.Fatal(err)
		}
		batch := append(packets(tcp4, 40), packets(other, 24)...)
		if a := testing.AllocsPerRun(1000, func() { table.Add(batch) }); a != 0 {
			t.Errorf("counter %d: %v allocations per batch, want 0", n, a)
		}
	}
}

func TestClass(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for p := range Other + 1 {
			c := ClassOf(f, p)
			if c.Family() != f || c.Protocol() != p || int(c) >= NumClasses {
				t.Errorf("class %d of %v %d is %v %d", c, f, p, c.Family(), c.Protocol())
			}
		}
	}
	want(t, "protocol above Other", ClassOf(IPv6, 999), other)
}

func BenchmarkAdd(b *testing.B) {
	for _, bench := range []struct {
		name    string
		counter uint32
		batch   []Packet
	}{
		{"N=10/one class", 10, packets(tcp4, 64)},
		{"N=1/one class", 1, packets(tcp4, 64)},
		{"N=1/every packet another class", 1, func() (mixed []Packet) {
			for i := range 64 {
				mixed = append(mixed, Packet{Class(i), 100})
			}
			return mixed
		}()},
	} {
		b.Run(bench.name, func(b *testing.B) {
			table := NewTable()
			_ = table.SetCounter(bench.counter)
			for b.Loop() {
				table.Add(bench.batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/packet")
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	table := NewTable()
	table.Add(append(packets(tcp4, 40), packets(udp4, 24)...))
	for b.Loop() {
		table.Snapshot()
	}
}
