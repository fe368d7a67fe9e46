// Kstat runs the grading scripts of the KSTAT coursework as they are, in a
// private world where the kernel module exists, and grades what offers the
// module's files. See the README.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"kstat/lab/kmod"
	"kstat/lab/world"
)

// A command is what comes first behind kstat.
type command struct {
	name     string
	synopsis string
	about    string
	// run returns the exit status.
	run func(c *command, args []string) int
}

var commands = []*command{
	{"run", "[FLAG]… [--] COMMAND [ARG]…", "run a command in a private world that has the module", run},
	{"grade", "[FLAG]… [-- COMMAND [ARG]…]", "grade an implementation, or a command, by a rubric", gradeCommand},
	{"ko", "> kstat.ko", "write a stand-in for the compiled module, for insmod and modinfo", ko},
}

// Exit statuses of kstat itself. For those of kstat run see the world package.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	world.Main()
	if tool := filepath.Base(os.Args[0]); slices.Contains(kmod.Tools(), tool) {
		os.Exit(kmod.Main(os.Args[0], os.Args[1:], world.Kernel{}))
	}
	os.Exit(dispatch(os.Args[1:]))
}

func dispatch(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, help())
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Print(help())
		return 0
	case "version", "--version":
		fmt.Println("kstat", version())
		return 0
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.run(c, args[1:])
		}
	}
	fmt.Fprintf(os.Stderr, "kstat: there is no command %q (kstat help lists them)\n", args[0])
	return exitUsage
}

func help() string {
	var b strings.Builder
	b.WriteString("usage: kstat COMMAND …\n\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-8s %s\n", c.name, c.about)
	}
	b.WriteString("  help     show this\n  version  say the version\n\nkstat COMMAND --help lists a command's flags.\n")
	return b.String()
}

// parse reads a command's flags. It is false if there is nothing left to do but
// to exit with the status.
func (c *command) parse(flags *flag.FlagSet, args []string) (status int, ok bool) {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(c.help(flags))
		return 0, false
	case err != nil:
		return c.misuse("%v", err), false
	}
	return 0, true
}

// misuse says what is wrong with the command line.
func (c *command) misuse(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "kstat %s: %s (kstat %s --help lists the flags)\n", c.name, fmt.Sprintf(format, args...), c.name)
	return exitUsage
}

func (c *command) help(flags *flag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: kstat %s %s\n\n%s%s.\n\n", c.name, c.synopsis, strings.ToUpper(c.about[:1]), c.about[1:])
	flags.VisitAll(func(f *flag.Flag) {
		argument, usage := flag.UnquoteUsage(f)
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		fmt.Fprintf(&b, "  %-20s %s\n", strings.TrimSpace(dashes+f.Name+" "+argument), usage)
	})
	return b.String()
}

// ko writes the stand-in for kstat.ko.
func ko(c *command, args []string) int {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	if status, ok := c.parse(flags, args); !ok {
		return status
	}
	if flags.NArg() > 0 {
		return c.misuse("%q is not expected: the module goes to standard output", flags.Arg(0))
	}
	if isTerminal(os.Stdout) {
		fmt.Fprintln(os.Stderr, "kstat ko: a binary file is not for a terminal: kstat ko > kstat.ko")
		return exitUsage
	}
	if _, err := os.Stdout.Write(kmod.Object()); err != nil {
		fmt.Fprintln(os.Stderr, "kstat ko:", err)
		return exitFailure
	}
	return 0
}

// buildVersion is set by the linker.
var buildVersion string

// version returns what was built: the linker's word, else what the go command
// recorded.
func version() string {
	if buildVersion != "" {
		return buildVersion
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
