package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"kstat/hook"
	"kstat/stats"
)

// options is what the command line says.
type options struct {
	mount   string
	counter uint32
	start   bool
	version bool
	hook    hook.Config
	print   func() error // instead of counting: a page, or a completion

	listen    []address
	tokenFile string

	flags *flag.FlagSet
}

var errHelp = flag.ErrHelp

// declareFlags returns the options as they are unless the command line, parsed
// by their flags, says otherwise.
func declareFlags() *options {
	o := &options{
		counter: stats.DefaultCounter,
		hook:    hook.Config{Point: hook.Postrouting, Queues: 1, QueueLen: hook.DefaultQueueLen},
		flags:   flag.NewFlagSet("kstatd", flag.ContinueOnError),
	}
	f := o.flags
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.Func("mount", "mount the tree on `DIR`, which is made if it is missing (default mnt/kstat where there is a directory mnt, else /run/kstat)", into(&o.mount, path("directory")))
	f.Func("engine", "see them by `ENGINE`: nfqueue, bpf (in the kernel, Linux 6.4) or auto, which is bpf where it works (default nfqueue)",
		into(&o.hook.Engine, hook.ParseKind))
	f.Func("hook", "see packets at `HOOK`: prerouting, input, forward, output or postrouting (default postrouting)",
		into(&o.hook.Point, hook.ParsePoint))
	f.Func("family", "count `FAMILY`: both, ipv4 or ipv6 (default both)",
		into(&o.hook.Families, hook.ParseFamilies))
	f.Func("queue", "use NFQUEUE number `N`, 0 to 65535 (default 0)",
		into(&o.hook.Queue, number[uint16](0, 65535)))
	f.Func("queues", "fan out over `N` queues from that number on, one per CPU in turn (default 1)",
		into(&o.hook.Queues, number[int](1, hook.MaxQueues)))
	f.Func("queue-len", fmt.Sprintf("let each queue hold `N` packets; what comes on top passes uncounted (default %d)", hook.DefaultQueueLen),
		into(&o.hook.QueueLen, number[uint32](1, hook.MaxQueueLen)))
	f.Func("counter", fmt.Sprintf("publish after every `N` packets (default %d)", stats.DefaultCounter),
		into(&o.counter, number[uint32](1, 1<<32-1)))
	f.BoolVar(&o.start, "start", false, "start counting at once")
	f.BoolVar(&o.hook.ExcludeLoopback, "exclude-loopback", false, "leave out what passes loopback devices")
	f.Func("listen", "serve metrics and a page over HTTP at `ADDR`: 127.0.0.1:9469, [::1]:9469, :9469 or unix:/PATH; may be given several times (default: no)",
		func(text string) error {
			a, err := parseAddress(text)
			if err == nil && slices.Contains(o.listen, a) {
				err = errors.New("it is given twice")
			}
			o.listen = append(o.listen, a)
			return err
		})
	f.Func("token-file", "let whoever has the token in `FILE` start, stop and reset over HTTP (default: nobody)", into(&o.tokenFile, path("file")))
	f.BoolVar(&o.version, "version", false, "say the version and end")
	f.Func("manual", "print the manual `PAGE` kstatd.8 or kstat.5 for man -l -, and end",
		into(&o.print, printPage))
	f.Func("completion", "print how `SHELL` completes kstatd's flags, and end: bash, zsh or fish",
		into(&o.print, printCompletion))
	return o
}

// parseFlags reads the command line. Its error is one line.
func parseFlags(args []string) (*options, error) {
	o := declareFlags()
	f := o.flags
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is not a flag, and nothing else is expected", f.Arg(0))
	case int(o.hook.Queue)+o.hook.Queues > 1<<16:
		return o, fmt.Errorf("--queues %d from --queue %d on ends behind 65535, the last number", o.hook.Queues, o.hook.Queue)
	}
	if o.mount == "" {
		o.mount = defaultMount()
	}
	return o, nil
}

// into returns a flag's function that parses a value and keeps it.
func into[T any](target *T, parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		value, err := parse(text)
		if err != nil {
			return err
		}
		*target = value
		return nil
	}
}

// path returns a parser of paths to a kind of file.
func path(kind string) func(string) (string, error) {
	return func(text string) (string, error) {
		if text == "" {
			return "", errors.New("take a " + kind)
		}
		return text, nil
	}
}

// number returns a parser of decimal numbers from low to high.
func number[T uint16 | uint32 | int](low, high uint64) func(string) (T, error) {
	return func(text string) (T, error) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("take a number from %d to %d", low, high)
		}
		return T(n), nil
	}
}

// defaultMount is mnt/kstat in a checkout, and /run/kstat elsewhere. It is not
// asked where there is a --mount: that may be mnt, which a worker must not look
// at before it serves it.
func defaultMount() string {
	if info, err := os.Stat("mnt"); err == nil && info.IsDir() {
		return "mnt/kstat"
	}
	return "/run/kstat"
}
