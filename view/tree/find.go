package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kstat/fs"
)

// Tree is where a kstatd shows its figures, or where one is expected.
type Tree struct {
	dir string
}

// Find returns the tree in dir, which it does not look at. If dir is empty,
// that is, in this order: what KSTAT_MOUNT says, as it does in a private
// world; mnt/kstat below the working directory, if a kstatd is mounted there;
// /run/kstat, likewise; the only one that is mounted anywhere else in this
// mount namespace. If there are none, the error is [ErrAbsent].
//
// No mount is touched, so one that is dead or hangs is found as well.
func Find(dir string) (Tree, error) {
	if dir == "" {
		dir = os.Getenv("KSTAT_MOUNT")
	}
	if dir != "" {
		return Tree{dir}, nil
	}
	mounts, err := mounted()
	if err != nil {
		return Tree{}, err
	}
	const service = "/run/kstat"
	switch checkout := inCheckout(mounts); {
	case slices.Contains(mounts, checkout):
		return Tree{"mnt/kstat"}, nil
	case slices.Contains(mounts, service):
		return Tree{service}, nil
	case len(mounts) == 1:
		return Tree{mounts[0]}, nil
	case len(mounts) > 1:
		return Tree{}, fmt.Errorf("there are several kstatds, on %s: name one of them by --mount", strings.Join(mounts, ", "))
	}
	return Tree{}, fmt.Errorf("%w anywhere: start it (sudo kstatd), or name its directory by --mount", ErrAbsent)
}

// mounted lists where kstatds are mounted, each once.
func mounted() (dirs []string, err error) {
	mounts, err := fs.Mounts()
	if err != nil {
		return nil, fmt.Errorf("look for mounts: %w", err)
	}
	for _, m := range mounts {
		if m.FSType == fs.FSType && !slices.Contains(dirs, m.Dir) {
			dirs = append(dirs, m.Dir)
		}
	}
	return dirs, nil
}

// inCheckout returns mnt/kstat as mountinfo would name it, or nothing where
// there is no mnt. [os.Getwd] would look at the working directory, which may be
// in a tree that hangs.
func inCheckout(mounts []string) string {
	dir, err := os.Readlink("/proc/self/cwd")
	for _, m := range mounts {
		if dir == m || strings.HasPrefix(dir, m+"/") {
			return ""
		}
	}
	if err == nil {
		dir, err = filepath.EvalSymlinks(filepath.Join(dir, "mnt"))
	}
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "kstat")
}

// Dir returns the directory, as it was named.
func (t Tree) Dir() string { return t.dir }

// Path returns the path of a file of the tree.
func (t Tree) Path(name string) string { return filepath.Join(t.dir, name) }

var (
	// ErrAbsent: there is no tree.
	ErrAbsent = errors.New("no kstatd is mounted")
	// ErrDead: there is a mount, and nobody behind it.
	ErrDead = errors.New("its kstatd has died")
)
