package grade

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kstat/lab/mutant"
	"kstat/lab/sandbox"
)

// all is what the built-in rubric gives at most: the documentation is left to a
// person.
const all = 60 + 20 + 10

func TestBuiltinPoints(t *testing.T) {
	sum := map[string]float64{}
	seen := map[string]bool{}
	for _, item := range Builtin().Items {
		sum[item.Section] += item.Points
		if seen[item.ID] || item.Title == "" {
			t.Errorf("item %q is there twice, or has no title", item.ID)
		}
		seen[item.ID] = true
	}
	if want := map[string]float64{basic: 60, procfs: 20, sysfs: 10, paper: 10}; fmt.Sprint(sum) != fmt.Sprint(want) {
		t.Errorf("points %v, want %v", sum, want)
	}
}

// TestRight: the right implementation gets every point, in both profiles, with
// nothing to remark.
func TestRight(t *testing.T) {
	for _, profile := range []Profile{Contract, Coursework} {
		t.Run(string(profile), func(t *testing.T) {
			report := Builtin().Run(t.Context(), &Bench{Target: startMachine(t, ""), Profile: profile}, nil)
			if report.Points != all || report.Max != all || !report.Passed() {
				t.Errorf("%v of %v points, want %d of %[3]d", report.Points, report.Max, all)
			}
			for _, result := range report.Results {
				log(t, &result)
				for _, note := range result.Notes {
					if os.Geteuid() == 0 && sandbox.Missing(sandbox.Root) == nil {
						t.Errorf("%s: %s", result.ID, note)
					}
				}
			}
			t.Logf("%.1f s", report.Took)
		})
	}
}

// log shows what a person would see.
func log(t *testing.T, r *Result) {
	t.Helper()
	if r.Outcome == Failed {
		t.Logf("%s\ndid:\n%s\nexpected: %s\nseen: %s\nrepeat:\n%s\noutput: %s", r.ID, r.Did, r.Expected, r.Seen, r.Repeat, r.Output)
	}
	for _, note := range r.Notes {
		t.Logf("%s: note: %s", r.ID, note)
	}
}

// due is the items that a mutant must fail.
type due struct{ mutant, contract, coursework string }

var dues = []due{
	{"udp-as-tcp", "other-protocols publication-any", "other-protocols publication-any"},
	{"counts-everything", "other-protocols publication-any", "other-protocols publication-any"},
	{"ipv4-only", "tcp-ipv6", ""},
	{"counts-before-start", "before-start", "before-start"},
	{"never-stops", "stop-and-go stop-keeps-pending", "stop-and-go"},
	{"forgets-on-stop", "stop-and-go", "stop-and-go"},
	{"never-publishes",
		"tcp-ipv4 tcp-ipv6 other-protocols publication publication-any counter-live stop-and-go stop-keeps-pending under-load reload",
		"tcp-ipv4 tcp-ipv6 other-protocols publication publication-any counter-live stop-and-go under-load reload"},
	{"ignores-counter",
		"publication publication-any counter-live stop-keeps-pending",
		"publication publication-any counter-live"},
	{"always-ten", "publication counter-live", "publication counter-live"},
	{"off-by-one",
		"publication publication-any counter-live stop-keeps-pending",
		"publication publication-any counter-live"},
	{"tcp-only", "publication-any", ""},
	{"late-lowering", "counter-live", ""},
	{"resets-on-counter", "counter-live under-load", "counter-live under-load"},
	{"decreases",
		"tcp-ipv4 tcp-ipv6 publication publication-any counter-live stop-and-go stop-keeps-pending under-load reload nout-is-read-only reading-in-parts",
		"tcp-ipv4 tcp-ipv6 publication publication-any counter-live stop-and-go under-load reload nout-is-read-only"},
	{"wraps", "tcp-ipv4 tcp-ipv6 under-load", "tcp-ipv4 tcp-ipv6 under-load"},
	{"no-newline", "number-and-newline start-and-newline", ""},
	{"labelled", "number-and-newline", "number-and-newline"},
	{"accepts-junk", "counter-refuses start-refuses", "counter-refuses start-refuses"},
	{"wrong-errno", "counter-refuses start-refuses", ""},
	{"half-refuses", "counter-refuses start-refuses", "counter-refuses start-refuses"},
	{"atoi", "counter-refuses start-takes start-refuses", "counter-refuses start-refuses"},
	{"octal", "counter-takes counter-refuses", ""},
	{"any-start", "start-takes start-refuses", ""},
	{"world-writable", "procfs-modes sysfs-modes", ""},
	{"writable-nout", "nout-is-read-only procfs-modes", "nout-is-read-only"},
}

// TestFaultMutants: each gets exactly the points that are due. (With
// KSTAT_FAULTS=full all do; else one of each kind, with -short one.)
func TestFaultMutants(t *testing.T) {
	few := []string{"udp-as-tcp", "ignores-counter", "accepts-junk", "no-newline", "decreases"}
	if testing.Short() {
		few = few[:1]
	}
	for _, m := range mutant.All() {
		if os.Getenv("KSTAT_FAULTS") != "full" && !slices.Contains(few, m.Name) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			i := slices.IndexFunc(dues, func(d due) bool { return d.mutant == m.Name })
			if i < 0 {
				t.Fatal("it is not in the table")
			}
			target := startMachine(t, m.Name)
			failed := fails(t, target, Builtin(), Contract)
			if got := strings.Join(failed, " "); got != dues[i].contract {
				t.Errorf("contract: it fails %q, want %q", got, dues[i].contract)
			}

			// The other profile accepts what this one has accepted.
			lenient := fails(t, target, pick(Builtin(), failed...), Coursework)
			if got := strings.Join(lenient, " "); got != dues[i].coursework {
				t.Errorf("coursework: it fails %q, want %q", got, dues[i].coursework)
			}
		})
	}
}

// fails returns the items that the target fails, having looked at the points.
func fails(t *testing.T, target Target, r *Rubric, p Profile) (ids []string) {
	t.Helper()
	report := r.Run(t.Context(), &Bench{Target: target, Profile: p}, nil)
	var lost, most float64
	for i, result := range report.Results {
		log(t, &result)
		switch {
		case result.Outcome == ByHand:
			continue
		case p == Coursework && result.Outcome == Passed && len(result.Notes) == 0:
			t.Errorf("%s is accepted without a note", result.ID)
		}
		most += r.Items[i].Points
		if result.Outcome == Failed {
			ids = append(ids, result.ID)
			lost += r.Items[i].Points
			if result.Did == "" || result.Expected == "" || result.Seen == "" || result.Repeat == "" {
				t.Errorf("%s does not say enough", result.ID)
			}
		}
	}
	if report.Points != most-lost || report.Max != most {
		t.Errorf("%s: %v of %v points, want %v of %v", p, report.Points, report.Max, most-lost, most)
	}
	return ids
}

// TestRepeat: what a failed item says to repeat shows the fault to whoever types
// it, and does not with the right implementation.
func TestRepeat(t *testing.T) {
	need(t, "bash", "python3")
	for fault, item := range map[string]string{
		"udp-as-tcp":        "other-protocols",
		"counts-everything": "publication-any",
		"ipv4-only":         "tcp-ipv6",
		"forgets-on-stop":   "stop-and-go",
		"off-by-one":        "publication",
		"late-lowering":     "counter-live",
		"octal":             "counter-takes",
	} {
		t.Run(fault, func(t *testing.T) {
			var result Result
			var last, dir string
			t.Run("wrong", func(t *testing.T) {
				target := startMachine(t, fault)
				result = pick(Builtin(), item).Run(t.Context(), &Bench{Target: target, Profile: Contract}, nil).Results[0]
				dir = filepath.Dir(filepath.Dir(target.Nout))
				last = lastLine(t, result.Repeat)
			})
			t.Run("right", func(t *testing.T) {
				target := startMachine(t, "")
				right := lastLine(t, strings.ReplaceAll(result.Repeat, dir, filepath.Dir(filepath.Dir(target.Nout))))
				if !strings.Contains(result.Seen, " reads "+last) || !strings.Contains(result.Expected, " reads "+right) || right == last {
					t.Errorf("typed, it ends with %s for the mutant and %s for the right one; expected: %s; seen: %s\n%s",
						last, right, result.Expected, result.Seen, result.Repeat)
				}
			})
		})
	}
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
}

// lastLine is what bash prints last.
func lastLine(t *testing.T, script string) string {
	t.Helper()
	output, err := exec.Command("bash", "-c", script).Output()
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return lines[len(lines)-1]
}

// TestRowsByHand: what is to be typed for a row does what the row says.
func TestRowsByHand(t *testing.T) {
	need(t, "bash", "python3", "dd")
	target := startMachine(t, "")
	for _, table := range []struct {
		path string
		rows []row
	}{{target.Counter, slices.Concat(counterTakes, counterRefuses)}, {target.Start, slices.Concat(startTakes, startRefuses)}} {
		must(t, exec.Command("sh", "-c", target.Unload+";"+target.Load).Run())
		for _, r := range table.rows {
			must(t, writeText(table.path, fmt.Sprint(r.before)))
			typed := typedWrite(table.path, r.text)
			err := exec.Command("bash", "-c", typed).Run()
			text, readErr := readText(table.path)
			must(t, readErr)
			want := r.want
			if r.errno != 0 {
				want = fmt.Sprint(r.before)
			}
			if (err != nil) != (r.errno != 0) || text != want+"\n" {
				t.Errorf("%s: %v, and the file reads %q, want %q", typed, err, text, want)
			}
		}
	}
}

// TestLive: a target that cannot be loaded is graded as far as that goes, and
// left as it was.
func TestLive(t *testing.T) {
	target := startMachine(t, "")
	must(t, exec.Command("sh", "-c", target.Load).Run(), writeText(target.Counter, "7\n"), writeText(target.Start, "1\n"))
	target.Load, target.Unload, target.Alone = "", "", false
	report := Builtin().Run(t.Context(), &Bench{Target: target, Profile: Contract}, nil)
	var skipped []string
	for _, result := range report.Results {
		log(t, &result)
		if result.Outcome == Skipped {
			skipped = append(skipped, result.ID+": "+result.Seen)
		}
	}
	want := "defaults: this target cannot be loaded anew, reload: this target cannot be unloaded"
	if got := strings.Join(skipped, ", "); got != want || !report.Passed() || report.Points != all-5-2 || report.Max != report.Points {
		t.Errorf("%v of %v points, skipped %q", report.Points, report.Max, got)
	}
	for path, want := range map[string]string{target.Counter: "7\n", target.Start: "1\n"} {
		if text, err := readText(path); text != want {
			t.Errorf("afterwards, %s reads %q (%v), want %q", path, text, err, want)
		}
	}
}
