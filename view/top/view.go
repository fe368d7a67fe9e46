package top

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// View draws the screen: no line is wider than it is, and there are not more.
func (m *model) View() tea.View {
	var lines []string
	var cursor *tea.Cursor
	if m.width > 0 && m.height > 0 {
		lines, cursor = m.screen()
	}
	for i, l := range lines {
		if ansi.StringWidth(l) > m.width {
			lines[i] = ansi.Truncate(l, m.width, "")
		}
	}
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	v.WindowTitle = "kstat top"
	v.Cursor = cursor
	return v
}

// screen returns the lines of the screen.
func (m *model) screen() ([]string, *tea.Cursor) {
	slots, gap := arrange(m.width - 1)
	width := max(tableWidth(slots, gap), min(m.width-1, 80))
	head := m.header(width)
	bottom, cursor := m.bottom(width)
	bottom = bottom[:min(len(bottom), m.height)]

	room := m.height - len(head) - len(bottom)
	var body []string
	if m.help {
		body = m.helpText(width)
	} else if m.shown.doc != nil {
		body = m.table(slots, gap, room)
		body = append(body, m.chart(width, room-len(body))...)
	}
	if m.help {
		m.scroll = max(0, min(m.scroll, len(body)-room))
		body = body[min(m.scroll, len(body)):]
	}
	body = body[:max(0, min(len(body), room))]

	lines := append(head, body...)
	for len(lines) < m.height-len(bottom) {
		lines = append(lines, "")
	}
	lines = append(lines[:m.height-len(bottom)], bottom...)
	for i, l := range lines {
		if l != "" {
			lines[i] = " " + l
		}
	}
	if cursor != nil {
		cursor.X++
		cursor.Y = m.height - 1
	}
	return lines, cursor
}

// figure is a name and its value.
func (t *theme) figure(name, value string) item {
	return item{{t.faint, name + " "}, {t.strong, value}}
}

// header says what state all is in.
func (m *model) header(width int) (lines []string) {
	t, g, d := m.theme, m.glyphs, m.shown.doc
	title := item{{t.strong, "kstat top"}}
	var state item
	switch {
	case m.err != nil:
		state = item{{t.bad, g.gone + " no figures"}}
	case m.late >= time.Second:
		state = item{{t.warn, fmt.Sprintf("%s no answer for %v", g.gone, m.late.Truncate(time.Second))}}
	case d == nil:
		state = item{{t.faint, g.dots}}
	case d.Start == 1:
		state = item{{t.good, g.started + " started"}}
	default:
		state = item{{t.warn, g.stopped + " stopped"}}
	}
	left := []item{title, state}
	if m.paused {
		left = append(left, item{{t.warn.Reverse(true), " paused "}})
	}
	right := []item{
		{{t.faint, "every "}, {t.plain, m.interval.String()}},
		{{t.plain, m.tree.Dir()}},
		{{t.faint, m.clock.Format("15:04:05")}},
	}
	lines = append(lines, spread(left, right, width, 3))

	if m.err != nil {
		lines = append(lines, m.said(t.bad, m.err.Error(), width)...)
	} else if d != nil {
		uncounted := t.figure("uncounted", count(d.Uncounted, 15))
		if d.Uncounted > 0 {
			uncounted = item{{t.bad, "uncounted " + count(d.Uncounted, 15)}}
		}
		figures := []item{
			t.figure("nout", count(d.NOut, 15)),
			t.figure("counter", count(uint64(d.Counter), 15)),
			t.figure("pending", count(d.Pending, 15)),
			uncounted,
		}
		place := item{{t.faint, "by "}, {t.strong, d.Engine}, {t.faint, " at "}, {t.strong, d.Hook}}
		if all := flow(append(figures, place), width, 3, 4); len(all) == 1 {
			lines = append(lines, spread(figures, []item{place}, width, 3))
		} else {
			if m.height < 14 && len(all) > 2 {
				// The one that matters comes first, where there is little room.
				all = flow(append([]item{uncounted, figures[0], figures[2]}, figures[1], place), width, 2, 2)
			}
			lines = append(lines, all...)
		}
	}
	lines = append(lines, flow(m.troubles(), width, 3, 2)...)
	if m.height >= 14 {
		lines = append([]string{""}, lines...)
		lines = append(lines, "")
	}
	return lines
}

// troubles is what has gone wrong, and was mended.
func (m *model) troubles() (all []item) {
	t, d := m.theme, m.shown.doc
	if m.restarted > 0 {
		all = append(all, item{{t.warn, "kstatd was restarted"}})
	}
	if d == nil {
		return all
	}
	add := func(n uint64, name string) {
		if n > 0 {
			all = append(all, item{{t.warn, fmt.Sprintf("%s %d", name, n)}})
		}
	}
	add(d.Restarts, "worker restarts")
	add(d.Repairs, "rule repairs")
	add(d.Flushes, "queue flushes")
	add(uint64(len(d.Gaps)), "gaps")
	if len(d.Gaps) > 0 {
		g := d.Gaps[len(d.Gaps)-1]
		text := fmt.Sprintf("the last at %s for %.3g s", g.Since.Local().Format("15:04:05"), g.Seconds)
		if g.Open {
			text = fmt.Sprintf("nobody has counted since %s", g.Since.Local().Format("15:04:05"))
		}
		all = append(all, item{{t.warn, text}})
	}
	return all
}

// table draws the table, into so many lines of the screen.
func (m *model) table(slots []slot, gap, room int) []string {
	lines := []string{m.titles(slots, gap)}
	all := m.sorted(m.shown.lines)
	fits := max(1, room-2) // without titles and sum
	m.scroll = max(0, min(m.scroll, len(all)-fits))
	m.fits, m.rows = fits, len(all)
	for i := m.scroll; i < min(len(all), m.scroll+fits); i++ {
		lines = append(lines, m.row(&all[i], slots, gap, false))
	}
	if len(all) == 0 {
		lines = append(lines, m.theme.faint.Styled("nothing has been counted yet"))
		return lines
	}
	return append(lines, m.row(&m.shown.sum, slots, gap, true))
}

// chart draws the rate of all protocols together, if there is much room below
// the table.
func (m *model) chart(width, room int) []string {
	const least, most, label = 4, 16, 8
	height := min(room-4, most) // a blank, a title, and a blank at the end
	if height < least || width < 50 {
		return nil
	}
	t, columns := m.theme, min(width-label, kept)
	what := [2]string{"packets/s", "bytes/s"}[m.weigh]
	long := (time.Duration(columns) * m.interval).Round(time.Second / 10)
	lines, top := m.glyphs.spark.chart(&m.shown.sum.rates, m.weigh, columns, height)
	for i, l := range lines {
		mark := ""
		switch {
		case i == height-1:
			mark = "0"
		case i == 0 && top > 0:
			mark = short(top)
		}
		lines[i] = item{{t.faint, pad(mark, label-1, false) + " "}, {t.accent, l}}.String()
	}
	title := item{{t.strong, strings.Repeat(" ", label) + what}, {t.faint, fmt.Sprintf(" of all protocols, the last %v", long)}}
	return append([]string{"", title.String()}, lines...)
}

// titles draws the line of titles.
func (m *model) titles(slots []slot, gap int) string {
	var i item
	for n, s := range slots {
		if n > 0 {
			i = append(i, piece{m.theme.head, strings.Repeat(" ", gap)})
		}
		title, style := s.title(&m.mode, s.width), m.theme.head
		text := pad(title, s.width, s.left)
		if s.id == m.sort {
			arrow := m.glyphs.up
			if !s.left != m.reverse {
				arrow = m.glyphs.down
			}
			text = pad(title, s.width-1, s.left)
			if s.left && len(title) < s.width {
				text = title + arrow + strings.Repeat(" ", s.width-1-len(title))
			} else {
				text += arrow
			}
			style = m.theme.headSorted
		}
		i = append(i, piece{style, text})
	}
	return i.String()
}

// row draws a line of the table.
func (m *model) row(l *line, slots []slot, gap int, sum bool) string {
	t := m.theme
	idle := !(l.rates.now()[packets] > 0)
	var i item
	for n, s := range slots {
		if n > 0 {
			i = append(i, piece{t.plain, strings.Repeat(" ", gap)})
		}
		if s.text == nil {
			i = append(i, piece{t.accent, m.glyphs.spark.spark(&l.rates, m.weigh, s.width)})
			continue
		}
		text := s.text(&m.mode, l, &m.shown.sum, s.width)
		if len(text) > s.width && s.left {
			text = text[:s.width-1] + m.glyphs.dots
		} else {
			text = pad(text, s.width, s.left)
		}
		style := t.plain
		switch rate := s.id == packetRateColumn || s.id == byteRateColumn; {
		case sum:
			style = t.strong
		case rate && idle, s.id == familyColumn, s.id == shareColumn:
			style = t.faint
		case rate:
			style = t.strong
		}
		i = append(i, piece{style, text})
	}
	return i.String()
}

// said returns a sentence in lines: as many as it takes, but a few.
func (m *model) said(style ansi.Style, text string, width int) []string {
	const most = 3
	lines := strings.Split(ansi.Wrap(text, max(1, width), ""), "\n")
	if len(lines) > most {
		lines[most-1] = ansi.Truncate(strings.Join(lines[most-1:], " "), width, m.glyphs.dots)
		lines = lines[:most]
	}
	for i, l := range lines {
		lines[i] = item{{style, l}}.String()
	}
	return lines
}

// bottom is the last line: a question, or the keys; or the last few, an answer.
func (m *model) bottom(width int) ([]string, *tea.Cursor) {
	t, g := m.theme, m.glyphs
	switch {
	case m.ask == askCounter:
		prompt := "publish after so many packets: "
		if width < 60 {
			prompt = "counter: "
		}
		hint := "   Enter sets, Esc leaves it"
		if m.message != "" {
			hint = "   " + m.message
		}
		line := item{{t.strong, prompt}, {t.plain, m.input}, {t.faint, hint}}.String()
		return []string{line}, tea.NewCursor(len(prompt)+len(m.input), 0)
	case m.ask == askReset:
		question := "set all figures to zero? y/n"
		if width >= 60 {
			question = "reset: set all published and pending figures to zero? y/n"
		}
		return []string{item{{t.warn, question}}.String()}, nil
	case m.message != "":
		style := t.plain
		if m.failed {
			style = t.bad
		}
		return m.said(style, m.message, width), nil
	}
	act, on := "start", "p"
	if m.shown.doc != nil && m.shown.doc.Start == 1 {
		act = "stop"
	}
	hold := "pause"
	if m.paused {
		hold = "go on"
	}
	key := func(name, what string) item { return item{{t.key, name}, {t.faint, " " + what}} }
	all := []item{key("q", "quit"), key("?", "help"), key("s", act), key(on, hold), key("c", "counter"), key("r", "reset"),
		key(g.left, "sort"), key("o", "order"), key("b", [2]string{"bytes", "packets"}[m.weigh])}
	if m.ever {
		all = append(all, key("t", "since reset"))
	} else {
		all = append(all, key("t", "all time"))
	}
	if m.help {
		all = []item{key("?", "back"), key("q", "quit")}
	}
	var place []item
	if !m.help && m.rows > m.fits {
		place = []item{{{t.key, g.vertical}, {t.faint, fmt.Sprintf(" %d%s%d of %d", m.scroll+1, g.dash, min(m.rows, m.scroll+m.fits), m.rows)}}}
	}
	if len(place) > 0 {
		keys := flow(all, width-place[0].width()-2, 2, 1)
		return []string{spread([]item{{{t.plain, strings.Join(keys, "")}}}, place, width, 2)}, nil
	}
	return flow(all, width, 2, 1), nil
}

// helpText explains keys and columns.
func (m *model) helpText(width int) (lines []string) {
	g := m.glyphs
	for _, l := range [][2]string{
		{"s", "start or stop counting (root)"},
		{"c", "set counter: publish after so many packets (root)"},
		{"r", "reset: published and pending figures to zero (root)"},
		{g.left, "sort by the next column"},
		{"o", "the other order"},
		{"b", "history and share of bytes, or of packets"},
		{"t", "totals since the daemon started, or since the last reset"},
		{"p, space", "hold the picture; counting goes on"},
		{g.vertical + " PgUp PgDn", "scroll"},
		{"q", "quit"},
		{},
		{"packets/s", "packets counted per second, over the last interval"},
		{"packets", "all that were counted, published or not"},
		{"nout", "published TCP packets, as cat nout shows"},
		{"pending", "counted since the last publication"},
		{"uncounted", "passed the hook and were not counted"},
		{"gaps", "times in which nobody counted"},
	} {
		for i, part := range strings.Split(ansi.Wrap(l[1], max(12, width-15), ""), "\n") {
			name := l[0]
			if i > 0 {
				name = ""
			}
			lines = append(lines, item{{m.theme.key, name + strings.Repeat(" ", max(1, 15-ansi.StringWidth(name)))}, {m.theme.plain, part}}.String())
		}
	}
	return lines
}
