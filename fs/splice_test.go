package fs

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSplice: sendfile(2), which BusyBox's cat tries before it reads, finds the
// text or says that it is not for this file. It must not find nothing, whatever
// the kernel has been told of the file since it was opened.
func TestSplice(t *testing.T) {
	s := serve(t)
	stat := func(name string) func(*os.File) error {
		return func(*os.File) error { _, err := os.Stat(s.path(name)); return err }
	}
	for _, name := range []string{"nout", "counter", "start", "protocols", "stats.json", "proto/tcp/packets"} {
		for what, meanwhile := range map[string]func(*os.File) error{
			"at once":     func(*os.File) error { return nil },
			"fstat":       func(f *os.File) error { _, err := f.Stat(); return err },
			"fstat twice": func(f *os.File) error { _, err := f.Stat(); return errors.Join(err, stat(name)(f)) },
			"stat":        stat(name),
			"list":        func(*os.File) error { _, err := os.ReadDir(s.dir); return err },
			"append":      func(*os.File) error { return writeTo(s.path("counter"), os.O_APPEND) },
			"truncate":    func(*os.File) error { return errors.Join(writeTo(s.path("counter"), os.O_TRUNC), stat(name)(nil)) },
			"read":        func(*os.File) error { _, err := os.ReadFile(s.path(name)); return err },
		} {
			if name == "counter" && what == "truncate" {
				continue // whose > it is has its word until the next open
			}
			if n, err := sendfile(t, s.path(name), meanwhile); n == 0 && err == nil {
				t.Errorf("%s, %s: sendfile finds it empty", name, what)
			} else if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIO) { // what newer kernels make of it
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		want := int64(0)
		if name == "start" {
			want = 4096
		}
		info, err := os.Stat(s.path(name))
		if err != nil || info.Size() != want {
			t.Errorf("%s: %v, size %d, want %d", name, err, info.Size(), want)
		}
	}
}

// writeTo writes 10, opened with a flag more.
func writeTo(path string, flag int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flag, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("10\n")
	return errors.Join(err, f.Close())
}

// sendfile copies a file's first page, having opened it and done something.
func sendfile(t *testing.T, path string, meanwhile func(*os.File) error) (n int, err error) {
	t.Helper()
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := meanwhile(from); err != nil {
		t.Fatal(err)
	}
	return unix.Sendfile(int(to.Fd()), int(from.Fd()), nil, 4096)
}
