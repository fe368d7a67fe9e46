package ring

import (
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// numbers is a ring whose records hold their number twice.
func numbers(records int) *Ring {
	return New(Config{Words: 2, Records: records, Readers: 64, Watched: func(bool) {}})
}

func add(r *Ring, first, n uint64) {
	r.Claim(n)
	for i := range n {
		r.Put(i, first+i, []uint64{first + i, first + i})
	}
	r.Commit()
}

func reader(t testing.TB, r *Ring, last uint64) *Reader {
	t.Helper()
	reader, err := r.Open(func() uint64 { return last })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	return reader
}

// TestWaits: who waits is woken by a record, by the knowledge that there will be
// none, by an interrupt, or by the end.
func TestWaits(t *testing.T) {
	g := numbers(8)
	type result struct {
		number, missed uint64
		err            error
	}
	results := make(chan result)
	next := func(r *Reader, interrupt <-chan struct{}) {
		var record [2]uint64
		number, missed, err := r.Next(record[:], interrupt)
		if missed == 0 && (record[0] != number || record[1] != number) {
			t.Errorf("number %d: %v", number, record)
		}
		results <- result{number, missed, err}
	}
	waiting := func() {
		for g.news.Load() == nil {
			runtime.Gosched()
		}
	}
	r, other := reader(t, g, 0), reader(t, g, 0)
	go next(r, t.Context().Done())
	go next(other, t.Context().Done())
	waiting()
	add(g, 1, 1)
	for range 2 {
		if got := <-results; got != (result{number: 1}) {
			t.Errorf("got %+v", got)
		}
	}
	interrupt := make(chan struct{})
	go next(r, interrupt)
	waiting()
	close(interrupt)
	if got := <-results; got.err != ErrInterrupted {
		t.Errorf("interrupted: got %+v", got)
	}
	go next(r, t.Context().Done())
	waiting()
	g.Known(3)
	if got := <-results; got != (result{missed: 2}) {
		t.Errorf("none up to 3: got %+v", got)
	}
	add(g, 4, 1)
	go next(r, t.Context().Done())
	if got := <-results; got != (result{number: 4}) {
		t.Errorf("after an interrupt: got %+v", got)
	}
	go next(r, t.Context().Done())
	waiting()
	g.Finish()
	if got := <-results; got.err != io.EOF {
		t.Errorf("at the end: got %+v", got)
	}
	for _, want := range []result{{missed: 2}, {number: 4}, {err: io.EOF}} { // which came before the end
		go next(other, nil)
		if got := <-results; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// TestOvertaken: readers that are overtaken time and again see whole records,
// and no hole that they are not told of.
func TestOvertaken(t *testing.T) {
	g := numbers(64)
	const last = 300_000
	var readers sync.WaitGroup
	for i := range uint64(4) {
		r := reader(t, g, 0)
		readers.Go(func() {
			random := rand.New(rand.NewPCG(i, 0))
			var at, seen uint64
			for record := make([]uint64, 2); ; {
				number, missed, err := r.Next(record, t.Context().Done())
				switch at += missed; {
				case errors.Is(err, io.EOF):
					if at != last || seen == 0 {
						t.Errorf("ended at %d, %d seen", at, seen)
					}
					return
				case err != nil:
					t.Error(err)
					return
				case missed > 0:
					continue
				}
				at++
				seen++
				if number != at || record[0] != at || record[1] != at {
					t.Errorf("record %d: got %d, %v", at, number, record)
					return
				}
				if random.IntN(100) == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(9, 0))
	for n := uint64(1); n <= last; {
		size := min(1+random.Uint64N(100), last+1-n)
		add(g, n, size)
		n += size
	}
	g.Finish()
	readers.Wait()
}

// TestReaders: the ring tells when the first comes and when the last goes, has
// nothing then that runs, and takes no more than it is to.
func TestReaders(t *testing.T) {
	var told []bool
	g := New(Config{Words: 1, Records: 4, Readers: 2, Watched: func(on bool) { told = append(told, on) }})
	last := func() uint64 {
		if len(told) == 0 || !told[len(told)-1] {
			t.Error("asked for the last number while nobody reads")
		}
		return 0
	}
	for range 2000 {
		a, err := g.Open(last)
		if err != nil {
			t.Fatal(err)
		}
		b, err := g.Open(last)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Open(last); !errors.Is(err, ErrTooMany) {
			t.Fatal("a third:", err)
		}
		a.Close()
		b.Close()
	}
	for i, on := range told {
		if on != (i%2 == 0) {
			t.Fatalf("told %v at %d", on, i)
		}
	}
	if len(told) != 4000 {
		t.Errorf("told %d times, want 4000", len(told))
	}
}

// TestAllocatesNothing: though somebody waits.
func TestAllocatesNothing(t *testing.T) {
	g := numbers(64)
	reader(t, g, 0)
	g.mu.Lock()
	close(g.stop) // the crier's own allocations would be counted
	g.stop = make(chan struct{})
	g.mu.Unlock()
	time.Sleep(2 * pause)
	g.await()
	if a := testing.AllocsPerRun(1000, func() { add(g, 1, 32) }); a != 0 {
		t.Errorf("%v allocations, want 0", a)
	}
}
