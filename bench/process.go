package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a program may take to say something before it counts as hung.
const patience = 10 * time.Second

// anyCPU leaves a process where the scheduler puts it.
const anyCPU = -1

// process is a running program that talks in lines.
type process struct {
	name   string
	cmd    *exec.Cmd
	lines  chan string   // closed at the end of its output
	errors *bytes.Buffer // its standard error; complete once ended is closed
	ended  chan struct{}
	status error // of Wait; valid once ended is closed
}

// start runs a program pinned to cpu. Affinity is inherited, so a Go program sees one CPU and runs with GOMAXPROCS=1,
// as under taskset. The program dies with the bench (PDEATHSIG), whatever ends the bench.
func start(ctx context.Context, cpu int, env []string, path string, args ...string) (*process, error) {
	p := &process{
		name: path, lines: make(chan string, 16), errors: new(bytes.Buffer), ended: make(chan struct{}),
		cmd: exec.CommandContext(ctx, path, args...),
	}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.errors
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	if err := startOn(cpu, p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	go func() {
		defer close(p.ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
		close(p.lines)
		p.status = p.cmd.Wait()
	}()
	return p, nil
}

// startOn forks from a thread that is pinned for the moment.
func startOn(cpu int, cmd *exec.Cmd) error {
	if cpu == anyCPU {
		return cmd.Start()
	}
	return onCPU(cpu, cmd.Start)
}

// onCPU does something on a thread that is pinned meanwhile. The thread must not end: what it has started would too
// (PDEATHSIG).
func onCPU(cpu int, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("get affinity: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	err := do()
	if back := unix.SchedSetaffinity(0, &before); back != nil && err == nil {
		err = fmt.Errorf("restore affinity: %w", back)
	}
	return err
}

// line waits for the next line of output.
func (p *process) line(limit time.Duration) (string, error) {
	select {
	case s, ok := <-p.lines:
		if !ok {
			<-p.ended
			return "", fmt.Errorf("%s ended: %w", p.name, p.failure())
		}
		return s, nil
	case <-time.After(limit):
		return "", fmt.Errorf("%s: no line of output in %v", p.name, limit)
	}
}

// failure says how it ended, with the last of its standard error. Call it after ended is closed.
func (p *process) failure() error {
	text := strings.TrimSpace(p.errors.String())
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	if p.status == nil {
		return fmt.Errorf("exit status 0, %q", text)
	}
	return fmt.Errorf("%w, %q", p.status, text)
}

// stop asks a process to end and waits; one that does not end is killed, and that is an error.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	late := time.After(patience)
	for lines := p.lines; ; {
		select {
		case _, ok := <-lines:
			if !ok {
				lines = nil
			}
		case <-p.ended:
			if p.status != nil {
				return fmt.Errorf("stop %s: %w", p.name, p.failure())
			}
			return nil
		case <-late:
			if err := p.cmd.Process.Kill(); err != nil {
				return fmt.Errorf("kill %s: %w", p.name, err)
			}
			return fmt.Errorf("stop %s: still there %v after SIGTERM", p.name, patience)
		}
	}
}

// output runs one of the measuring programs to its end and parses its only line.
func output(ctx context.Context, cpu int, path string, args ...string) (map[string]uint64, error) {
	p, err := start(ctx, cpu, nil, path, args...)
	if err != nil {
		return nil, err
	}
	var text string
	for s := range p.lines {
		text = s
	}
	<-p.ended
	if p.status != nil {
		return nil, fmt.Errorf("%s: %w", path, p.failure())
	}
	return figures(text)
}

// figures parses "name number name number …".
func figures(text string) (map[string]uint64, error) {
	words := strings.Fields(text)
	if len(words) == 0 || len(words)%2 != 0 {
		return nil, fmt.Errorf("parse %q: want names and numbers", text)
	}
	out := make(map[string]uint64, len(words)/2)
	for i := 0; i < len(words); i += 2 {
		n, err := strconv.ParseUint(words[i+1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse %q: %w", text, err)
		}
		out[words[i]] = n
	}
	return out, nil
}
