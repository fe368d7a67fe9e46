package grade

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestCommand(t *testing.T) {
	text := func(s string) *string { return &s }
	match := regexp.MustCompile
	dir := t.TempDir()
	b := &Bench{Target: Target{Nout: "/n", Counter: "/c", Start: "/s"}, Profile: Coursework}
	for name, test := range map[string]struct {
		command        Command
		expected, seen string // "" if it passes
	}{
		"status":            {Command{Run: "true"}, "", ""},
		"other status":      {Command{Run: "exit 3", Status: 3}, "", ""},
		"wrong status":      {Command{Run: "exit 3"}, "exit status 0", "exit status 3"},
		"signal":            {Command{Run: "kill -TERM $$", Status: 128 + 15}, "", ""},
		"stdout":            {Command{Run: "echo 5", Stdout: text("5\n")}, "", ""},
		"no stdout":         {Command{Run: "echo 5 >&2", Stdout: text("")}, "", ""},
		"wrong stdout":      {Command{Run: "printf 5", Stdout: text("5\n")}, `on standard output: "5\n"`, `on standard output: "5"`},
		"all wrong":         {Command{Run: "echo 5; false", Stdout: text("")}, "exit status 0\non standard output: \"\"", "exit status 1\non standard output: \"5\\n\""},
		"matches":           {Command{Run: "echo 123; echo oops >&2", StdoutMatches: match("^[0-9]+\n$"), StderrMatches: match("oo")}, "", ""},
		"does not match":    {Command{Run: "echo abc", StdoutMatches: match("[0-9]")}, "on standard output, something that matches [0-9]", `on standard output: "abc\n"`},
		"stderr":            {Command{Run: "echo abc >&2", StderrMatches: match("[0-9]")}, "on standard error, something that matches [0-9]", `on standard error: "abc\n"`},
		"arguments":         {Command{Args: []string{"printf", "%s|", "a b", "$HOME"}, Stdout: text("a b|$HOME|")}, "", ""},
		"standard input":    {Command{Run: "cat", Stdin: "hello", Stdout: text("hello")}, "", ""},
		"directory":         {Command{Run: "pwd -P", Dir: dir, Stdout: text(dir + "\n")}, "", ""},
		"environment":       {Command{Run: "echo $A", Env: []string{"A=b"}, Stdout: text("b\n")}, "", ""},
		"target":            {Command{Run: "echo $KSTAT_NOUT $KSTAT_COUNTER $KSTAT_START $KSTAT_PROFILE", Stdout: text("/n /c /s coursework\n")}, "", ""},
		"no such program":   {Command{Args: []string{"/no/such"}}, "it starts", "fork/exec /no/such: no such file or directory"},
		"nothing":           {Command{}, "it starts", "there is no command to run"},
		"no such directory": {Command{Run: "true", Dir: "/no/such"}, "it starts", "stat /no/such: no such file or directory"},
		"no terminal":       {Command{Run: "! true < /dev/tty"}, "", ""},
		"more than is kept": {Command{Run: fmt.Sprintf("head -c %d /dev/zero", maxOutput+1), Stdout: text(strings.Repeat("\x00", maxOutput))},
			"on standard output: " + quote(strings.Repeat("\x00", maxOutput)), "on standard output: " + quote(strings.Repeat("\x00", maxOutput))},
	} {
		t.Run(name, func(t *testing.T) {
			v := test.command.Try(t.Context(), b)
			failed := v.Outcome == Failed
			if failed != (test.expected != "") || v.Expected != test.expected || v.Seen != test.seen {
				t.Errorf("%v: expected %q, seen %q; want %q, %q", v.Outcome, v.Expected, v.Seen, test.expected, test.seen)
			}
		})
	}
}

func TestCommandTellsWhatItDid(t *testing.T) {
	v := (&Command{Args: []string{"sh", "-c", "echo 'it is'; exit 1"}}).Try(t.Context(), &Bench{})
	want := `sh -c 'echo '\''it is'\''; exit 1'`
	if v.Did != "ran "+want || v.Output != "it is\n" {
		t.Errorf("%+v", v)
	}
}

// TestCommandLimit: when its time is over it is killed, with what it has
// started in the background.
func TestCommandLimit(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		for !exists(pid) && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	v := (&Command{Run: "sleep 1000 & echo waiting; echo $! > " + pid + ".new; mv " + pid + ".new " + pid + "; wait"}).Try(ctx, &Bench{})
	<-over
	if v.Outcome != Failed || v.Seen != "it was still running, and was killed" || v.Output != "waiting\n" {
		t.Errorf("%+v", v)
	}
	isGone(t, pid)
}

// TestCommandLeavesNothing: a command has ended when its first process has,
// and what it leaves behind is killed, and does not hold up its output.
func TestCommandLeavesNothing(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	want := "done\n"
	v := (&Command{Run: "sleep 1000 & echo $! > " + pid + "; echo done", Stdout: &want}).Try(t.Context(), &Bench{})
	if v.Outcome == Failed {
		t.Errorf("%+v", v)
	}
	isGone(t, pid)
}

// isGone expects a process, whose number is in a file, to have ended, be it
// reaped or not.
func isGone(t *testing.T, file string) {
	t.Helper()
	pid, err := os.ReadFile(file)
	must(t, err)
	for began := time.Now(); time.Since(began) < patience; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("process %s is still there", pid)
}

func TestTail(t *testing.T) {
	var log tail
	fmt.Fprint(&log, "first ", strings.Repeat("x", maxShown-4), "last")
	if got := log.String(); len(got) != len("…")+maxShown || !strings.HasPrefix(got, "…x") || !strings.HasSuffix(got, "xlast") {
		t.Errorf("%d bytes: %.20s", len(got), got)
	}
}
