package hook

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

func watcher(t testing.TB, table *stats.Table) *stats.Watcher {
	t.Helper()
	w, err := table.Watch()
	must(t, err)
	t.Cleanup(w.Close)
	return w
}

// next waits for a publication, but not for ever.
func next(t testing.TB, w *stats.Watcher) (p stats.Publication, missed uint64) {
	t.Helper()
	interrupt := make(chan struct{})
	defer time.AfterFunc(sandbox.AwaitLimit, func() { close(interrupt) }).Stop()
	p, missed, err := w.Next(interrupt)
	must(t, err)
	return p, missed
}

// TestWatch: every publication is told of, with its own figures and its time,
// to all who watch, and to nobody what was before.
func TestWatch(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		for _, n := range []uint64{1, 2, 10} {
			t.Run(fmt.Sprintf("N=%d", n), func(t *testing.T) {
				sandbox.Need(t, sandbox.IPv6)
				_, table := started(t, c)
				must(t, table.SetCounter(uint32(n)), traffic.Ping(lo4, int(n))) // 2 publications
				var watchers []*stats.Watcher
				for range 3 {
					watchers = append(watchers, watcher(t, table))
				}
				began := time.Now().UnixNano()
				closed, err := traffic.ClosedPort(lo4)
				must(t, err)
				closed6, err := traffic.ClosedPort(lo6)
				must(t, err)
				must(t, traffic.TCPConnect(closed, 20), traffic.TCPConnect(closed6, 5), traffic.Ping(lo4, 5))
				must(t, table.Reset(), traffic.TCPConnect(closed, 5), traffic.Ping(lo6, 5))
				ended := time.Now().UnixNano()
				for _, w := range watchers {
					number, last := uint64(2), began
					for i, round := range []struct{ before, tcp, all uint64 }{{2 * n, 50, 60}, {0, 10, 20}} {
						for packets := n; packets <= round.all; packets += n {
							number++
							p, missed := next(t, w)
							if p.Number != number || p.TCP != min(packets, round.tcp) || p.Packets != round.before+packets || missed != 0 || p.Time < last || p.Time > ended {
								t.Fatalf("round %d: got %+v, %d missed; want number %d, %d packets, at most %d TCP, between %d and %d",
									i, p, missed, number, packets, round.tcp, last, ended)
							}
							last = p.Time
						}
					}
					if p, _, err := w.Next(nil); err != stats.ErrNoNews {
						t.Errorf("one too many: %+v, %v", p, err)
					}
				}
			})
		}
	})
}

// TestWatchByHand: so, too, what a lowered counter publishes.
func TestWatchByHand(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		_, table := started(t, c)
		w := watcher(t, table)
		must(t, traffic.Ping(lo4, 3), table.SetCounter(6), table.SetCounter(5), traffic.Ping(lo4, 2), table.SetCounter(1))
		for i, want := range []uint64{6, 10} {
			if p, missed := next(t, w); p.Number != uint64(i+1) || p.Packets != want || p.TCP != 0 || missed != 0 {
				t.Errorf("got %+v, %d missed, want %d packets", p, missed, want)
			}
		}
	})
}

// TestWatchAllCPUs: packets arrive on all CPUs as fast as they can, and watchers
// come and go. Numbers and missed are without a hole, and every figure that comes
// is right, for those that were counted aside as well.
func TestWatchAllCPUs(t *testing.T) {
	for _, every := range []uint64{1, 2, 7} {
		t.Run(fmt.Sprintf("N=%d", every), func(t *testing.T) {
			l := load(t)
			must(t, l.table.SetCounter(uint32(every)))
			f, err := l.feed()
			must(t, err)
			fed := make(chan error, 1)
			go func() { fed <- f.run() }()
			w := watcher(t, l.table)
			const each = 200_003
			errs := make(chan error, 4)
			packet := v4(5, 6)
			for range cap(errs) {
				go func() { errs <- l.run(stats.IPv4, packet, each) }()
			}
			const publications = 4 * each
			var seen, lost uint64
			for seen+lost < publications/every {
				p, missed := next(t, w)
				if lost += missed; missed > 0 {
					continue
				}
				seen++
				if p.Number != seen+lost || p.Packets != p.Number*every || p.TCP != p.Packets {
					t.Fatalf("got %+v, after %d seen and %d missed", p, seen, lost)
				}
			}
			must(t, <-errs, <-errs, <-errs, <-errs, f.end(), <-fed)
			if p, missed, err := w.Next(nil); err != stats.ErrNoNews {
				t.Errorf("one too many: %+v, %d missed, %v", p, missed, err)
			}
			t.Logf("%d publications seen, %d missed", seen, lost)
			if seen == 0 {
				t.Error("none was seen: the test tests nothing")
			}
		})
	}
}

// TestWatchRingFull: what finds no room in the kernel's ring is missed, and told
// even if nothing follows.
func TestWatchRingFull(t *testing.T) {
	l := load(t)
	must(t, l.table.SetCounter(1))
	w := watcher(t, l.table)
	const sent = 100_000
	must(t, l.run(stats.IPv4, v4(5, 17), sent)) // and nobody reads
	f, err := l.feed()
	must(t, err)
	fed := make(chan error, 1)
	go func() { fed <- f.run() }()
	var last, lost uint64
	for last+lost < sent {
		p, missed := next(t, w)
		if lost += missed; missed == 0 {
			last++
			if p.Number != last+lost || p.Packets != p.Number || p.TCP != 0 {
				t.Fatalf("got %+v, after %d seen and %d missed", p, last, lost)
			}
		}
	}
	if last == 0 || lost < sent/2 {
		t.Errorf("%d seen, %d missed", last, lost)
	}
	must(t, f.end(), <-fed)
}

// TestWatchNobody: while nobody watches nothing is written, and who comes later
// is shown nothing of before.
func TestWatchNobody(t *testing.T) {
	l := load(t)
	must(t, l.table.SetCounter(1))
	f, err := l.feed()
	must(t, err)
	run := func(n int) { must(t, l.run(stats.IPv4, v4(5, 17), n)) }
	run(100)
	w, err := l.table.Watch()
	must(t, err)
	run(3)
	w.Close()
	run(50)
	if got := f.ring.AvailableBytes(); got != 3*(8+32) {
		t.Errorf("%d bytes in the ring, want 3 records", got)
	}
	w = watcher(t, l.table)
	fed := make(chan error, 1)
	go func() { fed <- f.run() }()
	run(1)
	if p, missed := next(t, w); p.Number != 154 || missed != 0 {
		t.Errorf("got %+v, %d missed", p, missed)
	}
	must(t, f.end(), <-fed)
}

// TestWatchOverload is a flood with N = 1 and a watcher who is too slow: what it
// sees and what it misses is all there is.
func TestWatchOverload(t *testing.T) {
	overEngines(t, func(t *testing.T, c Config) {
		e, table := started(t, c)
		must(t, table.SetCounter(1))
		peer := sandbox.Veth(t)
		w := watcher(t, table)
		const sent = 20_000
		must(t, traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), sent, 10))
		stop(t, e)
		published := table.Publications()
		var seen, lost uint64
		for seen+lost < published {
			p, missed := next(t, w)
			if lost += missed; missed == 0 {
				seen++
				if p.Number != seen+lost || p.Packets != p.Number {
					t.Fatalf("got %+v, after %d seen and %d missed", p, seen, lost)
				}
			}
		}
		if lost == 0 || seen < stats.Kept/2 {
			t.Errorf("%d seen, %d missed", seen, lost)
		}
	})
}
