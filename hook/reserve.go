package hook

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kstat/stats"
)

// Reservation keeps queue numbers among the kstatds of a network namespace,
// also while their holder is stopped and so has no queue. Each is an abstract
// Unix socket: it belongs to the namespace, as the queue does, and ends with
// the process, leaving no file. It is the nfqueue engine's [Holding].
type Reservation struct{ sockets []int }

func holdQueues(c Config) (Holding, error) {
	r, err := Reserve(c)
	if err != nil {
		return nil, err // not a nil *Reservation
	}
	return r, nil
}

func inheritQueues([]*os.File) Holding { return new(Reservation) }

// Reserve takes the queue numbers of c. The error wraps EBUSY and names the
// holder if one is reserved, or bound by whatever program.
func Reserve(c Config) (*Reservation, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	r := new(Reservation)
	for i := range c.Queues {
		queue := c.Queue + uint16(i)
		if err := r.take(queue); err != nil {
			r.Close()
			return nil, err
		}
		if who := awaitFree(queue); who != "" {
			r.Close()
			return nil, errQueueTaken(queue, who)
		}
	}
	return r, nil
}

// awaitFree returns who is bound to queue, as queueHolder does, unless that
// ends within a moment: the worker of a kstatd that was killed lives a little
// longer than the reservation.
func awaitFree(queue uint16) (who string) {
	for range 50 {
		if who = queueHolder(queue); who == "" {
			return ""
		}
		time.Sleep(10 * time.Millisecond)
	}
	return who
}

func (r *Reservation) take(queue uint16) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reserve queue %d: %w", queue, err)
	}
	name := reservationName(queue)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			who, _ := unixHolder(name)
			return errQueueTaken(queue, who)
		}
		return fmt.Errorf("reserve queue %d: %w", queue, err)
	}
	r.sockets = append(r.sockets, fd)
	return nil
}

// reservationName is the socket that reserves a queue.
func reservationName(queue uint16) string { return fmt.Sprintf("@kstatd/queue/%d", queue) }

// Kind returns the kind of engine.
func (r *Reservation) Kind() Kind { return KindNFQueue }

// Table returns the table in memory.
func (r *Reservation) Table(memory []byte) (*stats.Table, error) { return stats.OpenTable(memory) }

// New returns an engine for the queues.
func (r *Reservation) New(c Config, table *stats.Table) (Engine, error) {
	e, err := New(c, table)
	if err != nil {
		return nil, err // not a nil *NFQueue
	}
	return e, nil
}

// Files returns none: the worker binds the queues by itself.
func (r *Reservation) Files() []*os.File { return nil }

// Keep keeps nothing: a queue without its reader drops what is in it.
func (r *Reservation) Keep(Links) bool { return false }

// Close gives the numbers back.
func (r *Reservation) Close() {
	for _, fd := range r.sockets {
		unix.Close(fd)
	}
	r.sockets = nil
}

func errQueueTaken(queue uint16, who string) error {
	return fmt.Errorf("queue %d is held by %s: stop that, or choose another number with --queue: %w", queue, who, unix.EBUSY)
}
