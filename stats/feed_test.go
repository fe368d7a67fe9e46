package stats

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
)

func watcher(t testing.TB, table *Table) *Watcher {
	t.Helper()
	w, err := table.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// wantNext takes what is there, and compares it but for its time.
func wantNext(t testing.TB, w *Watcher, number, tcp, packets, wantMissed uint64) {
	t.Helper()
	p, missed, err := w.Next(nil)
	p.Time = 0
	if want := (Publication{Number: number, TCP: tcp, Packets: packets}); p != want || missed != wantMissed || err != nil {
		t.Fatalf("got %+v, %d missed, %v; want %+v, %d missed", p, missed, err, want, wantMissed)
	}
}

func wantNoNews(t testing.TB, w *Watcher) {
	t.Helper()
	if p, missed, err := w.Next(nil); err != ErrNoNews {
		t.Fatalf("got %+v, %d missed, %v; want no news", p, missed, err)
	}
}

// TestWatchEveryPublication: however the packets are cut into batches, each
// publication comes with the figures of exactly its packet.
func TestWatchEveryPublication(t *testing.T) {
	for _, n := range []int{1, 2, 7, 10, 64} {
		for _, size := range []int{1, 3, 64, 1000} {
			table := NewTable()
			if err := table.SetCounter(uint32(n)); err != nil {
				t.Fatal(err)
			}
			table.Add(packets(tcp4, 5*n)) // before anybody watches
			w := watcher(t, table)
			began := time.Now().UnixNano()
			stream := make([]Packet, 2500)
			for i := range stream {
				stream[i] = Packet{Class: []Class{tcp4, udp4, tcp6, other, tcp4}[i%5], Bytes: 40}
			}
			for sent := 0; sent < len(stream); {
				end := min(sent+size, len(stream))
				table.Add(stream[sent:end])
				sent = end
			}
			tcp, number := uint64(5*n), uint64(5)
			for i, p := range stream {
				if p.Class.Protocol() == TCP {
					tcp++
				}
				if (i+1)%n != 0 {
					continue
				}
				number++
				p, missed, err := w.Next(nil)
				if p.Number != number || p.TCP != tcp || p.Packets != uint64(5*n+i+1) || missed != 0 || err != nil ||
					p.Time < began || p.Time > time.Now().UnixNano() {
					t.Fatalf("N=%d, batches of %d: got %+v, %d missed, %v; want number %d, %d of %d", n, size, p, missed, err, number, tcp, 5*n+i+1)
				}
			}
			wantNoNews(t, w)
		}
	}
}

// TestWatchByHand: a counter that is lowered to what is pending publishes, and
// a reset does not, but begins anew.
func TestWatchByHand(t *testing.T) {
	table := NewTable()
	w := watcher(t, table)
	table.Add(packets(tcp4, 7))
	wantNoNews(t, w)
	if err := table.SetCounter(7); err != nil {
		t.Fatal(err)
	}
	wantNext(t, w, 1, 7, 7, 0)
	table.Add(packets(udp4, 8))
	wantNext(t, w, 2, 7, 14, 0)
	if err := table.Reset(); err != nil {
		t.Fatal(err)
	}
	wantNoNews(t, w)
	table.Add(packets(tcp6, 7))
	wantNext(t, w, 3, 7, 7, 0)
	want(t, "published as snapshots have it", table.Snapshot().Published(TCP).Packets, 7)
}

// TestWatchTooSlow: a watcher that is overtaken is told by how much, and goes
// on without a hole; one that is not sees all.
func TestWatchTooSlow(t *testing.T) {
	table := NewTable()
	if err := table.SetCounter(1); err != nil {
		t.Fatal(err)
	}
	slow := watcher(t, table)
	table.Add(packets(tcp4, Kept))
	late := watcher(t, table)
	for i := range uint64(Kept) {
		wantNext(t, slow, i+1, i+1, i+1, 0)
	}
	wantNoNews(t, late)
	table.Add(packets(tcp4, Kept))
	table.Add(packets(tcp4, 17))
	for _, w := range []*Watcher{slow, late} {
		const missed = 17 + Kept/2
		wantNext(t, w, 0, 0, 0, missed)
		for i := range uint64(Kept / 2) {
			n := Kept + missed + i + 1
			wantNext(t, w, n, n, n, 0)
		}
		wantNoNews(t, w)
	}
}

// TestWatchView: what another announces; what it leaves out is missed, also at
// the end.
func TestWatchView(t *testing.T) {
	table := NewTable() // only announced to
	table.Announce([]Publication{{Number: 1}})
	w := watcher(t, table)
	table.Announce([]Publication{{Number: 1, TCP: 1}, {Number: 2, TCP: 2}})
	table.publications.Store(3) // so that the next one begins with 4
	later := watcher(t, table)
	table.Announce([]Publication{{Number: 3, TCP: 3}, {Number: 6, TCP: 6}})
	table.Announced(6)
	wantNext(t, w, 1, 1, 0, 0)
	wantNext(t, w, 2, 2, 0, 0)
	wantNext(t, w, 3, 3, 0, 0)
	wantNext(t, w, 0, 0, 0, 2)
	wantNext(t, w, 6, 6, 0, 0)
	wantNoNews(t, w)
	wantNext(t, later, 0, 0, 0, 2)
	table.Announced(9)
	wantNext(t, w, 0, 0, 0, 3)
	wantNoNews(t, w)
	wantNext(t, later, 6, 6, 0, 0)
	wantNext(t, later, 0, 0, 0, 3)
}

// TestWatchEnds: with the table's end those who watch come to theirs, behind
// what they have not seen.
func TestWatchEnds(t *testing.T) {
	table := NewTable()
	w := watcher(t, table)
	table.Add(packets(tcp4, 10))
	table.Finish()
	wantNext(t, w, 1, 10, 10, 0)
	if _, _, err := w.Next(nil); err != io.EOF {
		t.Errorf("behind it: got %v", err)
	}
}

// TestWatchFromManySides: while batches of all sizes are added, watchers come
// and go, are fast and slow. What each sees and is told of as missed is without
// a hole, and every figure is right.
func TestWatchFromManySides(t *testing.T) {
	table := NewTable()
	if err := table.SetCounter(3); err != nil {
		t.Fatal(err)
	}
	var adding, watching sync.WaitGroup
	for i := range uint64(2) {
		adding.Go(func() {
			random := rand.New(rand.NewPCG(i, 1))
			for range 20000 {
				table.Add(packets(tcp4, random.IntN(64)))
			}
		})
	}
	for i := range uint64(4) {
		watching.Go(func() {
			random := rand.New(rand.NewPCG(i, 2))
			for ended := false; !ended; {
				w, err := table.Watch()
				if err != nil {
					t.Error(err)
					return
				}
				next := uint64(0)
				for range random.IntN(20000) {
					p, missed, err := w.Next(t.Context().Done())
					if errors.Is(err, io.EOF) {
						ended = true
						break
					}
					if missed == 0 {
						if next != 0 && p.Number != next || p.TCP != 3*p.Number || p.Packets != p.TCP || err != nil {
							t.Errorf("got %+v, %v, want number %d", p, err, next)
							w.Close()
							return
						}
						next = p.Number + 1
					} else if next != 0 {
						next += missed
					}
					if i == 0 && random.IntN(100) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				if ended && next != 0 && next != table.Publications()+1 {
					t.Errorf("ended before %d of %d", next, table.Publications())
				}
				w.Close()
			}
		})
	}
	adding.Wait()
	table.Finish()
	watching.Wait()
}

func TestTooManyWatchers(t *testing.T) {
	table := NewTable()
	var all []*Watcher
	for range maxWatchers {
		all = append(all, watcher(t, table))
	}
	if _, err := table.Watch(); !errors.Is(err, ErrTooManyWatchers) {
		t.Errorf("got %v", err)
	}
	table.Add(packets(tcp4, 10))
	for _, w := range all {
		wantNext(t, w, 1, 10, 10, 0)
	}
}

// TestWatchLeavesNothing: with the last watcher its goroutine ends, and nothing
// is added any more.
func TestWatchLeavesNothing(t *testing.T) {
	table := NewTable()
	before := runtime.NumGoroutine()
	for range 10000 {
		w, err := table.Watch()
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	table.Add(packets(tcp4, 10))
	want(t, "who is told of publications while nobody watches", table.watched.Load(), 0)
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, before it were %d", runtime.NumGoroutine(), before)
		}
	}
}

// TestAddAllocatesNothingWatched: though somebody is told.
func TestAddAllocatesNothingWatched(t *testing.T) {
	for _, n := range []uint32{1, 10} {
		table := NewTable()
		if err := table.SetCounter(n); err != nil {
			t.Fatal(err)
		}
		w := watcher(t, table)
		batch := append(packets(tcp4, 40), packets(other, 24)...)
		if a := testing.AllocsPerRun(1000, func() { table.Add(batch) }); a != 0 {
			t.Errorf("counter %d: %v allocations per batch, want 0", n, a)
		}
		if p, missed, err := w.Next(nil); err != nil || missed+p.Number == 0 {
			t.Errorf("counter %d: nothing was published", n)
		}
	}
}

func BenchmarkAddWatched(b *testing.B) {
	for _, counter := range []uint32{1, 10} {
		table := NewTable()
		_ = table.SetCounter(counter)
		watcher(b, table)
		batch := packets(tcp4, 64)
		b.Run(fmt.Sprintf("N=%d", counter), func(b *testing.B) {
			for b.Loop() {
				table.Add(batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/packet")
		})
	}
}
