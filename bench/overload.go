package main

import (
	"context"
	"errors"
	"time"
)

// overload is the row of the sum: a flood of at least twice what kstatd can take, and at rest every packet that passed
// the rule is either counted or told as uncounted. Two more blasters run on kstatd's own CPU: they both add to the load
// and take away from what can be taken.
func overload(ctx context.Context, l *lab) []line {
	const difference, offered, counted, load, astray = "difference", "offered", "counted", "load", "astray"
	t := l.rounds(ctx, "overload", l.numRounds, l.peerSubjects(func(ctx context.Context, c consumer) (sample, error) {
		before, err := c.tally()
		if err != nil {
			return nil, err
		}
		sent, err := l.burstFrom(ctx, l.flooding, trafficCPU, consumerCPU, consumerCPU)
		if err != nil {
			return nil, err
		}
		if _, err := drain(ctx); err != nil {
			return nil, err
		}
		after, err := c.tally()
		if err != nil {
			return nil, err
		}
		passed, err := seen(kstatTable)
		if err != nil {
			return nil, err
		}
		got := after.counted - before.counted
		return sample{
			// The absolute figures: the daemon is as old as its rule.
			difference: float64(int64(after.counted + after.uncounted - passed)),
			offered:    float64(sent.sent) / sent.took.Seconds(),
			counted:    float64(got) / sent.took.Seconds(),
			load:       float64(sent.sent) / float64(max(got, 1)),
			astray:     float64(int64(sent.sent - passed)),
		}, nil
	}, kstatd)...)

	exact := t.line(kstatd, difference, "counted + uncounted − rule counter, at rest after overload", "packets")
	exact.target, exact.must = exactly(0), true
	twice := t.line(kstatd, load, "overload: offered ÷ counted", "ratio")
	twice.target = atLeast(2)
	return []line{
		exact,
		twice,
		t.line(kstatd, offered, "overload: offered", "packets/s"),
		t.line(kstatd, counted, "overload: counted", "packets/s"),
		t.line(kstatd, astray, "overload: sent − rule counter", "packets"),
	}
}

// burstFrom floods from all of the CPUs at once and adds up what all blasters did.
func (l *lab) burstFrom(ctx context.Context, d time.Duration, cpus ...int) (burst, error) {
	type result struct {
		burst
		err error
	}
	results := make(chan result, len(cpus))
	for _, cpu := range cpus {
		go func() {
			b, err := l.burst(ctx, cpu, d, fullSpeed, smallPayload)
			results <- result{b, err}
		}()
	}
	var all burst
	var errs []error
	for range cpus {
		r := <-results
		all = burst{all.sent + r.sent, max(all.took, r.took), all.cpu + r.cpu, all.batch + r.batch/time.Duration(len(cpus))}
		errs = append(errs, r.err)
	}
	return all, errors.Join(errs...)
}
