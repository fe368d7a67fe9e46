package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/grade"
	"kstat/lab/world"
	"kstat/version"
)

// grading is what the command line of kstat grade says.
type grading struct {
	world   worldFlags
	here    bool
	rubric  string
	profile grade.Profile
	format  grade.Format
	output  string
	target  grade.Target
	limit   time.Duration
	command []string
}

func gradeCommand(c *command, flags *flag.FlagSet) func([]string) int {
	g := &grading{format: grade.Text, limit: 10 * time.Minute}
	g.world.add(flags)
	schema := flags.Bool("schema", false, "print the JSON schema of rubric files, and end")
	flags.BoolVar(&g.here, "here", false, "grade the module of the world that this runs in, instead of a new one")
	flags.StringVar(&g.rubric, "rubric", "", "grade by the rubric in `FILE`, in YAML; see docs/grading.md")
	flags.Func("profile", "be as strict as `NAME`: contract, all of docs/contract.md, or coursework, what the assignment states (default contract)", func(s string) error {
		g.profile = grade.Profile(s)
		if g.profile != grade.Contract && g.profile != grade.Coursework {
			return errors.New("take contract or coursework")
		}
		return nil
	})
	flags.Func("format", "write the report as `NAME`: text, json, gradescope, junit or tap (default text)", func(s string) (err error) {
		g.format, err = grade.ParseFormat(s)
		return err
	})
	flags.StringVar(&g.output, "o", "", "write the report to `FILE`, and text to standard output")
	flags.StringVar(&g.target.Nout, "nout", "", "grade what is there already: `PATH` of its nout")
	flags.StringVar(&g.target.Counter, "counter", "", "`PATH` of its counter")
	flags.StringVar(&g.target.Start, "start", "", "`PATH` of its start")
	flags.StringVar(&g.target.Load, "load", "", "shell `COMMAND` that loads it")
	flags.StringVar(&g.target.Unload, "unload", "", "shell `COMMAND` that unloads it")
	durationFlag(flags, &g.limit, "limit", "let the command take `DURATION` at most (default 10m)")
	return func(line []string) int {
		if *schema {
			return c.print(os.Stdout.Write(grade.JSONSchema()))
		}
		g.command = flags.Args()
		if err := g.check(); err != nil {
			return c.misuse("%v", err)
		}
		if !g.here && g.target.Nout == "" {
			g.world.config.Command = append([]string{world.Self, "grade", "--here"}, line...)
			status, err := world.Run(g.world.config)
			switch {
			case err != nil:
				fmt.Fprintln(os.Stderr, "kstat grade:", err)
				return exitUsage
			case status > bySignal:
				fmt.Fprintf(os.Stderr, "kstat grade: %s ended it, as kill -1 in what it graded does, and nothing is reported\n", unix.SignalName(unix.Signal(status-bySignal)))
				return exitUsage
			}
			return status
		}
		status, err := g.run()
		if err != nil {
			fmt.Fprintln(os.Stderr, "kstat grade:", err)
			return exitUsage
		}
		return status
	}
}

// bySignal is what a signal's number is added to in an exit status.
const bySignal = 128

// check refuses what does not go together.
func (g *grading) check() error {
	paths := 0
	for _, path := range []string{g.target.Nout, g.target.Counter, g.target.Start} {
		if path != "" {
			paths++
		}
	}
	switch {
	case paths != 0 && paths != 3:
		return errors.New("--nout, --counter and --start go together: name all three")
	case paths == 0 && (g.target.Load != "" || g.target.Unload != ""):
		return errors.New("--load and --unload are for what --nout, --counter and --start name")
	case paths != 0 && g.here:
		return errors.New("--here and --nout exclude each other")
	case paths != 0 && g.world.config.Mutant != "":
		return errors.New("--mutant is for a private world, not for what is there already")
	case g.rubric != "" && len(g.command) > 0:
		return errors.New("a rubric file and a command exclude each other: make the command an item of the rubric")
	case g.limit <= 0:
		return errors.New("--limit has to be positive")
	}
	return nil
}

// run grades in this process's world, or on the host, and returns the exit
// status.
func (g *grading) run() (int, error) {
	rubric, err := g.items()
	if err != nil {
		return 0, err
	}
	bench := &grade.Bench{Target: g.target, Profile: g.profile}
	if g.here {
		if !world.Inside() {
			return 0, errors.New("this is no private world: leave --here out, or use it inside kstat run")
		}
		bench.Target = g.module()
	} else if err := reachable(&bench.Target); err != nil {
		return 0, err
	}
	// The report's file first: not after minutes.
	out := os.Stdout
	if g.output != "" {
		if out, err = os.Create(g.output); err != nil {
			return 0, err
		}
		defer out.Close()
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	progress := grade.NewProgress(os.Stderr, len(rubric.Items))
	report := rubric.Run(ctx, bench, progress.Each)
	progress.Done()
	if ctx.Err() != nil {
		return 0, errors.New("interrupted, and nothing is reported")
	}
	report.Version = version.String()
	err = report.Write(out, g.format, grade.ScreenOf(out))
	if g.output != "" {
		err = errors.Join(err, out.Close(), report.Write(os.Stdout, grade.Text, grade.ScreenOf(os.Stdout)))
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("write the report: %w", err)
	case !report.Passed():
		return 1, nil
	}
	return 0, nil
}

// module is the module of the world that this runs in.
func (g *grading) module() grade.Target {
	t := grade.Target{
		Nout:    "/proc/kstat/nout",
		Counter: "/proc/kstat/counter",
		Start:   "/sys/module/kstat/parameters/start",
		Load:    "modprobe kstat",
		Unload:  "modprobe -r kstat",
		Alone:   !g.world.config.HostNet,
		Name:    "kstatd in a private world",
	}
	if fault := g.world.config.Mutant; fault != "" {
		t.Name += ", mutant " + fault
	}
	return t
}

// items is the rubric to grade by, and settles the profile.
func (g *grading) items() (rubric *grade.Rubric, err error) {
	rubric = grade.Builtin()
	wanted := grade.Contract
	switch {
	case g.rubric != "":
		var its grade.Profile
		if rubric, its, err = grade.Read(g.rubric, rubric); err != nil {
			return nil, err
		}
		wanted = cmp.Or(its, wanted)
	case len(g.command) > 0:
		line := strings.Join(g.command, " ")
		rubric = &grade.Rubric{Title: line, Items: []grade.Item{{
			ID: "command", Section: "command", Title: line, Points: 100, Limit: g.limit, Unloaded: true,
			Try: (&grade.Command{Args: g.command}).Try,
		}}}
	}
	g.profile = cmp.Or(g.profile, wanted)
	return rubric, nil
}

// reachable says what is wrong with paths of somebody else's.
func reachable(t *grade.Target) error {
	for _, path := range []string{t.Nout, t.Counter, t.Start} {
		if _, err := os.Stat(path); err != nil && t.Load == "" {
			return fmt.Errorf("%w: is what offers it running?", err)
		}
	}
	if unix.Access(t.Start, unix.W_OK) != nil && t.Load == "" {
		return fmt.Errorf("%s cannot be written: grade as root", t.Start)
	}
	t.Name = strings.Join([]string{t.Nout, t.Counter, t.Start}, ", ")
	return nil
}
