package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a process and its descendants have had of the processors.
type usage struct {
	// user is told in hundredths of a second, and the kernel splits user from system by what its ticks saw: good over
	// seconds, not over one flood.
	user time.Duration
	all  time.Duration // exact
}

func (u usage) less(before usage) usage { return usage{u.user - before.user, u.all - before.all} }

// usageOf answers nothing for a consumer that is no process.
func usageOf(c consumer) (usage, error) {
	var pid int
	switch c := c.(type) {
	case plain:
		pid = c.cmd.Process.Pid
	case *daemon:
		pid = c.cmd.Process.Pid
	default:
		return usage{}, nil
	}
	pids, err := family(pid)
	if err != nil {
		return usage{}, fmt.Errorf("read processor time: %w", err)
	}
	var sum usage
	for _, pid := range pids {
		u, err := processUsage(pid)
		if err != nil {
			return usage{}, fmt.Errorf("read processor time: %w", err)
		}
		sum.user += u.user
		sum.all += u.all
	}
	return sum, nil
}

func processUsage(pid int) (usage, error) {
	base := "/proc/" + strconv.Itoa(pid)
	text, err := os.ReadFile(base + "/stat")
	if err != nil {
		return usage{}, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // behind the name
	fields := strings.Fields(rest)
	const utime = 14 - 3 // proc(5)
	if len(fields) <= utime {
		return usage{}, fmt.Errorf("parse %q", text)
	}
	ticks, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return usage{}, err
	}
	out := usage{user: time.Duration(ticks) * time.Second / 100} // USER_HZ
	threads, err := filepath.Glob(base + "/task/*/schedstat")
	if err != nil {
		return usage{}, err
	}
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that ended meanwhile
		}
		var ns int64
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			return usage{}, fmt.Errorf("parse %q: %w", text, err)
		}
		out.all += time.Duration(ns)
	}
	return out, nil
}

// family answers a process and its descendants.
func family(pid int) ([]int, error) {
	base := "/proc/" + strconv.Itoa(pid)
	threads, err := os.ReadDir(base + "/task")
	if err != nil {
		return nil, err
	}
	all := []int{pid}
	for _, thread := range threads {
		text, err := os.ReadFile(base + "/task/" + thread.Name() + "/children")
		if err != nil {
			continue // a thread that ended meanwhile
		}
		for _, word := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("parse children %q: %w", text, err)
			}
			more, err := family(child)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
	}
	return all, nil
}
