package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"kstat/fs"
	"kstat/view/tree"
)

// model is all that the view knows. It belongs to the goroutine of bubbletea's
// loop.
type model struct {
	mode
	tree   tree.Tree
	theme  *theme
	glyphs *glyphs

	width, height int // of the terminal, 0 until it is known
	clock         time.Time

	meter     *meter
	shown     frame
	paused    bool
	err       error         // why there are no figures now
	asked     time.Time     // when the tree was asked that has not answered, else zero
	late      time.Duration // for how long it has not, at the last tick
	restarted int           // so many more ticks it is said that there is another daemon

	scroll, fits, rows int // lines of the table: above, that have room, in all
	help               bool
	ask                question
	input              string // of the counter
	message            string // an answer, until the next key
	failed             bool   // it is bad news
}

// question is what is asked of the user.
type question int

const (
	askNothing question = iota
	askCounter
	askReset
)

// What bubbletea's goroutines tell.
type (
	tick    time.Time
	sampled struct {
		doc   *fs.Document
		err   error
		at    time.Time
		extra bool // between two ticks
	}
	stored struct {
		what string
		err  error
	}
)

func newModel(t tree.Tree, interval time.Duration, g *glyphs) *model {
	return &model{
		mode:   mode{interval: interval, sort: packetsColumn},
		tree:   t,
		theme:  themeFor(true),
		glyphs: g,
		clock:  time.Now(),
		meter:  newMeter(),
	}
}

// Init begins to look.
func (m *model) Init() tea.Cmd {
	m.asked = time.Now()
	return tea.Batch(m.sample(false), m.tick(), tea.RequestBackgroundColor)
}

// tick waits for the next interval, which begins with a second of the clock
// where it can.
func (m *model) tick() tea.Cmd {
	return tea.Every(m.interval, func(t time.Time) tea.Msg { return tick(t) })
}

// sample reads the tree.
func (m *model) sample(extra bool) tea.Cmd {
	t := m.tree
	return func() tea.Msg {
		d, err := t.Stats()
		return sampled{d, err, time.Now(), extra}
	}
}

// store writes a file of the tree.
func (m *model) store(name, value, done string) tea.Cmd {
	t := m.tree
	return func() tea.Msg {
		if err := t.Write(name, value); err != nil {
			return stored{err: err}
		}
		return stored{what: done}
	}
}

// Update takes what has happened.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.BackgroundColorMsg:
		m.theme = themeFor(msg.IsDark())
	case tick:
		return m, m.onTick(time.Time(msg))
	case sampled:
		m.onSample(msg)
	case stored:
		m.message, m.failed = msg.what, false
		if msg.err != nil {
			m.message, m.failed = msg.err.Error(), true
		}
		return m, m.sample(true)
	case tea.PasteMsg:
		if m.ask == askCounter {
			m.typed(msg.Content)
		}
	case tea.KeyPressMsg:
		return m, m.onKey(msg)
	}
	return m, nil
}

func (m *model) onTick(at time.Time) tea.Cmd {
	m.clock = at
	m.restarted = max(0, m.restarted-1)
	if !m.asked.IsZero() {
		m.late = time.Since(m.asked)
		m.meter.wait()
		return m.tick()
	}
	m.asked = time.Now()
	return tea.Batch(m.sample(false), m.tick())
}

func (m *model) onSample(s sampled) {
	if !s.extra {
		m.asked, m.late = time.Time{}, 0
	}
	m.err = s.err
	switch {
	case s.err != nil && s.extra:
	case s.err != nil:
		m.meter.miss()
	case s.extra, m.meter.base != nil && s.at.Sub(m.meter.at) < m.interval/2:
		// The first tick, and one behind a late answer, come at once: a rate
		// over so short a time says little, and would set the scale.
		m.meter.refresh(s.doc)
	case m.meter.observe(s.doc, s.at):
		m.restarted = 10
	}
	if !m.paused && m.meter.doc != nil {
		m.shown = m.meter.frame()
	}
}

// onKey does what a key is for.
func (m *model) onKey(k tea.KeyPressMsg) tea.Cmd {
	name := k.String()
	switch name {
	case "ctrl+c":
		return tea.Quit
	case "ctrl+z":
		return tea.Suspend
	}
	switch m.ask {
	case askCounter:
		return m.onCounterKey(name, k.Text)
	case askReset:
		m.ask = askNothing
		if name == "y" || name == "Y" {
			m.message, m.failed = "resetting"+m.glyphs.dots, false
			return m.store("reset", "1", "all figures were set to zero")
		}
		return nil
	}
	m.message = ""
	page := max(1, m.fits-1)
	switch name {
	case "q":
		return tea.Quit
	case "?", "h":
		m.help, m.scroll = !m.help, 0
	case "esc":
		m.help, m.scroll = false, 0
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup":
		m.scroll -= page
	case "pgdown":
		m.scroll += page
	case "home", "g":
		m.scroll = 0
	case "end", "G":
		m.scroll = 1 << 20 // the view takes it back to what there is
	default:
		if !m.help {
			return m.onTableKey(name)
		}
	}
	m.scroll = max(0, m.scroll)
	return nil
}

// onTableKey does what a key is for while the table is there.
func (m *model) onTableKey(name string) tea.Cmd {
	switch name {
	case "s":
		if m.shown.doc == nil {
			return nil
		}
		if m.meter.doc.Start == 1 {
			m.message, m.failed = "stopping"+m.glyphs.dots, false
			return m.store("start", "0", "counting stopped")
		}
		m.message, m.failed = "starting"+m.glyphs.dots, false
		return m.store("start", "1", "counting started")
	case "c":
		m.ask, m.input = askCounter, ""
	case "r":
		m.ask = askReset
	case "p", "space":
		m.paused = !m.paused
		if !m.paused && m.meter.doc != nil {
			m.shown = m.meter.frame()
		}
	case "b":
		m.weigh = 1 - m.weigh
	case "t":
		m.ever = !m.ever
	case "o":
		m.reverse = !m.reverse
	case "left", "<":
		m.sortBy(-1)
	case "right", ">":
		m.sortBy(+1)
	}
	return nil
}

// sortBy goes to the next column that is shown and sorts, in its own order.
func (m *model) sortBy(step int) {
	slots, _ := arrange(m.width - 1)
	var ids []columnID
	here := 0
	for _, s := range slots {
		if s.order != nil {
			if s.id <= m.sort {
				here = len(ids)
			}
			ids = append(ids, s.id)
		}
	}
	if len(ids) == 0 {
		return
	}
	m.sort, m.reverse = ids[(here+step+len(ids))%len(ids)], false
}

// onCounterKey edits the number that is asked for.
func (m *model) onCounterKey(name, text string) tea.Cmd {
	m.message = ""
	switch name {
	case "esc":
		m.ask = askNothing
	case "enter":
		n, err := strconv.ParseUint(m.input, 10, 32)
		if err != nil || n == 0 {
			m.message = "a number from 1 to 4294967295"
			return nil
		}
		m.ask = askNothing
		return m.store("counter", m.input, fmt.Sprintf("counter is %d", n))
	case "backspace", "ctrl+h":
		m.input = m.input[:max(0, len(m.input)-1)]
	case "ctrl+u":
		m.input = ""
	default:
		m.typed(text)
	}
	return nil
}

// typed adds digits to the number, as long as one can be that long.
func (m *model) typed(text string) {
	for _, c := range strings.TrimSpace(text) {
		if c < '0' || c > '9' {
			m.message = "digits only"
			return
		}
		if len(m.input) < len("4294967295") {
			m.input += string(c)
		}
	}
}
