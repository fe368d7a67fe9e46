package grade

import "time"

// Schema is the version of the JSON form of a [Report]. Fields may be added to
// it; it is raised when one changes its meaning or goes.
const Schema = 1

// Report is what a grading came to.
type Report struct {
	Schema  int       `json:"schema"`
	Version string    `json:"version"` // of kstat
	Rubric  string    `json:"rubric"`  // its title
	Profile Profile   `json:"profile"`
	Target  string    `json:"target"` // what was graded, in a person's words
	Began   time.Time `json:"began"`
	Took    Seconds   `json:"seconds"`
	Points  float64   `json:"points"`
	Max     float64   `json:"max"` // of the items that ran: those left to a person are not in it
	Results []Result  `json:"results"`
}

// Passed reports whether every item that is not left to a person has passed.
func (r *Report) Passed() bool {
	for _, result := range r.Results {
		if result.Outcome == Failed {
			return false
		}
	}
	return true
}

// Seconds is a length of time that JSON shows in seconds.
type Seconds float64

// Outcome is how an item ended.
type Outcome string

// The outcomes.
const (
	Passed Outcome = "passed"
	Failed Outcome = "failed"
	// ByHand is for an item that a person has to look at: no points are given,
	// and none are lost.
	ByHand Outcome = "by hand"
	// Skipped is for an item that cannot be tried on this target, and why is in
	// Seen: no points are given, and none are lost.
	Skipped Outcome = "skipped"
)

// Result is what one item came to. The texts are for the person who made what
// was graded: what was done, what was expected of it, what was seen instead.
type Result struct {
	ID      string  `json:"id"`      // [a-z0-9-]+, unique
	Section string  `json:"section"` // "basic functionality", "procfs", "sysfs", …
	Title   string  `json:"title"`
	Outcome Outcome `json:"outcome"`
	Points  float64 `json:"points"`
	Max     float64 `json:"max"`
	Took    Seconds `json:"seconds"`

	// Of a failed item; each may have several lines.
	Did      string `json:"did,omitempty"`
	Expected string `json:"expected,omitempty"`
	Seen     string `json:"seen,omitempty"`
	Repeat   string `json:"repeat,omitempty"` // shell commands that show it

	// Notes are remarks on an item that passed: what the coursework profile
	// has accepted although the contract has it otherwise.
	Notes []string `json:"notes,omitempty"`
	// Output is what a command printed, its end if it was long.
	Output string `json:"output,omitempty"`
}
