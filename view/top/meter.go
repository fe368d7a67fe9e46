package top

import (
	"math"
	"time"

	"kstat/fs"
	"kstat/view/tree"
)

// kept is how many samples a history has, span how many a line of the table
// shows.
const (
	kept = 240
	span = 60
)

// unknown is a rate that cannot be told.
var unknown = math.NaN()

// pair is one value for packets, and one for bytes.
type pair [2]float64

const (
	packets = iota
	bytes
)

// history holds the latest rates, in seconds, the newest last.
type history [kept]pair

func newHistory() *history {
	h := new(history)
	for i := range h {
		h[i] = pair{unknown, unknown}
	}
	return h
}

func (h *history) push(rates pair) {
	copy(h[:], h[1:])
	h[kept-1] = rates
}

func (h *history) now() pair { return h[kept-1] }

// class is what a line of the table is about.
type class struct {
	name, family string
}

// meter turns what is read now and then into rates.
type meter struct {
	doc       *fs.Document // the latest, nil before the first
	base      *fs.Document // what the next rates are reckoned from; nil: nothing
	at        time.Time    // of base, with the monotonic clock
	histories map[class]*history
	sum       *history
}

func newMeter() *meter {
	return &meter{histories: make(map[class]*history), sum: newHistory()}
}

// observe takes what was read at a moment, and reports whether it is another
// daemon's than what was read before. That has no rates: nobody knows since
// when it counts.
func (m *meter) observe(d *fs.Document, at time.Time) (another bool) {
	another = m.doc != nil && tree.Restarted(m.doc, d)
	before, seconds := m.base, at.Sub(m.at).Seconds()
	if another || seconds <= 0 {
		before = nil
	}
	m.doc, m.base, m.at = d, d, at

	totals := make(map[class]fs.Figures)
	if before != nil {
		for _, p := range before.Protocols {
			totals[class{p.Name, p.Family}] = p.Total
		}
	}
	var sum pair
	for _, p := range d.Protocols {
		c := class{p.Name, p.Family}
		if m.histories[c] == nil {
			m.histories[c] = newHistory()
		}
		rates := pair{unknown, unknown}
		if was := totals[c]; before != nil {
			rates = pair{float64(p.Total.Packets-was.Packets) / seconds, float64(p.Total.Bytes-was.Bytes) / seconds}
		}
		m.histories[c].push(rates)
		sum[packets] += rates[packets]
		sum[bytes] += rates[bytes]
	}
	if before == nil {
		sum = pair{unknown, unknown}
	}
	m.sum.push(sum)
	return another
}

// refresh takes what was read between two samples: figures move, rates do not.
func (m *meter) refresh(d *fs.Document) {
	if m.base != nil && !tree.Restarted(m.base, d) {
		m.doc = d
	}
}

// miss is a sample that could not be had.
func (m *meter) miss() {
	m.wait()
	m.base = nil
}

// wait is a sample that has yet to come, so that histories show when it was.
func (m *meter) wait() {
	none := pair{unknown, unknown}
	for _, h := range m.histories {
		h.push(none)
	}
	m.sum.push(none)
}

// line is a line of the table.
type line struct {
	class
	number int       // of the protocol; past all others for "other"
	live   [2]uint64 // since the last reset
	total  [2]uint64 // since the daemon started
	rates  history
}

// frame is what is shown. Nobody changes it.
type frame struct {
	doc   *fs.Document
	lines []line
	sum   line
}

func (m *meter) frame() frame {
	f := frame{doc: m.doc, sum: line{class: class{name: "total"}, rates: *m.sum}}
	for _, p := range m.doc.Protocols {
		l := line{
			class:  class{p.Name, p.Family},
			number: 256,
			live:   [2]uint64{p.Live.Packets, p.Live.Bytes},
			total:  [2]uint64{p.Total.Packets, p.Total.Bytes},
			rates:  *newHistory(),
		}
		if h := m.histories[l.class]; h != nil {
			l.rates = *h
		}
		if p.Number != nil {
			l.number = *p.Number
		}
		for i := range l.live {
			f.sum.live[i] += l.live[i]
			f.sum.total[i] += l.total[i]
		}
		f.lines = append(f.lines, l)
	}
	return f
}
