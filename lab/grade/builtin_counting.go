package grade

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"kstat/lab/shell"
	"kstat/lab/traffic"
)

// The experiments of the section "basic functionality".

func (e *attempt) defaults() {
	if !e.loadable() {
		e.skip("this target cannot be loaded anew")
	}
	e.areDefaults()
}

func (e *attempt) areDefaults() {
	e.is(e.Nout, "0", "nothing has been counted")
	e.is(e.Counter, "10", "that is the default")
	e.is(e.Start, "0", "loading is not starting")
}

// The next ones, up to stopAndGo, look at nout after every 10 packets: it is
// exact then whether counter can be changed or stays at 10. Whether it can is
// for others to find out.

func (e *attempt) beforeStart() {
	e.set(e.Counter, 1)
	e.mark()
	e.tcp(10)
	e.expect(0, "it was not started")
	e.set(e.Start, 1)
	e.expect(0, "what passed before the start does not count")
}

// counts sends known numbers of packets, more than a byte holds.
func (e *attempt) counts(send func(int)) {
	e.set(e.Counter, 1)
	e.set(e.Start, 1)
	e.mark()
	for _, n := range []int{1, 2, 7} {
		send(n)
	}
	e.expect(10, "each packet is counted once")
	send(290)
	e.expect(300, "each packet is counted once")
}

// countsIPv6 is for the contract. The assignment speaks of packets, and a
// module that hooks IPv4 alone does what it says.
func (e *attempt) countsIPv6() {
	if !e.hasIPv6() {
		e.skip("this host has no IPv6")
	}
	if e.Profile == Coursework {
		e.set(e.Counter, 1)
		e.set(e.Start, 1)
		e.mark()
		e.tcp6(10)
		if e.number(e.Nout) == e.base {
			e.tcp(10)
			e.expect(10, "over IPv6 nothing was counted; over IPv4 it is")
			e.note("IPv6 is not counted: the contract wants it, the assignment does not speak of it")
			return
		}
		e.anew()
	}
	e.counts(e.tcp6)
}

func (e *attempt) otherProtocols() {
	e.set(e.Counter, 1)
	e.set(e.Start, 1)
	e.mark()
	lanes := []*lane{&e.ipv4}
	if e.hasIPv6() {
		lanes = append(lanes, &e.ipv6)
	}
	for _, l := range lanes {
		e.udp(l, 20)
		e.expect(0, "UDP is not TCP")
		e.ping(l, 5)
		e.expect(0, "ICMP is not TCP")
	}
	e.tcp(10)
	e.expect(10, "TCP is")
}

func (e *attempt) stopAndGo() {
	e.set(e.Counter, 1)
	e.set(e.Start, 1)
	e.mark()
	e.tcp(10)
	e.expect(10, "it was started")
	e.set(e.Start, 0)
	e.expect(10, "stopping keeps the total")
	e.tcp(10)
	e.expect(10, "it was stopped")
	e.set(e.Start, 1)
	e.expect(10, "what passed while it was stopped does not count")
	e.tcp(10)
	e.expect(20, "it goes on from where it was")
}

// publication sends TCP only: whether counter means those packets, or packets
// of any protocol, is not the question here.
func (e *attempt) publication() {
	for i, n := range []int{1, 2, 3, 7, 10, 100} {
		if i > 0 {
			e.anew()
		}
		e.set(e.Counter, uint64(n))
		e.set(e.Start, 1)
		e.mark()
		for _, before := range []int{0, n} {
			if n > 1 {
				e.tcp(n - 1)
				e.expect(uint64(before), fmt.Sprintf("only %s since the last move, counter is %d", count(n-1, "packet"), n))
			}
			e.tcp(1)
			e.expect(uint64(before+n), fmt.Sprintf("this is the packet that counter, %d, waits for", n))
		}
	}
}

func (e *attempt) publicationAny() {
	e.set(e.Counter, 10)
	e.set(e.Start, 1)
	e.mark()
	e.udp(&e.ipv4, 5)
	e.tcp(4)
	e.expect(0, "only 9 packets so far, counter is 10")
	e.udp(&e.ipv4, 1)
	got := e.number(e.Nout)
	if e.Profile == Coursework && got == e.base {
		e.tcp(5)
		e.expect(0, "it did not move with the 10th packet, so it has to wait for the 10th TCP packet, and this is the 9th")
		e.tcp(1)
		e.expect(10, "this is the 10th TCP packet")
		e.note("packets of other protocols do not bring nout's next move nearer: in the contract they do")
		return
	}
	e.compare(got, 4, "this is the 10th packet, and 4 of them were TCP")
}

func (e *attempt) counterLive() {
	e.set(e.Counter, 5)
	e.set(e.Start, 1)
	e.mark()
	e.tcp(4)
	e.set(e.Counter, 9)
	e.tcp(4)
	e.expect(0, "only 8 packets so far, counter is 9 by now")
	e.tcp(1)
	e.expect(9, "this is the 9th packet")

	e.tcp(7)
	e.set(e.Counter, 5)
	sum := uint64(9 + 7)
	if !e.beyond(func() { e.expect(sum, "7 packets were pending, which is more than counter now: they show at once") }) {
		e.tcp(1)
		sum++
		e.expect(sum, "8 packets were pending, and counter is 5")
	}
	e.tcp(4)
	e.expect(sum, "only 4 packets since the last move, counter is 5 by now")
	e.tcp(1)
	e.expect(sum+5, "this is the 5th packet")

	e.tcp(3)
	e.set(e.Counter, 3)
	e.beyond(func() { e.expect(sum+8, "3 packets were pending, as many as counter now: they show at once") })
}

// stopKeepsPending is for the contract.
func (e *attempt) stopKeepsPending() {
	e.beyond(func() {
		e.set(e.Counter, 10)
		e.set(e.Start, 1)
		e.mark()
		e.tcp(4)
		e.set(e.Start, 0)
		e.tcp(10)
		e.set(e.Start, 1)
		e.tcp(5)
		e.expect(0, "4 packets were pending when it was stopped, and 5 came after: 9, counter is 10")
		e.tcp(1)
		e.expect(10, "this is the 10th packet")
	})
}

// underLoad has nout and counter read, and counter written, while packets pass.
func (e *attempt) underLoad() {
	const connections, readers, leastTimes, highest = 300, 4, 30, 20
	e.set(e.Counter, 1)
	e.set(e.Start, 1)
	e.mark()
	at := e.ipv4
	did := fmt.Sprintf("sent %d TCP packets while %d readers read nout, and counter was written and read all the time", 2*connections, readers)
	e.step(did, fmt.Sprintf(`for r in {1..%d}; do
	while :; do cat %[2]s; done | awk '$1 < last { print "decreased:", last, $1; exit } { last = $1 }' &
done
for i in {1..%[4]d}; do echo $((i %% %[5]d + 1)) > %[3]s; : < /dev/tcp/127.0.0.1/1; done 2> /dev/null   # %[6]d TCP packets
kill %%1 %%2 %%3 %%4`, readers, shell.Quote(e.Nout), shell.Quote(e.Counter), connections, highest, 2*connections))

	var over atomic.Bool
	var sent error
	_, err := await(e, did, func() (struct{}, error) {
		g, ctx := errgroup.WithContext(e.ctx)
		again := func(times int) bool { return ctx.Err() == nil && (times < leastTimes || !over.Load()) }
		for range readers {
			g.Go(func() error { return watchNout(e.Nout, again) })
		}
		g.Go(func() error { return watchCounter(e.Counter, highest, again) })
		g.Go(func() error {
			for i := 0; again(i); i++ {
				if err := writeText(e.Counter, fmt.Sprintln(i%highest+1)); err != nil {
					return fmt.Errorf("writing %d to counter failed with %s", i%highest+1, errorName(err))
				}
			}
			return nil
		})
		g.Go(func() error {
			defer over.Store(true)
			sent = sendWhile(ctx, at, connections)
			return sent
		})
		return struct{}{}, g.Wait()
	})
	switch {
	case err != nil && err == sent:
		e.lost(err)
	case err != nil:
		e.fail("each read finds one number, nout never decreases, and each write is taken", err.Error())
	}

	// One that publishes a packet late shows the last one with the next.
	e.set(e.Counter, 1)
	e.tcp(10)
	sum := uint64(2*connections + 10)
	if e.number(e.Nout) != e.base+sum {
		e.tcp(1)
		e.expect(sum+1, "each packet is counted once")
	}
}

// sendWhile sends two TCP packets a connection, until ctx ends.
func sendWhile(ctx context.Context, l lane, connections int) error {
	for range connections {
		if ctx.Err() != nil {
			return nil
		}
		if err := errors.Join(l.err, traffic.TCPConnect(l.closed, 1)); err != nil {
			return err
		}
	}
	return nil
}

// watchNout reads nout again and again.
func watchNout(path string, again func(times int) bool) error {
	last := uint64(0)
	for i := 0; again(i); i++ {
		text, err := readText(path)
		if err != nil {
			return fmt.Errorf("reading nout failed with %s", errorName(err))
		}
		n, ok := parseNumber(text)
		if !ok || n < last {
			return fmt.Errorf("nout read %s after %d", quote(text), last)
		}
		last = n
	}
	return nil
}

// watchCounter reads counter again and again.
func watchCounter(path string, highest uint64, again func(times int) bool) error {
	for i := 0; again(i); i++ {
		text, err := readText(path)
		if err != nil {
			return fmt.Errorf("reading counter failed with %s", errorName(err))
		}
		if n, ok := parseNumber(text); !ok || n == 0 || n > highest {
			return fmt.Errorf("counter read %s, when 1 to %d were written", quote(text), highest)
		}
	}
	return nil
}

func (e *attempt) reload() {
	if !e.loadable() {
		e.skip("this target cannot be unloaded")
	}
	e.set(e.Counter, 3)
	e.set(e.Start, 1)
	e.tcp(6)

	e.must(e.Unload)
	files := []string{e.Nout, e.Counter, e.Start}
	e.step("looked for "+join(files), "ls "+strings.Join(files, " "))
	left, _ := await(e, "looking for files", func() ([]string, error) {
		return slices.DeleteFunc(slices.Clone(files), func(path string) bool { return !exists(path) }), nil
	})
	if len(left) > 0 {
		e.fail("none of them is there: the module is unloaded", join(left)+" still there")
	}

	e.must(e.Load)
	e.areDefaults()
	e.set(e.Counter, 1)
	e.set(e.Start, 1)
	e.mark()
	e.tcp(10)
	e.expect(10, "it counts again, from 0 on")

	// insmod says that it is loaded, modprobe is content.
	e.shell(e.Load)
	e.expect(10, "it was loaded already, which loading once more does not change")
	e.is(e.Counter, "1", "it was loaded already")
	e.is(e.Start, "1", "it was loaded already")
}
