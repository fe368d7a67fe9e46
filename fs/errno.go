package fs

import (
	"errors"
	"syscall"

	"kstat/stats"
)

// errno turns an error into what a system call returns: the errno that it
// wraps, or EIO. It is the only such place.
func errno(err error) syscall.Errno {
	var e syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e
	case errors.Is(err, stats.ErrNoNews):
		return syscall.EAGAIN
	case errors.Is(err, stats.ErrInterrupted):
		return syscall.EINTR
	case errors.Is(err, stats.ErrTooManyWatchers):
		return syscall.ENFILE
	}
	return syscall.EIO
}
