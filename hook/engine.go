package hook

import (
	"context"
	"fmt"
	"os"

	"kstat/stats"
)

// Engine is a way to see packets. Its methods may be called by any goroutine.
type Engine interface {
	// Name and Point return what the files engine and hook show.
	Name() string
	Point() string

	// Started reports whether packets are being counted. It waits for nobody.
	Started() bool
	// Start begins to count: every packet that arrives at the hook after it
	// returned is seen. It does nothing if the engine is started already. The
	// error wraps an errno that says why: EBUSY, EPERM, EOPNOTSUPP, ….
	Start() error
	// Stop ends counting: when it returns no packet is in flight and the
	// figures are final. It does nothing if the engine is stopped already.
	Stop() error
	// Close stops the engine for good. Nothing is left of it, and Start and
	// Stop return ErrClosed.
	Close() error

	// Status returns what there is to tell beside the figures, Uncounted one
	// part of it.
	Status() (Status, error)
	Uncounted() (uint64, error)

	// Run keeps the engine until ctx ends, or until packets can no longer be
	// counted, which is its error; then it closes it. Meanwhile it calls
	// [Config.Alive].
	Run(ctx context.Context) error
}

// Status is what an engine has to tell beside the figures.
type Status struct {
	Uncounted uint64 // packets that passed while started and were not counted
	Repairs   uint64 // how often the rule had to be put back
	Flushes   uint64 // how often somebody deleted a base chain while started

	// Of nfqueue alone.
	Dropped uint64  // packets that the kernel dropped in our queues
	Queues  []Queue // ascending; nil if the kernel does not let us see them
}

// Queue is the state of an NFQUEUE.
type Queue struct {
	Number   uint16
	Waiting  int // packets in it, and taken from it, without an answer
	Capacity uint32
}

// Holding is what an engine has for as long as the daemon lives, whatever
// becomes of the processes that count.
type Holding interface {
	Kind() Kind
	// Table returns the figures. They are in memory, which must be of
	// [stats.LedgerSize], unless the engine has a place of its own for them.
	Table(memory []byte) (*stats.Table, error)
	// New returns the engine, which adds to table, and does nothing before its
	// Start.
	New(c Config, table *stats.Table) (Engine, error)
	// Files are what a process must be given to take part, see [Inherit].
	Files() []*os.File
	// Keep keeps what counts, as an engine of another process has opened it,
	// beyond the end of that process. No links let it go. It reports whether
	// packets go on being counted.
	Keep(Links) bool
	// Close gives up what other daemons could want. The table can still be
	// read.
	Close()
}

// Kind says which engine.
type Kind int

// The kinds of engines.
const (
	KindNFQueue Kind = iota
	KindBPF
	KindAuto // the best that works here
)

var kindNames = []string{"nfqueue", "bpf", "auto"}

// String returns the kind as the command line and the file engine spell it.
func (k Kind) String() string { return kindNames[k] }

// ParseKind returns the kind of a name.
func ParseKind(name string) (Kind, error) { return parseName[Kind]("engine", kindNames, name) }

// kinds is the table of engines. The best comes last.
var kinds = [...]struct {
	hold    func(Config) (Holding, error)
	inherit func([]*os.File) Holding
}{
	KindNFQueue: {holdQueues, inheritQueues},
	KindBPF:     {holdPrograms, inheritPrograms},
}

// Hold takes what the engine of c needs for as long as the daemon lives. Of
// KindAuto it takes the best that works. One goroutine at a time may call it.
func Hold(c Config) (Holding, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.Engine != KindAuto {
		return kinds[c.Engine].hold(c)
	}
	for kind := len(kinds) - 1; ; kind-- {
		h, err := kinds[kind].hold(c)
		if err == nil || kind == 0 {
			return h, err
		}
		c.Log.Info("another engine is taken", "instead of", Kind(kind), "err", err)
	}
}

// Inherit returns what another process holds of an engine, which has passed
// on its files.
func Inherit(kind Kind, files []*os.File) (Holding, error) {
	if kind < 0 || int(kind) >= len(kinds) {
		return nil, fmt.Errorf("no engine %d can be inherited", kind)
	}
	return kinds[kind].inherit(files), nil
}
