package main

import (
	"context"
	"strconv"
)

// latency is the row of idle round trips: ICMP echo over loopback, two packets through the hook each.
func latency(ctx context.Context, l *lab) []line {
	const p50, p99 = "p50", "p99"
	const gap = 200 // µs
	const what = "idle round trip, p50"
	measure := func(rounds, pings int, peers ...string) *table {
		return l.rounds(ctx, "round trip", rounds, l.peerSubjects(func(ctx context.Context, _ consumer) (sample, error) {
			got, err := output(ctx, anyCPU, l.tools.path("ping"), strconv.Itoa(pings), strconv.Itoa(gap), strconv.Itoa(trafficCPU))
			return sample{p50: float64(got["p50"]) / 1e3, p99: float64(got["p99"]) / 1e3}, err
		}, peers...)...)
	}
	var lines []line
	add := func(t *table, peers ...string) {
		for _, peer := range peers {
			lines = append(lines,
				t.line(peer, p50, what, "µs"),
				t.line(peer, p99, "idle round trip, p99", "µs"))
		}
	}
	if l.consumerCPU != anyCPU { // what counts in the kernel has no consumer to be anywhere
		// It adds a thirtieth, and the machine wakes from idleness now fast, now slowly: hence short rounds, and many.
		peers := []string{none, emptyBPF, kstatdBPF}
		t := measure(5*l.numRounds, max(1, l.pings/5), peers...)
		lines = append(lines,
			t.ratio(kstatdBPF, none, p50, what, atMost(1.02)),
			t.ratio(emptyBPF, none, p50, what, nil),
			t.ratio(kstatdBPF, emptyBPF, p50, what, nil))
		add(t, peers...)
	}
	peers := []string{floor, stock, kstatd}
	t := measure(l.numRounds, l.pings, peers...)
	lines = append(lines,
		t.ratio(kstatd, floor, p50, what, atMost(1.15)),
		t.ratio(kstatd, floor, p99, "idle round trip, p99", nil),
		t.ratio(kstatd, stock, p50, what, nil))
	add(t, peers...)
	return lines
}
