package grade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/traffic"
)

// Target is what is graded: the three files, and how to load and unload what
// serves them.
type Target struct {
	Nout, Counter, Start string

	// Load and Unload are shell commands, as "modprobe kstat". Empty: it cannot
	// be unloaded, and items that need it are skipped.
	Load, Unload string

	// Alone says that nobody else sends packets here, so that figures are exact
	// at the first try. Otherwise an experiment is repeated a few times, and one
	// exact run will do.
	Alone bool

	// Name is what a report calls it.
	Name string
}

// loadable reports whether the target can be unloaded and loaded anew.
func (t *Target) loadable() bool { return t.Load != "" && t.Unload != "" }

// loaded reports whether there is something to unload.
func (t *Target) loaded() bool {
	for _, path := range []string{t.Nout, t.Counter, t.Start} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

// name is what a file of the target is called.
func (t *Target) name(path string) string {
	switch path {
	case t.Nout:
		return "nout"
	case t.Counter:
		return "counter"
	case t.Start:
		return "start"
	}
	return path
}

// onTarget puts the target's paths in the place of the module's.
func (t *Target) onTarget(commands string) string {
	return strings.NewReplacer(
		"/proc/kstat/nout", t.Nout,
		"/proc/kstat/counter", t.Counter,
		"/sys/module/kstat/parameters/start", t.Start,
	).Replace(commands)
}

// Bench is where an item's experiment is done.
type Bench struct {
	Target
	Profile Profile

	ipv4, ipv6 lane
}

// lane is how packets are sent over lo in one family.
type lane struct {
	addr   netip.Addr
	closed netip.AddrPort // a port where nobody listens
	spare  *traffic.Connections
	err    error // why there is none of it
}

// spares is how many connections there are at first, and leastSpares how many
// an item finds: no experiment of ours sends more single packets.
const spares, leastSpares = 64, 32

// fill makes what sending needs. It sends packets itself.
func (l *lane) fill(addr netip.Addr) {
	l.addr = addr
	if l.closed, l.err = traffic.ClosedPort(addr); l.err != nil {
		return
	}
	if l.spare != nil && l.spare.Len() >= leastSpares {
		return
	}
	l.drain()
	l.spare, l.err = traffic.Connect(addr, spares)
}

// drain ends the connections that are left.
func (l *lane) drain() {
	if l.spare != nil {
		_ = l.spare.Close() // they are of no use any more
		l.spare = nil
	}
}

// renew brings the target into a known state: loaded or, if it can be unloaded
// at all, not; stopped, with a counter of 10 and nothing pending. It returns
// what to say if that is not possible.
func (b *Bench) renew(ctx context.Context, loaded bool) *Verdict {
	if !b.loadable() {
		b.empty(ctx)
		return nil
	}
	if v := b.shell(ctx, b.Unload); v != nil {
		// It may not have been loaded.
		left, err := within(ctx, func() (bool, error) { return b.loaded(), nil })
		if left || err != nil {
			return v
		}
	}
	b.fill()
	if loaded {
		return b.shell(ctx, b.Load)
	}
	return nil
}

func (b *Bench) fill() {
	b.ipv4.fill(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	b.ipv6.fill(netip.IPv6Loopback())
}

// empty publishes what is pending and stops, as well as it can: what does not
// work is for the items to find out.
func (b *Bench) empty(ctx context.Context) {
	store := func(path, text string) {
		_, _ = within(ctx, func() (struct{}, error) { return struct{}{}, writeText(path, text) })
	}
	store(b.Start, "0\n")
	b.fill()
	store(b.Start, "1\n")
	store(b.Counter, "1\n")
	if b.ipv4.err == nil {
		_ = traffic.TCPConnect(b.ipv4.closed, 1)
	}
	store(b.Start, "0\n")
	store(b.Counter, "10\n")
}

// shell runs a command that has to succeed, and returns what to say if it does
// not.
func (b *Bench) shell(ctx context.Context, line string) *Verdict {
	v := (&Command{Run: line}).Try(ctx, b)
	if v.Outcome != Failed {
		return nil
	}
	v.Repeat = line
	return &v
}

// state is what Run leaves as it was.
type state struct {
	loaded         bool
	counter, start string
}

// lookLimit is how long a look at the state, or its return, may take.
const lookLimit = 5 * time.Second

// look returns the target's state.
func (b *Bench) look() state {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	s, _ := within(ctx, func() (s state, err error) {
		s.loaded = b.loaded()
		s.counter, _ = readText(b.Counter)
		s.start, _ = readText(b.Start)
		return s, nil
	})
	return s
}

// leave gives the target its state back, as well as it can, and drops what the
// bench holds.
func (b *Bench) leave(s state) {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	_, _ = within(ctx, func() (struct{}, error) {
		switch now := b.loaded(); {
		case now && !s.loaded && b.loadable():
			b.shell(ctx, b.Unload)
		case now || !b.loadable():
		case s.loaded:
			b.shell(ctx, b.Load)
		}
		if !s.loaded {
			return struct{}{}, nil
		}
		return struct{}{}, errors.Join(writeText(b.Counter, s.counter), writeText(b.Start, s.start))
	})
	b.ipv4.drain()
	b.ipv6.drain()
}

// within returns what f does, or ctx's error if that ends first: a file of a
// module that hangs does not let go of who reads it.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := f()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// maxText is more than any of the three files holds.
const maxText = 4096

// errEndless is the error for a file that goes on and on.
var errEndless = errors.New("its text has no end: a read at the end of it has to return 0")

// readText reads a file as cat does.
func readText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if len(text) > maxText {
		return "", errEndless
	}
	return string(text), err
}

// writeText writes to a file as a shell's > does, in one write(2). The error is
// that of a system call.
func writeText(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n, err := unix.Write(fd, []byte(text))
	if closed := unix.Close(fd); err == nil {
		err = closed
	}
	if err == nil && n != len(text) {
		return fmt.Errorf("only %d of %d bytes were taken", n, len(text))
	}
	return err
}

// oneNumber matches a text that holds a number. There may be words before it,
// as the assignment does not forbid them: that there are none, and a newline
// behind it, is for items of their own to say.
var oneNumber = regexp.MustCompile(`^(?:[^0-9]*[^0-9-])?([0-9]+)\s*$`)

func parseNumber(text string) (uint64, bool) {
	match := oneNumber.FindStringSubmatch(text)
	if match == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(match[1], 10, 64)
	return n, err == nil
}

// errorName shows an errno as programmers and shells do.
func errorName(err error) string {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return fmt.Sprintf("%s (%s)", cmp.Or(unix.ErrnoName(errno), "an unknown error"), errno)
	}
	return err.Error()
}
