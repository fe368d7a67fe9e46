package main

import (
	"context"
	"strconv"
)

// latency is the row of idle round trips: ICMP echo over loopback, two packets through the hook each.
func latency(ctx context.Context, l *lab) []line {
	const p50, p99 = "p50", "p99"
	const gap = 200 // µs
	peers := []string{none, floor, stock, kstatd}
	if l.consumerCPU != anyCPU { // the engine in the kernel has no consumer to be anywhere
		peers = append(peers, emptyBPF, kstatdBPF)
	}
	t := l.rounds(ctx, "round trip", l.numRounds, l.peerSubjects(func(ctx context.Context, _ consumer) (sample, error) {
		got, err := output(ctx, anyCPU, l.tools.path("ping"), strconv.Itoa(l.pings), strconv.Itoa(gap), strconv.Itoa(trafficCPU))
		return sample{p50: float64(got["p50"]) / 1e3, p99: float64(got["p99"]) / 1e3}, err
	}, peers...)...)

	var lines []line
	if l.consumerCPU != anyCPU {
		lines = append(lines,
			t.ratio(kstatdBPF, none, p50, "idle round trip, p50", atMost(1.02)),
			t.ratio(emptyBPF, none, p50, "idle round trip, p50", nil))
	}
	lines = append(lines,
		t.ratio(kstatd, floor, p50, "idle round trip, p50", atMost(1.15)),
		t.ratio(kstatd, floor, p99, "idle round trip, p99", nil),
		t.ratio(kstatd, stock, p50, "idle round trip, p50", nil))
	for _, peer := range peers {
		lines = append(lines,
			t.line(peer, p50, "idle round trip, p50", "µs"),
			t.line(peer, p99, "idle round trip, p99", "µs"))
	}
	return lines
}
