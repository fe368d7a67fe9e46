package main

import (
	"context"
)

// scaling is the row of two CPUs that send at once against one. Consumers that are processes go where the scheduler puts
// them: there is no CPU to spare for them.
func scaling(ctx context.Context, l *lab) []line {
	const one, two, times, typical, astray = "one", "two", "times", "typical", "astray"
	free := *l
	free.consumerCPU = anyCPU
	peers := []string{none, emptyBPF, kstatdBPF, nftCounter, nftSet, floor, kstatd, twoQueues}
	t := l.rounds(ctx, "two CPUs", l.numRounds, free.peerSubjects(func(ctx context.Context, c consumer) (sample, error) {
		single, err := free.floodFrom(ctx, c, trafficCPU)
		if err != nil {
			return nil, err
		}
		double, err := free.floodFrom(ctx, c, trafficCPU, consumerCPU)
		return sample{
			one:     single.rate(),
			two:     double.rate(),
			times:   double.rate() / max(single.rate(), 1),
			typical: 2 * single.burst.typicalCost() / double.burst.typicalCost(),
			astray:  float64(int64(single.sent + double.sent - single.counted - double.counted)),
		}, err
	}, peers...)...)

	const (
		what    = "two CPUs that send ÷ one"
		byBatch = "two CPUs that send ÷ one, by their median batches"
	)
	exact := t.line(kstatdBPF, astray, "sent − counted, flooded from two CPUs", "packets")
	exact.target, exact.must = exactly(0), true
	lines := []line{
		t.ratio(kstatdBPF, none, times, what, atLeast(0.95)),
		t.ratio(kstatdBPF, none, typical, byBatch, atLeast(0.95)),
		exact,
		t.ratio(emptyBPF, none, typical, byBatch, nil),
		t.ratio(nftSet, none, typical, byBatch, nil),
		t.ratio(kstatd, floor, two, "packets/s counted, two CPUs send", nil),
		t.ratio(twoQueues, floor, two, "packets/s counted, two CPUs send", nil),
	}
	for _, peer := range peers {
		lines = append(lines,
			t.line(peer, times, what, "times"),
			t.line(peer, two, "packets/s counted, two CPUs send", "packets/s"))
	}
	return lines
}

// floodFrom floods from some CPUs at once.
func (l *lab) floodFrom(ctx context.Context, c consumer, cpus ...int) (flood, error) {
	before, err := c.tally()
	if err != nil {
		return flood{}, err
	}
	all, err := l.burstFrom(ctx, l.flooding/2, cpus...)
	if err != nil {
		return flood{}, err
	}
	if _, ok := c.(absent); ok {
		return flood{sent: all.sent, counted: all.sent, took: all.took, burst: all}, nil
	}
	rest, err := drain(ctx)
	if err != nil {
		return flood{}, err
	}
	after, err := c.tally()
	return flood{
		sent:      all.sent,
		counted:   after.counted - before.counted,
		uncounted: after.uncounted - before.uncounted,
		took:      all.took + rest,
		burst:     all,
	}, err
}
