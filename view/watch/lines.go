package watch

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"kstat/fs"
	"kstat/view/tree"
)

// format is how a line looks.
type format struct {
	json bool // an object, else a text
}

func (f format) line(text string, object any) []byte {
	if !f.json {
		return []byte(text + "\n")
	}
	line, err := json.Marshal(object)
	if err != nil {
		panic(err) // our own types, which have nothing that could fail
	}
	return append(line, '\n')
}

// head is the first line, which only text has.
func (f format) head(text string) []byte {
	if f.json {
		return nil
	}
	return []byte(text + "\n")
}

// A missed line says that there were publications which are not shown.
type missed struct {
	Missed uint64 `json:"missed"`
}

// A restarted line says that another daemon is there, and counts from 0.
type restarted struct {
	Restarted bool `json:"restarted"`
}

func (f format) missed(n uint64) []byte {
	return f.line(fmt.Sprintf("# missed %d", n), missed{n})
}

func (f format) restarted() []byte {
	return f.line("# restarted", restarted{true})
}

// clock is how text shows a time.
const clock = "15:04:05.000000"

// A publication is one line.
type publication struct {
	Time        time.Time `json:"time"`
	Publication uint64    `json:"publication"`
	NOut        uint64    `json:"nout"`
	Total       uint64    `json:"total"`
	NOutDelta   *uint64   `json:"nout_delta"` // null: what was before is not known
	TotalDelta  *uint64   `json:"total_delta"`
}

// publicationLines makes lines of publications.
type publicationLines struct {
	format
	last  tree.Publication
	next  uint64 // number of the publication that is awaited
	known bool   // last can be compared with what comes
	begun bool   // something was shown
}

const publicationColumns = "%-15s %12s %12s %12s %10s %10s"

func (l *publicationLines) header() []byte {
	return l.head(fmt.Sprintf(publicationColumns, "#time", "publication", "nout", "total", "+nout", "+total"))
}

// after takes the figures of a moment before the first publication.
func (l *publicationLines) after(d *fs.Document) {
	l.last = tree.Publication{Number: d.Publications, NOut: d.NOut, Total: d.Published.Packets}
	l.next = d.Publications + 1
}

// lines returns those of one publication.
func (l *publicationLines) lines(p tree.Publication) (lines [][]byte) {
	if p.Missed > 0 {
		l.next += p.Missed
		l.begun = true
		return [][]byte{l.missed(p.Missed)}
	}
	switch {
	case p.Number == l.next:
		l.known = true
	case !l.begun: // there were some while we began
	case p.Number > l.next:
		lines = append(lines, l.missed(p.Number-l.next))
	default:
		lines = append(lines, l.restarted())
		if p.Number > 1 {
			lines = append(lines, l.missed(p.Number-1))
		}
		l.last = tree.Publication{}
	}
	shown := publication{Time: p.Time, Publication: p.Number, NOut: p.NOut, Total: p.Total}
	nout, total := "-", "-"
	if l.known {
		n, t := since(l.last, p)
		shown.NOutDelta, shown.TotalDelta = &n, &t
		nout, total = "+"+strconv.FormatUint(n, 10), "+"+strconv.FormatUint(t, 10)
	}
	l.last, l.next, l.known, l.begun = p, p.Number+1, true, true
	text := fmt.Sprintf(publicationColumns, p.Time.Format(clock), strconv.FormatUint(p.Number, 10),
		strconv.FormatUint(p.NOut, 10), strconv.FormatUint(p.Total, 10), nout, total)
	return append(lines, l.line(text, shown))
}

// since returns by how much the figures have grown. Where they have not, there
// was a reset, and they count from that.
func since(last, p tree.Publication) (nout, total uint64) {
	if p.NOut < last.NOut || p.Total <= last.Total {
		return p.NOut, p.Total
	}
	return p.NOut - last.NOut, p.Total - last.Total
}

// An interval is one line.
type interval struct {
	Time           time.Time  `json:"time"`    // its end
	Seconds        float64    `json:"seconds"` // its length
	Start          int        `json:"start"`
	Pending        uint64     `json:"pending"`
	Uncounted      uint64     `json:"uncounted"`
	UncountedDelta int64      `json:"uncounted_delta"`
	Packets        uint64     `json:"packets"`
	Bytes          uint64     `json:"bytes"`
	Protocols      []protocol `json:"protocols"` // those that have moved
}

type protocol struct {
	Name    string `json:"name"`
	Number  *int   `json:"number"` // null for "other"
	Family  string `json:"family"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// intervalLines makes lines of what was counted between two looks.
type intervalLines struct {
	format
	last *fs.Document
	at   time.Time // of the last look
}

func (l *intervalLines) header() []byte {
	return l.head(fmt.Sprintf("%-15s packets", "#time"))
}

// lines returns those of one look.
func (l *intervalLines) lines(d *fs.Document, at time.Time) (lines [][]byte) {
	if tree.Restarted(l.last, d) {
		lines = append(lines, l.restarted())
		l.last = new(fs.Document)
	}
	shown := interval{
		Time:           at.Round(0), // without the monotonic clock
		Seconds:        at.Sub(l.at).Seconds(),
		Start:          d.Start,
		Pending:        d.Pending,
		Uncounted:      d.Uncounted,
		UncountedDelta: int64(d.Uncounted - l.last.Uncounted), // may go back under load
		Protocols:      []protocol{},
	}
	text := ""
	for _, p := range d.Protocols {
		before := totalOf(l.last, p)
		moved := protocol{p.Name, p.Number, p.Family, p.Total.Packets - before.Packets, p.Total.Bytes - before.Bytes}
		if moved.Packets == 0 {
			continue
		}
		shown.Protocols = append(shown.Protocols, moved)
		shown.Packets += moved.Packets
		shown.Bytes += moved.Bytes
		text += fmt.Sprintf(" %s/%s +%d", moved.Name, moved.Family, moved.Packets)
	}
	if shown.UncountedDelta > 0 {
		text += fmt.Sprintf(" uncounted +%d", shown.UncountedDelta)
	}
	if text == "" {
		text = " -"
		if d.Start == 0 {
			text = " stopped"
		}
	}
	l.last, l.at = d, at
	return append(lines, l.line(at.Format(clock)+text, shown))
}

// totalOf returns what a document has for the protocol and family of p.
func totalOf(d *fs.Document, p fs.Protocol) fs.Figures {
	for _, q := range d.Protocols {
		if q.Name == p.Name && q.Family == p.Family {
			return q.Total
		}
	}
	return fs.Figures{}
}
