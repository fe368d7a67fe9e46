package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kstat/lab/mutant"
	"kstat/lab/sandbox"
)

// grader is one of the grading scripts in lab/testdata/graders.
type grader struct {
	name    string
	command []string
	want    string   // what it prints for the right module
	notices []string // mutants that it fails
}

// graders reads expect.tsv, copies the scripts to where everybody may read them,
// and puts a kstat.ko beside them.
func graders(t *testing.T) (dir string, all []grader) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kstat-graders-")
	must(t, err, os.Chmod(dir, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	const source = "../../lab/testdata/graders"
	must(t, os.CopyFS(dir, os.DirFS(source)))
	must(t, os.WriteFile(filepath.Join(dir, "kstat.ko"), []byte(end(t, tool("ko")).stdout), 0o644))
	text, err := os.ReadFile(filepath.Join(dir, "expect.tsv"))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		want, err := os.ReadFile(filepath.Join(dir, fields[0]+".out"))
		must(t, err)
		command := strings.Fields(fields[1])
		if command[0] == fields[0] {
			command[0] = "./" + command[0]
		}
		all = append(all, grader{fields[0], command, string(want), strings.Split(fields[2], ",")})
	}
	if len(all) < 12 {
		t.Fatalf("%d grading scripts", len(all))
	}
	return dir, all
}

// atOnce runs f for each grading script, four at a time: they wait a lot.
func atOnce(all []grader, f func(grader)) {
	var g sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, script := range all {
		g.Go(func() {
			slots <- struct{}{}
			f(script)
			<-slots
		})
	}
	g.Wait()
}

// The scripts are run as they are, and find nothing wrong with the right module:
// by root, by an ordinary user, and in a world within a world.
func TestGraders(t *testing.T) {
	needWorld(t)
	dir, all := graders(t)
	exe := filepath.Join(dir, "kstat")
	text, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.WriteFile(exe, text, 0o755))

	worlds := []struct {
		name  string
		needs []sandbox.Thing
		begin func(...string) *exec.Cmd
	}{
		{"root", nil, func(args ...string) *exec.Cmd { return tool(append([]string{"run"}, args...)...) }},
		{"nested", nil, func(args ...string) *exec.Cmd {
			return tool(append([]string{"run", "--loaded", exe, "run"}, args...)...)
		}},
		{"user", []sandbox.Thing{sandbox.Root}, func(args ...string) *exec.Cmd {
			return sandbox.AsUser(sandbox.Command(exe, append([]string{"run"}, args...)...), sandbox.Nobody)
		}},
	}
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			sandbox.Need(t, w.needs...)
			if w.name == "user" {
				openFUSE(t, dir)
			}
			atOnce(all, func(s grader) {
				cmd := w.begin(s.command...)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), ours)
				got := end(t, cmd)
				if got.status != 0 || got.stdout != s.want {
					t.Errorf("%s: status %d, standard error:\n%s\nstandard output:\n%s\nwant:\n%s", s.name, got.status, got.stderr, got.stdout, s.want)
				}
			})
		})
	}
}

// openFUSE lets everybody open /dev/fuse, in this mount namespace, until the
// test ends.
func openFUSE(t *testing.T, dir string) {
	t.Helper()
	device := filepath.Join(dir, "fuse")
	must(t, unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))), os.Chmod(device, 0o666))
	must(t, unix.Mount(device, "/dev/fuse", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount("/dev/fuse", unix.MNT_DETACH), os.Remove(device)) })
}

// Each script fails the mutants that it can notice, and no others. (With
// KSTAT_FAULTS=full it is tried on all of them, with -short on one.)
func TestFaultMutantsNoticed(t *testing.T) {
	needWorld(t)
	dir, all := graders(t)
	mutants := []string{"udp-as-tcp", "ignores-counter", "accepts-junk", "no-newline", "decreases"}
	switch {
	case os.Getenv("KSTAT_FAULTS") == "full":
		mutants = mutant.Names()
	case testing.Short():
		mutants = mutants[:1]
	}
	for _, m := range mutants {
		t.Run(m, func(t *testing.T) {
			noticed := 0
			for _, s := range all {
				if slices.Contains(s.notices, m) {
					noticed++
				}
			}
			if noticed < 2 {
				t.Errorf("%d scripts notice it", noticed)
			}
			atOnce(all, func(s grader) {
				cmd := tool(append([]string{"run", "--mutant", m}, s.command...)...)
				cmd.Dir = dir
				got := end(t, cmd)
				want := slices.Contains(s.notices, m)
				if (got.status != 0) != want || !want && got.stdout != s.want {
					t.Errorf("%s: status %d, notices it: %v, it printed:\n%s%s", s.name, got.status, want, got.stdout, got.stderr)
				}
			})
		})
	}
}
