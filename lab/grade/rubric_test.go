package grade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// files is a target of three plain files, which counts nothing.
func files(t *testing.T) Target {
	t.Helper()
	dir := t.TempDir()
	target := Target{
		Nout:    filepath.Join(dir, "nout"),
		Counter: filepath.Join(dir, "counter"),
		Start:   filepath.Join(dir, "start"),
		Alone:   true,
		Name:    "three files",
	}
	for path, text := range map[string]string{target.Nout: "0\n", target.Counter: "10\n", target.Start: "0\n"} {
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return target
}

// pick keeps the named items of a rubric.
func pick(r *Rubric, ids ...string) *Rubric {
	r.Items = slices.DeleteFunc(r.Items, func(item Item) bool { return !slices.Contains(ids, item.ID) })
	return r
}

// ends is an experiment that ends so.
func ends(v Verdict) func(context.Context, *Bench) Verdict {
	return func(context.Context, *Bench) Verdict { return v }
}

// TestRun: items are tried in their order, whatever becomes of the others, and
// each is told of before and after.
func TestRun(t *testing.T) {
	r := &Rubric{Title: "all there is", Items: []Item{
		{ID: "passes", Section: "one", Title: "it passes", Points: 0.5, Repeat: "true", Try: ends(Verdict{Notes: []string{"a note"}})},
		{ID: "fails", Section: "one", Points: 20, Repeat: "cat /proc/kstat/nout /proc/kstat/counter /sys/module/kstat/parameters/start",
			Try: ends(Verdict{Outcome: Failed, Did: "this", Expected: "that", Seen: "nothing"})},
		{ID: "panics", Section: "two", Points: 4, Try: func(context.Context, *Bench) Verdict { panic("at the disco") }},
		{ID: "is-skipped", Section: "two", Points: 8, Try: ends(Verdict{Outcome: Skipped, Seen: "no time"})},
		{ID: "by-hand", Section: "two", Points: 16},
		{ID: "passes-too", Section: "two", Points: 0.25, Try: ends(Verdict{Output: "done"})},
	}}
	b := &Bench{Target: files(t), Profile: Coursework}
	var told []string
	report := r.Run(t.Context(), b, func(i int, item *Item, result *Result) {
		if result == nil {
			told = append(told, fmt.Sprint(i, " ", item.ID))
			return
		}
		told = append(told, fmt.Sprintf("%v %v", result.Outcome, result.Points))
		if result.ID != r.Items[i].ID || result.Section != item.Section || result.Title != item.Title || result.Max != item.Points {
			t.Errorf("result %+v of item %+v", result, item)
		}
	})
	want := "0 passes,passed 0.5,1 fails,failed 0,2 panics,failed 0,3 is-skipped,skipped 0,4 by-hand,by hand 0,5 passes-too,passed 0.25"
	if got := strings.Join(told, ","); got != want {
		t.Errorf("told: %s\nwant: %s", got, want)
	}
	if report.Points != 0.75 || report.Max != 0.5+20+4+0.25 || report.Passed() || len(report.Results) != len(r.Items) {
		t.Errorf("report %+v", report)
	}
	if report.Schema != Schema || report.Rubric != r.Title || report.Profile != Coursework || report.Target != "three files" || report.Took <= 0 {
		t.Errorf("report %+v", report)
	}
	result := report.Results[1]
	if result.Did != "this" || result.Expected != "that" || result.Seen != "nothing" ||
		result.Repeat != "cat "+b.Nout+" "+b.Counter+" "+b.Start {
		t.Errorf("result %+v", result)
	}
	if result := report.Results[0]; result.Repeat != "" || len(result.Notes) != 1 {
		t.Errorf("result %+v", result)
	}
	if seen := report.Results[2].Seen; !strings.Contains(seen, "at the disco") {
		t.Errorf("a panic is told as %q", seen)
	}
}

// TestLimit: an experiment that heeds its context has the last word, one that
// does not is left alone.
func TestLimit(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	const limit = 20 * time.Millisecond
	r := &Rubric{Items: []Item{
		{ID: "heeds", Points: 1, Limit: limit, Try: func(ctx context.Context, _ *Bench) Verdict {
			<-ctx.Done()
			return Verdict{Did: "waited", Seen: "nobody came"}
		}},
		{ID: "does-not", Points: 1, Limit: limit, Try: func(context.Context, *Bench) Verdict {
			<-release
			return Verdict{}
		}},
		{ID: "next", Points: 1, Try: ends(Verdict{})},
	}}
	report := r.Run(t.Context(), &Bench{Target: files(t)}, nil)
	for i, want := range []Result{
		{Outcome: Failed, Did: "waited", Expected: "it ends within 20ms", Seen: "nobody came"},
		{Outcome: Failed, Did: "tried it", Expected: "it ends within 20ms", Seen: "it went on, and was left alone"},
		{Outcome: Passed},
	} {
		got := report.Results[i]
		if got.Outcome != want.Outcome || got.Did != want.Did || got.Expected != want.Expected || got.Seen != want.Seen {
			t.Errorf("item %d: %+v, want %+v", i, got, want)
		}
	}
}

// TestInterrupted: what was not finished is not in the report.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &Rubric{Items: []Item{
		{ID: "first", Points: 1, Try: ends(Verdict{})},
		{ID: "second", Points: 1, Try: func(ctx context.Context, _ *Bench) Verdict {
			cancel()
			<-ctx.Done()
			return Verdict{}
		}},
		{ID: "third", Points: 1, Try: ends(Verdict{})},
	}}
	report := r.Run(ctx, &Bench{Target: files(t)}, nil)
	if len(report.Results) != 1 || report.Results[0].ID != "first" {
		t.Errorf("results %+v", report.Results)
	}
}

// TestHang: a file that does not let go of its reader costs one item, and the
// report says which file it was.
func TestHang(t *testing.T) {
	target := files(t)
	must(t, os.Remove(target.Nout), unix.Mkfifo(target.Nout, 0o644)) // an open waits for a writer
	r := pick(Builtin(), "number-and-newline", "counter-takes")
	r.Items[0].Limit = 2 * time.Second
	report := r.Run(t.Context(), &Bench{Target: target, Profile: Contract}, nil)
	writer, err := os.OpenFile(target.Nout, os.O_RDWR, 0)
	must(t, err)
	defer writer.Close()
	hung := report.Results[0]
	if hung.Expected != "it ends within 2s" || hung.Seen != "reading nout has not come to an end" ||
		!strings.HasSuffix(hung.Repeat, "cat "+target.Nout) {
		t.Errorf("result %+v", hung)
	}
	if next := report.Results[1].Seen; !strings.Contains(next, "counter reads") {
		t.Errorf("the next item saw %q", next)
	}
}

// TestKnownState: before each item it is loaded anew, or is not loaded if the
// item says so, and it is left as it was found.
func TestKnownState(t *testing.T) {
	target := files(t)
	log := filepath.Join(t.TempDir(), "log")
	do := func(what, command string) string { return fmt.Sprintf("echo %s >> %s; %s", what, log, command) }
	paths := strings.Join([]string{target.Nout, target.Counter, target.Start}, " ")
	target.Load = do("load", "for f in "+paths+"; do echo 10 > $f; done")
	target.Unload = do("unload", "rm "+paths+" 2> /dev/null")
	r := &Rubric{Items: []Item{
		{ID: "loaded", Try: (&Command{Run: do("loaded", "ls "+paths)}).Try},
		{ID: "unloaded", Unloaded: true, Try: (&Command{Run: do("unloaded", "! ls "+paths)}).Try},
		{ID: "by-hand"},
	}}
	must(t, os.WriteFile(target.Counter, []byte("7\n"), 0o644))
	report := r.Run(t.Context(), &Bench{Target: target}, nil)
	text, err := os.ReadFile(log)
	must(t, err)
	if got := strings.Fields(string(text)); fmt.Sprint(got) != "[unload load loaded unload unloaded load]" || !report.Passed() {
		t.Errorf("%v, and the report %+v", got, report)
	}
	if text, err := readText(target.Counter); text != "7\n" {
		t.Errorf("afterwards, counter reads %q (%v)", text, err)
	}
}

// TestLoadFails: an item cannot be tried, which is told with what the command
// said.
func TestLoadFails(t *testing.T) {
	target := files(t)
	target.Unload, target.Load = "true", "echo it rains; exit 3"
	r := &Rubric{Items: []Item{{ID: "any", Points: 1, Repeat: "something else", Try: ends(Verdict{})}}}
	report := r.Run(t.Context(), &Bench{Target: target}, nil)
	got := report.Results[0]
	if got.Outcome != Failed || got.Did != "ran echo it rains; exit 3" || got.Expected != "exit status 0" || got.Seen != "exit status 3" || got.Repeat != target.Load || got.Output != "it rains\n" {
		t.Errorf("result %+v", got)
	}
}

// TestTries: where others send packets an experiment is tried again, unless
// that cannot help, and anywhere once more after a packet that got lost.
func TestTries(t *testing.T) {
	sometimes := &failure{outcome: Failed, expected: "4", seen: "5"}
	certain := &failure{outcome: Failed, expected: "4", seen: "3", certain: true}
	lost := &failure{outcome: Failed, expected: "4", seen: "a stone", broken: true}
	for _, test := range []struct {
		alone bool
		ends  []*failure // of the tries; then they pass
		tries int
		want  Outcome
	}{
		{true, nil, 1, Passed},
		{true, []*failure{sometimes}, 1, Failed},
		{true, []*failure{lost}, 2, Passed},
		{true, []*failure{lost, lost}, 2, Failed},
		{true, []*failure{lost, sometimes}, 2, Failed},
		{false, []*failure{sometimes, sometimes, lost, sometimes}, 5, Passed},
		{false, []*failure{sometimes, sometimes, sometimes, sometimes, sometimes}, 5, Failed},
		{false, []*failure{sometimes, certain}, 2, Failed},
		{false, []*failure{{outcome: Skipped, seen: "no"}}, 1, Skipped},
	} {
		tries := 0
		item := Item{ID: "item", Try: experiment(func(e *attempt) {
			if tries++; tries <= len(test.ends) {
				panic(test.ends[tries-1])
			}
		})}
		target := files(t)
		target.Alone = test.alone
		result := (&Rubric{Items: []Item{item}}).Run(t.Context(), &Bench{Target: target}, nil).Results[0]
		if tries != test.tries || result.Outcome != test.want {
			t.Errorf("%+v: %v after %d tries", test, result.Outcome, tries)
		}
	}
}

// TestTooFew: figures that are too low are not the others' doing if every
// packet is published.
func TestTooFew(t *testing.T) {
	for counter, certain := range map[uint64]bool{1: true, 2: false} {
		e := &attempt{Bench: &Bench{Target: files(t)}, ctx: t.Context()}
		e.set(e.Counter, counter)
		if f := e.ends(func() { e.expect(1, "") }); f == nil || f.certain != certain {
			t.Errorf("counter %d: %+v", counter, f)
		}
	}
}

// TestBeyond: a failure is one for the contract, and a note for the coursework,
// unless it says nothing about the target.
func TestBeyond(t *testing.T) {
	for _, test := range []struct {
		profile Profile
		failure *failure
		passes  bool
	}{
		{Contract, &failure{outcome: Failed, expected: "a", seen: "b"}, false},
		{Coursework, &failure{outcome: Failed, expected: "a", seen: "b"}, true},
		{Coursework, &failure{outcome: Failed, expected: "a", seen: "b", broken: true}, false},
	} {
		e := &attempt{Bench: &Bench{Profile: test.profile}}
		f := e.ends(func() {
			if e.beyond(func() { panic(test.failure) }) {
				t.Error("it went well")
			}
		})
		if passes := f == nil && fmt.Sprint(e.notes) == "[the contract expects: a; seen: b]"; passes != test.passes {
			t.Errorf("%+v: %+v, notes %q", test, f, e.notes)
		}
	}
}

func TestShorten(t *testing.T) {
	for n, want := range map[int]string{0: "", 5: "1,2,3,4,5", 6: "1,2,3,4,and 2 more of this kind", 30: "1,2,3,4,and 26 more of this kind"} {
		var notes []string
		for i := range n {
			notes = append(notes, fmt.Sprint(i+1))
		}
		if got := strings.Join(shorten(notes), ","); got != want {
			t.Errorf("%d notes: %s, want %s", n, got, want)
		}
	}
}

func TestParseNumber(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0", "10\n": "10", "007\n": "7", "nout: 5\n": "5", "TCP packets sent 12 \n\n": "12",
		"18446744073709551615\n": "18446744073709551615",
		"":                       "none", "\n": "none", "-5\n": "none", "1 2\n": "none", "5 packets\n": "none", "1\n2\n": "none",
		"18446744073709551616\n": "none", "Y\n": "none",
	} {
		got := "none"
		if n, ok := parseNumber(text); ok {
			got = fmt.Sprint(n)
		}
		if got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestErrorName(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{unix.EINVAL, "EINVAL (invalid argument)"},
		{&os.PathError{Op: "open", Path: "x", Err: unix.ENOENT}, "ENOENT (no such file or directory)"},
		{errors.New("no errno"), "no errno"},
	} {
		if got := errorName(test.err); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// TestEndless: a file without an end is not read for ever.
func TestEndless(t *testing.T) {
	if _, err := readText("/dev/zero"); !errors.Is(err, errEndless) {
		t.Errorf("got %v", err)
	}
}
