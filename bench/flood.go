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
	burst     burst         // the sender's side
	consumer  time.Duration // processor time of the consumer, if it is a process
}

func (f flood) rate() float64    { return float64(f.counted) / f.took.Seconds() }
func (f flood) offered() float64 { return float64(f.sent) / f.took.Seconds() }

// burst is what a blaster did.
type burst struct {
	sent uint64
	took time.Duration
	cpu  time.Duration // of its processor; as long as took, if it had one to itself
	// batch is the median time of sending 64 packets, and the mean of those if there are several blasters.
	batch time.Duration
}

// typicalCost is the time of the clock per packet, in nanoseconds, where nobody else came between.
func (b burst) typicalCost() float64 { return float64(b.batch) / 64 }

// packetCost is the processor's time per packet, in nanoseconds.
func (b burst) packetCost() float64 { return float64(b.cpu) / float64(max(b.sent, 1)) }

const smallPayload = 18 // bytes of UDP: the smallest Ethernet frame

func (l *lab) burst(ctx context.Context, cpu int, d time.Duration, rate float64, payload int) (burst, error) {
	got, err := output(ctx, anyCPU, l.tools.path("blaster"),
		seconds(d), strconv.FormatFloat(rate, 'f', 0, 64), strconv.Itoa(cpu), strconv.Itoa(l.sink), strconv.Itoa(payload))
	return burst{got["sent"], time.Duration(got["ns"]), time.Duration(got["cpu"]), time.Duration(got["batch"])}, err
}

// blast sends UDP packets from one CPU and answers how many, and for how long.
func (l *lab) blast(ctx context.Context, cpu int, d time.Duration, rate float64) (uint64, time.Duration, error) {
	b, err := l.burst(ctx, cpu, d, rate, smallPayload)
	return b.sent, b.took, err
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
}

// flood runs the blaster against a consumer.
func (l *lab) flood(ctx context.Context, c consumer, d time.Duration, rate float64) (flood, error) {
	return l.floodOf(ctx, c, d, rate, smallPayload)
}

func (l *lab) floodOf(ctx context.Context, c consumer, d time.Duration, rate float64, payload int) (flood, error) {
	before, err := c.tally()
	if err != nil {
		return flood{}, err
	}
	used, err := usageOf(c)
	if err != nil {
		return flood{}, err
	}
	sent, err := l.burst(ctx, trafficCPU, d, rate, payload)
	if err != nil {
		return flood{}, err
	}
	if _, ok := c.(absent); ok {
		return flood{sent: sent.sent, counted: sent.sent, took: sent.took, burst: sent}, nil
	}
	rest, err := drain(ctx)
	if err != nil {
		return flood{}, err
	}
	nowUsed, err := usageOf(c)
	if err != nil {
		return flood{}, err
	}
	after, err := c.tally()
	if err != nil {
		return flood{}, err
	}
	return flood{
		sent:      sent.sent,
		counted:   after.counted - before.counted,
		uncounted: after.uncounted - before.uncounted,
		took:      sent.took + rest,
		burst:     sent,
		consumer:  nowUsed - used,
	}, nil
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

// packets is the row of packets per second through a queue, and of what they cost whoever consumes them.
func packets(ctx context.Context, l *lab) []line {
	const counted, noLoss, share, cpu = "counted", "lossless", "uncounted", "cpu"
	peers := []string{none, floor, floorOf8, stock, kstatd, twoQueues}
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
			cpu:     float64(full.consumer) / float64(max(full.counted, 1)),
		}, err
	}, peers...)...)

	const rate, allCPU = "packets/s, none uncounted", "user and system CPU per packet"
	lines := []line{
		t.ratio(kstatd, floor, noLoss, rate, atLeast(0.97)),
		t.ratio(kstatd, stock, noLoss, rate, atLeast(4)),
		t.ratio(kstatd, floor, cpu, allCPU, nil),
		t.ratio(twoQueues, floor, noLoss, rate, nil),
		t.ratio(floorOf8, floor, noLoss, rate, nil),
		t.ratio(floor, stock, noLoss, rate, nil),
		t.ratio(floor, none, noLoss, rate, nil),
		t.ratio(kstatd, none, noLoss, rate, nil),
	}
	for _, peer := range peers {
		lines = append(lines, t.line(peer, noLoss, rate, "packets/s"))
	}
	for _, peer := range peers[1:] {
		lines = append(lines,
			t.line(peer, counted, "counted of a flood at full speed", "packets/s"),
			t.line(peer, share, "left uncounted at full speed", "%"),
			t.line(peer, cpu, allCPU, "ns"))
	}
	return lines
}
