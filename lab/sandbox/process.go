package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Children returns the processes that a process has started, which are its
// threads' each.
func Children(pid int) (children []int) {
	for _, text := range ofThreads(pid, "children") {
		for _, field := range strings.Fields(text) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// stopLimit is how long a process may take to stop, on a busy machine.
const stopLimit = 30 * time.Second

// Stop stops processes by SIGSTOP, one after the other. When it returns, every
// thread of theirs has stopped: before that, one may yet take a request from
// /dev/fuse, and whoever waits for the answer cannot be killed, even.
func Stop(pids ...int) error {
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			return fmt.Errorf("stop process %d: %w", pid, err)
		}
		for end := time.Now().Add(stopLimit); !stopped(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("stop process %d: %w", pid, errors.Join(unix.Kill(pid, unix.SIGCONT), os.ErrDeadlineExceeded))
			}
		}
	}
	return nil
}

// stopped reports whether every thread of a process is in state T.
func stopped(pid int) bool {
	stats := ofThreads(pid, "stat")
	for _, stat := range stats {
		if !strings.Contains(stat, ") T ") {
			return false
		}
	}
	return len(stats) > 0
}

// ofThreads returns what a file in /proc says of each thread of a process that
// has not ended.
func ofThreads(pid int, name string) (texts []string) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/%s", pid, name))
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}

// AwaitLimit is how long something may take on a busy machine that takes
// milliseconds on another.
const AwaitLimit = time.Minute

// Await polls until f is true, and returns how long that took.
func Await(tb testing.TB, what string, f func() bool) time.Duration {
	tb.Helper()
	began := time.Now()
	for !f() {
		if time.Since(began) > AwaitLimit {
			tb.Fatalf("%s: not within %v", what, AwaitLimit)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

// Output is what a program writes, to be read while it writes more.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write adds to it.
func (o *Output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

// String returns what there is by now.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Uninterrupted makes a system call until no signal interrupts it. Go's runtime
// sends its own threads some, which end a wait for /dev/fuse.
func Uninterrupted(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}
