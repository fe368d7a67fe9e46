package main

import (
	"context"
	"errors"
	"flag"
	"os"

	"kstat/lab/doctor"
	"kstat/manual"
	"kstat/version"
)

func featureNames(*manual.Program) (words []string) {
	for _, f := range doctor.Features() {
		words = append(words, string(f))
	}
	return words
}

// doctorCommand examines the machine. It exits with 0 if everything that was
// asked for works, and with 1 if not.
func doctorCommand(c *command, flags *flag.FlagSet) func([]string) int {
	config := doctor.Config{Version: version.String()}
	asJSON := flags.Bool("json", false, "write JSON; --schema describes it")
	schema := flags.Bool("schema", false, "print the JSON schema of --json, and end")
	verbose := flags.Bool("v", false, "show the details of what works, too")
	flags.StringVar(&config.Mount, "mount", "", "look at `DIR` as the mount point (default as kstatd's)")
	flags.Func("queue", "look at NFQUEUE number `N` (default 0)", func(s string) error {
		n, err := parseUint(s, 0, 65535)
		config.Queue = uint16(n)
		return err
	})
	flags.Func("queues", "and at `N` from that number on (default 1)", func(s string) error {
		n, err := parseUint(s, 1, doctor.MaxQueues)
		config.Queues = int(n)
		return err
	})
	flags.Func("queue-len", "think of queues of `N` packets (default as kstatd's)", func(s string) error {
		n, err := parseUint(s, 1, doctor.MaxQueueLen)
		config.QueueLen = uint32(n)
		return err
	})
	durationFlag(flags, &config.Limit, "limit", "give each check `DURATION`; all go on side by side (default 1.7s)")
	return func([]string) int {
		for flags.NArg() > 0 { // flags may follow
			f, err := doctor.ParseFeature(flags.Arg(0))
			if err == nil {
				err = flags.Parse(flags.Args()[1:])
			}
			switch {
			case errors.Is(err, flag.ErrHelp):
				return c.print(os.Stdout.WriteString(c.program().Help()))
			case err != nil:
				return c.misuse("%v", err)
			}
			config.Features = append(config.Features, f)
		}
		if *schema {
			return c.print(os.Stdout.Write(doctor.JSONSchema()))
		}
		if isSet(flags, "limit") && config.Limit <= 0 {
			return c.misuse("--limit has to be positive")
		}
		if int(config.Queue)+max(config.Queues, 1) > 1<<16 {
			return c.misuse("--queues %d from --queue %d on ends behind 65535, the last number", config.Queues, config.Queue)
		}
		report := doctor.Examine(context.Background(), config)
		var err error
		if *asJSON {
			err = report.WriteJSON(os.Stdout)
		} else {
			err = report.WriteText(os.Stdout, doctor.ScreenOf(os.Stdout), *verbose)
		}
		switch {
		case err != nil:
			return c.fail(err)
		case !report.OK:
			return exitFailure
		}
		return 0
	}
}
