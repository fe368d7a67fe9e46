package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

const (
	atRest  = "kstatd at rest"
	flooded = "kstatd while flooded"
	twin    = "C libfuse3 twin at rest"
	procfs  = "procfs"
)

// reading is the row of open + read + close of nout, and of a pread of it while it is open.
func reading(ctx context.Context, l *lab) []line {
	const p50, p99, worst, pread50, pread99 = "p50", "p99", "max", "pread p50", "pread p99"
	// At rest the reader sits on the other CPU than the server: wherever the scheduler put it would decide the figure, for
	// a wake-up across CPUs costs four times one on the same. Under the flood it is left alone, as a user's is.
	read := func(ctx context.Context, cpu int, path string, limit time.Duration) (sample, error) {
		got, err := output(ctx, cpu, l.tools.path("reader"), "open", path, strconv.Itoa(l.reads), seconds(limit))
		return sample{p50: float64(got["p50"]) / 1e3, p99: float64(got["p99"]) / 1e3, worst: float64(got["max"]) / 1e3}, err
	}
	both := func(ctx context.Context, path string) (sample, error) {
		s, err := read(ctx, trafficCPU, path, l.flooding)
		if err != nil {
			return nil, err
		}
		got, err := output(ctx, trafficCPU, l.tools.path("reader"), "pread", path, strconv.Itoa(l.reads), seconds(l.flooding))
		s[pread50], s[pread99] = float64(got["p50"])/1e3, float64(got["p99"])/1e3
		return s, err
	}
	t := l.rounds(ctx, "read nout", l.numRounds,
		subject{atRest, func(ctx context.Context) (sample, error) {
			return l.with(ctx, kstatd, func(c consumer) (sample, error) {
				return both(ctx, c.(*daemon).file("nout"))
			})
		}},
		subject{flooded, func(ctx context.Context) (sample, error) {
			return l.with(ctx, kstatd, func(c consumer) (sample, error) {
				return l.whileFlooded(ctx, func() (sample, error) {
					return read(ctx, anyCPU, c.(*daemon).file("nout"), l.flooding/2)
				})
			})
		}},
		subject{twin, func(ctx context.Context) (sample, error) {
			return l.withTwin(ctx, func(path string) (sample, error) { return both(ctx, path) })
		}},
		subject{procfs, func(ctx context.Context) (sample, error) {
			return both(ctx, "/proc/sys/kernel/pid_max")
		}},
	)

	const what, pread = "open + read + close", "pread of an open file"
	goal := t.line(flooded, p99, what+", p99", "µs")
	goal.target = atMost(5000)
	lines := []line{
		goal,
		t.ratio(atRest, twin, p50, what+", p50", atMost(1.2)),
		t.ratio(atRest, twin, pread50, pread+", p50", atMost(1.2)),
		t.ratio(atRest, procfs, p50, what+", p50", nil),
		t.ratio(atRest, procfs, pread50, pread+", p50", nil),
	}
	for _, s := range []string{atRest, flooded, twin, procfs} {
		lines = append(lines, t.line(s, p50, what+", p50", "µs"))
		if s != flooded {
			lines = append(lines,
				t.line(s, p99, what+", p99", "µs"),
				t.line(s, pread50, pread+", p50", "µs"),
				t.line(s, pread99, pread+", p99", "µs"))
		}
	}
	lines = append(lines, t.line(flooded, worst, what+", max", "µs"))
	for i := range lines {
		// Its figures need a library that a build of kstatd does not.
		lines[i].optional = lines[i].missing != nil && lines[i].missing == t.failed[twin]
	}
	return lines
}

// whileFlooded measures in the middle of a flood that lasts as long as use does.
func (l *lab) whileFlooded(ctx context.Context, use func() (sample, error)) (sample, error) {
	const settle = 100 * time.Millisecond
	ended := make(chan error, 1)
	go func() {
		_, _, err := l.blast(ctx, trafficCPU, l.flooding/2+2*settle, fullSpeed)
		ended <- err
	}()
	time.Sleep(settle)
	got, err := use()
	if floodErr := <-ended; err == nil {
		err = floodErr
	}
	if err != nil {
		return nil, err
	}
	_, err = drain(ctx)
	return got, err
}

// withTwin mounts the C file system, lets use read its nout, and unmounts it.
func (l *lab) withTwin(ctx context.Context, use func(nout string) (sample, error)) (sample, error) {
	if err := l.tools.missing("twin"); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "twin-")
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, l.consumerCPU, nil, l.tools.path("twin"), dir)
	if err != nil {
		return nil, err
	}
	_, err = p.line(patience)
	if err != nil {
		return nil, err
	}
	got, err := use(dir + "/nout")
	if stopErr := p.stop(); err == nil && stopErr != nil {
		err = fmt.Errorf("unmount the twin: %w", stopErr)
	}
	return got, err
}
