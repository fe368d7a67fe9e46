package main

import "context"

// startup is the row of the time from the start of the process until nout can be read and packets are counted.
func startup(ctx context.Context, l *lab) []line {
	const ready = "ready"
	t := l.rounds(ctx, "start-up", l.numRounds, l.peerSubjects(func(_ context.Context, c consumer) (sample, error) {
		return sample{ready: float64(c.(*daemon).ready.Microseconds()) / 1e3}, nil
	}, kstatd, kstatdBPF)...)
	var lines []line
	for _, engine := range []string{kstatd, kstatdBPF} {
		out := t.line(engine, ready, "start-up until nout can be read", "ms")
		out.target = atMost(60)
		lines = append(lines, out)
	}
	return lines
}
