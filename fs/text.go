package fs

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"kstat/stats"
)

// line is one value and a newline, as a file of the tree holds it.
func line[T ~uint32 | ~uint64](value T) []byte {
	return append(strconv.AppendUint(nil, uint64(value), 10), '\n')
}

// protocolTable renders the published figures of every protocol and family
// seen.
func protocolTable(s *stats.Snapshot, names *stats.Names) []byte {
	text := fmt.Appendf(nil, tableFormat, "#name", "number", "family", "packets", "bytes")
	for _, row := range s.Rows {
		if row.Published.Packets == 0 {
			continue
		}
		text = fmt.Appendf(text, tableFormat, names.Name(row.Class.Protocol()), number(row.Class.Protocol()),
			row.Class.Family(), row.Published.Packets, row.Published.Bytes)
	}
	return text
}

const tableFormat = "%-16v %6v %-6v %12v %15v\n"

// number returns a protocol's number, or "-" where it has none.
func number(p stats.Protocol) string {
	if p == stats.Other {
		return "-"
	}
	return strconv.Itoa(int(p))
}

// Schema is the version of [Document]. It grows when a field changes its
// meaning or goes away, not when one is added.
const Schema = 1

// Document is what stats.json holds: the figures of all the other files, at
// one moment. What has no comment is as in the file of that name.
type Document struct {
	Schema       int    `json:"schema"`
	NOut         uint64 `json:"nout"`
	Counter      uint32 `json:"counter"`
	Start        int    `json:"start"`
	Pending      uint64 `json:"pending"`
	Uncounted    uint64 `json:"uncounted"`
	Hook         string `json:"hook"`
	Engine       string `json:"engine"`
	Publications uint64 `json:"publications"` // since the daemon started
	PID          int    `json:"pid"`          // of the daemon
	Version      string `json:"version"`      // of the daemon

	Health

	Published Figures    `json:"published"` // all protocols together
	Live      Figures    `json:"live"`      // the same, as of now
	Protocols []Protocol `json:"protocols"`
}

// Health is what has gone wrong since the daemon started, and was mended.
type Health struct {
	Restarts uint64 `json:"worker_restarts"` // of the process that counts
	Repairs  uint64 `json:"rule_repairs"`    // of the netfilter rule
	Flushes  uint64 `json:"queue_flushes"`   // by others, see the contract
	Gaps     []Gap  `json:"gaps"`            // the latest, oldest first
}

// Gap is a time in which packets passed that should have been counted and were
// not.
type Gap struct {
	Since   time.Time `json:"since"`
	Seconds float64   `json:"seconds"` // up to now, if the gap has not ended
	Open    bool      `json:"open"`    // it has not ended
}

// Protocol is one protocol in one family, in a [Document].
type Protocol struct {
	Name      string  `json:"name"`
	Number    *int    `json:"number"` // null for "other"
	Family    string  `json:"family"`
	Published Figures `json:"published"`
	Live      Figures `json:"live"`
	Total     Figures `json:"total"` // live, and not touched by reset
}

// Figures are packets and their bytes at the network layer.
type Figures struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func (d *Document) render() ([]byte, error) {
	text, err := json.MarshalIndent(d, "", "  ")
	return append(text, '\n'), err
}

// fill puts in what a snapshot knows.
func (d *Document) fill(s *stats.Snapshot, names *stats.Names) {
	d.NOut = s.Published(stats.TCP).Packets
	d.Counter, d.Pending, d.Publications = s.Counter, s.Pending, s.Publications
	d.Protocols = make([]Protocol, 0, len(s.Rows))
	var published, live stats.Figures
	for _, row := range s.Rows {
		published, live = published.Plus(row.Published), live.Plus(row.Live)
		p := row.Class.Protocol()
		entry := Protocol{
			Name:      names.Name(p),
			Family:    row.Class.Family().String(),
			Published: Figures(row.Published),
			Live:      Figures(row.Live),
			Total:     Figures(row.Total),
		}
		if p != stats.Other {
			n := int(p)
			entry.Number = &n
		}
		d.Protocols = append(d.Protocols, entry)
	}
	d.Published, d.Live = Figures(published), Figures(live)
}
