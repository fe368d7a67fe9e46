package fs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Looking sees what locking would, and leaves all as it is.
func TestLook(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kstat")
	look := func(want Place) {
		t.Helper()
		want.Dir = dir
		if got, err := Look(dir); got != want || err != nil {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	look(Place{Missing: true})
	if exists(dir) {
		t.Fatal("the directory was made")
	}
	m, err := Lock(dir)
	must(t, err)
	attr := make([]byte, 1)
	_, err = unix.Getxattr(dir, madeAttr, attr)
	made := err == nil // not every file system can
	look(Place{Holder: os.Getpid(), Made: made})
	if err := unix.Flock(int(m.under.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	look(Place{Made: made}) // as a killed one leaves it
	must(t, m.Close())

	must(t, os.Mkdir(dir, 0o755))
	look(Place{})
	must(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o644))
	if _, err := Look(dir); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a directory that is not empty: %v", err)
	}
	s := serve(t)
	if got, err := Look(s.dir); err != nil || !got.Tree || got.Holder != s.cmd.Process.Pid {
		t.Errorf("of a tree: %+v, %v", got, err)
	}
}
