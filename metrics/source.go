package metrics

import (
	"time"

	"kstat/stats"
)

// Source is what the server asks of the daemon. All fields must be set. The
// functions are called by any goroutine, several at once.
type Source struct {
	// Snapshot waits for nobody.
	Snapshot func() *stats.Snapshot
	// Names are the values of the label protocol. They should be the same on
	// every host of a fleet.
	Names *stats.Names
	// Families are those that are counted.
	Families []stats.Family
	// Status may have to wait for a start or a stop that is under way. After
	// an error there are no series of what it would have told.
	Status  func() (Status, error)
	Started func() bool
	// Healthy returns why packets may be passing uncounted now, or nil. It
	// waits for nobody.
	Healthy func() error

	Hook, Engine, Version string
	Born                  time.Time // when the counters were 0

	// Document returns the text of the file stats.json, and Write writes to
	// the file counter, start or reset.
	Document func() ([]byte, error)
	Write    func(file string, text []byte) error
}

// Status is what there is to tell beside the figures. The counters in it never
// decrease as long as the daemon lives.
type Status struct {
	Uncounted uint64 // packets that passed while started and were not counted
	Repairs   uint64 // of the rule, or of programs
	Flushes   uint64 // of queues, by others
	Restarts  uint64 // of the worker
	Gaps      uint64 // times without counting that have begun
	GapOpen   bool   // the last one has not ended

	Dropped uint64  // packets that the kernel has dropped in Queues
	Queues  []Queue // none if the engine has none, or cannot see them
}

// Queue is the state of an NFQUEUE.
type Queue struct {
	Number   uint16
	Waiting  int // packets without an answer
	Capacity uint32
}
