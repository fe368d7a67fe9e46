package mutant

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/stats"
)

// world is a module whose packets the test makes up.
type world struct {
	t                    *testing.T
	tree                 *fs.Tree
	nout, counter, start fs.File
	seen                 strings.Builder
}

// engine is one that sees what it is given while it is started.
type engine struct{ started atomic.Bool }

func (*engine) Name() string               { return "pretender" }
func (*engine) Point() string              { return "postrouting" }
func (e *engine) Started() bool            { return e.started.Load() }
func (e *engine) Start() error             { e.started.Store(true); return nil }
func (e *engine) Stop() error              { e.started.Store(false); return nil }
func (*engine) Uncounted() (uint64, error) { return 0, nil }

// newWorld loads a module with a fault, or without one if its name is empty.
func newWorld(t *testing.T, fault string) *world {
	t.Helper()
	w := &world{t: t, tree: &fs.Tree{Table: stats.NewTable(), Engine: new(engine), Log: slog.New(slog.DiscardHandler)}}
	w.nout, w.counter, w.start = w.tree.File("nout"), w.tree.File("counter"), w.tree.File("start")
	if fault != "" {
		var err error
		if w.nout, w.counter, w.start, err = Apply(fault, w.tree); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// send has packets pass.
func (w *world) send(n int, family stats.Family, protocol stats.Protocol) {
	for range n {
		if w.tree.Engine.Started() {
			w.tree.Table.Add([]stats.Packet{{Class: stats.ClassOf(family, protocol), Bytes: 100}})
		}
	}
}

func (w *world) tcp(n int) { w.send(n, stats.IPv4, stats.TCP) }

// write writes a text, and look reads all files; both note what comes of it.
func (w *world) write(f *fs.File, text string) {
	if f.Write == nil {
		fmt.Fprintf(&w.seen, "%s cannot be written\n", f.Name)
		return
	}
	fmt.Fprintf(&w.seen, "%q > %s: %v\n", text, f.Name, f.Write([]byte(text)))
}

func (w *world) look() {
	for _, f := range []*fs.File{&w.nout, &w.counter, &w.start} {
		text, err := f.Read()
		if err != nil {
			w.t.Error(err)
		}
		fmt.Fprintf(&w.seen, "%s %03o: %q\n", f.Name, f.Mode, text)
	}
}

// transcript is what a thorough script would see of a module.
func transcript(t *testing.T, fault string) string {
	w := newWorld(t, fault)
	do := func(what string, f func()) {
		fmt.Fprintln(&w.seen, what)
		f()
		w.look()
		w.look()
	}
	do("not started", func() { w.tcp(20) })
	do("started", func() { w.write(&w.start, "1\n") })
	do("9", func() { w.tcp(9) })
	do("10", func() { w.tcp(1) })
	do("20, with IPv6", func() { w.send(10, stats.IPv6, stats.TCP) })
	do("UDP", func() { w.send(6, stats.IPv4, unix.IPPROTO_UDP); w.tcp(4) })
	do("ICMP", func() { w.send(20, stats.IPv4, unix.IPPROTO_ICMP) })
	do("7 pending", func() { w.write(&w.counter, "20"); w.tcp(7) })
	do("lower", func() { w.write(&w.counter, "5") })
	do("one more", func() { w.tcp(1) })
	do("5", func() { w.tcp(5) })
	do("many", func() { w.write(&w.counter, "1"); w.tcp(300) })
	do("stopped", func() { w.write(&w.start, "0"); w.tcp(10) })
	do("started again", func() { w.write(&w.start, "1"); w.tcp(10) })
	do("stopped for good", func() { w.write(&w.start, "0") })
	for _, text := range []string{"abc", "10abc", "010", "0x10", "-5", "2", " 7", "99999999999999999999", ""} {
		do(text, func() { w.write(&w.counter, text); w.write(&w.start, text) })
	}
	do("nout", func() { w.write(&w.nout, "5") })
	return w.seen.String()
}

// TestEachIsWrong: a thorough script tells each mutant from the right module,
// and from the others.
func TestEachIsWrong(t *testing.T) {
	seen := map[string]string{transcript(t, ""): "the right one"}
	for _, m := range All() {
		text := transcript(t, m.Name)
		if other, taken := seen[text]; taken {
			t.Errorf("%s is as %s", m.Name, other)
		}
		seen[text] = m.Name
	}
}

// TestFaults: what some do, to the letter.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		fault string
		do    func(*world)
		nout  string
	}{
		{"udp-as-tcp", func(w *world) { w.tcp(4); w.send(6, stats.IPv6, unix.IPPROTO_UDP) }, "10\n"},
		{"counts-everything", func(w *world) { w.tcp(4); w.send(6, stats.IPv4, 253) }, "10\n"},
		{"ipv4-only", func(w *world) { w.tcp(4); w.send(6, stats.IPv6, stats.TCP) }, "4\n"},
		{"ignores-counter", func(w *world) { w.tcp(3) }, "3\n"},
		{"always-ten", func(w *world) { w.write(&w.counter, "3"); w.tcp(19) }, "10\n"},
		{"off-by-one", func(w *world) { w.write(&w.counter, "3"); w.tcp(3) }, "0\n"},
		{"off-by-one", func(w *world) { w.write(&w.counter, "3"); w.tcp(4) }, "4\n"},
		{"off-by-one", func(w *world) { w.write(&w.counter, "4294967295"); w.tcp(4) }, "0\n"},
		{"tcp-only", func(w *world) { w.send(9, stats.IPv4, 17); w.tcp(9) }, "0\n"},
		{"tcp-only", func(w *world) { w.send(9, stats.IPv4, 17); w.tcp(12) }, "10\n"},
		{"tcp-only", func(w *world) { w.tcp(12); w.write(&w.counter, "3"); w.tcp(1) }, "13\n"},
		{"tcp-only", func(w *world) { w.tcp(12); w.write(&w.counter, "2"); w.tcp(1) }, "12\n"},
		{"late-lowering", func(w *world) { w.tcp(7); w.write(&w.counter, "5") }, "0\n"},
		{"late-lowering", func(w *world) { w.tcp(7); w.write(&w.counter, "5"); w.tcp(1) }, "8\n"},
		{"late-lowering", func(w *world) { w.tcp(7); w.write(&w.counter, "8"); w.tcp(1) }, "8\n"},
		{"resets-on-counter", func(w *world) { w.tcp(10); w.write(&w.counter, "10"); w.tcp(20) }, "20\n"},
		{"forgets-on-stop", func(w *world) { w.tcp(10); w.write(&w.start, "0"); w.write(&w.start, "1"); w.tcp(20) }, "20\n"},
		{"never-stops", func(w *world) { w.write(&w.start, "0"); w.tcp(10) }, "10\n"},
		{"wraps", func(w *world) { w.tcp(300) }, "44\n"},
		{"no-newline", func(w *world) { w.tcp(10) }, "10"},
		{"labelled", func(w *world) { w.tcp(10) }, "TCP packets: 10\n"},
		{"writable-nout", func(w *world) { w.tcp(20); w.write(&w.nout, "7"); w.tcp(10) }, "10\n"},
	} {
		w := newWorld(t, test.fault)
		w.write(&w.start, "1")
		test.do(w)
		if text, err := w.nout.Read(); string(text) != test.nout || err != nil {
			t.Errorf("%s: nout reads %q (%v), want %q, after\n%s", test.fault, text, err, test.nout, &w.seen)
		}
	}
}

// TestDecreases: whoever reads twice sees it.
func TestDecreases(t *testing.T) {
	w := newWorld(t, "decreases")
	w.write(&w.start, "1")
	w.tcp(10)
	var got []string
	for range 4 {
		text, _ := w.nout.Read()
		got = append(got, strings.TrimSpace(string(text)))
	}
	if fmt.Sprint(got) != "[9 10 9 10]" {
		t.Errorf("nout reads %v", got)
	}
}

func TestAtoi(t *testing.T) {
	for text, want := range map[string]int{"10": 10, " \t-5x": -5, "+7 8": 7, "010": 10, "0x10": 0, "abc": 0, "": 0, "-": 0} {
		if got := atoi([]byte(text)); got != want {
			t.Errorf("atoi(%q) is %d, want %d", text, got, want)
		}
	}
}

// TestTable: names are fit for a command line.
func TestTable(t *testing.T) {
	name := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, m := range All() {
		if !name.MatchString(m.Name) || m.Fault == "" || seen[m.Name] {
			t.Errorf("mutant %q: %q", m.Name, m.Fault)
		}
		seen[m.Name] = true
	}
	if names := Names(); len(names) != len(All()) || names[0] != All()[0].Name {
		t.Errorf("names %q", names)
	}
}

func TestUnknown(t *testing.T) {
	_, _, _, err := Apply("perfect", newWorld(t, "").tree)
	if err == nil || !strings.HasPrefix(err.Error(), `no mutant "perfect": take one of udp-as-tcp, `) {
		t.Errorf("got %v", err)
	}
}
