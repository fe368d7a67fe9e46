package top

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"kstat/fs"
	"kstat/view/tree"
)

// driven is a model without a terminal.
type driven struct {
	*model
	t  *testing.T
	at time.Time
}

func drive(t *testing.T, g *glyphs) *driven {
	where, err := tree.Find("/run/kstat")
	if err != nil {
		t.Fatal(err)
	}
	d := &driven{newModel(where, time.Second, g), t, start}
	d.clock = start
	d.send(tea.WindowSizeMsg{Width: 100, Height: 24})
	return d
}

func (d *driven) send(msg tea.Msg) tea.Cmd {
	_, cmd := d.Update(msg)
	return cmd
}

// read gives it a document, a second later.
func (d *driven) read(doc *fs.Document) {
	d.at = d.at.Add(time.Second)
	d.send(sampled{doc: doc, at: d.at})
}

func (d *driven) key(keys ...string) (cmd tea.Cmd) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		switch k {
		case "left":
			msg = tea.KeyPressMsg{Code: tea.KeyLeft}
		case "right":
			msg = tea.KeyPressMsg{Code: tea.KeyRight}
		case "enter":
			msg = tea.KeyPressMsg{Code: tea.KeyEnter}
		case "esc":
			msg = tea.KeyPressMsg{Code: tea.KeyEscape}
		case "end":
			msg = tea.KeyPressMsg{Code: tea.KeyEnd}
		}
		cmd = d.send(msg)
	}
	return cmd
}

// screen returns the lines that are shown, without styles.
func (d *driven) shows() string { return ansi.Strip(d.View().Content) }

func (d *driven) expect(parts ...string) {
	d.t.Helper()
	text := d.shows()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			d.t.Errorf("no %q in\n%s", part, text)
		}
	}
}

// many is a document with a line for each of so many protocols, all figures as
// large as can be.
func many(n int) *fs.Document {
	d := document(1, 5, 0)
	d.Protocols = nil
	for i := range n {
		all := fs.Figures{Packets: 1<<64 - 1, Bytes: 1<<64 - 1}
		d.Protocols = append(d.Protocols, fs.Protocol{Name: fmt.Sprintf("protocol-with-a-long-name-%d", i), Number: &i, Family: "ipv6", Live: all, Total: all})
	}
	d.NOut, d.Pending, d.Uncounted, d.Counter = 1<<64-1, 1<<32-1, 1<<64-1, 1<<32-1
	d.Restarts, d.Repairs, d.Flushes = 1<<64-1, 1<<64-1, 1<<64-1
	d.Gaps = []fs.Gap{{Since: start, Seconds: 1234.5}}
	return d
}

// TestNoOverflow: whatever is shown, in whatever terminal, stays in it.
func TestNoOverflow(t *testing.T) {
	for _, g := range []*glyphs{&unicode, &ascii} {
		d := drive(t, g)
		states := map[string]func(){
			"nothing": func() {},
			"many":    func() { d.read(many(30)); d.read(many(30)) },
			"few":     func() { d.read(document(1, 5, 6)) },
			"end":     func() { d.read(many(30)); d.key("end") },
			"help":    func() { d.key("?") },
			"counter": func() { d.key("?", "c", "4", "2", "9", "4", "9", "6", "7", "2", "9", "5", "9", "x") },
			"reset":   func() { d.key("esc", "r") },
			"answer":  func() { d.key("n"); d.send(stored{err: errors.New(strings.Repeat("long words ", 30))}) },
			"gone":    func() { d.send(sampled{err: errors.New(strings.Repeat("long words ", 30)), at: d.at}) },
			"paused":  func() { d.key("p", "t", "b") },
		}
		for _, state := range []string{"nothing", "many", "few", "end", "help", "counter", "reset", "answer", "gone", "paused"} {
			states[state]()
			for width := 1; width <= 220; width += 1 + width/6 {
				for _, height := range []int{1, 2, 4, 10, 14, 24, 60} {
					d.send(tea.WindowSizeMsg{Width: width, Height: height})
					lines := strings.Split(d.View().Content, "\n")
					if len(lines) > height {
						t.Errorf("%s: %d lines in %dx%d", state, len(lines), width, height)
					}
					for _, l := range lines {
						if w := ansi.StringWidth(l); w > width {
							t.Errorf("%s: a line of %d columns in %dx%d: %q", state, w, width, height, ansi.Strip(l))
						}
					}
				}
			}
		}
	}
}

// TestColumns: which columns are there, as the terminal gets narrower.
func TestColumns(t *testing.T) {
	for _, c := range []struct {
		width int
		want  string
	}{
		{200, "protocol family packets/s bytes/s packets▼ bytes share packets/s, 1m0s"},
		{87, "protocol family packets/s bytes/s packets▼ bytes share last 10s"},
		{80, "protocol family packets/s bytes/s packets▼ bytes last 11s"},
		{60, "protocol family packets/s bytes/s packets▼ last 10s"},
		{50, "protocol family packets/s bytes/s packets▼"},
		{40, "protocol family packets/s packets▼"},
		{34, "protocol packets/s packets▼"},
		{24, "protocol packets/s"},
		{12, "protocol"},
	} {
		d := drive(t, &unicode)
		d.read(document(1, 5, 6))
		d.send(tea.WindowSizeMsg{Width: c.width, Height: 24})
		found := ""
		for line := range strings.Lines(d.shows()) {
			if strings.HasPrefix(line, " protocol") {
				found = strings.Join(strings.Fields(line), " ")
			}
		}
		if found != c.want {
			t.Errorf("in %d columns: %q, want %q", c.width, found, c.want)
		}
	}
}

// TestNarrowSentences: what is said is said to its end in 40 columns, too.
func TestNarrowSentences(t *testing.T) {
	d := drive(t, &unicode)
	d.send(tea.WindowSizeMsg{Width: 40, Height: 40})
	d.read(document(1, 5, 6))
	all := func() string { return strings.Join(strings.Fields(d.shows()), " ") }
	for what, do := range map[string]func(){
		"start: permission denied: only root may write it (sudo)": func() { d.send(stored{err: errors.New("start: permission denied: only root may write it (sudo)")}) },
		"no kstatd is mounted on /mnt/t: start one there, or name another directory by --mount": func() {
			d.send(sampled{err: errors.New("no kstatd is mounted on /mnt/t: start one there, or name another directory by --mount"), at: d.at})
		},
		"totals since the daemon started, or since the last reset": func() { d.key("?") },
	} {
		if do(); !strings.Contains(all(), what) {
			t.Errorf("no %q in\n%s", what, d.shows())
		}
	}
}

// TestScreen is a whole picture.
func TestScreen(t *testing.T) {
	d := drive(t, &ascii)
	d.read(document(1, 1000, 20))
	d.read(document(1, 3500, 20))
	doc := document(1, 3500, 21)
	doc.Uncounted, doc.Gaps, doc.Restarts = 12, []fs.Gap{{Since: start.Local(), Seconds: 0.3}}, 1
	d.read(doc)
	d.send(tea.WindowSizeMsg{Width: 92, Height: 14})
	d.clock = start.Local()
	at := d.clock.Format("15:04:05")
	want := `
 kstat top   * started                                      every 1s   /run/kstat   ` + at + `
 nout 3,500   counter 10   pending 0   uncounted 12                by nfqueue at postrouting
 worker restarts 1   gaps 1   the last at ` + at + ` for 0.3 s

 protocol    family  packets/s   bytes/s     packetsv         bytes   share  packets/s, 15s
 tcp         ipv4            0         0        3,500       350,000   99.4%               *_
 icmp        ipv4            1        10           21           210    0.6%               _*
 total                       1        10        3,521       350,210    100%               *.




 q quit  ? help  s stop  p pause  c counter  r reset  <> sort  o order  b bytes  t all time`
	got := d.shows()
	if trim(got) != trim(want) {
		t.Errorf("it shows\n%s\nwant\n%s", got, want)
	}
	if styled := d.View().Content; !strings.Contains(styled, "38;2;255;95;95muncounted 12") {
		t.Errorf("uncounted is not red: %q", styled)
	}
	d.send(tea.BackgroundColorMsg{}) // no colour at all counts as dark
	d.expect("uncounted 12")
}

// trim takes the blanks at the ends of lines away.
func trim(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text + "\n") {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// TestQuestions: what is typed is what is written, and nothing without being
// asked for.
func TestQuestions(t *testing.T) {
	d := drive(t, &unicode)
	d.read(document(1, 5, 0))
	dir := t.TempDir()
	for _, name := range []string{"counter", "reset", "start"} {
		if err := os.WriteFile(dir+"/"+name, []byte("?"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.tree, _ = tree.Find(dir)
	file := func(name, want string) {
		t.Helper()
		if text, err := os.ReadFile(dir + "/" + name); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v, want %q", name, text, err, want)
		}
	}
	for _, wrong := range []string{"", "0", "00", "4294967296", "9999999999"} {
		d.key("c")
		d.send(tea.PasteMsg{Content: wrong})
		if cmd := d.key("enter"); cmd != nil {
			t.Errorf("%q is written", wrong)
		}
		d.expect("a number from 1 to 4294967295")
		d.key("esc")
	}
	d.key("c")
	d.send(tea.PasteMsg{Content: " 42949672951 \n"}) // of which there is room for so much
	d.send(d.key("enter")())
	file("counter", "4294967295")
	d.expect("counter is 4294967295")
	d.key("r", "n", "r", "esc", "r", "q")
	file("reset", "?")
	d.key("r")
	d.send(d.key("y")())
	file("reset", "1")
	d.send(d.key("s")())
	file("start", "0")
	d.expect("counting stopped")

	d.tree, _ = tree.Find(dir + "/none")
	d.send(d.key("s")())
	d.expect("no kstatd is mounted on " + dir + "/none: start one there")
	if cmd := d.key("q"); cmd == nil || cmd() != (tea.QuitMsg{}) {
		t.Error("q does not quit")
	}
}

// TestLate: a tree that does not answer is not asked again until it does.
func TestLate(t *testing.T) {
	d := drive(t, &unicode)
	d.Init()
	d.asked = time.Now().Add(-3 * time.Second)
	d.read(document(1, 5, 0))
	if d.onTick(start); d.asked.IsZero() {
		t.Error("it is not asked at a tick")
	}
	d.asked = time.Now().Add(-3 * time.Second)
	before := d.asked
	d.onTick(start)
	d.expect("✗ no answer for 3s")
	if d.asked != before {
		t.Error("it is asked again")
	}
	d.send(sampled{doc: document(1, 5, 0), at: start, extra: true})
	d.expect("no answer")
	d.read(document(1, 6, 0))
	d.expect("● started")
	d.send(sampled{err: fmt.Errorf("%w", syscall.EIO), at: start})
	d.expect("✗ no figures", "input/output error")
}

// TestSort: every column, both ways, and what is equal in the order of the file
// protocols.
func TestSort(t *testing.T) {
	l := func(name string, number int, family string, live, total uint64, rate float64) line {
		one := line{class: class{name, family}, number: number, live: [2]uint64{live, 1000 - live}, total: [2]uint64{total, total}, rates: *newHistory()}
		one.rates.push(pair{rate, -rate})
		return one
	}
	lines := []line{
		l("udp", 17, "ipv4", 5, 70, 1),
		l("tcp", 6, "ipv6", 9, 60, unknown),
		l("tcp", 6, "ipv4", 5, 50, 3),
		l("other", 256, "ipv4", 7, 80, 2),
	}
	for _, c := range []struct {
		by      columnID
		ever    bool
		reverse bool
		want    string
	}{
		{protocolColumn, false, false, "tcp/ipv4 tcp/ipv6 udp/ipv4 other/ipv4"},
		{protocolColumn, false, true, "other/ipv4 udp/ipv4 tcp/ipv4 tcp/ipv6"},
		{familyColumn, false, false, "tcp/ipv4 udp/ipv4 other/ipv4 tcp/ipv6"},
		{packetsColumn, false, false, "tcp/ipv6 other/ipv4 tcp/ipv4 udp/ipv4"},
		{packetsColumn, true, false, "other/ipv4 udp/ipv4 tcp/ipv6 tcp/ipv4"},
		{packetsColumn, false, true, "tcp/ipv4 udp/ipv4 other/ipv4 tcp/ipv6"},
		{bytesColumn, false, false, "tcp/ipv4 udp/ipv4 other/ipv4 tcp/ipv6"},
		{shareColumn, true, true, "tcp/ipv4 tcp/ipv6 udp/ipv4 other/ipv4"},
		{packetRateColumn, false, false, "tcp/ipv4 other/ipv4 udp/ipv4 tcp/ipv6"},
		{byteRateColumn, false, false, "udp/ipv4 other/ipv4 tcp/ipv4 tcp/ipv6"},
	} {
		m := mode{sort: c.by, ever: c.ever, reverse: c.reverse}
		var names []string
		for _, l := range m.sorted(lines) {
			names = append(names, l.name+"/"+l.family)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("by %d, %v, %v: %s, want %s", c.by, c.ever, c.reverse, got, c.want)
		}
	}
}

func TestGlyphs(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want *glyphs
	}{
		{nil, &ascii},
		{map[string]string{"LANG": "C.UTF-8"}, &unicode},
		{map[string]string{"LANG": "de_DE@euro"}, &ascii},
	} {
		if got := glyphsOf(func(name string) string { return c.env[name] }); got != c.want {
			t.Errorf("%v: %v", c.env, got)
		}
	}
}

// Two samples that are close together, as the first two may be, make no rate.
func TestSoon(t *testing.T) {
	d := drive(t, &unicode)
	d.read(document(1, 5, 0))
	d.send(sampled{doc: document(1, 15, 0), at: d.at.Add(2 * time.Millisecond)})
	if now := d.meter.sum.now()[packets]; now == now || d.shown.doc.Protocols[0].Total.Packets != 15 {
		t.Errorf("after 2 ms: %v per second, %+v", now, d.shown.doc)
	}
	d.read(document(1, 25, 0))
	if now := d.meter.sum.now()[packets]; now != 20 {
		t.Errorf("after a second: %v per second, want 20", now)
	}
}

// A sample that is late leaves its place in the history blank, and its rate is
// that of all the time since the one before.
func TestLateHistory(t *testing.T) {
	d := drive(t, &unicode)
	d.read(document(1, 5, 0))
	d.read(document(1, 5, 0))
	d.asked = time.Now()
	d.send(tick(d.at.Add(time.Second)))
	d.send(tick(d.at.Add(2 * time.Second)))
	d.at = d.at.Add(time.Second)
	d.read(document(1, 25, 0))
	h := d.meter.sum
	if late := h[kept-2][packets]; late == late || h.now()[packets] != 10 || d.late != 0 {
		t.Errorf("%v, and then %v per second", late, h.now()[packets])
	}
}
