package grade

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kstat/lab/mutant"
	"kstat/lab/sandbox"
)

const gradingPage = "../../docs/grading.md"

// TestTables wants the tables of docs/grading.md to be what is built in. With
// -update it writes them anew.
func TestTables(t *testing.T) {
	items := "| id | points | |\n|---|--:|---|\n"
	section := ""
	for _, it := range Builtin().Items {
		if it.Section != section {
			section = it.Section
			items += fmt.Sprintf("| | | **%s** |\n", section)
		}
		title := it.Title
		if it.Try == nil {
			title += " (left to a person)"
		}
		items += fmt.Sprintf("| `%s` | %s | %s |\n", it.ID, points(it.Points), title)
	}
	mutants := "| mutant | a module that |\n|---|---|\n"
	for _, m := range mutant.All() {
		mutants += fmt.Sprintf("| `%s` | %s |\n", m.Name, m.Fault)
	}

	text, err := os.ReadFile(gradingPage)
	must(t, err)
	page := string(text)
	for name, table := range map[string]string{"items": items, "mutants": mutants} {
		begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
		head, rest, ok1 := strings.Cut(page, begin)
		old, tail, ok2 := strings.Cut(rest, end)
		switch {
		case !ok1 || !ok2:
			t.Errorf("%s has no place for the %s", gradingPage, name)
		case old != table && *update:
			page = head + begin + table + end + tail
		case old != table:
			t.Errorf("the table of %s in %s is not what is built in; go test ./lab/grade -run Tables -update writes it anew", name, gradingPage)
		}
	}
	if *update && page != string(text) {
		must(t, os.WriteFile(gradingPage, []byte(page), 0o666))
	}
}

// TestPageHasEveryField wants a row for each field of a rubric file.
func TestPageHasEveryField(t *testing.T) {
	page, err := os.ReadFile(gradingPage)
	must(t, err)
	for _, fields := range [][]string{fileFields, itemFields} {
		for _, name := range fields {
			if !strings.Contains(string(page), "\n| `"+name+"` | ") {
				t.Errorf("%s has no row for %s", gradingPage, name)
			}
		}
	}
	for _, f := range formats {
		if !strings.Contains(string(page), "\n| `"+string(f)+"` | ") {
			t.Errorf("%s has no row for the format %s", gradingPage, f)
		}
	}
}

// TestExamples reads the documented rubric, and those in the pages, as kstat
// grade would, and has the schema look at them.
func TestExamples(t *testing.T) {
	schema := compileSchema(t)
	examples := map[string]string{}
	for _, path := range []string{"../../docs/examples/rubric.yaml", gradingPage, "../../deploy/gradescope/README.md"} {
		text, err := os.ReadFile(path)
		must(t, err)
		if strings.HasSuffix(path, ".yaml") {
			examples[path] = string(text)
			continue
		}
		_, block, ok := strings.Cut(string(text), "\n```yaml\n")
		if !ok {
			t.Errorf("%s has no rubric", path)
		}
		examples[path], _, _ = strings.Cut(block, "```\n")
	}
	for path, text := range examples {
		if _, _, err := readRubric(path, []byte(text), Builtin()); err != nil {
			t.Error(err)
		}
		if err := validate(schema, []byte(text)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestExampleIsGraded has the documented rubric graded by the kstat of this
// checkout: the right module has every point.
func TestExampleIsGraded(t *testing.T) {
	kstat := buildKstat(t)
	report := filepath.Join(t.TempDir(), "report.json")
	cmd := sandbox.Command(kstat, "grade", "--rubric", "../../docs/examples/rubric.yaml", "--format", "json", "-o", report)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(report)
	must(t, err)
	var r Report
	decode(t, string(text), &r)
	if r.Profile != Coursework || r.Points != r.Max || !r.Passed() {
		t.Errorf("%+v", r)
	}
	own := map[string]Outcome{}
	for _, it := range r.Results {
		own[it.ID] = it.Outcome
	}
	for id, want := range map[string]Outcome{
		"counter-is-kept": Passed, "junk-is-refused": Passed, "module-is-listed": Passed, "report": ByHand, "comments": ByHand, "tcp-ipv6": "",
	} {
		if own[id] != want {
			t.Errorf("%s is %q, want %q", id, own[id], want)
		}
	}
}
