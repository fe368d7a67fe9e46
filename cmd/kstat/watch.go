package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"kstat/view/tree"
	"kstat/view/watch"
)

// mountFlag adds the flag that says where a kstatd's tree is.
func mountFlag(flags *flag.FlagSet) *string {
	return flags.String("mount", "", "look at the tree in `DIR` (default mnt/kstat if a kstatd is there, else /run/kstat, else the only one)")
}

// shortestInterval is what reading stats.json can keep up with.
const shortestInterval = 50 * time.Millisecond

func checkInterval(d time.Duration) error {
	if d < shortestInterval {
		return fmt.Errorf("--interval %v is too short: %v or more", d, shortestInterval)
	}
	return nil
}

func watchCommand(c *command, flags *flag.FlagSet) func([]string) int {
	mount := mountFlag(flags)
	w := watch.Watch{Out: os.Stdout}
	var every time.Duration
	durationFlag(flags, &every, "interval", "print a line after each `TIME` (1s, 500ms) with what was counted in it, instead of one per publication")
	flags.BoolVar(&w.JSON, "json", false, "print each line as an object of JSON")
	countFlag(flags, &w.Count, "end after `COUNT` lines with figures")
	return func([]string) int {
		print := w.Publications
		if isSet(flags, "interval") {
			if err := checkInterval(every); err != nil {
				return c.misuse("%v", err)
			}
			print = func() error { return w.Intervals(every) }
		}
		if flags.NArg() > 0 {
			return c.misuse("%q is not a flag, and nothing else is expected", flags.Arg(0))
		}
		var err error
		if w.Tree, err = tree.Find(*mount); err == nil {
			// Who reads us may go, and nothing be published any more.
			signal.Ignore(unix.SIGPIPE)
			gone := make(chan struct{})
			go awaitHangup(os.Stdout, gone)
			ended := make(chan error, 1)
			go func() { ended <- print() }()
			select {
			case <-gone:
				return 0
			case err = <-ended:
			}
		}
		switch {
		case err == nil, errors.Is(err, unix.EPIPE):
			return 0
		case errors.Is(err, watch.ErrEnded):
			status := c.fail(watch.ErrEnded)
			if w.Count == 0 {
				return 0
			}
			return status
		}
		return c.fail(err)
	}
}

func isSet(flags *flag.FlagSet, name string) (set bool) {
	flags.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// awaitHangup closes gone when nobody can read what is written to f any more.
// It ends with that, or with the process.
func awaitHangup(f *os.File, gone chan<- struct{}) {
	fds := []unix.PollFd{{Fd: int32(f.Fd())}} // POLLERR and POLLHUP are always asked for
	for {
		switch n, err := unix.Poll(fds, -1); {
		case err == unix.EINTR:
		case err != nil || n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0:
			return
		case n > 0:
			close(gone)
			return
		}
	}
}
