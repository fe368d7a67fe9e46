package hook

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"kstat/stats"
)

// Point is one of netfilter's five places in a packet's way.
type Point int

// The points, in the kernel's order (enum nf_inet_hooks).
const (
	Prerouting  Point = unix.NF_INET_PRE_ROUTING
	Input       Point = unix.NF_INET_LOCAL_IN
	Forward     Point = unix.NF_INET_FORWARD
	Output      Point = unix.NF_INET_LOCAL_OUT
	Postrouting Point = unix.NF_INET_POST_ROUTING
)

var pointNames = []string{"prerouting", "input", "forward", "output", "postrouting"}

// String returns the name that nft gives the point.
func (p Point) String() string { return pointNames[p] }

// ParsePoint returns the point of a name.
func ParsePoint(name string) (Point, error) {
	return parseName[Point]("hook", pointNames, name)
}

// hooknum returns the point as google/nftables wants it.
func (p Point) hooknum() *nftables.ChainHook {
	return nftables.ChainHookRef(nftables.ChainHook(p))
}

// incoming reports whether a packet at p has an input device; behind routing,
// at the other points, it has an output device.
func (p Point) incoming() bool { return p == Prerouting || p == Input }

// Families says which address families are counted.
type Families int

// The choices of address families.
const (
	BothFamilies Families = iota
	OnlyIPv4
	OnlyIPv6
)

var familyNames = []string{"both", "ipv4", "ipv6"}

// String returns the choice as the command line spells it.
func (f Families) String() string { return familyNames[f] }

// ParseFamilies returns the choice of a name.
func ParseFamilies(name string) (Families, error) {
	return parseName[Families]("family", familyNames, name)
}

func parseName[T ~int](what string, names []string, name string) (T, error) {
	if i := slices.Index(names, name); i >= 0 {
		return T(i), nil
	}
	return 0, fmt.Errorf("no %s %q: take one of %s", what, name, strings.Join(names, ", "))
}

// DefaultQueueLen is how many packets a queue holds if nobody says otherwise.
// A burst that is longer passes uncounted.
const DefaultQueueLen = 8192

// MaxQueues is how many queues there may be. Each is for a CPU, and takes a
// thread, a descriptor and 80 kB. google/nftables cannot use descriptors from
// 1024 on, the service may have 512 threads, Go's own among them, and a hundred
// readers take what the table's mutex gives (docs/performance.md).
const MaxQueues = 128

// MaxQueueLen is the longest queue that is accepted; its packets would take a
// gigabyte of kernel memory.
const MaxQueueLen = 1 << 20

// Config says which packets an engine sees, and how.
type Config struct {
	Engine          Kind
	Point           Point
	Families        Families
	ExcludeLoopback bool // leave out what enters or leaves by a loopback device

	// For nfqueue alone.
	Queue    uint16 // number of the first queue
	Queues   int    // how many queues, one per CPU in turn; 0 means 1
	QueueLen uint32 // packets per queue; 0 means DefaultQueueLen
	// Armed is how long packets are queued for a reader that no longer proves
	// that it works. Then they pass uncounted. 0 means a second.
	Armed time.Duration

	// Before is the status of an earlier engine that this one goes on from.
	Before Status
	// Alive is called several times a second, as long as packets are read and
	// answered, or the engine is stopped. nil means nobody cares.
	Alive func(Status)
	// Opened is told of each rule that is added, or program that is attached,
	// and with a zero value when there is none any more. nil means nobody
	// cares.
	Opened func(Opened)

	// Tracer is shown every packet, while [stats.Table.Traced]. nil means that
	// nobody traces.
	Tracer Tracer

	// Log is told of what a caller does not learn from an error. nil means
	// slog.Default().
	Log *slog.Logger
}

// withDefaults returns c with its zero values filled in.
func (c Config) withDefaults() (Config, error) {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.QueueLen == 0 {
		c.QueueLen = DefaultQueueLen
	}
	if c.Armed == 0 {
		c.Armed = time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	switch {
	case c.Queues < 0 || c.Queues > MaxQueues:
		return c, fmt.Errorf("%d queues: there can be 1 to %d", c.Queues, MaxQueues)
	case int(c.Queue)+c.Queues > 1<<16:
		return c, fmt.Errorf("%d queues from number %d on end behind 65535, the last one", c.Queues, c.Queue)
	case c.QueueLen > MaxQueueLen:
		return c, fmt.Errorf("a queue of %d packets is longer than %d", c.QueueLen, MaxQueueLen)
	}
	return c, nil
}

// A Tracer is shown packets in the order in which they are counted, after they
// are: by the goroutine that reads them, which it must not hold up, and by one
// at a time. A number that is left out is a packet that was counted and cannot
// be shown. It does not keep the slice or what is in it.
type Tracer interface {
	Trace([]stats.Sighting)
	// Traced says that no packet up to a number will be shown any more.
	Traced(number uint64)
}

// Opened says where packets are seen now, for somebody who outlives the engine.
//
// Of a rule it says from where on its counters count, for somebody who has to
// read them ([Counters]) in the engine's place: what they have seen since, and
// what the table has not counted since, is uncounted. Of programs it says which
// links they have, for somebody who keeps them ([Holding]).
type Opened struct {
	Links Links

	Table     string // of nftables, family inet
	Counted   uint64 // what [stats.Table.Counted] was
	Uncounted uint64 // what [Status.Uncounted] was
}

// Links are the BPF links of an engine, by their numbers in the kernel. 0 is
// none.
type Links [2]uint32
