package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// mode is how figures are shown: what keys change, and widths do not.
type mode struct {
	weigh    int  // histories and shares are of packets or bytes
	ever     bool // totals since the daemon started, else since the last reset
	sort     columnID
	reverse  bool // the other direction than the column's own
	interval time.Duration
}

// totals returns what the columns of totals show of a line.
func (m *mode) totals(l *line) [2]uint64 {
	if m.ever {
		return l.total
	}
	return l.live
}

type columnID int

const (
	protocolColumn columnID = iota
	familyColumn
	packetRateColumn
	byteRateColumn
	packetsColumn
	bytesColumn
	shareColumn
	historyColumn
	columnCount
)

// column is a column of the table. Those of figures are aligned to the right,
// and have the largest first when they sort.
type column struct {
	least, most int // widths
	title       func(m *mode, width int) string
	text        func(m *mode, l, sum *line, width int) string // nil for the history
	order       func(m *mode, a, b *line) int                 // nil: does not sort
	left        bool
}

func named(title string) func(*mode, int) string { return func(*mode, int) string { return title } }

var columns = [columnCount]column{
	protocolColumn: {10, 16, named("protocol"),
		func(_ *mode, l, _ *line, _ int) string { return l.name },
		func(_ *mode, a, b *line) int { return cmp.Compare(a.number, b.number) }, true},
	familyColumn: {6, 6, named("family"),
		func(_ *mode, l, _ *line, _ int) string { return l.family },
		func(_ *mode, a, b *line) int { return cmp.Compare(a.family, b.family) }, true},
	packetRateColumn: {9, 10, named("packets/s"),
		func(_ *mode, l, _ *line, _ int) string { return short(l.rates.now()[packets]) },
		func(_ *mode, a, b *line) int { return cmp.Compare(a.rates.now()[packets], b.rates.now()[packets]) }, false},
	byteRateColumn: {8, 8, named("bytes/s"),
		func(_ *mode, l, _ *line, _ int) string { return short(l.rates.now()[bytes]) },
		func(_ *mode, a, b *line) int { return cmp.Compare(a.rates.now()[bytes], b.rates.now()[bytes]) }, false},
	packetsColumn: {11, 15, total("packets"),
		func(m *mode, l, _ *line, width int) string { return count(m.totals(l)[packets], width) },
		func(m *mode, a, b *line) int { return cmp.Compare(m.totals(a)[packets], m.totals(b)[packets]) }, false},
	bytesColumn: {12, 19, total("bytes"),
		func(m *mode, l, _ *line, width int) string { return count(m.totals(l)[bytes], width) },
		func(m *mode, a, b *line) int { return cmp.Compare(m.totals(a)[bytes], m.totals(b)[bytes]) }, false},
	shareColumn: {6, 6, named("share"),
		func(m *mode, l, sum *line, _ int) string {
			return percent(m.totals(l)[m.weigh], m.totals(sum)[m.weigh])
		},
		func(m *mode, a, b *line) int { return cmp.Compare(m.totals(a)[m.weigh], m.totals(b)[m.weigh]) }, false},
	historyColumn: {10, span, func(m *mode, width int) string {
		what := [2]string{"packets/s", "bytes/s"}[m.weigh]
		long := (time.Duration(min(width, span)) * m.interval).Round(time.Second / 10)
		if text := fmt.Sprintf("%s, %v", what, long); len(text) <= width {
			return text
		}
		return fmt.Sprintf("last %v", long)
	}, nil, nil, true},
}

// total is the title of a column of totals.
func total(what string) func(*mode, int) string {
	return func(m *mode, _ int) string {
		if m.ever {
			return "all " + what
		}
		return what
	}
}

// slot is a column that is shown, and its place.
type slot struct {
	*column
	id    columnID
	width int
}

// importance is the order in which columns get a place, and growth that in
// which they get what is left.
var (
	importance = []columnID{protocolColumn, packetRateColumn, packetsColumn, familyColumn, byteRateColumn, historyColumn, bytesColumn, shareColumn}
	growth     = []struct {
		columnID
		to int
	}{{historyColumn, 20}, {bytesColumn, 15}, {packetsColumn, 13}, {protocolColumn, 16}, {historyColumn, span},
		{packetRateColumn, 10}, {bytesColumn, 19}, {packetsColumn, 15}}
)

// arrange chooses columns for a width, and says how many columns of the
// terminal are between two of them.
func arrange(width int) (slots []slot, gap int) {
	gap = 2
	if width < 60 {
		gap = 1
	}
	var widths [columnCount]int
	used := -gap
	for _, id := range importance {
		need := columns[id].least + gap
		if used+need > width {
			break
		}
		widths[id] = columns[id].least
		used += need
	}
	for _, g := range growth {
		if w := &widths[g.columnID]; *w > 0 && *w < g.to {
			more := min(g.to-*w, width-used)
			*w += more
			used += more
		}
	}
	for id := range columnCount {
		if widths[id] > 0 {
			slots = append(slots, slot{&columns[id], id, widths[id]})
		}
	}
	return slots, gap
}

// tableWidth is how much of the terminal the slots take.
func tableWidth(slots []slot, gap int) int {
	width := -gap
	for _, s := range slots {
		width += s.width + gap
	}
	return width
}

// sorted returns the lines in order. Those that are equal there are in that of
// the file protocols.
func (m *mode) sorted(lines []line) []line {
	c := &columns[m.sort]
	descending := !c.left != m.reverse
	lines = slices.Clone(lines)
	slices.SortStableFunc(lines, func(a, b line) int {
		d := c.order(m, &a, &b)
		if descending {
			d = -d
		}
		return cmp.Or(d, cmp.Compare(a.number, b.number), strings.Compare(a.family, b.family))
	})
	return lines
}

// pad makes a text as wide as its column, which has no other than ASCII.
func pad(text string, width int, left bool) string {
	if len(text) > width {
		return text[:width]
	}
	blank := strings.Repeat(" ", width-len(text))
	if left {
		return text + blank
	}
	return blank + text
}
