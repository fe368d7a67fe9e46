package kmod

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kstat/lab/sandbox"
)

// standIns makes a directory of host's tools, each of which says how it was
// called, and what is in MODPROBE_OPTIONS, and exits with 7.
func standIns(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const script = "#!/bin/sh\necho \"real $* [$MODPROBE_OPTIONS]\"\nexit 7\n"
	for _, name := range Tools() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start makes a command of a tool of ours that runs in a process of its own.
func start(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := sandbox.Command(testBinary(t), args...)
	cmd.Args[0] = name
	cmd.Env = os.Environ()
	return cmd
}

// What is not about kstat, the host's tool does, with the arguments as they are.
func TestPass(t *testing.T) {
	chdir(t)
	real := standIns(t)
	for _, call := range []string{
		"insmod other.ko a=1 b=2",
		"insmod ./text/../other.ko",
		"rmmod -f other kstat_2",
		"rmmod kstats",
		"modprobe other kstat",
		"modprobe -r other",
		"modprobe -q -a some other",
		"modprobe kstat-2",
		"modprobe -c",
		"modprobe --show-modversions kstat.ko",
		"modprobe --help",
		"modinfo other.ko -F license",
		"modinfo other",
		"modinfo -m kstat.ko",
		"kmod static-nodes -f tmpfiles",
		"kmod insmod kstat.ko",
		"kmod --version",
		"kmod",
		"insmod -V",
		"rmmod --help",
		"depmod -n",
		"depmod /nowhere/other.ko",
		"dmesg -F file -x",
		"dmesg -h",
		"dmesg -V",
	} {
		name, args, _ := strings.Cut(call, " ")
		want := outcome{status: 7, out: fmt.Sprintf("real %s [-v]\n", args)}
		cmd := start(t, name, strings.Fields(args)...)
		cmd.Env = append(cmd.Env, "KMOD_TEST_REAL="+real, "MODPROBE_OPTIONS=-v")
		if got := result(t, cmd); got != want {
			t.Errorf("%s: got %v\nwant %v", call, got, want)
		}
	}
}

// Where there are no modules to index, depmod has nothing to do.
func TestDepmod(t *testing.T) {
	real := standIns(t)
	for _, args := range [][]string{nil, {"-a"}, {"-v", "--all", kernelRelease()}} {
		want := outcome{}
		if _, err := os.Stat(modulesDir("", "")); err == nil {
			want = outcome{status: 7, out: "real " + strings.Join(args, " ") + " []\n"}
		}
		cmd := start(t, "depmod", args...)
		cmd.Env = append(cmd.Env, "KMOD_TEST_REAL="+real)
		if got := result(t, cmd); got != want {
			t.Errorf("depmod %q: got %v\nwant %v", args, got, want)
		}
	}
}

// What cannot be written is an error.
func TestWriteError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var errs bytes.Buffer
	cmd := start(t, "modprobe", "-n", "-v", "kstat")
	cmd.Stdout, cmd.Stderr = full, &errs
	if err := cmd.Run(); err == nil || errs.String() != "modprobe: write error: No space left on device\n" {
		t.Errorf("%v, %q", err, errs.String())
	}
}

// Of several modules, kstat is ours and the others the host's, in their order.
func TestPassPart(t *testing.T) {
	trials := []struct {
		call    string
		state   string
		options string // MODPROBE_OPTIONS
		out     string
		asked   []string
		status  int
	}{
		{call: "rmmod -v one kstat two", state: "loaded", out: "real -v -- one []\nreal -v -- two []\n", asked: []string{"delete"}, status: 7},
		{call: "modprobe -a -b kstat one", out: "real -a -b -- one []\n", asked: []string{`insert ""`}, status: 1},
		{call: "modprobe -a one kstat two", options: "-v -C file", out: "real -v -C file -a -- one []\ninsmod /lib/modules/$V/extra/kstat.ko \nreal -v -C file -a -- two []\n", asked: []string{`insert ""`}, status: 1},
		{call: "modprobe -r one kstat", state: "loaded", out: "real -r -- one []\n", status: 1},
		{call: "modinfo -F name one kstat.ko", out: "real -F name -- one []\nkstat\n", status: 7},
	}
	chdir(t)
	real := standIns(t)
	for _, tt := range trials {
		t.Run(tt.call, func(t *testing.T) {
			t.Setenv("MODPROBE_OPTIONS", tt.options)
			f := newFake(t)
			f.real = real
			f.setUp(t, tt.state)
			args := strings.Fields(tt.call)
			want := outcome{status: tt.status, out: strings.ReplaceAll(tt.out, "$V", kernelRelease())}
			if got := f.run(args[0], args[1:]...); got != want {
				t.Errorf("got %v\nwant %v", got, want)
			}
			if !slices.Equal(f.calls, tt.asked) {
				t.Errorf("the kernel was asked for %q, want %q", f.calls, tt.asked)
			}
		})
	}
}
