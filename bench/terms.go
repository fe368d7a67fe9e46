package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// terms are what the model (docs/performance.md) is made of, in nanoseconds per packet unless said otherwise. One that is
// 0 was not measured.
type terms struct {
	stack    float64 // the sender's CPU without a hook; on loopback it receives, too
	hook     float64 // an empty program at the hook
	program  float64 // kstatd's, with the empty one subtracted
	shared   float64 // the same in a flood from two CPUs
	handOver float64 // of a cache line from one CPU to another and back, half of it
	queued   float64 // of both CPUs, through NFQUEUE and kstatd, less stack
}

const largePayload = 1472 // bytes of UDP: the largest Ethernet frame

// costs is the row of the terms that no other row has: what the C floor's way costs when one thing about it is changed.
func costs(ctx context.Context, l *lab) []line {
	const sender, consumers, both, counted = "sender", "consumer", "both", "counted"
	const (
		large       = "none, 1,500 bytes"
		single      = "C floor, one packet a receive"
		largeHead   = "C floor, 1,500 bytes, 128 copied"
		largeWhole  = "C floor, 1,500 bytes, all copied"
		cacheLine   = "cache line"
		nanoseconds = "hand-over"
	)
	through := func(name string, payload int, begin func(context.Context) (consumer, error)) subject {
		return subject{name, func(ctx context.Context) (sample, error) {
			return l.use(ctx, begin, func(c consumer) (sample, error) {
				got, err := l.floodOf(ctx, c, l.flooding/2, fullSpeed, payload)
				if err != nil {
					return nil, err
				}
				taken := float64(got.consumer) / float64(max(got.counted, 1))
				return sample{
					sender: got.burst.packetCost(), consumers: taken, both: got.burst.packetCost() + taken, counted: got.rate(),
				}, nil
			})
		}}
	}
	peer := func(name string) func(context.Context) (consumer, error) {
		return func(ctx context.Context) (consumer, error) { return l.startPeer(ctx, name) }
	}
	variant := func(copyRange, batch int) func(context.Context) (consumer, error) {
		return func(ctx context.Context) (consumer, error) { return l.startFloor(ctx, copyRange, batch) }
	}
	t := l.rounds(ctx, "costs", l.numRounds,
		through(none, smallPayload, peer(none)),
		through(floor, smallPayload, peer(floor)),
		through(kstatd, smallPayload, peer(kstatd)),
		through(single, smallPayload, variant(copyRange, 1)),
		through(large, largePayload, peer(none)),
		through(largeHead, largePayload, variant(copyRange, batchOfFloor)),
		through(largeWhole, largePayload, variant(1600, batchOfFloor)),
		subject{cacheLine, func(context.Context) (sample, error) {
			ns, err := handOver()
			return sample{nanoseconds: ns}, err
		}},
	)

	const cpus = "CPU per packet, sender and consumer"
	lines := []line{
		t.line(kstatd, counted, "counted of a flood through one queue", "packets/s"),
		t.difference(floor, none, both, cpus, "ns", nil),
		t.difference(kstatd, none, both, cpus, "ns", nil),
		t.difference(kstatd, floor, both, cpus, "ns", nil),
		t.difference(single, floor, consumers, "consumer's CPU per packet", "ns", nil),
		t.difference(largeWhole, largeHead, both, cpus, "ns", nil),
		t.difference(large, none, both, cpus, "ns", nil),
		t.line(cacheLine, nanoseconds, "hand-over to another CPU", "ns"),
	}
	for _, name := range []string{none, floor, kstatd} {
		lines = append(lines, t.line(name, sender, "sender's CPU per packet", "ns"))
		if name != none {
			lines = append(lines, t.line(name, consumers, "consumer's CPU per packet", "ns"))
		}
	}
	l.terms.stack = t.median(none, both)
	l.terms.handOver = t.median(cacheLine, nanoseconds)
	l.terms.queued = t.difference(kstatd, none, both, "", "", nil).values.median()
	return lines
}

// handOver answers how long one of two CPUs takes to see what the other has written: the median of slices short enough
// that in most of them nobody else had a CPU.
func handOver() (float64, error) {
	const turns, slice = 400_000, 1000
	var word atomic.Uint32
	var group sync.WaitGroup
	var slices series
	errs := make([]error, 2)
	began := time.Now()
	for cpu := range uint32(2) {
		group.Go(func() {
			errs[cpu] = onCPU(int(cpu), func() error {
				last := began
				for n := cpu; n < turns; n += 2 {
					for spins := 0; !word.CompareAndSwap(n, n+1); spins++ {
						if spins&0xffff == 0xffff && time.Since(began) > patience {
							return fmt.Errorf("no hand-over in %v", patience)
						}
					}
					if n%slice == 0 { // CPU 0's
						now := time.Now()
						slices = append(slices, float64(now.Sub(last))/slice)
						last = now
					}
				}
				return nil
			})
		})
	}
	group.Wait()
	return slices.median(), errors.Join(errs...)
}
