// Summary runs a `go test -json` command and says at its end what passed, what failed and what was skipped, and why.
//
//	summary go test -json ./...
//
// While it runs it prints one line for each package, and the output of what fails as it fails. The last line is
//
//	12 passed, 0 failed, 1 skipped
//
// after a line for each failure and each skip. What counts is the leaf: a test that has subtests is not counted beside them,
// unless it failed or was skipped by itself. A package that does not build, dies outside of its tests, or passes without having
// run a test that it has, is a failure. The exit status is the command's own; 1 if that was 0 and something failed all the same.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: summary go test -json [flags] packages")
		os.Exit(2)
	}
	// An interrupt reaches the command too; let it end and report what there is. Not signal.Ignore: the command would inherit it.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	os.Exit(run(os.Stdout, os.Args[1], os.Args[2:]...))
}

// run runs the command, reports to w and returns the exit status.
func run(w io.Writer, name string, args ...string) int {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(w, err)
		return 1
	}
	r := report{w: w, tests: map[[2]string]*test{}, pkgs: map[string]*pkg{}}
	r.read(out)
	err = cmd.Wait()
	status := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		status = exit.ExitCode()
	} else if err != nil {
		status = 1
	}
	failed := r.end(err)
	if status == 0 && failed > 0 {
		status = 1
	}
	return status
}

// event is a line of `go test -json`: go doc cmd/test2json, and go help buildjson for the build- ones.
type event struct {
	Action, Package, Test, Output, FailedBuild string
	Elapsed                                    float64
}

type test struct {
	pkg, name string
	status    string // "" while it runs
	began     time.Time
	out       []string
}

type pkg struct {
	name  string
	done  bool
	out   []string // what was printed outside of any test
	tests []*test
}

type report struct {
	w                        io.Writer
	tests                    map[[2]string]*test // the latest run of each
	pkgs                     map[string]*pkg
	passed                   int
	failed, skipped, without []string
	said                     time.Time // when a line was last printed
}

// read takes events until r ends. Where nothing was said for a while it names what is running.
func (r *report) read(in io.Reader) {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for b := bufio.NewReader(in); ; {
			line, err := b.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	r.said = time.Now()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				r.print(line)
				continue
			}
			r.take(e)
		case <-tick.C:
			if time.Since(r.said) > 15*time.Second {
				r.printRunning()
			}
		}
	}
}

func (r *report) print(lines ...string) {
	for _, l := range lines {
		io.WriteString(r.w, l)
	}
	r.said = time.Now()
}

func (r *report) printRunning() {
	for _, p := range r.pkgs {
		for _, t := range p.tests {
			if t.status == "" {
				r.print(fmt.Sprintf("...  %s %s runs for %.0fs\n", t.pkg, t.name, time.Since(t.began).Seconds()))
			}
		}
	}
}

func (r *report) take(e event) {
	if e.Package == "" { // build-output and build-fail carry an import path instead
		r.print(e.Output)
		return
	}
	p := r.pkgs[e.Package]
	if p == nil {
		p = &pkg{name: e.Package}
		r.pkgs[e.Package] = p
	}
	if e.Test == "" {
		switch e.Action {
		case "output":
			p.out = append(p.out, e.Output)
		case "pass", "fail", "skip":
			r.finish(p, e)
		}
		return
	}
	key := [2]string{e.Package, e.Test}
	t := r.tests[key]
	if t == nil || e.Action == "run" {
		t = &test{pkg: e.Package, name: e.Test, began: time.Now()}
		r.tests[key] = t
		p.tests = append(p.tests, t)
	}
	switch e.Action {
	case "output":
		if !strings.HasPrefix(e.Output, "=== ") {
			t.out = append(t.out, e.Output)
		}
	case "pass", "fail", "skip":
		t.status = e.Action
		if t.status == "fail" {
			r.print(t.out...)
		}
	}
}

// finish counts a package's tests and prints its line.
func (r *report) finish(p *pkg, e event) {
	p.done = true
	parent := map[string]bool{}         // has subtests
	parentOfFailed := map[string]bool{} // at least one of which failed
	for _, t := range p.tests {
		if t.status == "" {
			t.status = "fail"
			t.out = append(t.out, fmt.Sprintf("%s did not finish\n", t.name))
			r.print(t.out...)
		}
		for i, c := range t.name {
			if c == '/' {
				parent[t.name[:i]] = true
				parentOfFailed[t.name[:i]] = parentOfFailed[t.name[:i]] || t.status == "fail"
			}
		}
	}
	var passed, failed, skipped int
	for _, t := range p.tests {
		switch {
		case t.status == "fail" && !parentOfFailed[t.name]:
			failed++
			r.failed = append(r.failed, t.pkg+" "+t.name)
		case t.status == "skip":
			skipped++
			r.skipped = append(r.skipped, t.pkg+" "+t.name+": "+reason(t.out))
		case t.status == "pass" && !parent[t.name]:
			passed++
		}
	}
	r.passed += passed
	word, note := "ok  ", ""
	switch {
	case e.Action == "fail":
		word = "FAIL"
		for _, l := range p.out {
			if l != "FAIL\n" && l != "PASS\n" && !strings.HasPrefix(l, "FAIL\t"+p.name+"\t") { // our own line says it
				r.print(l)
			}
		}
		if e.FailedBuild != "" {
			note = ": does not build"
		} else if failed == 0 {
			note = ": failed outside of its tests"
		}
	case e.Action == "skip":
		word, note = "none", ": no test files"
		r.without = append(r.without, p.name+note)
	case len(p.tests) == 0 && strings.Contains(strings.Join(p.out, ""), "no tests to run"):
		word, note = "none", ": no tests to run"
		r.without = append(r.without, p.name+note)
	case len(p.tests) == 0: // a TestMain that never called m.Run, say
		word, note = "FAIL", ": passed without running a test"
	}
	if word == "FAIL" && note != "" {
		failed++
		r.failed = append(r.failed, p.name+note)
	}
	if word != "none" {
		note += fmt.Sprintf("  (%d passed, %d failed, %d skipped)  %.1fs", passed, failed, skipped, e.Elapsed)
	}
	r.print(word + " " + p.name + note + "\n")
}

// end prints the account and returns the number of failures. err is how the command ended.
func (r *report) end(err error) int {
	for _, p := range r.pkgs {
		if !p.done {
			r.finish(p, event{Action: "fail"})
		}
	}
	if err != nil && len(r.failed) == 0 {
		r.failed = append(r.failed, "the test command: "+err.Error())
	}
	if err == nil && len(r.pkgs) == 0 {
		r.failed = append(r.failed, "the test command: no package was tested")
	}
	fmt.Fprintln(r.w)
	for _, s := range r.without {
		fmt.Fprintln(r.w, "without:", s)
	}
	for _, s := range r.skipped {
		fmt.Fprintln(r.w, "skipped:", s)
	}
	for _, s := range r.failed {
		fmt.Fprintln(r.w, "failed: ", s)
	}
	fmt.Fprintf(r.w, "%d passed, %d failed, %d skipped\n", r.passed, len(r.failed), len(r.skipped))
	return len(r.failed)
}

var position = regexp.MustCompile(`^\S+\.go:\d+: `)

// reason is what t.Skip was told: all that the test logged, on one line.
func reason(out []string) string {
	var words []string
	for _, l := range out {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "--- ") {
			words = append(words, position.ReplaceAllString(l, ""))
		}
	}
	if len(words) == 0 {
		return "no reason given"
	}
	return strings.Join(words, " ")
}
