package top

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"kstat/view/tree"
	"kstat/view/tty"
)

// Top says what is looked at, and how.
type Top struct {
	Tree     tree.Tree
	Interval time.Duration
	NoColor  bool // so has the environment, by NO_COLOR
}

// Run shows the view on this process's terminal until somebody quits.
func (t *Top) Run() error {
	// At once, if there is nothing to look at. If a kstatd hangs, the view says
	// so.
	looked := make(chan error, 1)
	go func() {
		_, err := t.Tree.Stats()
		looked <- err
	}()
	select {
	case err := <-looked:
		if err != nil && !errors.Is(err, tree.ErrDead) {
			return err
		}
	case <-time.After(time.Second):
	}
	options := []tea.ProgramOption{tea.WithFilter(sized)}
	if t.NoColor || !tty.Colored(os.Stdout) {
		options = append(options, tea.WithColorProfile(colorprofile.ASCII))
	}
	_, err := tea.NewProgram(newModel(t.Tree, t.Interval, glyphsOf(os.Getenv)), options...).Run()
	if errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// sized gives a terminal that does not know its size, as those of serial lines
// and of some programs that make one, that of most.
func sized(_ tea.Model, msg tea.Msg) tea.Msg {
	if s, ok := msg.(tea.WindowSizeMsg); ok {
		return tea.WindowSizeMsg{Width: cmp.Or(s.Width, 80), Height: cmp.Or(s.Height, 24)}
	}
	return msg
}

// Once looks twice, an interval apart, and prints a table of what is there.
func (t *Top) Once(out io.Writer) error {
	m := newMeter()
	d, err := t.Tree.Stats()
	if err != nil {
		return err
	}
	m.observe(d, time.Now())
	time.Sleep(t.Interval)
	if d, err = t.Tree.Stats(); err != nil {
		return err
	}
	m.observe(d, time.Now())
	_, err = io.WriteString(out, plain(m.frame()))
	return err
}

// plain renders what is shown without a terminal's means, and with all digits.
func plain(f frame) string {
	var b strings.Builder
	d, state := f.doc, "stopped"
	if d.Start == 1 {
		state = "started"
	}
	fmt.Fprintf(&b, "%s, by %s at %s, nout %d, counter %d, pending %d, uncounted %d", state, d.Engine, d.Hook, d.NOut, d.Counter, d.Pending, d.Uncounted)
	for _, trouble := range []struct {
		n    uint64
		name string
	}{{d.Restarts, "worker restarts"}, {d.Repairs, "rule repairs"}, {d.Flushes, "queue flushes"}, {uint64(len(d.Gaps)), "gaps"}} {
		if trouble.n > 0 {
			fmt.Fprintf(&b, ", %s %d", trouble.name, trouble.n)
		}
	}
	b.WriteString("\n\n")
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "protocol\tfamily\tpackets/s\tbytes/s\tpackets\tbytes\tshare\t")
	order := mode{sort: packetsColumn}
	for _, l := range append(order.sorted(f.lines), f.sum) {
		rates := l.rates.now()
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t\n", l.name, l.family, exact(rates[packets]), exact(rates[bytes]),
			l.live[packets], l.live[bytes], percent(l.live[packets], f.sum.live[packets]))
	}
	_ = table.Flush() // into memory
	return b.String()
}

// exact renders a rate for programs.
func exact(v float64) string {
	if v != v {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}
