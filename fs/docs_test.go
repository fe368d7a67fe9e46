package fs

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocs: the tables of files in the README and in the contract have the
// files that there are, with their modes, and the README says of each what the
// manual says.
func TestDocs(t *testing.T) {
	var want, wantAbout []string
	for _, e := range Files() {
		if e.About == "" {
			t.Errorf("%s has nothing that people are told of it: give its entry in tree.go an about", e.Path)
		}
		row := fmt.Sprintf("%s %04o", e.Path, e.Mode)
		want = append(want, row)
		wantAbout = append(wantAbout, row+" "+e.About)
	}
	slices.Sort(want)
	slices.Sort(wantAbout)

	if got := table(t, "../docs/contract.md", func(name, mode, _ string) string { return name + " " + mode }); !slices.Equal(got, want) {
		t.Errorf("docs/contract.md has %q,\nwant %q", got, want)
	}
	got := table(t, "../README.md", func(name, mode, about string) string { return name + " " + mode + " " + about })
	for _, row := range got {
		if !slices.Contains(wantAbout, row) {
			t.Errorf("README.md has %q, and no entry in tree.go says that", row)
		}
	}
	for _, row := range wantAbout {
		if !slices.Contains(got, row) {
			t.Errorf("README.md does not have %q", row)
		}
	}
}

// table returns the rows of the table of files in a page, sorted: those whose
// second column is a mode.
func table(t *testing.T, page string, row func(name, mode, about string) string) (rows []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	for _, line := range regexp.MustCompile("(?m)^\\| (`.+`) \\| (0[0-7]{3}) \\| .*\\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		for _, name := range strings.Split(line[1], ", ") {
			rows = append(rows, row(strings.Trim(name, "`"), line[2], line[3]))
		}
	}
	slices.Sort(rows)
	return rows
}
