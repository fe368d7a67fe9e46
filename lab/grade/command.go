package grade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/shell"
)

// Command is an experiment: a command is run, and how it ended and what it
// printed is looked at. It finds the target's paths in its environment, as
// KSTAT_NOUT, KSTAT_COUNTER and KSTAT_START, and the profile as KSTAT_PROFILE.
//
// It has a session of its own, without a terminal. What is left of its process
// group when it ends, or when its time is over, is killed.
type Command struct {
	Run   string   // for /bin/sh -c
	Args  []string // in the place of Run: a program and its arguments, without a shell
	Stdin string
	Dir   string   // "" means where kstat was started
	Env   []string // NAME=VALUE, in addition to ours

	Status int     // it is to exit with; 128 plus its number for a signal
	Stdout *string // it is to print, to the byte; nil means anything
	// What it prints has to match these; nil means anything.
	StdoutMatches, StderrMatches *regexp.Regexp

	user uint32 // that it runs as, and whose group; 0 means ours
}

const (
	// maxOutput is how much of a command's output is looked at.
	maxOutput = 1 << 20
	// maxShown is how much of it is shown, from its end.
	maxShown = 4 << 10
	// strayDelay is how long a command's output is waited for when its process
	// group is dead: somebody who has left the group may hold it open.
	strayDelay = 200 * time.Millisecond
)

// Try runs the command.
func (c *Command) Try(ctx context.Context, b *Bench) Verdict {
	v := Verdict{Did: "ran " + c.String()}
	var log tail
	stdout, stderr := output{also: &log}, output{also: &log}
	status, err := c.run(ctx, b, &stdout, &stderr)
	v.Output = log.String()
	switch {
	case ctx.Err() != nil:
		// Run says how long that was.
		v.Outcome, v.Expected, v.Seen = Failed, "it ends in time", "it was still running, and was killed"
	case err != nil:
		v.Outcome, v.Expected, v.Seen = Failed, "it starts", err.Error()
	default:
		v.judge(c, status, &stdout, &stderr)
	}
	return v
}

// String is the command as a person would type it.
func (c *Command) String() string {
	if c.Run != "" {
		return c.Run
	}
	words := make([]string, len(c.Args))
	for i, arg := range c.Args {
		words[i] = shell.Quote(arg)
	}
	return strings.Join(words, " ")
}

// run returns the exit status as a shell has it.
func (c *Command) run(ctx context.Context, b *Bench, stdout, stderr io.Writer) (status int, err error) {
	args := c.Args
	if c.Run != "" {
		args = []string{"/bin/sh", "-c", c.Run}
	}
	if len(args) == 0 {
		return 0, errors.New("there is no command to run")
	}
	if c.Dir != "" {
		if _, err := os.Stat(c.Dir); err != nil { // else Start would say that of the program
			return 0, err
		}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Dir, strings.NewReader(c.Stdin), stdout, stderr
	cmd.Env = append(os.Environ(), "KSTAT_NOUT="+b.Nout, "KSTAT_COUNTER="+b.Counter, "KSTAT_START="+b.Start,
		"KSTAT_PROFILE="+string(b.Profile))
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.user != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.user, Gid: c.user}
	}
	killGroup := func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Cancel = killGroup
	cmd.WaitDelay = strayDelay
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	// Until it is reaped, its number is nobody else's.
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = killGroup()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, err
	}
	if w := cmd.ProcessState.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// judge compares what a command did with what it is to do.
func (v *Verdict) judge(c *Command, status int, stdout, stderr *output) {
	var expected, seen []string
	differ := func(want, got string) {
		expected, seen = append(expected, want), append(seen, got)
	}
	if status != c.Status {
		differ(fmt.Sprintf("exit status %d", c.Status), fmt.Sprintf("exit status %d", status))
	}
	if c.Stdout != nil && !stdout.is(*c.Stdout) {
		differ("on standard output: "+quote(*c.Stdout), "on standard output: "+stdout.String())
	}
	for _, m := range []struct {
		name    string
		pattern *regexp.Regexp
		got     *output
	}{{"standard output", c.StdoutMatches, stdout}, {"standard error", c.StderrMatches, stderr}} {
		if m.pattern != nil && !m.pattern.Match(m.got.text.Bytes()) {
			differ(fmt.Sprintf("on %s, something that matches %s", m.name, m.pattern), "on "+m.name+": "+m.got.String())
		}
	}
	if len(expected) > 0 {
		v.Outcome = Failed
		v.Expected, v.Seen = strings.Join(expected, "\n"), strings.Join(seen, "\n")
	}
}

// output keeps the beginning of what is written to it, and passes all of it on.
type output struct {
	also *tail
	text bytes.Buffer
	more bool // than text holds
}

func (o *output) Write(p []byte) (int, error) {
	keep := min(len(p), maxOutput-o.text.Len())
	o.text.Write(p[:keep])
	o.more = o.more || keep < len(p)
	return o.also.Write(p)
}

func (o *output) is(want string) bool { return !o.more && o.text.String() == want }

func (o *output) String() string { return quote(o.text.String()) }

// tail keeps the end of what is written to it, by two goroutines.
type tail struct {
	mu   sync.Mutex
	text []byte
	cut  bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - maxShown; over > 0 {
		t.text, t.cut = append(t.text[:0], t.text[over:]...), true
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return "…" + strings.ToValidUTF8(string(t.text), "�")
	}
	return strings.ToValidUTF8(string(t.text), "�")
}
