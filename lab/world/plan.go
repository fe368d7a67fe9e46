package world

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// plan is what init, and then the stage, are to do.
type plan struct {
	Config  *Config
	Dir     string // the working directory, "" if it has no name
	Program string // the path of this program
}

// file returns the plan as a file to read: a command line may be longer than
// what fits into a message, and need not be UTF-8.
func (p *plan) file() (*os.File, error) {
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("begin a private world: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if err := gob.NewEncoder(f).Encode(p); err != nil {
		return nil, errors.Join(fmt.Errorf("begin a private world: %w", err), f.Close())
	}
	return f, nil
}

// readPlan reads a plan from its beginning.
func readPlan(f *os.File) (*plan, error) {
	p := new(plan)
	if err := gob.NewDecoder(io.NewSectionReader(f, 0, 1<<40)).Decode(p); err != nil {
		return nil, fmt.Errorf("read the plan of a private world: %w", err)
	}
	return p, nil
}

// passOn makes copies of files for a child to inherit, and returns their
// numbers, as arguments for it. They take numbers that are free: the command is
// to find what the caller was given under the caller's numbers. done closes the
// copies.
func passOn(files ...*os.File) (numbers []string, done func(), err error) {
	var copies []int
	done = func() {
		for _, fd := range copies {
			unix.Close(fd)
		}
	}
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 3)
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("begin a private world: %w", err)
		}
		copies = append(copies, fd)
		numbers = append(numbers, strconv.Itoa(fd))
	}
	return numbers, done, nil
}

// passed returns the files whose numbers are this process's arguments.
func passed() (files []*os.File, err error) {
	for _, arg := range os.Args[1:] {
		fd, err := strconv.Atoi(arg)
		if err != nil {
			return nil, fmt.Errorf("this program is started by kstat run only: %w", err)
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "passed on"))
	}
	return files, nil
}

// inherited lists the descriptors, beside the standard ones, that the caller of
// kstat run has left open for the command.
func inherited() (fds []int) {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	for _, e := range dir {
		fd, _ := strconv.Atoi(e.Name())
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fd > 2 && err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}
