package top

import (
	"math"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kstat/fs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 20, 10, 20, 30, 0, time.UTC)

// document makes one of a daemon, with TCP over IPv4 and, if there are any,
// ICMP packets of 10 bytes each.
func document(pid int, tcp, icmp uint64) *fs.Document {
	six, one := 6, 1
	d := &fs.Document{Schema: 1, Start: 1, Counter: 10, Engine: "nfqueue", Hook: "postrouting", PID: pid, NOut: tcp, Publications: tcp}
	if icmp > 0 {
		f := fs.Figures{Packets: icmp, Bytes: 10 * icmp}
		d.Protocols = append(d.Protocols, fs.Protocol{Name: "icmp", Number: &one, Family: "ipv4", Live: f, Total: f})
	}
	f := fs.Figures{Packets: tcp, Bytes: 100 * tcp}
	d.Protocols = append(d.Protocols, fs.Protocol{Name: "tcp", Number: &six, Family: "ipv4", Live: f, Total: f})
	return d
}

// same compares rates, of which two that are unknown are the same.
func same(a, b pair) bool {
	for i := range a {
		if a[i] != b[i] && !(math.IsNaN(a[i]) && math.IsNaN(b[i])) {
			return false
		}
	}
	return true
}

func TestMeter(t *testing.T) {
	none, at := pair{unknown, unknown}, start
	m := newMeter()
	for i, step := range []struct {
		doc            *fs.Document // nil: could not be read
		after          time.Duration
		tcp, icmp, sum pair
		another        bool
	}{
		{document(1, 1000, 0), 0, none, none, none, false},
		{document(1, 1010, 0), time.Second, pair{10, 1000}, none, pair{10, 1000}, false},
		{document(1, 1010, 4), 2 * time.Second, pair{0, 0}, pair{2, 20}, pair{2, 20}, false}, // one that is new begins at 0
		{document(1, 1015, 4), 500 * time.Millisecond, pair{10, 1000}, pair{0, 0}, pair{10, 1000}, false},
		{nil, time.Second, none, none, none, false},
		{document(1, 2000, 5), time.Second, none, none, none, false}, // since when is not known
		{document(1, 2001, 5), time.Second, pair{1, 100}, pair{0, 0}, pair{1, 100}, false},
		{document(2, 3, 1), time.Second, none, none, none, true}, // restarted: no rate, least of all a negative one
		{document(2, 4, 1), time.Second, pair{1, 100}, pair{0, 0}, pair{1, 100}, false},
		{document(2, 3, 1), time.Second, none, none, none, true},                          // by the same number, but it has published less
		{document(2, 1<<63, 1), 0, none, none, none, false},                               // no time has passed
		{document(2, 1<<63, 2), time.Second, pair{0, 0}, pair{1, 10}, pair{1, 10}, false}, // bytes have wrapped
	} {
		at = at.Add(step.after)
		another := false
		if step.doc == nil {
			m.miss()
		} else {
			another = m.observe(step.doc, at)
		}
		if another != step.another {
			t.Errorf("step %d: another %v", i, another)
		}
		if got := m.sum.now(); !same(got, step.sum) {
			t.Errorf("step %d: sum %v, want %v", i, got, step.sum)
		}
		for _, c := range []struct {
			name string
			want pair
		}{{"tcp", step.tcp}, {"icmp", step.icmp}} {
			got := none
			if h := m.histories[class{c.name, "ipv4"}]; h != nil {
				got = h.now()
			}
			if !same(got, c.want) {
				t.Errorf("step %d: %s %v, want %v", i, c.name, got, c.want)
			}
		}
	}

	// A look between two samples moves figures alone.
	m.refresh(document(2, 1<<63, 7))
	f := m.frame()
	if f.sum.total[packets] != 1<<63+7 || f.lines[0].live[packets] != 7 || !same(m.sum.now(), pair{1, 10}) {
		t.Errorf("%+v", f)
	}
	m.refresh(document(3, 1, 1))
	if m.doc.PID != 2 {
		t.Error("a look between two samples is at another daemon")
	}
	m.refresh(document(2, 1, 1)) // a container's has the same number
	if got := m.frame().lines[0].total[packets]; got != 7 {
		t.Errorf("a look between two samples is at another daemon of the same number: %d", got)
	}
	m.observe(document(2, 1<<63, 7), at.Add(time.Second))
	if got := m.histories[class{"icmp", "ipv4"}].now(); !same(got, pair{5, 50}) {
		t.Errorf("rates after a look between: %v", got)
	}
}

// A history keeps so many samples, and its frame does not move.
func TestHistory(t *testing.T) {
	m := newMeter()
	for i := range uint64(kept + 10) {
		m.observe(document(1, i*i, 0), start.Add(time.Duration(i)*time.Second))
	}
	f := m.frame()
	m.observe(document(1, 1<<40, 0), start.Add(time.Hour))
	h := f.lines[0].rates
	for i, v := range h {
		n := float64(10 + i) // (n+1)² - n² = 2n+1, for the sample of n+1
		if want := 2*(n-1) + 1; v[packets] != want || v[bytes] != 100*want {
			t.Fatalf("sample %d: %v, want %v", i, v, want)
		}
	}
}
