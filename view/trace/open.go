package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"kstat/view/tree"
)

// The files of a tree that show packets.
const (
	Text   = "trace_pipe"
	Pcapng = "trace.pcapng"
)

// Open opens one of them. The error is a line that says what to do.
func Open(t tree.Tree, name string) (tree.File, error) {
	f, err := t.Open(name)
	switch {
	case errors.Is(err, syscall.EACCES):
		return tree.File{}, fmt.Errorf("%s: packets are for root alone: sudo kstat trace", t.Path(name))
	case errors.Is(err, syscall.ENFILE):
		return tree.File{}, fmt.Errorf("%s: as many read it as may; end one of them", t.Path(name))
	case errors.Is(err, tree.ErrAbsent):
		if _, missing := os.Stat(t.Path("nout")); missing == nil {
			return tree.File{}, fmt.Errorf("%s: this tree has no such file: only that of a daemon has (kstatd, of this version)", t.Path(name))
		}
	}
	return f, err
}

// Stopped reports whether the tree that a file is of is not counting, and then
// how to make it.
func Stopped(f tree.File) (cure string, stopped bool) {
	start := filepath.Join(filepath.Dir(f.Name()), "start")
	text, err := os.ReadFile(start)
	return "echo 1 > " + start, err == nil && strings.TrimSpace(string(text)) == "0"
}

// Died reports whether an error is that of reading a file whose daemon, or
// worker, has died.
func Died(err error) bool {
	var path *fs.PathError
	if errors.As(err, &path) && path.Op != "read" { // EIO is also a disk's
		return false
	}
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EIO)
}
