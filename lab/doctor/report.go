package doctor

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Schema is the version of the JSON form of a [Report]. Fields, features and
// checks may be added to it; it is raised when one changes its meaning or goes.
const Schema = 1

//go:embed report.schema.json
var schema []byte

// JSONSchema returns the JSON schema (draft 2020-12) of a report.
func JSONSchema() []byte { return schema }

// Report is what an examination came to.
type Report struct {
	Schema   int       `json:"schema"`
	Version  string    `json:"version"` // of kstat
	Kernel   string    `json:"kernel"`  // its release
	Machine  string    `json:"machine"`
	UID      int       `json:"uid"` // the effective one
	Seconds  float64   `json:"seconds"`
	OK       bool      `json:"ok"` // everything that was asked for works
	Features []Verdict `json:"features"`
	Checks   []Check   `json:"checks"`
}

// Status is how a check ended.
type Status string

// The statuses.
const (
	OK   Status = "ok"
	Warn Status = "warn" // it works, but somebody should know
	Fail Status = "fail" // what the check's features need is missing
	Skip Status = "skip" // it could not be tried, and Found says why
)

// Check is one thing that was looked at.
type Check struct {
	ID      string   `json:"id"` // [a-z-]+; several checks of mounts share one
	Group   string   `json:"group"`
	Title   string   `json:"title"`
	Status  Status   `json:"status"`
	Found   string   `json:"found"`             // a line
	Details []string `json:"details,omitempty"` // lines, for who wants to know more
	// Mend says what to do, in a line, and Command is the shell command that
	// does it, if one does. They are there only if something is to be done.
	Mend    string `json:"mend,omitempty"`
	Command string `json:"command,omitempty"`
	// Features are those that cannot work without.
	Features []Feature `json:"features"`
	Seconds  float64   `json:"seconds"`
}

// Feature is something that people want to work.
type Feature string

// The features, by the names that a command line has for them.
const (
	NFQueue Feature = "nfqueue"  // kstatd --engine nfqueue
	BPF     Feature = "bpf"      // kstatd --engine bpf
	FUSE    Feature = "fuse"     // a tree of files
	Run     Feature = "run"      // kstat run, as this user
	RunRoot Feature = "run-root" // kstat run, as root
	Metrics Feature = "metrics"  // kstatd --listen, at its usual port
	Service Feature = "service"  // kstatd as a service of systemd
)

// features is the table of features. It is never written.
var features = []struct {
	id    Feature
	title string
	proof string // the check without which nothing is known
}{
	{NFQueue, "kstatd --engine nfqueue", "nfqueue"},
	{BPF, "kstatd --engine bpf", "bpf"},
	{FUSE, "a tree of files", "fuse"},
	{Run, "kstat run as you", "world"},
	{RunRoot, "kstat run as root", "world-root"},
	{Metrics, "metrics and page", "port"},
	{Service, "kstatd as a service", "service"},
}

// Features lists all features.
func Features() (all []Feature) {
	for _, f := range features {
		all = append(all, f.id)
	}
	return all
}

// ParseFeature returns the feature of a name.
func ParseFeature(name string) (Feature, error) {
	if f := Feature(name); slices.Contains(Features(), f) {
		return f, nil
	}
	var names []string
	for _, f := range Features() {
		names = append(names, string(f))
	}
	return "", fmt.Errorf("no feature %q: take one of %s", name, strings.Join(names, ", "))
}

// Verdict says whether a feature works.
type Verdict struct {
	ID    Feature `json:"id"`
	Title string  `json:"title"`
	// Status is ok, fail, or skip if nothing could be found out.
	Status Status `json:"status"`
	// Because are the ids of the checks that failed, or were skipped.
	Because []string `json:"because,omitempty"`
}

// judge comes to the verdicts on the features that were asked for; all, if none
// was by name.
func (r *Report) judge(asked []Feature) {
	r.OK = true
	for _, f := range features {
		byName := slices.Contains(asked, f.id)
		if len(asked) > 0 && !byName {
			continue
		}
		v := Verdict{ID: f.id, Title: f.title, Status: OK}
		for i := range r.Checks {
			if c := &r.Checks[i]; c.Status == Fail && slices.Contains(c.Features, f.id) {
				v.because(Fail, c)
			}
		}
		for i := range r.Checks {
			if c := &r.Checks[i]; c.ID == f.proof && c.Status == Skip && v.Status == OK {
				v.because(Skip, c)
			}
		}
		if v.Status == Fail || v.Status == Skip && byName {
			r.OK = false
		}
		r.Features = append(r.Features, v)
	}
}

func (v *Verdict) because(s Status, c *Check) {
	v.Status = s
	if !slices.Contains(v.Because, c.ID) {
		v.Because = append(v.Because, c.ID)
	}
}

// WriteJSON writes the report as JSON, see [JSONSchema].
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
