package grade

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"kstat/lab/sandbox"
)

const deploy = "../../deploy"

func TestDeployScripts(t *testing.T) {
	for _, path := range []string{"gradescope/setup.sh", "gradescope/run_autograder"} {
		path = filepath.Join(deploy, path)
		if out, err := exec.Command("bash", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", path, err, out)
		}
		if info, err := os.Stat(path); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be executed: %v, %v", path, info.Mode(), err)
		}
	}
}

// An autograder is the directory that Gradescope makes, with a kstat that is a
// script.
type autograder struct {
	root string
	path string // of commands
}

// fakeKstat is said by its -o where to write, and by its environment what to do.
const fakeKstat = `#!/bin/sh
printf '%s\n' "$PWD" "$*" > "$AUTOGRADER/asked"
while [ "$1" != -o ]; do shift; done
case $FAKE in
pass|fail) echo '{"score": 1, "tests": []}' > "$2"; echo text; [ "$FAKE" = pass ] ;;
refuse) printf 'half of it' > "$2"; printf "$COMPLAINT" >&2; exit 2 ;;
nothing) exit 0 ;;
hang) exec sleep 1000 ;;
die) printf '{"score"' > "$2"; kill -KILL $$ ;;
look) cat "$KSTAT_DIR/nout" "$KSTAT_DIR/counter" "$KSTAT_DIR/start" > "$AUTOGRADER/looked"
	ip -o link show up | cut -d' ' -f2 >> "$AUTOGRADER/looked"
	echo '{"score": 2, "tests": []}' > "$2" ;;
esac
`

func newAutograder(t *testing.T, submission map[string]string, source map[string]string) *autograder {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Fatal(err)
	}
	a := &autograder{root: t.TempDir()}
	bin := filepath.Join(a.root, "bin")
	a.path = bin + ":/usr/sbin:/usr/bin:/sbin:/bin"
	files := map[string]string{"bin/kstat": fakeKstat, "results/.keep": "", "submission/.keep": "", "source/.keep": ""}
	for name, text := range submission {
		files["submission/"+name] = text
	}
	for name, text := range source {
		files["source/"+name] = text
	}
	for name, text := range files {
		path := filepath.Join(a.root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	must(t, os.Chmod(filepath.Join(bin, "kstat"), 0o755))
	return a
}

// grade runs run_autograder, which always succeeds, and returns the result.
func (a *autograder) grade(t *testing.T, env ...string) (s results, printed string) {
	t.Helper()
	// What an earlier run has left must not be taken for this one's.
	path := filepath.Join(a.root, "results/results.json")
	must(t, os.WriteFile(path, []byte("stale"), 0o644))
	script, err := filepath.Abs(filepath.Join(deploy, "gradescope/run_autograder"))
	must(t, err)
	cmd := sandbox.Command(script)
	cmd.Dir = a.root
	cmd.Env = append([]string{"AUTOGRADER=" + a.root, "PATH=" + a.path, "HOME=/", "TMPDIR=" + t.TempDir()}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run_autograder: %v: %s", err, out)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	decode(t, string(text), &s)
	left, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(left) != 2 { // results.json and .keep
		t.Errorf("left in results: %v", left)
	}
	return s, string(out)
}

// asked returns where kstat was started, and with what arguments.
func (a *autograder) asked(t *testing.T) (dir, args string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(a.root, "asked"))
	must(t, err)
	dir, args, _ = strings.Cut(strings.TrimSpace(string(text)), "\n")
	return strings.TrimPrefix(dir, a.root), strings.ReplaceAll(args, a.root, "")
}

func TestAutograderCheckScript(t *testing.T) {
	const flags = "grade --format gradescope -o /results/.fresh.json "
	for name, test := range map[string]struct {
		submission, source map[string]string
		args               string
	}{
		"script": {
			submission: map[string]string{"check.sh": "#!/bin/sh\n"},
			args:       "--profile coursework --limit 540s -- ./check.sh",
		},
		"configured": {
			submission: map[string]string{"check.sh": "#!/bin/sh\n"},
			source:     map[string]string{"grade.conf": "profile=contract\nlimit=60\n"},
			args:       "--profile contract --limit 60s -- ./check.sh",
		},
		"rubric": {
			submission: map[string]string{"check.sh": "#!/bin/sh\n"},
			source:     map[string]string{"rubric.yaml": "schema: 1\n"},
			args:       "--rubric /source/rubric.yaml",
		},
		"rubric and profile": {
			source: map[string]string{"rubric.yaml": "schema: 1\n", "grade.conf": "profile=contract\n"},
			args:   "--profile contract --rubric /source/rubric.yaml",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAutograder(t, test.submission, test.source)
			for _, fake := range []string{"pass", "fail"} {
				s, printed := a.grade(t, "FAKE="+fake)
				if s.Score == nil || *s.Score != 1 {
					t.Errorf("%s: %+v, want what kstat wrote", fake, s)
				}
				if !strings.Contains(printed, "text") {
					t.Errorf("%s: kstat's text is not shown to the staff: %q", fake, printed)
				}
			}
			if dir, args := a.asked(t); dir != "/submission" || args != flags+test.args {
				t.Errorf("kstat was asked in %s: %s\nwant in /submission: %s", dir, args, flags+test.args)
			}
			if _, ok := test.submission["check.sh"]; ok {
				info, err := os.Stat(filepath.Join(a.root, "submission/check.sh"))
				if err != nil || info.Mode()&0o100 == 0 {
					t.Errorf("check.sh cannot be executed: %v, %v", info.Mode(), err)
				}
			}
		})
	}
}

// wantRefused wants no points, and the reason shown to the student.
func wantRefused(t *testing.T, s results, reason string) {
	t.Helper()
	if s.Score == nil || *s.Score != 0 || s.StdoutVisibility != "hidden" || s.Visibility != "visible" || len(s.Tests) != 1 {
		t.Fatalf("%+v, want no points and one test", s)
	}
	test := s.Tests[0]
	if test.Visibility != "visible" || test.Status != "failed" || !strings.Contains(test.Output, reason) {
		t.Errorf("%+v, want a visible test that says %q", test, reason)
	}
	if s.Format != "text" || test.Format != "text" {
		t.Errorf("formats %q and %q, want text", s.Format, test.Format)
	}
}

// wantBroken wants no points, and a reason that only the staff see.
func wantBroken(t *testing.T, s results, reason string) {
	t.Helper()
	if s.Score == nil || *s.Score != 0 || s.StdoutVisibility != "hidden" || len(s.Tests) != 1 {
		t.Fatalf("%+v, want no points and one test", s)
	}
	test := s.Tests[0]
	if test.Visibility != "hidden" || test.Status != "failed" || !strings.Contains(test.Output, reason) {
		t.Errorf("%+v, want a hidden test that says %q", test, reason)
	}
	if !strings.Contains(s.Output, "no fault of this submission") || strings.Contains(s.Output, reason) {
		t.Errorf("the student reads %q", s.Output)
	}
}

func TestAutograderBroken(t *testing.T) {
	check := map[string]string{"check.sh": "#!/bin/sh\n"}
	t.Run("kstat cannot run", func(t *testing.T) {
		s, _ := newAutograder(t, check, nil).grade(t, "FAKE=refuse", `COMPLAINT=kstat grade: no access to FUSE\n`)
		wantBroken(t, s, "ended with status 2 and no report. kstat grade: no access to FUSE")
	})
	t.Run("with nasty words", func(t *testing.T) {
		s, _ := newAutograder(t, check, nil).grade(t, "FAKE=refuse", `COMPLAINT=a "b" \\c\001\033[1m\377\ttab\n\nnew line </b>`)
		wantBroken(t, s, "a \"b\" \\c[1m\ttab\n\nnew line </b>")
	})
	t.Run("kstat writes nothing", func(t *testing.T) {
		s, _ := newAutograder(t, check, nil).grade(t, "FAKE=nothing")
		wantBroken(t, s, "ended with status 0 and no report")
	})
	t.Run("kstat is killed", func(t *testing.T) {
		s, _ := newAutograder(t, check, nil).grade(t, "FAKE=die")
		wantBroken(t, s, "ended with status 137 and no report")
	})
	t.Run("kstat is missing", func(t *testing.T) {
		a := newAutograder(t, check, nil)
		must(t, os.Remove(filepath.Join(a.root, "bin/kstat")))
		s, _ := a.grade(t)
		wantBroken(t, s, "kstat is not installed")
	})
	t.Run("grade.conf is wrong", func(t *testing.T) {
		s, _ := newAutograder(t, check, map[string]string{"grade.conf": "limit=(\n"}).grade(t, "FAKE=pass")
		wantBroken(t, s, "grade.conf cannot be read")
	})
}

func TestAutograderRefuses(t *testing.T) {
	t.Run("nothing", func(t *testing.T) {
		s, _ := newAutograder(t, map[string]string{"dir/check.sh": "#!/bin/sh\n"}, nil).grade(t, "FAKE=pass")
		wantRefused(t, s, "neither run nor check.sh")
	})
	t.Run("time is over", func(t *testing.T) {
		a := newAutograder(t, map[string]string{"check.sh": "#!/bin/sh\n"}, map[string]string{"grade.conf": "limit=1\n"})
		s, _ := a.grade(t, "FAKE=hang")
		wantRefused(t, s, "not done after 1 seconds")
	})
}

// serve is an implementation that offers its files, and one that goes on.
const serve = `#!/bin/sh
echo 1230 > "$KSTAT_DIR/nout"
echo 10 > "$KSTAT_DIR/counter"
sleep 0.2
echo 0 > "$KSTAT_DIR/start"
exec sleep 1000
`

func TestAutograderImplementation(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	need(t, "ip", "unshare")
	a := newAutograder(t, map[string]string{"run": serve, "check.sh": "exit 1"}, nil)
	s, _ := a.grade(t, "FAKE=look")
	if s.Score == nil || *s.Score != 2 {
		t.Fatalf("%+v, want what kstat wrote", s)
	}
	looked, err := os.ReadFile(filepath.Join(a.root, "looked"))
	must(t, err)
	if want := "1230\n10\n0\nlo:\n"; string(looked) != want {
		t.Errorf("kstat saw %q, want the three files and lo alone, %q", looked, want)
	}
	_, args := a.asked(t)
	form := regexp.MustCompile(`^grade --format gradescope -o /results/.fresh.json --profile coursework --nout (\S+)/nout --counter (\S+)/counter --start (\S+)/start$`)
	if m := form.FindStringSubmatch(args); m == nil || m[1] != m[2] || m[2] != m[3] {
		t.Errorf("kstat was asked: %s", args)
	}

	a = newAutograder(t, map[string]string{"run": serve}, map[string]string{"rubric.yaml": "schema: 1\n"})
	a.grade(t, "FAKE=look")
	if _, args := a.asked(t); !strings.HasSuffix(args, " --rubric /source/rubric.yaml") || strings.Contains(args, "--profile") {
		t.Errorf("with a rubric, kstat was asked: %s", args)
	}
}

// Where there are no namespaces, the container's own network has to do.
func TestAutograderInPlace(t *testing.T) {
	a := newAutograder(t, map[string]string{"run": serve}, nil)
	fake := filepath.Join(a.root, "bin/unshare")
	must(t, os.WriteFile(fake, []byte("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n"), 0o755))
	s, printed := a.grade(t, "FAKE=look")
	if s.Score == nil || *s.Score != 2 || !strings.Contains(printed, "no namespaces can be had here") {
		t.Errorf("%+v, printed %q", s, printed)
	}
}

func TestAutograderImplementationFails(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	t.Run("ends", func(t *testing.T) {
		a := newAutograder(t, map[string]string{"run": "#!/bin/sh\necho 'cannot \"mount\": \\o/' >&2\nexit 3\n"}, nil)
		s, _ := a.grade(t, "FAKE=look")
		wantRefused(t, s, "its run ended before nout, counter and start were in $KSTAT_DIR.\n\ncannot \"mount\": \\o/")
	})
	t.Run("offers nothing", func(t *testing.T) {
		a := newAutograder(t, map[string]string{"run": "#!/bin/sh\nexec sleep 1000\n"}, map[string]string{"grade.conf": "ready=1\n"})
		s, _ := a.grade(t, "FAKE=look")
		wantRefused(t, s, "has not made nout, counter and start in $KSTAT_DIR after 1 seconds")
	})
	t.Run("kills all", func(t *testing.T) {
		a := newAutograder(t, map[string]string{"run": "#!/bin/sh\nkill -KILL -1\n"}, nil)
		s, _ := a.grade(t, "FAKE=look")
		wantRefused(t, s, "its run ended")
	})
}

// TestAutograderSetup builds no image, but runs setup.sh with a package manager
// that does nothing, on each of the ways to bring kstat along.
func TestAutograderSetup(t *testing.T) {
	const binary = "#!/bin/sh\necho kstat of the test\n"
	setup := func(t *testing.T, a *autograder) (printed string, err error) {
		for name, text := range map[string]string{
			"apt-get": "#!/bin/sh\necho \"$*\" >> \"$AUTOGRADER/installed\"\n",
			"id":      "#!/bin/sh\n",
		} {
			must(t, os.WriteFile(filepath.Join(a.root, "bin", name), []byte(text), 0o755))
		}
		cmd := sandbox.Command("bash", filepath.Join(deploy, "gradescope/setup.sh"))
		cmd.Env = []string{"AUTOGRADER=" + a.root, "PREFIX=" + a.root + "/usr", "PATH=" + a.path, "HOME=/", "TMPDIR=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	want := func(t *testing.T, a *autograder) {
		t.Helper()
		if printed, err := setup(t, a); err != nil || !strings.HasSuffix(printed, "kstat of the test\n") {
			t.Fatalf("%v: %s", err, printed)
		}
		info, err := os.Stat(filepath.Join(a.root, "usr/bin/kstat"))
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("kstat: %v, %v", info, err)
		}
	}

	t.Run("binary", func(t *testing.T) {
		a := newAutograder(t, nil, map[string]string{
			"kstat": binary, "kstatd": binary, "packages.txt": "# for C++\ng++ gdb\nstrace # and this\n",
		})
		want(t, a)
		must(t, exec.Command("test", "-x", filepath.Join(a.root, "usr/bin/kstatd")).Run())
		installed, err := os.ReadFile(filepath.Join(a.root, "installed"))
		must(t, err)
		words := strings.Fields(string(installed))
		for _, name := range []string{"iproute2", "util-linux", "g++", "gdb", "strace"} {
			if !slices.Contains(words, name) {
				t.Errorf("%s is not installed: %s", name, installed)
			}
		}
		if slices.Contains(words, "#") || slices.Contains(words, "this") {
			t.Errorf("a comment is installed: %s", installed)
		}
	})
	t.Run("archive", func(t *testing.T) {
		a := newAutograder(t, nil, nil)
		pack := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(pack, "kstat-0.3.0/bin"), 0o755),
			os.WriteFile(filepath.Join(pack, "kstat-0.3.0/bin/kstat"), []byte(binary), 0o755),
			exec.Command("tar", "-czf", filepath.Join(a.root, "source/kstat-0.3.0.tar.gz"), "-C", pack, "kstat-0.3.0").Run())
		want(t, a)
	})
	t.Run("source", func(t *testing.T) {
		a := newAutograder(t, nil, map[string]string{
			"kstat/go.mod": "module kstat\n",
			// In the place of the script that finds Go: it "builds" into the directory behind -o.
			"kstat/tools/go": "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\nprintf '#!/bin/sh\\necho kstat of the test\\n' > \"$2/kstat\"\n",
		})
		must(t, os.Chmod(filepath.Join(a.root, "source/kstat/tools/go"), 0o755))
		want(t, a)
	})
	t.Run("nothing", func(t *testing.T) {
		printed, err := setup(t, newAutograder(t, nil, nil))
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !strings.Contains(printed, "setup.sh: no kstat beside it") {
			t.Errorf("%v: %s", err, printed)
		}
	})
}

// buildKstat builds the kstat of this checkout, for what it needs of the kernel.
func buildKstat(t *testing.T) (path string) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue, sandbox.NFTables, sandbox.FUSE)
	path = filepath.Join(t.TempDir(), "kstat")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/kstat")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestAutograderReal has a script graded by the kstat of this checkout.
func TestAutograderReal(t *testing.T) {
	kstat := buildKstat(t)
	with := func(t *testing.T, submission, source map[string]string) results {
		t.Helper()
		a := newAutograder(t, submission, source)
		must(t, os.Remove(filepath.Join(a.root, "bin/kstat")), os.Symlink(kstat, filepath.Join(a.root, "bin/kstat")))
		s, printed := a.grade(t)
		if s.Score == nil || len(s.Tests) == 0 {
			t.Fatalf("%+v, printed %s", s, printed)
		}
		return s
	}
	const check = "#!/bin/sh\nset -e\n: > kstat.ko\ninsmod kstat.ko\ntest \"$(cat /proc/kstat/counter)\" = 10\nrmmod kstat\n"
	if s := with(t, map[string]string{"check.sh": check}, nil); *s.Score != 100 {
		t.Errorf("a script that passes: %+v", s)
	}
	if s := with(t, map[string]string{"check.sh": "echo no such luck; exit 1"}, nil); *s.Score != 0 || s.Tests[0].Visibility == "hidden" {
		t.Errorf("a script that fails: %+v", s)
	}
	rubric := map[string]string{"rubric.yaml": `
schema: 1
builtin: false
items:
  - {id: right, section: script, title: right, points: 3, loaded: false, run: ./check.sh}
  - {id: wrong, section: script, title: wrong, points: 4, loaded: false, run: 'false'}
`}
	if s := with(t, map[string]string{"check.sh": check}, rubric); *s.Score != 3 || len(s.Tests) != 2 {
		t.Errorf("a rubric: %+v", s)
	}
}

// TestClassroomWorkflow wants the workflow to be YAML that a person can trust:
// every action pinned to a commit, with its version beside it.
func TestClassroomWorkflow(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(deploy, "classroom/classroom.yml"))
	must(t, err)
	var workflow struct {
		Name        string
		On          map[string]any
		Permissions map[string]string
		Concurrency map[string]any
		Jobs        map[string]struct {
			RunsOn  string `yaml:"runs-on"`
			Timeout int    `yaml:"timeout-minutes"`
			Steps   []struct {
				Name, Uses, Run, If string
				Dir                 string `yaml:"working-directory"`
				With                map[string]any
			}
		}
	}
	if err := yaml.UnmarshalWithOptions(text, &workflow, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	job, ok := workflow.Jobs["grade"]
	if !ok || workflow.Permissions["contents"] != "read" || len(workflow.Permissions) != 1 || job.Timeout == 0 {
		t.Errorf("%+v", workflow)
	}
	pinned := regexp.MustCompile(`^[a-z-]+/[a-z-]+@[0-9a-f]{40}$`)
	graded := false
	for _, step := range job.Steps {
		if step.Uses != "" && (!pinned.MatchString(step.Uses) || !bytes.Contains(text, []byte(step.Uses+" # v"))) {
			t.Errorf("%s: %s is not pinned to a commit, with its version", step.Name, step.Uses)
		}
		if (step.Uses == "") == (step.Run == "") {
			t.Errorf("%s: one of uses and run", step.Name)
		}
		if step.Run != "" {
			if out, err := exec.Command("bash", "-n", "-c", step.Run).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", step.Name, err, out)
			}
		}
		graded = graded || strings.Contains(step.Run, "grade --profile coursework --format junit -o")
	}
	if !graded {
		t.Error("nothing is graded")
	}
}
