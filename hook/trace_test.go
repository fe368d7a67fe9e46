package hook

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"kstat/lab/packets"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

// recorder is a tracer that keeps everything.
type recorder struct {
	mu    sync.Mutex
	seen  []stats.Sighting
	known uint64
	news  chan struct{}
}

// traced gives a configuration a tracer.
func traced(c Config) (Config, *recorder) {
	r := &recorder{news: make(chan struct{}, 1)}
	c.Tracer = r
	return c, r
}

func (r *recorder) Trace(seen []stats.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range seen {
		s.Head = bytes.Clone(s.Head)
		r.seen = append(r.seen, s)
	}
	r.tell()
}

func (r *recorder) Traced(number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = number
	r.tell()
}

func (r *recorder) tell() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// await waits until the packets up to a number have come, or are known to be
// missed, and returns those that came.
func (r *recorder) await(t testing.TB, number uint64) []stats.Sighting {
	t.Helper()
	late := time.After(sandbox.AwaitLimit)
	for {
		r.mu.Lock()
		seen, known := slices.Clone(r.seen), r.known
		r.mu.Unlock()
		if n := len(seen); n > 0 {
			known = max(known, seen[n-1].Number)
		}
		if known >= number {
			return seen
		}
		select {
		case <-r.news:
		case <-late:
			t.Fatalf("packets up to %d were told of, want %d", known, number)
		}
	}
}

// begin begins to trace, as a reader does, and returns the number of the last
// packet of before.
func begin(table *stats.Table) uint64 {
	table.Trace(true)
	return table.Counted()
}

func index(t testing.TB, name string) uint32 {
	i, err := net.InterfaceByName(name)
	must(t, err)
	return uint32(i.Index)
}

// TestTrace: while somebody traces, each packet is shown as it was sent, in
// order, with its number, and by which device; before and after, none is.
func TestTrace(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		sandbox.Need(t, sandbox.IPv6)
		c, r := traced(c)
		_, table := started(t, c)
		peer := sandbox.Veth(t)
		must(t, traffic.Ping(lo4, 5))
		if n := begin(table); n != 10 {
			t.Fatalf("%d packets counted before, want 10", n)
		}
		began := time.Now().UnixNano()
		var sent []packets.Case
		for _, c := range packets.IPv4Cases(peer.Own4, peer.Void4) {
			must(t, traffic.RawIPv4Packet(peer.Void4, c.Packet))
			sent = append(sent, c)
		}
		for _, c := range packets.IPv6Cases(peer.Own6, peer.Void6) {
			must(t, traffic.RawIPv6Packet(peer.Void6, c.Packet))
			sent = append(sent, c)
		}
		must(t, traffic.Ping(lo6, 1))
		seen := r.await(t, uint64(10+len(sent)+2))
		ended := time.Now().UnixNano()
		table.Trace(false)
		must(t, traffic.Ping(lo4, 5))
		if again := r.await(t, 0); len(again) != len(seen) || len(seen) != len(sent)+2 {
			t.Fatalf("%d packets shown, and later %d; want %d", len(seen), len(again), len(sent)+2)
		}
		veth, lo, last := index(t, "veth0"), index(t, "lo"), began
		for i, s := range seen {
			name, out := "a ping", lo
			if i < len(sent) {
				name, out = sent[i].Name, veth
				head := s.Head[:min(len(s.Head), 2)]
				want := sent[i].Packet[:min(copyRange, len(sent[i].Packet))]
				if s.Head[0]>>4 == 4 { // the kernel fills in the header's checksum
					s.Head[10], s.Head[11] = want[10], want[11]
				}
				if !bytes.Equal(s.Head, want) || s.Class != Classify(s.Class.Family(), want) || int(s.Bytes) != len(sent[i].Packet) {
					t.Errorf("%s (%x): got %d bytes as %d,\n%x\nwant %d,\n%x", name, head, s.Bytes, s.Class, s.Head, len(sent[i].Packet), want)
				}
			}
			if s.Number != uint64(11+i) || s.Out != out || s.In != 0 || s.Time < last || s.Time > ended {
				t.Errorf("%s: number %d, in %d, out %d, at %d; want %d, 0, %d, between %d and %d", name, s.Number, s.In, s.Out, s.Time, 11+i, out, last, ended)
			}
			last = s.Time
		}
	})
}

// TestTracePoints: a packet that comes in has the device that it comes in by.
func TestTracePoints(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		for _, p := range []Point{Prerouting, Input, Output} {
			t.Run(p.String(), func(t *testing.T) {
				c := c
				c.Point = p
				c, r := traced(c)
				_, table := started(t, c)
				begin(table)
				must(t, traffic.Ping(lo4, 1))
				for _, s := range r.await(t, 2) {
					in, out := index(t, "lo"), uint32(0)
					if p == Output {
						in, out = out, in
					}
					if s.In != in || s.Out != out {
						t.Errorf("in %d, out %d; want %d, %d", s.In, s.Out, in, out)
					}
				}
			})
		}
	})
}

// TestTraceSeveralQueues: queues are read by several goroutines, and packets are
// shown in the order in which they are counted.
func TestTraceSeveralQueues(t *testing.T) {
	const senders, each = 4, 3000
	c := quiet()
	c.Queues = 4
	c.QueueLen = senders * each // one may get all of it
	c, r := traced(c)
	_, table := started(t, c)
	begin(table)
	peer := sandbox.Veth(t)
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			if err := traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), each, 10); err != nil {
				t.Error(err)
			}
		})
	}
	sending.Wait()
	checkOrder(t, r.await(t, senders*each), senders*each)
}

// checkOrder wants numbers without a hole.
func checkOrder(t *testing.T, seen []stats.Sighting, n int) {
	t.Helper()
	for i, s := range seen {
		if s.Number != uint64(i+1) {
			t.Fatalf("packet %d has number %d", i+1, s.Number)
		}
	}
	if len(seen) != n {
		t.Errorf("%d packets, want %d", len(seen), n)
	}
}

// feedPackets runs the feed of packets until the test ends.
func (l *loaded) feedPackets(t testing.TB, to Tracer) (end func()) {
	all, err := l.held.feeds(Config{Tracer: to}, l.table)
	must(t, err)
	must(t, all[0].ring.Close())
	fed := make(chan error, 1)
	go func() { fed <- all[1].run() }()
	return func() { must(t, all[1].end(), <-fed) }
}

// TestTraceAllCPUs: packets arrive on all CPUs as fast as they can, and some are
// counted aside; figures are reset meanwhile, and the counter moves, neither of
// which is a packet. Each is shown once, in order, or known to be missed.
func TestTraceAllCPUs(t *testing.T) {
	l := load(t)
	_, r := traced(Config{})
	end := l.feedPackets(t, r)
	run := func(n int) { must(t, l.run(stats.IPv6, v6(17), n)) }
	run(7)
	must(t, l.table.SetCounter(5), l.table.Reset())
	run(9)
	if before := begin(l.table); before != 16 {
		t.Fatalf("%d counted, want 16", before)
	}
	const each = 100_003
	errs := make(chan error, 4)
	packet := v4(5, 6)
	for range cap(errs) {
		go func() { errs <- l.run(stats.IPv4, packet, each) }()
	}
	for i := range uint32(100) {
		must(t, l.table.SetCounter(1+i%20))
		if i%10 == 0 {
			must(t, l.table.Reset())
		}
	}
	must(t, <-errs, <-errs, <-errs, <-errs)
	last := uint64(16)
	seen := r.await(t, 16+4*each)
	end()
	var missed uint64
	for _, s := range seen {
		if s.Number <= last || !bytes.Equal(s.Head, packet) || s.Class != stats.ClassOf(stats.IPv4, 6) || s.Bytes != 20 {
			t.Fatalf("after %d: %+v", last, s)
		}
		missed += s.Number - last - 1
		last = s.Number
	}
	missed += l.table.Counted() - last
	t.Logf("%d packets seen, %d missed", len(seen), missed)
	if uint64(len(seen))+missed != 4*each || len(seen) == 0 {
		t.Errorf("%d seen and %d missed are not %d", len(seen), missed, 4*each)
	}
}

// TestTraceRingFull: what finds no room in the kernel's ring is missed, and that
// is told even if nothing follows.
func TestTraceRingFull(t *testing.T) {
	l := load(t)
	_, r := traced(Config{})
	begin(l.table)
	const sent = 50_000
	must(t, l.run(stats.IPv4, v4(5, 17), sent)) // and nobody reads
	defer l.feedPackets(t, r)()
	seen := r.await(t, sent)
	if room := 2 << 20 / (sightingSize + recordHeader); len(seen) != room {
		t.Errorf("%d packets seen, there was room for %d", len(seen), room)
	}
	checkOrder(t, seen, len(seen))
}

// TestTraceNobody: while nobody traces nothing is written, and what an earlier
// process has left in the ring is not shown.
func TestTraceNobody(t *testing.T) {
	l := load(t)
	run := func(n int) { must(t, l.run(stats.IPv4, v4(5, 17), n)) }
	all, err := l.held.feeds(Config{Tracer: &recorder{}}, l.table)
	must(t, err)
	for range 2 {
		run(50)
		l.table.Trace(true)
		run(3)
		l.table.Forget() // as the supervisor does for a worker that has died
	}
	if got := all[1].ring.AvailableBytes(); got != 2*3*(recordHeader+sightingSize) {
		t.Errorf("%d bytes in the ring, want 6 records", got)
	}
	must(t, all[0].ring.Close(), all[1].ring.Close())
	_, r := traced(Config{})
	defer l.feedPackets(t, r)()
	before := begin(l.table)
	run(1)
	seen := r.await(t, before+1)
	for i := range seen {
		if seen[i].Number <= before {
			continue // a reader leaves it out
		}
		if seen[i].Number != before+1 || i != len(seen)-1 {
			t.Errorf("got %+v", seen)
		}
	}
}

// TestTraceAllocatesNothing: neither while nobody traces nor while somebody
// does is there garbage for each packet.
func TestTraceAllocatesNothing(t *testing.T) {
	table := stats.NewTable()
	s := &socket{sink: table.Add, trace: &tracing{table: table, tracer: forgetful{}}, notify: func(err error) { t.Error(err) }}
	var bodies [][]byte
	for range batchLen {
		bodies = append(bodies, packetMessage(t, 2, packetHdr(1), payload(v4(5, 6)), capLen(1500))[16:])
	}
	for _, on := range []bool{false, true} {
		table.Trace(on)
		if a := testing.AllocsPerRun(1000, func() { s.count(bodies) }); a != 0 {
			t.Errorf("traced %v: %v allocations for a batch, want 0", on, a)
		}
	}
}

// forgetful is a tracer that keeps nothing.
type forgetful struct{}

func (forgetful) Trace([]stats.Sighting) {}
func (forgetful) Traced(uint64)          {}

// BenchmarkCount is a batch of 64 from the walk to the count, per packet.
func BenchmarkCount(b *testing.B) {
	for _, c := range []struct {
		name string
		make func(table *stats.Table) *tracing
		on   bool
	}{
		{"no tracer", func(*stats.Table) *tracing { return nil }, false},
		{"nobody traces", func(table *stats.Table) *tracing { return &tracing{table: table, tracer: forgetful{}} }, false},
		{"traced", func(table *stats.Table) *tracing { return &tracing{table: table, tracer: forgetful{}} }, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			table := stats.NewTable()
			table.Trace(c.on)
			s := &socket{sink: table.Add, trace: c.make(table)}
			var bodies [][]byte
			for range batchLen {
				bodies = append(bodies, packetMessage(b, 2, packetHdr(1), payload(v4(5, 6)), capLen(1500))[16:])
			}
			for b.Loop() {
				s.count(bodies)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batchLen, "ns/packet")
		})
	}
}
