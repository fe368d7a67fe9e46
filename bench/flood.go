package main

import (
	"context"
	"strconv"
	"time"
)

// fullSpeed is the rate of a flood that nothing paces.
const fullSpeed = 0

// flood is one run of the blaster and what became of it.
type flood struct {
	sent      uint64
	counted   uint64
	uncounted uint64
	took      time.Duration // until the queue was empty again
}

func (f flood) rate() float64    { return float64(f.counted) / f.took.Seconds() }
func (f flood) offered() float64 { return float64(f.sent) / f.took.Seconds() }

// blast sends UDP packets from one CPU and answers how many, and for how long.
func (l *lab) blast(ctx context.Context, cpu int, d time.Duration, rate float64) (uint64, time.Duration, error) {
	got, err := output(ctx, anyCPU, l.tools.path("blaster"),
		seconds(d), strconv.FormatFloat(rate, 'f', 0, 64), strconv.Itoa(cpu), strconv.Itoa(l.sink))
	return got["sent"], time.Duration(got["ns"]), err
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
}

// flood runs the blaster against a consumer.
func (l *lab) flood(ctx context.Context, c consumer, d time.Duration, rate float64) (flood, error) {
	before, err := c.tally()
	if err != nil {
		return flood{}, err
	}
	sent, took, err := l.blast(ctx, trafficCPU, d, rate)
	if err != nil {
		return flood{}, err
	}
	if _, ok := c.(absent); ok {
		return flood{sent: sent, counted: sent, took: took}, nil
	}
	rest, err := drain(ctx)
	if err != nil {
		return flood{}, err
	}
	after, err := c.tally()
	if err != nil {
		return flood{}, err
	}
	return flood{sent, after.counted - before.counted, after.uncounted - before.uncounted, took + rest}, nil
}

// lossless looks for the highest offered rate at which nothing stays uncounted, and answers the rate counted there.
// full is the flood at full speed; if that lost nothing, it is the answer.
func (l *lab) lossless(ctx context.Context, c consumer, full flood) (float64, error) {
	const probes = 6
	if full.uncounted == 0 {
		return full.rate(), nil
	}
	var best float64
	low, high := 0.0, full.offered()
	probe := min(0.9*full.rate(), 0.9*high)
	for range probes {
		got, err := l.flood(ctx, c, l.flooding/4, probe)
		if err != nil {
			return 0, err
		}
		if got.uncounted == 0 {
			low, best = probe, max(best, got.rate())
		} else {
			high = probe
		}
		probe = (low + high) / 2
	}
	return best, nil
}

// packets is the row of packets per second through the hook.
func packets(ctx context.Context, l *lab) []line {
	const counted, noLoss, share = "counted", "lossless", "uncounted"
	t := l.rounds(ctx, "packets", l.numRounds, l.peerSubjects(func(ctx context.Context, c consumer) (sample, error) {
		full, err := l.flood(ctx, c, l.flooding, fullSpeed)
		if err != nil {
			return nil, err
		}
		best, err := l.lossless(ctx, c, full)
		return sample{
			counted: full.rate(),
			noLoss:  best,
			share:   100 * float64(full.uncounted) / float64(max(full.sent, 1)),
		}, err
	}, none, floor, stock, kstatd)...)

	const rate = "packets/s, none uncounted"
	lines := []line{
		t.ratio(kstatd, floor, noLoss, rate, atLeast(0.90)),
		t.ratio(kstatd, stock, noLoss, rate, atLeast(4)),
		t.ratio(floor, stock, noLoss, rate, nil),
		t.ratio(floor, none, noLoss, rate, nil),
		t.ratio(kstatd, none, noLoss, rate, nil),
	}
	for _, peer := range []string{none, floor, stock, kstatd} {
		lines = append(lines, t.line(peer, noLoss, rate, "packets/s"))
	}
	for _, peer := range []string{floor, stock, kstatd} {
		lines = append(lines,
			t.line(peer, counted, "counted of a flood at full speed", "packets/s"),
			t.line(peer, share, "left uncounted at full speed", "%"))
	}
	return lines
}
