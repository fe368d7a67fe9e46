package kmod

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// sysModule is the directory of a module in sysfs, or a file in it.
func (t *tool) sysModule(name string, file ...string) string {
	return filepath.Join(append([]string{t.root, "sys/module", name}, file...)...)
}

// loaded reports whether the kernel has the module. One without an initstate
// is being loaded.
func (t *tool) loaded(name string) bool {
	if _, err := os.ReadFile(t.sysModule(name, "initstate")); err == nil {
		return true
	}
	info, err := os.Stat(t.sysModule(name))
	return err == nil && info.IsDir()
}

// holders returns the modules that use the module, in the kernel's order.
func (t *tool) holders(name string) []string {
	dir, err := os.Open(t.sysModule(name, "holders"))
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return names
}

// attribute reads a number from sysfs.
func (t *tool) attribute(name, file string) (int, error) {
	text, err := os.ReadFile(t.sysModule(name, file))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// negative returns a number or, where there is none, what a C function of the
// kernel's manner would: the errno below zero.
func negative(n int, err error) int {
	var errno syscall.Errno
	switch {
	case err == nil:
		return n
	case errors.As(err, &errno):
		return -int(errno)
	}
	return -int(syscall.EINVAL)
}
