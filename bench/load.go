package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// offeredLoads are packets/s that the sender is asked for; the last is as many as it can.
var offeredLoads = []float64{50_000, 100_000, 150_000, 200_000, 300_000, 400_000, fullSpeed}

// load is the row of what is counted of an offered load, and the plot of it.
func load(ctx context.Context, l *lab) []line {
	offered := func(rate float64) string { return fmt.Sprintf("offered %.0f", rate) }
	counted := func(rate float64) string { return fmt.Sprintf("counted %.0f", rate) }
	peers := []string{kstatdBPF, kstatd, twoQueues, floor, stock, nftCounter, nftSet, nfacct}
	t := l.rounds(ctx, "load", max(3, l.numRounds/2), l.peerSubjects(func(ctx context.Context, c consumer) (sample, error) {
		out := make(sample)
		for _, rate := range offeredLoads {
			got, err := l.flood(ctx, c, l.flooding/5, rate)
			if err != nil {
				return nil, err
			}
			out[offered(rate)] = float64(got.sent) / got.burst.took.Seconds()
			out[counted(rate)] = got.rate()
		}
		return out, nil
	}, peers...)...)

	var lines []line
	p := &plot{
		title: "Counted of what is offered",
		x:     axis{label: "packets/s that one CPU sends", text: kilo},
		y:     axis{label: "packets/s counted", text: kilo},
		notes: []string{
			fmt.Sprintf("Medians of %d interleaved rounds; consumers on the other CPU. A curve ends at the most that could be sent", max(3, l.numRounds/2)),
			"beside that consumer. Those that count in the kernel lie on each other: what is sent is counted.",
		},
	}
	most := 0.0
	for _, peer := range peers {
		c := curve{name: peer}
		for _, rate := range offeredLoads {
			name := "at " + thousands(int64(rate))
			if rate == fullSpeed {
				name = "at full speed"
			}
			sent := t.line(peer, offered(rate), "offered "+name, "packets/s")
			got := t.line(peer, counted(rate), "counted "+name, "packets/s")
			got.optional = peer == nfacct && got.missing != nil
			lines = append(lines, got)
			if got.measured() {
				c.points = append(c.points, point{sent.values.median(), got.values.median()})
				most = max(most, sent.values.median(), got.values.median())
			}
		}
		if len(c.points) > 0 {
			slices.SortFunc(c.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
			last := c.points[len(c.points)-1]
			c.name = fmt.Sprintf("%s: %s of %s", peer, kilo(last.y), kilo(last.x))
			p.desc += fmt.Sprintf("%s counts %s of %s packets/s at full speed. ", peer, kilo(last.y), kilo(last.x))
			p.curves = append(p.curves, c)
		}
	}
	for v := 0.0; v <= most+99_999; v += 100_000 {
		p.x.ticks, p.y.ticks = append(p.x.ticks, v), append(p.y.ticks, v)
		p.x.high, p.y.high = max(v, 100_000), max(v, 100_000)
	}
	l.plots["report"] = p
	return lines
}

// kilo writes 437,912 as 438k.
func kilo(v float64) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%.0fk", v/1000)
}
