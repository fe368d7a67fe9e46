package grade

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kstat/lab/shell"
	"kstat/lab/traffic"
)

// attempt is an experiment under way. Its methods do a step each and write it
// down, in words and as what a person would type. A step that finds something
// wrong ends the attempt.
type attempt struct {
	*Bench
	ctx   context.Context
	did   []string
	typed []string
	notes []string

	base  uint64 // nout at the last mark
	every bool   // counter is 1: every packet is published
}

// failure ends an attempt: it is what a step panics with.
type failure struct {
	outcome        Outcome
	expected, seen string
	broken         bool // it says nothing about the target's figures
	certain        bool // it would be one whatever others send
}

// experiment makes a trial of steps. Where others send packets, too, it is
// tried a few times, and anywhere once more if a packet was lost.
func experiment(steps func(*attempt)) func(context.Context, *Bench) Verdict {
	return func(ctx context.Context, b *Bench) Verdict {
		for try := 1; ; try++ {
			v, tries := attemptOnce(ctx, b, steps)
			if v.Outcome != Failed || try >= tries || ctx.Err() != nil {
				if v.Outcome == Failed && !b.Alone {
					v.Notes = append(v.Notes, fmt.Sprintf("others send packets here, too: this is try %d", try))
				}
				return v
			}
			if wrong := b.renew(ctx, true); wrong != nil {
				return *wrong
			}
		}
	}
}

const (
	triesAmongOthers = 5
	triesAtSending   = 2
)

// attemptOnce does the steps, and says how many tries there are to be for an
// outcome like this.
func attemptOnce(ctx context.Context, b *Bench, steps func(*attempt)) (v Verdict, tries int) {
	e := &attempt{Bench: b, ctx: ctx}
	e.again()
	f := e.ends(func() { steps(e) })
	v.Notes = shorten(e.notes)
	tries = 1
	if !b.Alone {
		tries = triesAmongOthers
	}
	if f == nil {
		return v, tries
	}
	v.Outcome, v.Expected, v.Seen = f.outcome, f.expected, f.seen
	v.Did, v.Repeat = strings.Join(e.did, "\n"), script(e.typed)
	switch {
	case f.certain:
		tries = 1
	case f.broken:
		tries = max(tries, triesAtSending)
	}
	return v, tries
}

// ends does steps, and returns how they ended the attempt, nil if they did not.
func (e *attempt) ends(steps func()) (f *failure) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *failure:
			f = p
		default:
			panic(p)
		}
	}()
	steps()
	return nil
}

// maxNotes is how many notes an item may have.
const maxNotes = 5

func shorten(notes []string) []string {
	if len(notes) <= maxNotes {
		return notes
	}
	rest := len(notes) - maxNotes + 1
	return append(notes[:maxNotes-1:maxNotes-1], fmt.Sprintf("and %d more of this kind", rest))
}

// fail ends the attempt.
func (e *attempt) fail(expected, seen string) {
	panic(&failure{outcome: Failed, expected: expected, seen: seen})
}

// skip ends the attempt without a judgement.
func (e *attempt) skip(why string) { panic(&failure{outcome: Skipped, seen: why}) }

// note remarks on something that is accepted.
func (e *attempt) note(format string, args ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

// beyond does steps that the contract wants, and the assignment does not speak
// of. It reports whether they went well; for the coursework a failure is but a
// note.
func (e *attempt) beyond(steps func()) bool {
	f := e.ends(steps)
	switch {
	case f == nil:
		return true
	case e.Profile != Coursework || f.broken || f.outcome != Failed:
		panic(f)
	}
	e.note("the contract expects: %s; seen: %s", f.expected, f.seen)
	return false
}

// step writes down a step.
func (e *attempt) step(did, typed string) {
	e.did = append(e.did, did)
	e.typed = append(e.typed, typed)
}

// again forgets the steps up to now: what comes does not depend on them.
func (e *attempt) again() {
	if e.loadable() {
		e.did, e.typed = []string{"loaded it anew"}, []string{e.Unload + "; " + e.Load}
		return
	}
	e.did = []string{"stopped it, with nothing pending"}
	e.typed = []string{
		"echo 0 > " + shell.Quote(e.Start),
		"echo 1 > " + shell.Quote(e.Counter),
		"echo 10 > " + shell.Quote(e.Counter),
	}
}

// anew brings the target into its known state again.
func (e *attempt) anew() {
	v := e.renew(e.ctx, true)
	e.again()
	e.every = false
	if v != nil {
		e.did = append(e.did, v.Did)
		e.fail(v.Expected, v.Seen)
	}
}

// await is [within] for a step: if the time is over, the attempt is.
func await[T any](e *attempt, what string, f func() (T, error)) (T, error) {
	value, err := within(e.ctx, f)
	if e.ctx.Err() != nil {
		panic(&failure{outcome: Failed, expected: "it ends in time", seen: what + " has not come to an end", broken: true})
	}
	return value, err
}

// Files.

// write writes to a file, which may fail.
func (e *attempt) write(path, text string) error {
	e.step(fmt.Sprintf("wrote %s to %s", quote(text), e.name(path)), typedWrite(path, text))
	_, err := await(e, "writing "+e.name(path), func() (struct{}, error) { return struct{}{}, writeText(path, text) })
	return err
}

// set writes a number to a file, which must not fail.
func (e *attempt) set(path string, n uint64) {
	if err := e.write(path, fmt.Sprintln(n)); err != nil {
		e.fail(fmt.Sprintf("%s takes %d", e.name(path), n), "the write fails with "+errorName(err))
	}
	if path == e.Counter {
		e.every = n == 1
	}
}

// text reads a file.
func (e *attempt) text(path string) string {
	e.step("read "+e.name(path), "cat "+shell.Quote(path))
	text, err := await(e, "reading "+e.name(path), func() (string, error) { return readText(path) })
	if err != nil {
		e.fail(e.name(path)+" can be read", errorName(err))
	}
	e.did[len(e.did)-1] += ": " + quote(text)
	return text
}

// value reads a file, and leaves out what is around the number.
func (e *attempt) value(path string) string {
	text := e.text(path)
	if n, ok := parseNumber(text); ok {
		return strconv.FormatUint(n, 10)
	}
	return strings.TrimSuffix(text, "\n")
}

// number reads a file of one number.
func (e *attempt) number(path string) uint64 {
	text := e.text(path)
	n, ok := parseNumber(text)
	if !ok {
		e.fail(e.name(path)+" holds one number", quote(text))
	}
	return n
}

// is expects a value of a file.
func (e *attempt) is(path, want, why string) {
	if got := e.value(path); got != want {
		e.fail(fmt.Sprintf("%s reads %s%s", e.name(path), want, because(why)), e.name(path)+" reads "+got)
	}
}

// mark notes where nout is.
func (e *attempt) mark() { e.base = e.number(e.Nout) }

// expect reads nout, and expects it to have grown by n since the mark.
func (e *attempt) expect(n uint64, why string) { e.compare(e.number(e.Nout), n, why) }

// compare expects what was just read of nout to be n more than at the mark.
func (e *attempt) compare(got, n uint64, why string) {
	e.typed[len(e.typed)-1] += fmt.Sprintf("   # expected: %d", e.base+n)
	if got == e.base+n {
		return
	}
	grown := func(n uint64) string {
		if e.base == 0 {
			return ""
		}
		return fmt.Sprintf(", %d since the first read", int64(n-e.base))
	}
	panic(&failure{
		outcome:  Failed,
		expected: fmt.Sprintf("nout reads %d%s%s", e.base+n, grown(e.base+n), because(why)),
		seen:     fmt.Sprintf("nout reads %d%s", got, grown(got)),
		certain:  e.every && got < e.base+n,
	})
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// Packets.

// send sends packets.
func (e *attempt) send(what, typed string, f func() error) {
	e.step("sent "+what, typed)
	late := true
	defer func() {
		if late { // f may still use them
			e.ipv4.spare, e.ipv6.spare = nil, nil
		}
	}()
	_, err := await(e, "sending "+what, func() (struct{}, error) { return struct{}{}, f() })
	late = false
	if err != nil {
		e.lost(err)
	}
}

// lost ends the attempt because a packet got lost.
func (e *attempt) lost(err error) {
	panic(&failure{outcome: Failed, expected: "every packet gets through", seen: err.Error(), broken: true})
}

// tcp sends TCP packets over lo: connections that are refused are two each, and
// an odd one is a reset.
func (e *attempt) tcp(n int) { e.sendTCP(&e.ipv4, n) }

// tcp6 is tcp over IPv6.
func (e *attempt) tcp6(n int) { e.sendTCP(&e.ipv6, n) }

func (e *attempt) sendTCP(l *lane, n int) {
	connections, single := n/2, n%2
	at := *l
	e.send(fmt.Sprintf("%s to %s", count(n, "TCP packet"), l.addr), typedTCP(l.addr, n), func() error {
		switch {
		case at.err != nil:
			return at.err
		case single > at.spare.Len():
			return errors.New("no connection is left to reset")
		}
		if err := traffic.TCPConnect(at.closed, connections); err != nil {
			return err
		}
		return at.spare.Reset(single)
	})
}

// udp sends UDP packets over lo.
func (e *attempt) udp(l *lane, n int) {
	e.send(fmt.Sprintf("%s to %s", count(n, "UDP packet"), l.addr), typedUDP(l.addr, n),
		func() error { return traffic.Datagrams(l.addr, n) })
}

// ping sends n echo requests over lo, and as many replies. It needs a raw
// socket; who may not open one has it noted.
func (e *attempt) ping(l *lane, n int) {
	denied := false
	e.send(fmt.Sprintf("%s to %s, and got as many replies", count(n, "echo request"), l.addr), typedPing(l.addr, n), func() error {
		err := traffic.Ping(l.addr, n)
		if denied = errors.Is(err, unix.EPERM); denied {
			return nil
		}
		return err
	})
	if denied {
		e.note("ICMP to %s was not tried: that needs CAP_NET_RAW", l.addr)
	}
}

// hasIPv6 reports whether packets can be sent over IPv6.
func (e *attempt) hasIPv6() bool {
	return !errors.Is(e.ipv6.err, unix.EADDRNOTAVAIL) && !errors.Is(e.ipv6.err, unix.EAFNOSUPPORT)
}
