package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// world is the row of the time until the first line of a command in a private world, beside the same namespaces without one.
func world(ctx context.Context, l *lab) []line {
	const (
		first   = "first line"
		bare    = "unshare"
		run     = "kstat run"
		loaded  = "kstat run --start"
		what    = "start until the command's first line"
		allowed = 50 // ms
	)
	command := func(name string, words ...string) subject {
		return subject{name, func(ctx context.Context) (sample, error) {
			ms, err := firstLine(ctx, append(words, "echo", "first"))
			return sample{first: ms}, err
		}}
	}
	t := l.rounds(ctx, "kstat run", l.numRounds,
		command(bare, "unshare", "--mount", "--pid", "--ipc", "--net", "--fork", "--mount-proc"),
		command(run, l.kstat, "run"),
		command(loaded, l.kstat, "run", "--start"))
	return []line{
		t.difference(run, bare, first, what, "ms", atMost(allowed)),
		t.difference(loaded, bare, first, what, "ms", atMost(allowed)),
		t.line(bare, first, what, "ms"),
		t.line(run, first, what, "ms"),
		t.line(loaded, first, what, "ms"),
	}
}

// firstLine returns the median of a few starts, in milliseconds.
func firstLine(ctx context.Context, words []string) (float64, error) {
	const starts = 15
	var all series
	for range starts {
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		_, err = out.Read(make([]byte, 16))
		took := time.Since(began)
		if e := cmd.Wait(); e != nil {
			return 0, fmt.Errorf("%s: %w", words[0], e)
		}
		if err != nil {
			return 0, err
		}
		all = append(all, float64(took.Microseconds())/1e3)
	}
	return all.median(), nil
}
