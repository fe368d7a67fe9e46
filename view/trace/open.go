package trace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The files of a tree that show packets.
const (
	Text   = "trace_pipe"
	Pcapng = "trace.pcapng"
)

// usual is where trees are.
var usual = []string{"mnt/kstat", "/run/kstat"}

// Open opens a file of the tree on dir; of the first of the usual trees that has
// it, if dir is empty. The error is a line that says what to do.
func Open(dir, name string) (*os.File, error) {
	dirs := []string{dir}
	if dir == "" {
		dirs = usual
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		f, err := os.Open(path)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, syscall.EACCES):
			return nil, fmt.Errorf("%s: packets are for root alone: sudo kstat trace", path)
		case errors.Is(err, syscall.ENFILE):
			return nil, fmt.Errorf("%s: as many read it as may; end one of them", path)
		case errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
			return nil, fmt.Errorf("%s: the daemon there has just died: try again when it is back", path)
		case !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR):
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(dir, "nout")); err == nil {
			return nil, fmt.Errorf("%s: this tree has no such file: only that of a daemon has (kstatd, of this version)", path)
		}
	}
	if dir != "" {
		return nil, fmt.Errorf("%s: no kstatd is here", dir)
	}
	return nil, fmt.Errorf("no kstatd is on %s: start one, or say with --mount where it is", strings.Join(usual, " or "))
}

// Stopped reports whether the tree that a file is of is not counting, and then
// how to make it.
func Stopped(f *os.File) (cure string, stopped bool) {
	start := filepath.Join(filepath.Dir(f.Name()), "start")
	text, err := os.ReadFile(start)
	return "echo 1 > " + start, err == nil && strings.TrimSpace(string(text)) == "0"
}

// Died reports whether an error is that of a file whose daemon, or worker, has
// died.
func Died(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EIO)
}
