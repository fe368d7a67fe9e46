package grade

import (
	"slices"
	"strings"
	"testing"

	"kstat/lab/mutant"
)

// TestRight: the right implementation gets every point, in both profiles.
func TestRight(t *testing.T) {
	for _, profile := range []Profile{Contract, Coursework} {
		t.Run(string(profile), func(t *testing.T) {
			report := Builtin(profile).Run(t.Context(), &Bench{Target: startMachine(t, ""), Profile: profile}, nil)
			show(t, report)
			if report.Points != 90 || report.Max != 90 || !report.Passed() {
				t.Errorf("%v of %v points, want 90 of 90", report.Points, report.Max)
			}
		})
	}
}

func show(t *testing.T, r *Report) {
	t.Helper()
	for _, result := range r.Results {
		t.Logf("%-8s %-20s %3v of %2v  %.3f s", result.Outcome, result.ID, result.Points, result.Max, result.Took)
		for _, note := range result.Notes {
			t.Log("        note: ", note)
		}
		if result.Outcome == Failed {
			t.Logf("did:\n%s\nexpected: %s\nseen: %s\nrepeat:\n%s\noutput: %s", result.Did, result.Expected, result.Seen, result.Repeat, result.Output)
		}
	}
	t.Logf("%v of %v points in %.3f s", r.Points, r.Max, r.Took)
}

func TestMutantsX(t *testing.T) {
	for _, m := range mutant.All() {
		for _, profile := range []Profile{Contract, Coursework} {
			t.Run(m.Name+"/"+string(profile), func(t *testing.T) {
				report := Builtin(profile).Run(t.Context(), &Bench{Target: startMachine(t, m.Name), Profile: profile}, nil)
				var failed []string
				for _, r := range report.Results {
					if r.Outcome == Failed {
						failed = append(failed, r.ID)
					}
				}
				slices.Sort(failed)
				t.Logf("%s/%s: %v/%v %s", m.Name, profile, report.Points, report.Max, strings.Join(failed, " "))
				if testing.Verbose() { show(t, report) }
			})
		}
	}
}
