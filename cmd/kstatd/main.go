// Kstatd counts the packets that pass a netfilter hook, by protocol, and
// serves the figures as files: the KSTAT kernel module without a kernel
// module. See the README for what the files are.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"kstat/fs"
	"kstat/hook"
	"kstat/stats"
)

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	o, err := parseFlags(os.Args[1:])
	switch {
	case errors.Is(err, errHelp):
		fmt.Print(o.help())
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "kstatd: %v (kstatd --help lists the flags)\n", err)
		os.Exit(exitUsage)
	case o.version:
		fmt.Println("kstatd", version())
		return
	}
	if err := checkPrivileges(); err != nil {
		fmt.Fprintf(os.Stderr, "kstatd: %v\n", err)
		os.Exit(exitFailure)
	}
	log := newLogger(os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, o, log); err != nil {
		log.Error("kstatd ends", "err", err)
		os.Exit(exitFailure)
	}
}

// run is the daemon's life: it returns when ctx ends, or with an error, and
// leaves nothing behind.
func run(ctx context.Context, o *options, log *slog.Logger) error {
	table := stats.NewTable()
	if err := table.SetCounter(o.counter); err != nil {
		return err
	}
	o.hook.Log = log
	engine, err := hook.New(o.hook, table)
	if err != nil {
		return err
	}
	tree := &fs.Tree{Table: table, Engine: engine, Names: protocolNames(log), Version: version(), Log: log}
	mount, err := tree.Mount(o.mount)
	if err != nil {
		return errors.Join(err, engine.Close())
	}

	// The tree outlives the engine, so that the last figures can be read as
	// long as there are any.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	treeCtx, cancelTree := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelTree()
	var g errgroup.Group
	g.Go(func() error {
		defer cancelTree()
		return engine.Run(ctx)
	})
	g.Go(func() error {
		defer cancel()
		return mount.Run(treeCtx)
	})
	if o.start {
		if err := engine.Start(); err != nil {
			cancel()
			return errors.Join(fmt.Errorf("start: %w", err), g.Wait())
		}
	}
	log.Info("ready", "mount", o.mount, "hook", engine.Point(), "engine", engine.Name(), "queue", o.hook.Queue,
		"started", engine.Started(), "pid", os.Getpid(), "version", version())
	notify(log, daemon.SdNotifyReady)

	<-ctx.Done()
	notify(log, daemon.SdNotifyStopping)
	err = g.Wait()
	log.Info("stopped", "counted", table.Counted())
	return err
}

// notify tells the service manager, if there is one.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager was not told", "state", state, "err", err)
	}
}

// protocolNames reads the host's names of protocols, or takes the built-in
// ones.
func protocolNames(log *slog.Logger) *stats.Names {
	f, err := os.Open("/etc/protocols")
	if err != nil {
		return stats.BuiltinNames()
	}
	defer f.Close()
	names, err := stats.ParseNames(f)
	if err != nil {
		log.Warn("/etc/protocols cannot be read: built-in protocol names are used", "err", err)
		return stats.BuiltinNames()
	}
	return names
}
