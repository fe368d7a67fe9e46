package main

import (
	"flag"
	"os"
	"time"

	"kstat/view/top"
	"kstat/view/tree"
	"kstat/view/tty"
)

func topCommand(c *command, flags *flag.FlagSet) func([]string) int {
	mount := mountFlag(flags)
	var t top.Top
	t.Interval = time.Second
	durationFlag(flags, &t.Interval, "interval", "look after each `TIME` (default 1s)")
	flags.BoolVar(&t.NoColor, "no-color", false, "no colours; so does NO_COLOR in the environment")
	once := flags.Bool("once", false, "print one table, with the rates of one interval, and end; so it does where there is no terminal")
	return func([]string) int {
		if err := checkInterval(t.Interval); err != nil {
			return c.misuse("%v", err)
		}
		if flags.NArg() > 0 {
			return c.misuse("%q is not a flag, and nothing else is expected", flags.Arg(0))
		}
		var err error
		if t.Tree, err = tree.Find(*mount); err == nil {
			if *once || !tty.Steered(os.Stdout) {
				err = t.Once(os.Stdout)
			} else {
				err = t.Run()
			}
		}
		if err != nil {
			return c.fail(err)
		}
		return 0
	}
}
