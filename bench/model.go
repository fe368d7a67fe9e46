package main

import (
	"fmt"
	"math"
)

// What a wire carries in a second. A frame of 64 or 1,518 bytes takes 20 more of preamble and gap; a super-packet (GSO) is
// cut into 45 frames behind the hook.
var lineRates = []struct {
	name   string
	frames float64
}{
	{"10 Gbit/s, GSO", 10e9 / 8 / 1538 / 45},
	{"100 Gbit/s, GSO", 100e9 / 8 / 1538 / 45},
	{"10 Gbit/s, 1500 bytes", 10e9 / 8 / 1538},
	{"100 Gbit/s, 1500 bytes", 100e9 / 8 / 1538},
	{"10 Gbit/s, 64 bytes", 10e9 / 8 / 84},
	{"100 Gbit/s, 64 bytes", 100e9 / 8 / 84},
}

// linesPerPacket are the cache lines that move when packets of one protocol are counted on several CPUs in turn: the head
// of the figures and the protocol's row.
const linesPerPacket = 2

// bpfCost is the time of a CPU that counting takes per packet, with so many CPUs at it.
func (t terms) bpfCost(cpus int) float64 {
	if cpus > 1 {
		return t.hook + t.shared
	}
	return t.hook + t.program
}

// bpfMost is how many packets a second that many CPUs can send and count, and whether the figures' lines are what limits
// it, rather than the stack. It takes it that no CPU ever counts two packets in a row, which is the worst that can be.
func (t terms) bpfMost(cpus int) (rate float64, byLines bool) {
	stack := float64(cpus) * 1e9 / (t.stack + t.bpfCost(cpus))
	if cpus == 1 {
		return stack, false
	}
	lines := 1e9 / (linesPerPacket * t.handOver)
	return min(stack, lines), lines < stack
}

// queueMost is how many packets a second that many CPUs can send, and count through as many queues as it takes: an assumption
// beyond two.
func (t terms) queueMost(cpus int) float64 { return float64(cpus) * 1e9 / (t.stack + t.queued) }

func (t terms) complete() error {
	for name, v := range map[string]float64{
		"in-kernel": t.hook, "program": min(t.program, t.shared), "costs": min(t.stack, t.handOver, t.queued),
	} {
		if v <= 0 {
			return fmt.Errorf("row %s was not measured, or the machine was too noisy for it", name)
		}
	}
	return nil
}

// model is the row of what follows from the terms for machines that are not here.
func (l *lab) model() []line {
	const most = "model: packets/s at most: "
	if err := l.terms.complete(); err != nil {
		return []line{{what: most + "1, 8, 64 CPUs", missing: err, optional: true}}
	}
	t := l.terms
	p := &plot{
		title: "What counting takes, by packet rate",
		desc: "A model: processors spent on counting against packets per second, for each engine on 1, 8 and 64 processors, " +
			"each curve as far as it goes, and the packet rates of 10 and 100 Gbit/s.",
		x: axis{label: "packets/s at the hook", low: 1e4, high: 1e9, log: true, text: power},
		y: axis{label: "CPUs that counting takes", low: 1e-4, high: 1e2, log: true, text: power},
		notes: []string{
			"A model (docs/performance.md) from the terms measured in this run. Solid: what was measured here. Dashed: assumed to go on",
			"in the same way on more CPUs. A dot is the end: all CPUs are busy, with stack and counting, or the lines of the figures are (bpf, 64 CPUs).",
		},
	}
	for v := p.x.low; v <= p.x.high; v *= 10 {
		p.x.ticks = append(p.x.ticks, v)
	}
	for v := p.y.low; v <= p.y.high*1.01; v *= 10 {
		p.y.ticks = append(p.y.ticks, v)
	}
	for _, r := range lineRates {
		p.marks = append(p.marks, mark{r.frames, r.name})
	}
	for _, n := range []int{1, 8, 64} {
		p.levels = append(p.levels, mark{float64(n), count(n, "CPU")})
	}
	var lines []line
	add := func(name string, ns, rate float64, dashed bool, why string) {
		var points []point
		for v := p.x.low; v < rate; v *= math.Sqrt(10) {
			points = append(points, point{v, v * ns / 1e9})
		}
		points = append(points, point{rate, rate * ns / 1e9})
		p.curves = append(p.curves, curve{name: fmt.Sprintf("%s: %s/s", name, short(rate)), points: points, dashed: dashed, dot: true})
		lines = append(lines, line{what: most + name + why, unit: "packets/s", values: series{rate}})
	}
	for _, n := range []int{64, 8, 1} {
		rate := t.queueMost(n)
		add(fmt.Sprintf("nfqueue, %s", count(n, "CPU")), t.queued, rate, n > 1, ", limited by senders and readers")
	}
	for _, n := range []int{64, 8, 1} {
		rate, byLines := t.bpfMost(n)
		why := ", limited by the stack"
		if byLines {
			why = ", limited by the figures' cache lines"
		}
		add(fmt.Sprintf("bpf, %s", count(n, "CPU")), t.bpfCost(n), rate, n > 1, why)
	}
	for _, n := range []int{1, 8} {
		lines = append(lines, line{what: "model: added to a packet: bpf, " + count(n, "CPU"), unit: "ns", values: series{t.bpfCost(n)}})
	}
	lines = append(lines, line{what: "model: added to a packet: nfqueue", unit: "ns", values: series{t.queued}})
	l.plots["model"] = p
	return lines
}

func count(n int, what string) string {
	if n > 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

// short writes 8,130,000 as 8.1M.
func short(v float64) string {
	if v >= 1e6 {
		return fmt.Sprintf("%.1fM", v/1e6)
	}
	return kilo(v)
}

// power writes a power of ten as people do.
func power(v float64) string {
	switch {
	case v >= 0.99e9:
		return fmt.Sprintf("%.0fG", v/1e9)
	case v >= 0.99e6:
		return fmt.Sprintf("%.0fM", v/1e6)
	case v >= 0.99e3:
		return fmt.Sprintf("%.0fk", v/1e3)
	}
	return fmt.Sprintf("%.6g", v)
}
