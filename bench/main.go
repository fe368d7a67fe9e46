package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	status, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(status)
}

func run(ctx context.Context, args []string) (int, error) {
	opt, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0, nil
	}
	if err != nil {
		return 2, err
	}
	if opt.inside != "" {
		return inner(ctx, opt)
	}
	return outer(ctx, args)
}

// outer builds the tools and runs the bench again in fresh namespaces.
func outer(ctx context.Context, args []string) (int, error) {
	if os.Geteuid() != 0 {
		return 2, errors.New("measuring takes network and mount namespaces and NFQUEUE: run as root")
	}
	root, err := moduleDir(ctx)
	if err != nil {
		return 2, err
	}
	here, err := os.Getwd()
	if err != nil {
		return 2, err
	}
	if here, root, err = realPaths(here, root); err != nil {
		return 2, err
	}
	if here != root {
		return 2, fmt.Errorf("run it in %s", root)
	}
	dir, err := os.MkdirTemp("", "kstat-bench-")
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(os.Stderr, "bench: building the peers and the tools")
	if err := tools(dir).build(ctx); err != nil {
		return 2, err
	}

	// The inner bench dies with this thread (PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", append([]string{"-inside", dir}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGTERM,
	}
	if err := cmd.Start(); err != nil {
		return 2, fmt.Errorf("start in new namespaces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 2, fmt.Errorf("inner bench: %w", err)
	}
	return 0, nil
}

func realPaths(a, b string) (string, string, error) {
	a, err := filepath.EvalSymlinks(a)
	if err != nil {
		return "", "", err
	}
	b, err = filepath.EvalSymlinks(b)
	return a, b, err
}

// measurement makes the lines of one row.
type measurement func(context.Context, *lab) []line

// row is one part of the report.
type row struct {
	name string
	run  measurement
}

func rows() []row {
	return []row{
		{"in-kernel", inKernel},
		{"program", program},
		{"scaling", scaling},
		{"packets", packets},
		{"packets-unpinned", unpinned(packets)},
		{"user-cpu", userCPU},
		{"allocs", allocs},
		{"latency", latency},
		{"latency-unpinned", unpinned(latency)},
		{"stream", stream},
		{"read", reading},
		{"memory", memory},
		{"overload", overload},
		{"startup", startup},
		{"world", world},
		{"load", load},
		{"costs", costs},
		{"model", func(_ context.Context, l *lab) []line { return l.model() }},
	}
}

func rowNames() string {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
	}
	return strings.Join(names, ", ")
}

// unpinned measures the same with the consumers where the scheduler puts them.
func unpinned(run measurement) measurement {
	return func(ctx context.Context, l *lab) []line {
		free := *l
		free.consumerCPU = anyCPU
		lines := run(ctx, &free)
		for i := range lines {
			lines[i].what += " (not pinned)"
		}
		return lines
	}
}

// inner measures the chosen rows and writes the report.
func inner(ctx context.Context, opt options) (int, error) {
	l, err := newLab(opt)
	if err != nil {
		return 2, err
	}
	r := report{options: opt, command: commandLine(), plots: l.plots}
	for _, row := range rows() {
		if opt.rows.MatchString(row.name) {
			r.sections = append(r.sections, section{row.name, row.run(ctx, l)})
		}
	}
	if err := ctx.Err(); err != nil {
		return 2, err
	}
	if len(r.sections) == 0 {
		return 2, fmt.Errorf("no row matches %q", opt.rows)
	}
	out := io.Writer(os.Stdout)
	if opt.output != "" {
		file, err := os.Create(opt.output)
		if err != nil {
			return 2, err
		}
		defer file.Close()
		out = io.MultiWriter(out, file)
	}
	if err := r.write(out); err != nil {
		return 2, fmt.Errorf("write report: %w", err)
	}
	if opt.output != "" {
		if err := writePlots(l.plots, filepath.Dir(opt.output)); err != nil {
			return 2, fmt.Errorf("write report: %w", err)
		}
	}
	if opt.readme != "" {
		if err := updateReadme(opt.readme, r.targets()); err != nil {
			return 2, fmt.Errorf("update the table: %w", err)
		}
	}
	return r.status()
}

// writePlots writes them beside the report.
func writePlots(plots map[string]*plot, dir string) error {
	for name, p := range plots {
		var b bytes.Buffer
		if err := p.write(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// commandLine is what was typed, for the report.
func commandLine() string {
	words := []string{"go run ./bench"}
	for _, a := range os.Args[3:] { // behind -inside DIR
		if strings.ContainsAny(a, " |$*?()[]\\\"") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

func compile(pattern string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	return re, nil
}
