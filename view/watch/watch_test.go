package watch

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/view/tree"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

// TestPersist: what is dead is tried again, and what is gone is not.
func TestPersist(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.FUSE)
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	where, err := tree.Find(dir)
	must(err)
	quick := limits{dead: time.Hour, gone: 30 * time.Millisecond}
	if _, err := persist(quick, where.Stats); !errors.Is(err, ErrEnded) {
		t.Error("nothing is mounted:", err)
	}
	if _, err := (&Watch{Tree: where}).first(); !errors.Is(err, tree.ErrAbsent) || errors.Is(err, ErrEnded) {
		t.Error("nothing was mounted:", err)
	}

	// A mount whose server has closed its connection.
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(err, unix.Mount("kstat", dir, "fuse.kstatd", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device.Fd())), device.Close())
	mounted := true
	defer func() {
		if mounted {
			must(unix.Unmount(dir, unix.MNT_DETACH))
		}
	}()
	if _, err := persist(limits{dead: 30 * time.Millisecond, gone: time.Hour}, where.Stats); !errors.Is(err, tree.ErrDead) || !errors.Is(err, syscall.ENOTCONN) || errors.Is(err, ErrEnded) {
		t.Error("the server is dead:", err)
	}
	tries := 0
	_, err = persist(limits{dead: time.Hour, gone: 300 * time.Millisecond}, func() (int, error) { // more than a try takes on a busy machine
		if tries++; tries == 3 {
			must(unix.Unmount(dir, unix.MNT_DETACH))
			mounted = false
		}
		_, err := where.Watch()
		return 0, err
	})
	if !errors.Is(err, ErrEnded) || tries < 4 {
		t.Errorf("unmounted meanwhile: %v, after %d tries", err, tries)
	}
}
