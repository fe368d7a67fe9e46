package sandbox

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// An Option changes what [Main] looks for when the tests have passed.
type Option func(*checks)

// Goroutines passes options to goleak, for goroutines that may stay.
func Goroutines(options ...goleak.Option) Option {
	return func(c *checks) { c.goroutines = append(c.goroutines, options...) }
}

// After adds what the caller has to clear away, also after tests that failed:
// an error fails the run.
func After(f func() error) Option {
	return func(c *checks) { c.after = append(c.after, f) }
}

// Main runs the tests of a package in a sandbox and exits with their status.
// Call it from TestMain, last.
//
// Where the kernel permits no sandbox, it runs the tests in place, and
// [Need] skips those that want [Namespaces], with the reason.
func Main(m *testing.M, options ...Option) {
	inside, status, err := Reexec()
	if !inside && err == nil {
		os.Exit(status)
	}

	var c checks
	for _, option := range options {
		option(&c)
	}
	if signal.Ignored(unix.SIGHUP) { // by nohup: what tests start and hang up would never end
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	before := holdings()
	status = m.Run()
	if status == 0 && !fuzzWorker() {
		for _, leak := range c.leaks(before) {
			fmt.Fprintln(os.Stderr, "sandbox: left behind:", leak)
			status = 1
		}
	}
	for _, f := range c.after {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox: left behind:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// fuzzWorker reports whether this is one of several processes that fuzz side
// by side in one sandbox. What is left there is the coordinator's to judge.
func fuzzWorker() bool {
	f := flag.Lookup("test.fuzzworker")
	return f != nil && f.Value.String() == "true"
}
