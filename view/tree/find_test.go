package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/lab/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// mountSilent mounts what looks like a kstatd that never answers: whoever
// touches it waits until the test's end.
func mountSilent(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(t, err)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device.Fd())
	must(t, unix.Mount("kstat", dir, fs.FSType, 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH), device.Close()) })
}

func TestFind(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.FUSE)
	run := t.TempDir()
	checkout, link := filepath.Join(run, "a checkout"), filepath.Join(run, "link")
	must(t, os.MkdirAll(filepath.Join(checkout, "mnt"), 0o755), os.Symlink(checkout, link))
	t.Chdir(link)
	t.Setenv("KSTAT_MOUNT", "")

	find := func(dir, want string) {
		t.Helper()
		found, err := Find(dir)
		if err != nil || found.Dir() != want {
			t.Errorf("in %q: %q, %v, want %q", dir, found.Dir(), err, want)
		}
	}
	if _, err := Find(""); !errors.Is(err, ErrAbsent) || strings.Contains(err.Error(), "\n") {
		t.Errorf("without any: %v", err)
	}
	find("/no/such", "/no/such")

	one := filepath.Join(run, "one")
	mountSilent(t, one)
	find("", one)
	t.Run("several", func(t *testing.T) {
		mountSilent(t, filepath.Join(run, "two"))
		if _, err := Find(""); err == nil || !strings.Contains(err.Error(), one+", "+filepath.Join(run, "two")+":") {
			t.Errorf("with two: %v", err)
		}
	})
	t.Run("service", func(t *testing.T) {
		must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		defer func() { must(t, unix.Unmount("/run", unix.MNT_DETACH)) }()
		t.Run("mounted", func(t *testing.T) {
			mountSilent(t, "/run/kstat")
			find("", "/run/kstat")
			mountSilent(t, filepath.Join(checkout, "mnt/kstat"))
			find("", "mnt/kstat")
		})
	})
	t.Setenv("KSTAT_MOUNT", "/some/where")
	find("", "/some/where")
	find(one, one)
}
