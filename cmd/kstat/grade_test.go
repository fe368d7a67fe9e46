package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kstat/lab/grade"
)

// graded runs kstat grade, and reads its report.
func graded(t *testing.T, status int, args ...string) (r grade.Report) {
	t.Helper()
	needWorld(t)
	got := end(t, tool(append([]string{"grade", "--format", "json"}, args...)...))
	if got.status != status || got.stderr != "" {
		t.Errorf("kstat grade %q: status %d, want %d; standard error %q", args, got.status, status, got.stderr)
	}
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil {
		t.Fatalf("kstat grade %q: %v in %q", args, err, got.stdout)
	}
	return r
}

func TestGrade(t *testing.T) {
	for _, profile := range []grade.Profile{grade.Contract, grade.Coursework} {
		r := graded(t, 0, "--profile", string(profile))
		if r.Points != 90 || r.Max != 90 || r.Profile != profile || r.Target != "kstatd in a private world" {
			t.Errorf("%v of %v points, profile %s, target %s", r.Points, r.Max, r.Profile, r.Target)
		}
		for _, item := range r.Results {
			if item.Outcome != grade.Passed && item.Outcome != grade.ByHand {
				t.Errorf("%s: %+v", profile, item)
			}
		}
	}
}

func TestGradeMutant(t *testing.T) {
	r := graded(t, 1, "--mutant", "no-newline")
	if r.Points != 87 || r.Target != "kstatd in a private world, mutant no-newline" {
		t.Errorf("%v points, target %s", r.Points, r.Target)
	}
}

// What is there already is graded where it is.
func TestGradeRunning(t *testing.T) {
	needWorld(t)
	got := end(t, tool("run", "--loaded", "sh", "-c",
		`exec /proc/.kstat/tools/kstat grade --format json --nout /run/kstat/nout --counter /run/kstat/counter --start /run/kstat/start`))
	var r grade.Report
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.status != 0 {
		t.Fatalf("%v: %+v", err, got)
	}
	skipped := 0.0
	for _, item := range r.Results {
		if item.Outcome == grade.Skipped {
			skipped += item.Max
		}
	}
	if !r.Passed() || r.Points != r.Max || r.Max+skipped != 90 || skipped > 10 {
		t.Errorf("%v of %v points, %v skipped", r.Points, r.Max, skipped)
	}
}

func TestGradeCommand(t *testing.T) {
	needWorld(t)
	dir := t.TempDir()
	check := filepath.Join(dir, "check.sh")
	must(t, os.WriteFile(check, []byte("#!/bin/sh -e\ninsmod "+dir+"/kstat.ko\n[ $(cat /proc/kstat/counter) = 10 ]\nrmmod kstat\n"), 0o755))
	if r := graded(t, 1, "--", check); r.Points != 0 || !strings.Contains(r.Results[0].Output, "No such file") {
		t.Errorf("without a kstat.ko: %+v", r)
	}
	ko := end(t, tool("ko"))
	must(t, os.WriteFile(dir+"/kstat.ko", []byte(ko.stdout), 0o644))
	if r := graded(t, 0, "--", check); r.Points != 100 {
		t.Errorf("%+v", r)
	}
}

// What is graded shares the grader's world, and can kill it; that is said.
func TestGradeKilled(t *testing.T) {
	needWorld(t)
	got := end(t, tool("grade", "--", "sh", "-c", "kill -9 -1"))
	if want := (outcome{2, "", "kstat grade: SIGKILL ended it, as kill -1 in what it graded does, and nothing is reported\n"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestGradeRubric(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rubric.yaml")
	must(t, os.WriteFile(file, []byte(`schema: 1
title: mine
profile: coursework
builtin: false
items:
  - {id: counter, section: one, title: the counter is 10, points: 3, run: cat /proc/kstat/counter, stdout: "10\n"}
  - {id: nout, section: one, title: nout is 5, points: 4, run: cat /proc/kstat/nout, stdout: "5\n"}
`), 0o644))
	r := graded(t, 1, "--rubric", file)
	if r.Rubric != "mine" || r.Profile != grade.Coursework || r.Points != 3 || r.Max != 7 {
		t.Errorf("%+v", r)
	}
	if r := graded(t, 1, "--rubric", file, "--profile", "contract"); r.Profile != grade.Contract {
		t.Errorf("the profile of the command line is not %s", r.Profile)
	}
}

// With -o the report goes to a file, and people still see something.
func TestGradeOutput(t *testing.T) {
	needWorld(t)
	dir := t.TempDir()
	for format, begins := range map[string]string{"text": "KSTAT", "json": "{", "gradescope": "{", "junit": "<?xml", "tap": "TAP version 14\n"} {
		file := filepath.Join(dir, format)
		got := end(t, tool("grade", "--format", format, "-o", file, "--", "true"))
		text, err := os.ReadFile(file)
		if format == "text" {
			begins = "true\n" // the command is the rubric's title
		}
		if err != nil || !strings.HasPrefix(string(text), begins) || got.status != 0 || !strings.Contains(got.stdout, "100/100") {
			t.Errorf("%s: %v, %+v, file %q", format, err, got, text)
		}
	}
	if got := end(t, tool("grade", "-o", dir+"/none/file", "--", "true")); got.status != 2 || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("-o into no directory: %+v", got)
	}
}

func TestGradeMisuse(t *testing.T) {
	for _, args := range [][]string{
		{"--profile", "kind"},
		{"--format", "pdf"},
		{"--nout", "/x"},
		{"--load", "insmod kstat.ko"},
		{"--here", "--nout", "/x", "--counter", "/x", "--start", "/x"},
		{"--mutant", "no-newline", "--nout", "/x", "--counter", "/x", "--start", "/x"},
		{"--rubric", "x.yaml", "--", "true"},
		{"--limit", "0s", "--", "true"},
		{"--limit", "soon"},
		{"--limit", "3"},
		{"--here"},
		{"--nout", "/no/x", "--counter", "/no/x", "--start", "/no/x"},
		{"--no-such-flag"},
	} {
		got := end(t, tool(append([]string{"grade"}, args...)...))
		if got.status != 2 || got.stdout != "" || !strings.HasPrefix(got.stderr, "kstat grade: ") || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("kstat grade %q: %+v", args, got)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		stdout string // its beginning
		stderr string
	}{
		{nil, 2, "", "usage: kstat COMMAND"},
		{[]string{"help"}, 0, "usage: kstat COMMAND", ""},
		{[]string{"--help"}, 0, "usage: kstat COMMAND", ""},
		{[]string{"help", "watch"}, 0, "usage: kstat watch [FLAG]…", ""},
		{[]string{"help", "frobnicate"}, 2, "", `kstat: there is no command "frobnicate"`},
		{[]string{"version"}, 0, "kstat ", ""},
		{[]string{"frobnicate"}, 2, "", `kstat: there is no command "frobnicate"`},
		{[]string{"run", "--help"}, 0, "usage: kstat run [FLAG]…", ""},
		{[]string{"grade", "--help"}, 0, "usage: kstat grade [FLAG]…", ""},
		{[]string{"grade", "--schema"}, 0, "{", ""},
		{[]string{"ko", "file"}, 2, "", "kstat ko: "},
		{[]string{"ko"}, 0, "\x7fELF", ""},
		{[]string{"completion", "bash"}, 0, "# Completion of kstat,", ""},
		{[]string{"completion"}, 2, "", "kstat completion: name one shell: bash, zsh, fish (kstat"},
		{[]string{"completion", "tcsh"}, 2, "", `kstat completion: no shell "tcsh": take one of bash, zsh, fish (kstat`},
		{[]string{"manual"}, 0, "kstat.1\nkstat-run.1\n", ""},
		{[]string{"manual", "run"}, 0, `.\" `, ""},
		{[]string{"manual", "fly"}, 2, "", `kstat manual: no page "fly": take one of kstat.1, kstat-run.1,`},
		{[]string{"manual", "run", "grade"}, 2, "", `kstat manual: "grade" is one too many`},
	} {
		got := end(t, tool(c.args...))
		if got.status != c.status || !strings.HasPrefix(got.stdout, c.stdout) || !strings.HasPrefix(got.stderr, c.stderr) ||
			(c.stdout == "") != (got.stdout == "") || (c.stderr == "") != (got.stderr == "") {
			t.Errorf("kstat %q: %+v", c.args, got)
		}
	}
}

// TestFullDisk: what could not be printed is told, and is no success.
func TestFullDisk(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"version"}, {"run", "--help"}, {"doctor", "run", "--help"}, {"grade", "--schema"}, {"doctor", "--schema"},
		{"completion", "bash"}, {"manual"}, {"manual", "run"}, {"ko"}} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		must(t, err)
		var stderr strings.Builder
		cmd := tool(args...)
		cmd.Stdout, cmd.Stderr = full, &stderr
		_ = cmd.Run()
		must(t, full.Close())
		status, want := cmd.ProcessState.ExitCode(), "write /dev/stdout: no space left on device\n"
		if status != 1 || !strings.HasSuffix(stderr.String(), want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("kstat %q: status %d, %q, want 1 and %q", args, status, stderr.String(), want)
		}
	}
}

// A binary file is not for a terminal.
func TestKoOnTerminal(t *testing.T) {
	p := openTerminal(t)
	defer p.ours.Close()
	cmd := tool("ko")
	p.start(cmd)
	p.await("kstat ko > kstat.ko")
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 2 {
		t.Errorf("status %d", got)
	}
}
