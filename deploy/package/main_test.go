//go:build !race

// Nothing of ours runs in the process of these tests: there is no race to detect.

// Package packaging holds what is released to its users: dpkg, rpm, systemd
// and make. It has nothing but tests.
package packaging

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// need skips the test, or fails it if KSTAT_REQUIRE is 1, unless these files of
// Debian packages are there: package:file.
func need(t testing.TB, things ...string) {
	t.Helper()
	for _, thing := range things {
		name, file, _ := strings.Cut(thing, ":")
		if _, err := os.Stat(file); err != nil {
			sandbox.Lack(t, fmt.Errorf("needs %s: %w; apt-get install %s", filepath.Base(file), err, name))
		}
	}
}

// output runs a command to its end, and returns what it printed. It fails the
// test if the command does.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s%s", cmd.Args, err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String()
}

const (
	release = "v0.1.0"
	number  = "0.1.0"
	epoch   = "1700000000" // 2023-11-14
)

// releasing returns tools/release of a checkout, for a version and a day.
func releasing(checkout, dist, what string, more ...string) *exec.Cmd {
	cmd := sandbox.Command(filepath.Join(checkout, "tools/release"), what)
	cmd.Env = append(os.Environ(), "VERSION="+release, "SOURCE_DATE_EPOCH="+epoch, "DIST="+dist, "MAINTAINER=")
	cmd.Env = append(cmd.Env, more...)
	return cmd
}

const checkout = "../.."

// built is what tools/release packages makes of this checkout, once for all
// tests: the files by their names.
var built struct {
	once  sync.Once
	files map[string][]byte
	err   error
}

// build fills built.
func build(dir string) error {
	if said, err := releasing(checkout, dir, "packages").CombinedOutput(); err != nil {
		return fmt.Errorf("tools/release packages: %w\n%s", err, said)
	}
	entries, err := os.ReadDir(dir)
	built.files = map[string][]byte{}
	for _, e := range entries {
		if err == nil {
			built.files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name()))
		}
	}
	return err
}

// packages returns a folder with what was built.
func packages(t testing.TB) string {
	t.Helper()
	built.once.Do(func() { built.err = build(filepath.Join(t.TempDir(), "dist")) })
	must(t, built.err)
	dir := t.TempDir()
	for name, body := range built.files {
		must(t, os.WriteFile(filepath.Join(dir, name), body, 0o644))
	}
	return dir
}

// only returns the one file that a pattern matches.
func only(t testing.TB, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("%s: %q, want one file", pattern, found)
	}
	return found[0]
}

func debFile(t testing.TB) string { return only(t, filepath.Join(packages(t), "*.deb")) }
func rpmFile(t testing.TB) string { return only(t, filepath.Join(packages(t), "*.rpm")) }

// copied returns the checkout's files elsewhere, without its history.
func copied(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "some where", "else") // a blank in it
	must(t, os.MkdirAll(dir, 0o755))
	list := sandbox.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = checkout
	names := output(t, list)
	pack := sandbox.Command("tar", "--null", "--ignore-failed-read", "-T", "-", "-cf", "-")
	pack.Dir, pack.Stdin = checkout, strings.NewReader(names)
	unpack := sandbox.Command("tar", "-xf", "-", "--no-same-owner")
	unpack.Dir, unpack.Stdin = dir, strings.NewReader(output(t, pack))
	output(t, unpack)
	return dir
}

// overlay mounts a file system that shows what is below lower, and keeps
// changes to itself. It returns its root, and where the changes are.
func overlay(t testing.TB, lower string) (root, changes string) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.Root)
	base := t.TempDir()
	must(t, unix.Mount("tmpfs", base, "tmpfs", 0, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"changes", "work", "root"} {
		must(t, os.Mkdir(filepath.Join(base, name), 0o755))
	}
	root, changes = filepath.Join(base, "root"), filepath.Join(base, "changes")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s/work", lower, changes, base)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		sandbox.Lack(t, fmt.Errorf("mount an overlay of %s: %w", lower, err))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root, changes
}
