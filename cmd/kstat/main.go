// Kstat runs the grading scripts of the KSTAT coursework as they are, in a
// private world where the kernel module exists, and grades what offers the
// module's files. It shows what a running kstatd counts. See the README.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"kstat/lab/doctor"
	"kstat/lab/kmod"
	"kstat/lab/world"
	"kstat/manual"
	"kstat/version"
	"kstat/view/tty"
)

// A command is what comes first behind kstat.
type command struct {
	name     string
	synopsis string
	about    string
	// declare adds the command's flags to a set, and returns what runs it once
	// they are parsed: a function from the command line behind the command's
	// name to the exit status.
	declare func(c *command, flags *flag.FlagSet) (run func(line []string) int)
	// words returns what an argument may be, of a program with all commands.
	// Nil: anything.
	words func(whole *manual.Program) []string
}

var commands = []*command{
	{"run", "[FLAG]… [--] COMMAND [ARG]…", "run a command in a private world that has the module", run, nil},
	{"grade", "[FLAG]… [-- COMMAND [ARG]…]", "grade an implementation, or a command, by a rubric", gradeCommand, nil},
	{"doctor", "[FLAG]… [FEATURE]…", "say what works on this machine, and how to mend what does not", doctorCommand, featureNames},
	{"top", "[FLAG]…", "show what a running kstatd counts, live", topCommand, nil},
	{"watch", "[FLAG]…", "print what a running kstatd publishes, a line each", watchCommand, nil},
	{"trace", "[FLAG]… [FILTER]", "show packets as kstatd counts them, all or those of a filter", traceCommand, nil},
	{"ko", "> kstat.ko", "write a stand-in for the compiled module, for insmod and modinfo", ko, nil},
}

// Exit statuses of kstat itself. For those of kstat run see the world package.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	world.Main()
	doctor.Main()
	if tool := filepath.Base(os.Args[0]); slices.Contains(kmod.Tools(), tool) {
		os.Exit(kmod.Main(os.Args[0], os.Args[1:], world.Kernel{}))
	}
	os.Exit(dispatch(os.Args[1:]))
}

func dispatch(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, whole().Help())
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if args[0] == "help" && len(args) > 1 {
			return dispatch([]string{args[1], "--help"})
		}
		return tell(whole().Help())
	case "version", "--version":
		return tell("kstat " + version.String() + "\n")
	}
	for _, c := range slices.Concat(commands, selfCommands()) {
		if c.name == args[0] {
			return c.main(args[1:])
		}
	}
	fmt.Fprintf(os.Stderr, "kstat: there is no command %q (kstat help lists them)\n", args[0])
	return exitUsage
}

// tell prints a text of kstat's own and returns the exit status.
func tell(text string) int {
	if _, err := os.Stdout.WriteString(text); err != nil {
		fmt.Fprintln(os.Stderr, "kstat:", err)
		return exitFailure
	}
	return 0
}

// main runs the command and returns the exit status.
func (c *command) main(line []string) int {
	flags, run := c.flags()
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	switch err := flags.Parse(line); {
	case errors.Is(err, flag.ErrHelp):
		return c.print(os.Stdout.WriteString(c.program().Help()))
	case err != nil:
		return c.misuse("%v", err)
	}
	return run(line)
}

// flags returns the command's flags, and what runs it once they are parsed.
func (c *command) flags() (*flag.FlagSet, func([]string) int) {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	return flags, c.declare(c, flags)
}

// fail says why a command has failed.
func (c *command) fail(err error) int {
	fmt.Fprintf(os.Stderr, "kstat %s: %v\n", c.name, err)
	return exitFailure
}

// misuse says what is wrong with the command line.
func (c *command) misuse(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "kstat %s: %s (kstat %s --help lists the flags)\n", c.name, fmt.Sprintf(format, args...), c.name)
	return exitUsage
}

// countFlag adds the flag -n, a number from 1 on.
func countFlag(flags *flag.FlagSet, count *uint64, usage string) {
	flags.Func("n", usage, func(s string) (err error) {
		if *count, err = strconv.ParseUint(s, 10, 64); err != nil || *count == 0 {
			return errors.New("take a number from 1 on")
		}
		return nil
	})
}

// durationFlag adds a flag that takes a duration.
func durationFlag(flags *flag.FlagSet, d *time.Duration, name, usage string) {
	flags.Func(name, usage, func(s string) (err error) {
		if *d, err = time.ParseDuration(s); err != nil {
			return errors.New("take a duration, like 500ms, 10s or 2m")
		}
		return nil
	})
}

// parseUint parses a decimal number from low to high.
func parseUint(text string, low, high uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("take a number from %d to %d", low, high)
	}
	return n, nil
}

// ko writes the stand-in for kstat.ko.
func ko(c *command, flags *flag.FlagSet) func([]string) int {
	return func([]string) int {
		if flags.NArg() > 0 {
			return c.misuse("%q is not expected: the module goes to standard output", flags.Arg(0))
		}
		if tty.Is(os.Stdout) {
			fmt.Fprintln(os.Stderr, "kstat ko: a binary file is not for a terminal: kstat ko > kstat.ko")
			return exitUsage
		}
		if _, err := os.Stdout.Write(kmod.Object()); err != nil {
			return c.fail(err)
		}
		return 0
	}
}
