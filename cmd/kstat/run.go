package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"kstat/lab/mutant"
	"kstat/lab/world"
	"kstat/version"
)

// worldFlags are the flags that say what a world is like.
type worldFlags struct {
	config  world.Config
	start   bool
	counter uint64
}

func (w *worldFlags) add(flags *flag.FlagSet) {
	w.config = world.Default()
	w.config.Version = version.String()
	flags.Func("hook", "count packets at `HOOK`: prerouting, input, forward, output or postrouting (default postrouting)", w.config.SetHook)
	flags.Func("net", "give it the `NETWORK`: new, with lo alone, or host, that of the host, which needs root (default new)", func(s string) error {
		if s != "new" && s != "host" {
			return errors.New("take new or host")
		}
		w.config.HostNet = s == "host"
		return nil
	})
	flags.Func("mutant", "give the module the fault `NAME`: does your script notice? ("+strings.Join(mutant.Names(), ", ")+")", func(s string) error {
		if !slices.Contains(mutant.Names(), s) {
			return fmt.Errorf("take one of %s", strings.Join(mutant.Names(), ", "))
		}
		w.config.Mutant = s
		return nil
	})
	flags.BoolVar(&w.config.Verbose, "v", false, "say what the world is made of, and what it lacks")
}

func run(c *command, flags *flag.FlagSet) func([]string) int {
	w := new(worldFlags)
	w.add(flags)
	flags.BoolVar(&w.config.Loaded, "loaded", false, "load the module first")
	flags.BoolVar(&w.start, "start", false, "load it and start counting")
	flags.Func("counter", "load it and publish after every `N` packets, 1 to 4294967295 (default 10)", func(s string) (err error) {
		w.counter, err = parseUint(s, 1, 1<<32-1)
		return err
	})
	return func([]string) int {
		if flags.NArg() == 0 {
			return c.misuse("no command is given: kstat run -- bash")
		}
		w.config.Command = flags.Args()
		return w.run(c)
	}
}

// run runs the command in a world and returns the exit status.
func (w *worldFlags) run(c *command) int {
	if w.counter > 0 {
		w.config.Params += fmt.Sprintf(" counter=%d", w.counter)
	}
	if w.start {
		w.config.Params += " start=1"
	}
	w.config.Loaded = w.config.Loaded || w.config.Params != ""
	status, err := world.Run(w.config)
	if err != nil {
		fmt.Fprintf(os.Stderr, "kstat %s: %v\n", c.name, err)
		return err.Status
	}
	return status
}
