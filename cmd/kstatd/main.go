// Kstatd counts the packets that pass a netfilter hook, by protocol, and
// serves the figures as files: the KSTAT kernel module without a kernel
// module. See the README for what the files are.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"kstat/fs"
	"kstat/version"
)

// Exit statuses.
const (
	exitFailure   = 1
	exitUsage     = 2
	exitUnmounted = 3 // somebody has unmounted the tree
)

// tell prints a text that was asked for; nothing is left to do behind it.
func tell(text string) {
	if _, err := os.Stdout.WriteString(text); err != nil {
		fmt.Fprintf(os.Stderr, "kstatd: %v\n", err)
		os.Exit(exitFailure)
	}
}

func main() {
	o, err := parseFlags(os.Args[1:])
	switch {
	case errors.Is(err, errHelp):
		tell(program().Help())
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "kstatd: %v (kstatd --help lists the flags)\n", err)
		os.Exit(exitUsage)
	case o.version:
		tell("kstatd " + version.String() + "\n")
		return
	case o.print != nil:
		if err := o.print(); err != nil {
			fmt.Fprintf(os.Stderr, "kstatd: %v\n", err)
			os.Exit(exitFailure)
		}
		return
	}
	lines := newLines(os.Stderr)
	log := newLogger(lines)
	exit := func(status int) {
		lines.flush()
		os.Exit(status)
	}

	// A terminal that suspends a daemon would suspend the host's packets with
	// it, and a log that nobody reads any more is no reason to die.
	signal.Ignore(syscall.SIGTSTP, syscall.SIGTTOU, syscall.SIGTTIN, syscall.SIGPIPE)
	ends := []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	if os.Args[0] == workerName {
		err = runWorker(ctx, o, log)
	} else if err = checkPrivileges(); err != nil {
		fmt.Fprintf(os.Stderr, "kstatd: %v\n", err)
		exit(exitFailure)
	} else {
		err = supervise(ctx, o, os.Args[1:], log)
	}
	switch {
	case err == nil:
		exit(0)
	case err == errWorker: // which has said why
		exit(exitFailure)
	case errors.Is(err, fs.ErrUnmounted) && os.Args[0] == workerName: // the supervisor says it
		exit(exitUnmounted)
	}
	log.Error("kstatd ends", "err", err)
	if errors.Is(err, fs.ErrUnmounted) {
		exit(exitUnmounted)
	}
	exit(exitFailure)
}
