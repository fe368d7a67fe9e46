package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// pidOf answers 0 for a consumer that is no process.
func pidOf(c consumer) int {
	switch c := c.(type) {
	case plain:
		return c.cmd.Process.Pid
	case *daemon:
		return c.cmd.Process.Pid
	}
	return 0
}

// usageOf answers what a consumer, its descendants included, has had of the processors so far.
func usageOf(c consumer) (time.Duration, error) {
	pid := pidOf(c)
	if pid == 0 {
		return 0, nil
	}
	pids, err := family(pid)
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	var sum time.Duration
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		for _, name := range threads {
			text, err := os.ReadFile(name)
			if err != nil {
				continue // a thread that ended meanwhile
			}
			var ns int64
			if _, err := fmt.Sscan(string(text), &ns); err != nil {
				return 0, fmt.Errorf("parse %q: %w", text, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
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

// userCPU is the row of the time that consumers of a queue spend outside of the kernel. The kernel's own account is made
// of what its ticks saw, too coarse for the hundredth of the time that it is about.
func userCPU(ctx context.Context, l *lab) []line {
	const user = "user"
	const what = "user CPU per packet"
	peers := []string{floor, stock, kstatd}
	t := l.rounds(ctx, "user CPU", l.numRounds, l.peerSubjects(func(ctx context.Context, c consumer) (sample, error) {
		clock, err := newUserClock(pidOf(c))
		if err != nil {
			return nil, err
		}
		defer clock.Close()
		got, err := l.flood(ctx, c, l.flooding/2, fullSpeed)
		if err != nil {
			return nil, err
		}
		spent, err := clock.read()
		return sample{user: float64(spent) / float64(max(got.counted, 1))}, err
	}, peers...)...)
	lines := []line{t.ratio(kstatd, floor, user, what, atMost(1.5))}
	for _, peer := range peers {
		lines = append(lines, t.line(peer, user, what, "ns"))
	}
	return lines
}

// preempted is how long nobody is outside of the kernel who gets a packet every few microseconds: somebody else ran.
const preempted = 500 * time.Microsecond

// userClock adds up how long processes are between one system call's end and the next one's beginning, interrupts
// included.
type userClock struct {
	sums  *ebpf.Map // by process
	since *ebpf.Map // by thread
	links []link.Link
}

func newUserClock(pid int) (_ *userClock, err error) {
	c := new(userClock)
	defer func() {
		if err != nil {
			c.Close()
			err = fmt.Errorf("user clock: %w", err)
		}
	}()
	pids, err := family(pid)
	if err != nil {
		return nil, err
	}
	c.sums, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: uint32(len(pids))})
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		if err := c.sums.Put(uint32(pid), uint64(0)); err != nil {
			return nil, err
		}
	}
	c.since, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1024})
	if err != nil {
		return nil, err
	}
	const process, thread, now = -4, -8, -16 // on the stack
	// R6 is this process's sum.
	watched := asm.Instructions{
		asm.FnGetCurrentPidTgid.Call(),
		asm.StoreMem(asm.RFP, thread, asm.R0, asm.Word),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(asm.RFP, process, asm.R0, asm.Word),
		asm.LoadMapPtr(asm.R1, c.sums.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, process),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Reg(asm.R6, asm.R0),
	}
	end := asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("end"), asm.Return()}
	leave := asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, now, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, c.since.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, thread),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, now),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
	}
	enter := asm.Instructions{
		asm.LoadMapPtr(asm.R1, c.since.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, thread),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord),
		asm.FnKtimeGetNs.Call(),
		asm.Sub.Reg(asm.R0, asm.R7),
		asm.JGT.Imm(asm.R0, int32(preempted), "end"),
		asm.StoreXAdd(asm.R6, asm.R0, asm.DWord),
	}
	for name, work := range map[string]asm.Instructions{"sys_exit": leave, "sys_enter": enter} {
		var all asm.Instructions
		for _, part := range []asm.Instructions{watched, work, end} {
			all = append(all, part...)
		}
		if err := c.attach(name, all); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *userClock) attach(tracepoint string, code asm.Instructions) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: tracepoint, Type: ebpf.RawTracepoint, Instructions: code, License: "GPL"})
	if err != nil {
		return fmt.Errorf("load %s: %w", tracepoint, err)
	}
	defer p.Close()
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: tracepoint, Program: p})
	if err != nil {
		return fmt.Errorf("attach %s: %w", tracepoint, err)
	}
	c.links = append(c.links, l)
	return nil
}

func (c *userClock) read() (time.Duration, error) {
	var sum, ns uint64
	var pid uint32
	each := c.sums.Iterate()
	for each.Next(&pid, &ns) {
		sum += ns
	}
	return time.Duration(sum), each.Err()
}

func (c *userClock) Close() error {
	var errs []error
	for _, l := range c.links {
		errs = append(errs, l.Close())
	}
	if c.sums != nil {
		errs = append(errs, c.sums.Close())
	}
	if c.since != nil {
		errs = append(errs, c.since.Close())
	}
	return errors.Join(errs...)
}
