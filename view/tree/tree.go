package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	daemon "kstat/fs"
)

// Stats reads stats.json: all figures at one moment. Keys that this program
// does not know are passed over, another schema is an error.
func (t Tree) Stats() (*daemon.Document, error) {
	var text []byte
	var err error
	unsignalled(func() { text, err = os.ReadFile(t.Path("stats.json")) })
	if err != nil {
		return nil, t.explain(err)
	}
	return parseStats(text)
}

func parseStats(text []byte) (*daemon.Document, error) {
	var schema struct {
		Schema  int    `json:"schema"`
		Version string `json:"version"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("read stats.json: %w", err)
	}
	if schema.Schema != daemon.Schema {
		return nil, fmt.Errorf("stats.json has schema %d, and this kstat knows %d: take the kstat that came with that kstatd (version %q)",
			schema.Schema, daemon.Schema, schema.Version)
	}
	d := new(daemon.Document)
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("read stats.json: %w", err)
	}
	return d, nil
}

// Restarted reports whether what was read now is another daemon's than what was
// read before. In a container it may have the same number.
func Restarted(before, now *daemon.Document) bool {
	if now.PID != before.PID || now.Publications < before.Publications {
		return true
	}
	type class struct{ name, family string }
	totals := make(map[class]uint64)
	for _, p := range now.Protocols {
		totals[class{p.Name, p.Family}] = p.Total.Packets
	}
	return slices.ContainsFunc(before.Protocols, func(p daemon.Protocol) bool {
		return totals[class{p.Name, p.Family}] < p.Total.Packets
	})
}

// Write stores a value in a file, with one write(2). It makes no file.
func (t Tree) Write(name, value string) error {
	var err error
	unsignalled(func() {
		var f *os.File
		if f, err = os.OpenFile(t.Path(name), os.O_WRONLY, 0); err == nil {
			_, err = f.WriteString(value)
			err = errors.Join(err, f.Close())
		}
	})
	if err != nil {
		return t.explain(err)
	}
	return nil
}

// File is an open file of the tree. To read it may wait for ever.
type File struct{ *os.File }

// Read is that of os.File.
func (f File) Read(b []byte) (n int, err error) {
	unsignalled(func() { n, err = f.File.Read(b) })
	return n, err
}

// Open opens a file of the tree, to be read.
func (t Tree) Open(name string) (File, error) {
	var f *os.File
	var err error
	unsignalled(func() { f, err = os.Open(t.Path(name)) })
	if err != nil {
		return File{}, t.explain(err)
	}
	return File{f}, nil
}

// unsignalled calls f, which may wait for a kstatd that hangs, on a thread that
// gets none of the signals that end a process. Who waits for a FUSE server
// waits on after a signal that is handled, as Go handles all, unless it is a
// fatal one; and the kernel gives a signal to one thread only, the first if it
// can: Ctrl-C would do nothing.
func unsignalled(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var ending, before unix.Sigset_t
	for _, s := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGTSTP} {
		ending.Val[0] |= 1 << (s - 1)
	}
	if unix.PthreadSigmask(unix.SIG_BLOCK, &ending, &before) == nil {
		defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	}
	f()
}

// explain makes one line of what the kernel said about a file. What it wraps
// stays.
func (t Tree) explain(err error) error {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return err
	}
	name := strings.TrimPrefix(strings.TrimPrefix(path.Path, t.dir), "/")
	switch path.Err {
	case syscall.ENOENT, syscall.ENOTDIR:
		return fmt.Errorf("%w on %s: start one there, or name another directory by --mount", ErrAbsent, t.dir)
	case syscall.ENOTCONN, syscall.ECONNABORTED:
		return fmt.Errorf("%s: %w, or is replacing its worker (%w)", t.dir, ErrDead, path.Err)
	case syscall.EACCES:
		return fmt.Errorf("%s: %w: only root may write it (sudo)", name, path.Err)
	case syscall.EPERM:
		return fmt.Errorf("%s: %w: the daemon lacks CAP_NET_ADMIN; its log says more", name, path.Err)
	case syscall.EBUSY:
		return fmt.Errorf("%s: %w: another program has the queue or the hook; the daemon's log says which", name, path.Err)
	case syscall.EOPNOTSUPP:
		return fmt.Errorf("%s: %w: this kernel lacks what it takes; the daemon's log says what", name, path.Err)
	case syscall.ENODEV:
		return fmt.Errorf("%s: %w: the daemon is ending", name, path.Err)
	case syscall.EINVAL, syscall.ERANGE:
		return fmt.Errorf("%s: %w: the daemon refuses the value", name, path.Err)
	}
	return fmt.Errorf("%s: %w; the daemon's log may say more", name, path.Err)
}
