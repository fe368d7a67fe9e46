package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// memory is the row of the daemon's resident memory while it is flooded.
func memory(ctx context.Context, l *lab) []line {
	const rss, peak = "rss", "peak"
	const what = "resident memory while flooded"
	t := l.rounds(ctx, "memory", l.numRounds, subject{kstatd, func(ctx context.Context) (sample, error) {
		return l.with(ctx, kstatd, func(c consumer) (sample, error) {
			pid := c.(*daemon).cmd.Process.Pid
			var now map[string]uint64
			_, err := l.whileFlooded(ctx, func() (sample, error) {
				time.Sleep(l.flooding / 2)
				var err error
				now, err = residentMemory(pid)
				return nil, err
			})
			if err != nil {
				return nil, err
			}
			after, err := residentMemory(pid)
			return sample{rss: mebibytes(now["VmRSS"]), peak: mebibytes(after["VmHWM"])}, err
		})
	}})
	goal := t.line(kstatd, peak, "peak "+what+" (VmHWM)", "MiB")
	goal.target = atMost(40)
	return []line{goal, t.line(kstatd, rss, what+" (VmRSS)", "MiB")}
}

func mebibytes(kibibytes uint64) float64 { return float64(kibibytes) / 1024 }

// residentMemory adds up VmRSS and VmHWM, in KiB, of a process and its descendants: kstatd may watch a worker.
func residentMemory(pid int) (map[string]uint64, error) {
	pids, err := family(pid)
	if err != nil {
		return nil, fmt.Errorf("read memory: %w", err)
	}
	total := make(map[string]uint64)
	for _, pid := range pids {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil {
			return nil, fmt.Errorf("read memory: %w", err)
		}
		for l := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(l, ":")
			if name != "VmRSS" && name != "VmHWM" {
				continue
			}
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("parse %q: %w", l, err)
			}
			total[name] += n
		}
	}
	return total, nil
}
