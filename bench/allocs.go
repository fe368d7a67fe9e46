package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// allocs is the row of heap allocations per packet in steady state. A process cannot see another's, so the figure is
// taken from a test of package hook, TestAllocsPerPacket, which prints "allocs/packet: X over N packets".
func allocs(ctx context.Context, l *lab) []line {
	out := line{what: "allocations per packet: kstatd", unit: "allocations", target: atMost(0.01)}
	out.values, out.missing = l.runAllocs(ctx)
	return []line{out}
}

func (l *lab) runAllocs(ctx context.Context) (series, error) {
	const name = "TestAllocsPerPacket"
	if err := l.tools.missing("hook.test"); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, l.tools.path("hook.test"), "-test.run=^"+name+"$", "-test.v")
	cmd.Dir = "hook"
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %.300s", name, err, text)
	}
	found := regexp.MustCompile(`allocs/packet: (\S+) over (\d+) packets`).FindSubmatch(text)
	if found == nil {
		return nil, fmt.Errorf("%s of package hook printed no allocs/packet: %.300s", name, text)
	}
	v, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return series{v}, nil
}
