package metrics

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// gate keeps the number of open connections at a limit, whoever opens them. A
// connection that is being answered stays; of the others the one that has done
// nothing for the longest time is closed when a new one comes. So idle ones,
// and those that send their request a byte at a time, keep nobody out, as they
// would if new ones had to wait for a place. If all are being answered, the new
// one is closed.
//
// Each has some time from its beginning to send its request, however many are
// behind it; one that goes on asking has no more of it, or a limit of them would
// keep everybody else out. That also bounds how many are let in, and looked at,
// in a second: limit / grace.
type gate struct {
	limit int
	grace time.Duration

	mu   sync.Mutex
	open int
	idle list.List // of *gated, the longest first
}

// gated is a connection that was let in.
type gated struct {
	net.Conn
	gate  *gate
	place *list.Element // in idle, or nil
	since time.Time     // when it was let in
	gone  bool
}

// listener returns l behind the gate.
func (g *gate) listener(l net.Listener) net.Listener { return &gatedListener{l, g} }

type gatedListener struct {
	net.Listener
	gate *gate
}

// Accept waits for a connection that is let in. No error but that of a listener
// which was closed, or is none, is final: accept(2) also tells of a connection
// that has failed before it was accepted, and of a lack of memory.
func (l *gatedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EBADF):
			return nil, err
		case err != nil:
			return nil, passing{err}
		}
		if admitted := l.gate.admit(c); admitted != nil {
			return admitted, nil
		}
		c.Close()
	}
}

// passing is an error after which a [http.Server] tries again, ever more slowly.
type passing struct{ error }

func (e passing) Unwrap() error { return e.error }
func (passing) Timeout() bool   { return false }
func (passing) Temporary() bool { return true }

var _ net.Error = passing{}

func (g *gate) admit(c net.Conn) *gated {
	for {
		g.mu.Lock()
		if g.open < g.limit {
			admitted := &gated{Conn: c, gate: g, since: time.Now()}
			g.open++
			admitted.place = g.idle.PushBack(admitted)
			g.mu.Unlock()
			return admitted
		}
		front := g.idle.Front()
		if front == nil {
			g.mu.Unlock()
			return nil
		}
		oldest := front.Value.(*gated)
		young := g.grace - time.Since(oldest.since)
		g.mu.Unlock()
		if young > 0 {
			time.Sleep(young) // others wait in the kernel
			continue
		}
		oldest.Close()
	}
}

// Close closes the connection, and makes room.
func (c *gated) Close() error {
	g := c.gate
	g.mu.Lock()
	if !c.gone {
		c.gone = true
		g.open--
		c.leave()
	}
	g.mu.Unlock()
	return c.Conn.Close()
}

// leave takes the connection from the idle ones. The caller holds gate.mu.
func (c *gated) leave() {
	if c.place != nil {
		c.gate.idle.Remove(c.place)
		c.place = nil
	}
}

// work marks the connection as being answered, or idle again.
func (c *gated) work(busy bool) {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.leave()
	if !busy && !c.gone {
		c.place = c.gate.idle.PushBack(c)
	}
}

type connKey struct{}

// withConn lets handler know the connection of its request. It is a server's
// ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// marking returns a handler that keeps connections open while they are being
// answered.
func marking(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*gated); ok {
			c.work(true)
			defer c.work(false)
		}
		handler.ServeHTTP(w, r)
	})
}
