package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"
)

const (
	none      = "none"
	floor     = "C floor"
	floorOf8  = "C floor, eight packets a verdict" // as kstatd does
	stock     = "go-nfqueue as it comes"
	kstatd    = "kstatd nfqueue"
	twoQueues = "kstatd nfqueue --queues 2"
	kstatdBPF = "kstatd bpf"

	// These count in the kernel, and are read by nobody meanwhile.
	nftCounter = "nft counter"
	nftSet     = "nft dynamic set"
	nfacct     = "nfacct"
	emptyBPF   = "empty BPF program"
	tracepoint = "bpftrace, tracepoint"
	kprobe     = "bpftrace, kprobe"
	kfunc      = "bpftrace, kfunc"
)

const (
	queueNumber = 7
	copyRange   = 128      // enough for the protocol behind any header chain that occurs
	readBuffer  = 64 << 20 // bytes: a full queue of messages with room to spare
)

// tally is what a consumer saw since it started; exact when its queue is empty.
type tally struct {
	counted   uint64
	uncounted uint64
}

// consumer counts the packets of the bench's network namespace.
type consumer interface {
	tally() (tally, error)
	// stop takes the rule away, then the process.
	stop() error
}

// with starts a peer, lets use measure, and stops it.
func (l *lab) with(ctx context.Context, peer string, use func(consumer) (sample, error)) (sample, error) {
	return l.use(ctx, func(ctx context.Context) (consumer, error) { return l.startPeer(ctx, peer) }, use)
}

func (l *lab) use(ctx context.Context, begin func(context.Context) (consumer, error), use func(consumer) (sample, error)) (out sample, err error) {
	c, err := begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	return use(c)
}

// peerSubjects is one subject per peer that measures the same thing.
func (l *lab) peerSubjects(use func(context.Context, consumer) (sample, error), peers ...string) []subject {
	var out []subject
	for _, name := range peers {
		out = append(out, subject{name, func(ctx context.Context) (sample, error) {
			return l.with(ctx, name, func(c consumer) (sample, error) { return use(ctx, c) })
		}})
	}
	return out
}

func (l *lab) startPeer(ctx context.Context, peer string) (consumer, error) {
	switch peer {
	case none:
		return absent{}, nil
	case nftCounter, nftSet, nfacct:
		return addCounting(peer)
	case emptyBPF:
		return attachEmpty()
	case tracepoint, kprobe, kfunc:
		return l.startBpftrace(ctx, peer)
	case floor:
		return l.startFloor(ctx, copyRange, batchOfFloor)
	case floorOf8:
		return l.startFloor(ctx, copyRange, batchOfFloor, "8")
	case stock:
		return l.startPlain(ctx, l.tools.path("stock"), copyRange)
	case kstatd:
		return l.startKstatd(ctx, "nfqueue")
	case twoQueues:
		return l.startKstatd(ctx, "nfqueue", "--queues", "2")
	case kstatdBPF:
		return l.startKstatd(ctx, "bpf")
	}
	return nil, fmt.Errorf("no peer %q", peer)
}

// absent is a peer that cannot be asked: "none", or one that counts nothing, or tells at its end.
type absent struct{ end func() error }

func (absent) tally() (tally, error) { return tally{}, nil }

func (a absent) stop() error {
	if a.end == nil {
		return nil
	}
	return a.end()
}

// plain is floor or stock: a program that says "ready", and its figures on SIGUSR1.
type plain struct {
	*process
}

const batchOfFloor = 64 // packets a receive

func (l *lab) startFloor(ctx context.Context, copyRange, batch int, verdict ...string) (consumer, error) {
	return l.startPlain(ctx, l.tools.path("floor"), copyRange, append([]string{strconv.Itoa(batch)}, verdict...)...)
}

func (l *lab) startPlain(ctx context.Context, path string, copyRange int, more ...string) (consumer, error) {
	p, err := start(ctx, l.consumerCPU, nil, path, append([]string{
		strconv.Itoa(queueNumber), strconv.Itoa(l.queueLen), strconv.Itoa(copyRange), strconv.Itoa(readBuffer),
	}, more...)...)
	if err != nil {
		return nil, err
	}
	if _, err := p.line(patience); err != nil {
		return nil, err
	}
	if err := addRule(queueNumber); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return plain{p}, nil
}

func (p plain) tally() (tally, error) {
	// A SIGUSR1 between the look at the flag and the receive is noticed at the receive's next timeout.
	if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return tally{}, fmt.Errorf("ask %s: %w", p.name, err)
	}
	text, err := p.line(patience)
	if err != nil {
		return tally{}, err
	}
	got, err := figures(text)
	if err != nil {
		return tally{}, err
	}
	passed, err := seen(peerTable)
	if err != nil {
		return tally{}, err
	}
	return tally{counted: got["counted"], uncounted: passed - got["counted"]}, nil
}

func (p plain) stop() error {
	return errors.Join(removeRule(), p.process.stop())
}

// drain waits until the consumer has answered every packet and answers how long that took.
func drain(ctx context.Context) (time.Duration, error) {
	var n int
	var err error
	for began := time.Now(); time.Since(began) < patience; {
		n, err = waiting()
		if err != nil || n == 0 {
			return time.Since(began), err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return 0, fmt.Errorf("%d packets still queued after %v", n, patience)
}
