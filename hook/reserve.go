package hook

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// reservation keeps a queue number among the kstatds of a network namespace,
// also while its holder is stopped and so has no queue. It is an abstract Unix
// socket: it belongs to the namespace, as the queue does, and ends with the
// process, leaving no file.
type reservation struct{ fd int }

func reserve(queue uint16) (*reservation, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve queue %d: %w", queue, err)
	}
	name := fmt.Sprintf("@kstatd/queue/%d", queue)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, errQueueTaken(queue, unixHolder(name))
		}
		return nil, fmt.Errorf("reserve queue %d: %w", queue, err)
	}
	return &reservation{fd}, nil
}

func (r *reservation) close() { unix.Close(r.fd) }
