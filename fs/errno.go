package fs

import (
	"errors"
	"syscall"
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
	}
	return syscall.EIO
}
