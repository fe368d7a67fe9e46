package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"kstat/stats"
	"kstat/view/trace"
	"kstat/view/tree"
	"kstat/view/tty"
)

// tracing is what the command line of kstat trace says.
type tracing struct {
	mount   *string
	pcap    string
	count   uint64
	noColor bool
}

func (t *tracing) add(flags *flag.FlagSet) {
	t.mount = mountFlag(flags)
	flags.StringVar(&t.pcap, "pcap", "", "write packets to `FILE`, for tshark and tcpdump, instead of lines; - is standard output")
	countFlag(flags, &t.count, "end after `COUNT` packets")
	flags.BoolVar(&t.noColor, "no-color", false, "no colours on a terminal, as with NO_COLOR in the environment")
}

func traceCommand(c *command, flags *flag.FlagSet) func([]string) int {
	t := new(tracing)
	t.add(flags)
	return func([]string) int {
		names, _ := stats.HostNames() // built-in ones do as well
		filter, err := trace.ParseFilter(strings.Join(flags.Args(), " "), names)
		if err != nil {
			return c.misuse("%v", err)
		}
		if t.pcap == "-" && tty.Is(os.Stdout) {
			return c.misuse("packets are not for a terminal: kstat trace --pcap - | tshark -r -")
		}
		color := !t.noColor && tty.Colored(os.Stdout)
		if err := t.run(trace.Options{Filter: filter, Names: names, Count: t.count, Color: color}); err != nil {
			return c.fail(err)
		}
		return 0
	}
}

// run shows packets until there are enough, or until nobody wants more.
func (t *tracing) run(o trace.Options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends it in any case: it may be out that waits
	signal.Ignore(syscall.SIGPIPE)
	var in tree.File
	var out *os.File
	opened := make(chan struct{})
	var refused error
	go func() {
		in, out, refused = t.open()
		close(opened)
	}()
	select {
	case <-opened:
	case <-ctx.Done(): // in may be of a daemon that hangs, and out a FIFO that nobody reads
		return errors.New("ended before it could open its files")
	}
	if refused != nil {
		return refused
	}
	show := trace.Lines
	if t.pcap != "" {
		show = trace.Blocks
	}
	if out != os.Stdout {
		defer func() { err = errors.Join(err, out.Close()) }()
	}
	if cure, stopped := trace.Stopped(in); stopped {
		fmt.Fprintln(os.Stderr, "kstat trace: it is not counting yet:", cure)
	}
	summary, err := show(ctx, in, out, o)
	fmt.Fprintln(os.Stderr, summary)
	switch {
	case errors.Is(err, syscall.EPIPE):
		return nil
	case trace.Died(err):
		return fmt.Errorf("the daemon's worker has died, and what came since is not shown: %w", err)
	}
	return err
}

// open opens what packets come from, and what they go to.
//
// The first is closed by the end of the process: Close would wait for the read
// that waits for a packet, as Go takes the file, which can be polled, for one
// whose reads do not block.
func (t *tracing) open() (in tree.File, out *os.File, err error) {
	where, err := tree.Find(*t.mount)
	if err != nil {
		return in, nil, err
	}
	if t.pcap == "" {
		in, err = trace.Open(where, trace.Text)
		return in, os.Stdout, err
	}
	if in, err = trace.Open(where, trace.Pcapng); err != nil || t.pcap == "-" {
		return in, os.Stdout, err
	}
	out, err = os.OpenFile(t.pcap, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // what root alone may see
	if err != nil {
		return in, nil, err
	}
	if info, err := out.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		_ = out.Chmod(0o600) // it was there before; and some file systems have no modes
	}
	return in, out, nil
}
