package metrics

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestGateMakesRoom: a connection that has just come has its time, and one that
// asks again and again has no more of it: as many of these as there may be
// would keep everybody out.
func TestGateMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{limit: 2, grace: connectionGrace}
		come := func() (c *gated, after time.Duration) {
			t.Helper()
			near, far := net.Pipe()
			t.Cleanup(func() { far.Close() })
			began := time.Now()
			if c = g.admit(near); c == nil {
				t.Fatal("a connection was not let in")
			}
			return c, time.Since(began)
		}
		answer := func(c *gated) {
			c.work(true)
			c.work(false)
		}
		first, _ := come()
		second, _ := come()
		answer(first)
		third, after := come()
		is(t, "the wait behind two that have just come", after, connectionGrace)
		is(t, "the one that was idle for longer is gone", second.gone, true)
		answer(first)
		answer(third)
		time.Sleep(connectionGrace)
		answer(first)
		answer(third)
		fourth, after := come()
		is(t, "the wait behind two that have just been answered", after, 0)
		is(t, "the one that was idle for longer is gone", first.gone, true)
		third.work(true)
		fourth.work(true)
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		if g.admit(near) != nil {
			t.Error("one was let in, though all are being answered")
		}
		third.Close()
		fourth.Close()
		is(t, "how many are left", g.open+g.idle.Len(), 0)
	})
}
