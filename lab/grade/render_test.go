package grade

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"

	"kstat/lab/sandbox"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a report in which every outcome occurs.
func sample() *Report {
	return &Report{
		Schema: Schema, Version: "v0.3.0", Rubric: "KSTAT coursework", Profile: Coursework,
		Target: "kstatd in a private world",
		Began:  time.Date(2026, 11, 20, 7, 10, 32, 0, time.UTC), Took: 12.3456,
		Points: 62.5, Max: 80,
		Results: []Result{
			{
				ID: "defaults", Section: "basic functionality", Title: "nout is 0 and counter is 10 after insmod",
				Outcome: Passed, Points: 10, Max: 10, Took: 0.012,
			},
			{
				ID: "tcp-exact", Section: "basic functionality", Title: "exact counts for known TCP traffic",
				Outcome: Failed, Points: 0, Max: 15, Took: 1.5,
				Did:      "wrote 1 to counter and to start, and sent 137 TCP packets over lo",
				Expected: `nout goes from "0\n" to "137\n"`,
				Seen:     `nout went from "0\n" to "131\n", which is 6 too few; another reader saw "130\n" on the way`,
				Repeat:   "echo 1 > /proc/kstat/counter\necho 1 > /sys/module/kstat/parameters/start\ncat /proc/kstat/nout",
			},
			{
				ID: "exactly-n", Section: "basic functionality",
				Title:   "publication at exactly N packets, for several N, while N is changed and packets of other protocols go by",
				Outcome: Passed, Points: 35, Max: 35, Took: 4.25,
				Notes: []string{"published after N TCP packets rather than N packets of any protocol"},
			},
			{
				ID: "newline", Section: "procfs", Title: "one number and a newline",
				Outcome: Passed, Points: 10, Max: 10, Took: 0.004,
				Notes: []string{"nout has no newline at its end", "counter has none, either"},
			},
			{
				ID: "unload", Section: "procfs", Title: "the files are gone after rmmod",
				Outcome: Skipped, Max: 10, Seen: "nothing is known that unloads this target",
			},
			{
				ID: "script", Section: "sysfs", Title: "the script of the course passes",
				Outcome: Failed, Points: 7.5, Max: 10, Took: 6,
				Did: "ran ./check.sh", Expected: "exit status 0", Seen: "exit status 1",
				Output: "checking …\n\tcounter: ok\n\tstart:   -bash: echo: write error: Invalid argument, although the assignment says that 1 is taken\n\n1 of 2 failed\n",
			},
			{
				ID: "comments", Section: "comments and README", Title: "comments and README",
				Outcome: ByHand, Max: 10,
			},
		},
	}
}

// nastyText is what a hostile program may print.
const nastyText = "\"quotes\" 'and' `these`\r\n]]> <b>&amp;</b> \x1b[31mred\x1b[0m \a\x00\x7f\u0085 # SKIP \\# TODO\\" +
	"\n...\n---\n  ...\nok 99 - forged\nnot ok 1\nBail out! now\n1..0\n<!-- --><![CDATA[ x ]]>" +
	"\n\xff\xfe \xed\xa0\x80 \u202eright to left\u202c \u2028 \ufeff\ufffe \U0010ffff\n\ttab\rreturn: - [a, b] {c: d} %s %d 日本語 e\u0301 🙂\n \n"

func nasty() *Report {
	r := sample()
	r.Rubric += nastyText
	r.Target += nastyText
	for i := range r.Results {
		it := &r.Results[i]
		it.Title += " " + nastyText
		it.Section += " " + nastyText
		it.Did, it.Expected, it.Seen, it.Repeat, it.Output = nastyText, nastyText, nastyText, nastyText, nastyText
		it.Notes = []string{nastyText}
	}
	return r
}

func render(t testing.TB, r *Report, f Format, s Screen) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b, f, s); err != nil {
		t.Fatalf("%s: %v", f, err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	color := Screen{Columns: 80, Color: true, Erase: true}
	for _, test := range []struct {
		file   string
		report *Report
		format Format
		screen Screen
	}{
		{"report.txt", sample(), Text, Screen{}},
		{"report-wide.txt", sample(), Text, Screen{Columns: 200}},
		{"report-narrow.txt", sample(), Text, Screen{Columns: 44}},
		{"report-color.txt", sample(), Text, color},
		{"report.json", sample(), JSON, color},
		{"report.gradescope.json", sample(), Gradescope, color},
		{"report.junit.xml", sample(), JUnit, color},
		{"report.tap", sample(), TAP, color},
		{"nasty.txt", nasty(), Text, Screen{}},
		{"nasty.json", nasty(), JSON, color},
		{"nasty.gradescope.json", nasty(), Gradescope, color},
		{"nasty.junit.xml", nasty(), JUnit, color},
		{"nasty.tap", nasty(), TAP, color},
	} {
		t.Run(test.file, func(t *testing.T) {
			got := render(t, test.report, test.format, test.screen)
			path := filepath.Join("testdata", test.file)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs; go test ./lab/grade -run Golden -update writes it anew, and git diff shows how. Got:\n%s", path, got)
			}
		})
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range formats {
		if got, err := ParseFormat(string(f)); err != nil || got != f {
			t.Errorf("ParseFormat(%q) = %q, %v", f, got, err)
		}
	}
	const want = `no format "yaml": take one of text, json, gradescope, junit, tap`
	if _, err := ParseFormat("yaml"); err == nil || err.Error() != want {
		t.Errorf("ParseFormat: %v, want %s", err, want)
	}
	if err := sample().Write(io.Discard, "yaml", Screen{}); err == nil || err.Error() != want {
		t.Errorf("Write: %v, want %s", err, want)
	}
}

type full struct{}

var errFull = errors.New("no space left on device")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteError(t *testing.T) {
	for _, f := range formats {
		if err := sample().Write(full{}, f, Screen{}); !errors.Is(err, errFull) {
			t.Errorf("%s: error %v, want that of the writer", f, err)
		}
	}
}

// TestStructure holds what the golden files cannot: that what is written is
// well-formed, and says what the report says.
func TestStructure(t *testing.T) {
	empty := &Report{Schema: Schema}
	for name, r := range map[string]*Report{"sample": sample(), "nasty": nasty(), "empty": empty} {
		t.Run(name, func(t *testing.T) { checkFormats(t, r) })
	}
}

func FuzzFormats(f *testing.F) {
	f.Add("basic", "title", "seen", 1.5, 3.0, uint8(1))
	f.Add(nastyText, nastyText, nastyText, 0.0, 99999.75, uint8(2))
	f.Add("", "", "", -0.5, 0.001, uint8(3))
	f.Add(" ", "#", "\\", 0.1+0.2, 1.0, uint8(0))
	f.Fuzz(func(t *testing.T, section, title, text string, score, most float64, outcome uint8) {
		if !(math.Abs(score) < 1e6 && math.Abs(most) < 1e6) {
			t.Skip() // not points
		}
		r := sample()
		it := &r.Results[int(outcome)%len(r.Results)]
		it.Section, it.Title, it.Points, it.Max = section, title, score, most
		it.Did, it.Expected, it.Seen, it.Repeat, it.Output, it.Notes = text, text, text, text, text, []string{text, title}
		r.Rubric, r.Target = title, text
		r.Points, r.Max = 0, 0
		for _, it := range r.Results {
			if it.counts() {
				r.Points += it.Points
				r.Max += it.Max
			}
		}
		checkFormats(t, r)
	})
}

func checkFormats(t *testing.T, r *Report) {
	t.Helper()
	for _, columns := range []int{0, 1, 44, 200} {
		checkText(t, r, render(t, r, Text, Screen{Columns: columns}), columns)
	}
	checkJSON(t, r, render(t, r, JSON, Screen{}))
	checkGradescope(t, r, render(t, r, Gradescope, Screen{}))
	checkJUnit(t, r, render(t, r, JUnit, Screen{}))
	checkTAP(t, r, render(t, r, TAP, Screen{}))
}

// checkText wants plain lines that fit, and every title and text in them.
func checkText(t *testing.T, r *Report, got string, width int) {
	t.Helper()
	harmless(t, "text", got)
	if width == 0 {
		width = 80
	}
	byHand := map[string]bool{}
	for _, it := range r.Results {
		for line := range strings.SplitSeq(visible(it.Repeat), "\n") {
			byHand[strings.TrimSpace(line)] = true
		}
	}
	for line := range strings.Lines(got) {
		line = strings.TrimSuffix(line, "\n")
		if n := columns(line); n > min(max(width, 38), 100) && !byHand[strings.TrimSpace(line[min(18, len(line)):])] {
			t.Errorf("text: a line of %d columns on a screen of %d: %q", n, width, line)
		}
		if strings.HasSuffix(line, " ") {
			t.Errorf("text: a line ends with a space: %q", line)
		}
	}
	squeeze := func(text string) string {
		return strings.Map(func(c rune) rune {
			if unicode.IsSpace(c) || c == '|' || unicode.IsDigit(c) || c == '/' || c == '.' || c == '-' {
				return -1 // a score stands in the first line of a title
			}
			return c
		}, text)
	}
	all := squeeze(got)
	for _, it := range r.Results {
		if !strings.Contains(all, squeeze(it.name())) {
			t.Errorf("text: no title %q", it.name())
		}
		for _, d := range it.details() {
			if !strings.Contains(all, squeeze(d.text)) {
				t.Errorf("text: no %s %q", d.label, d.text)
			}
		}
	}
}

func harmless(t *testing.T, what, got string) {
	t.Helper()
	if !utf8.ValidString(got) {
		t.Errorf("%s: not UTF-8", what)
	}
	for _, c := range got {
		if c != '\n' && !unicode.IsGraphic(c) {
			t.Errorf("%s: holds %q", what, c)
		}
	}
}

func checkJSON(t *testing.T, r *Report, got string) {
	t.Helper()
	var back Report
	decode(t, got, &back)
	if back.Results == nil {
		t.Error("json: results is null")
	}
	if back.Schema != r.Schema || back.Points != r.Points || len(back.Results) != len(r.Results) {
		t.Errorf("json: %+v", back)
	}
	for i, it := range back.Results {
		want := r.Results[i]
		for _, pair := range [][2]string{{it.Did, want.Did}, {it.Seen, want.Seen}, {it.Output, want.Output}, {it.Title, want.Title}} {
			if pair[0] != string([]rune(pair[1])) { // what is not UTF-8 becomes U+FFFD
				t.Errorf("json: %q became %q", pair[1], pair[0])
			}
		}
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if d.More() {
		t.Fatalf("more than one value in\n%s", text)
	}
}

// results is results.json with every field that is documented:
// https://gradescope-autograders.readthedocs.io/en/latest/specs/#output-format
type results struct {
	Score            *float64       `json:"score"`
	Time             *float64       `json:"execution_time"`
	Output           string         `json:"output"`
	Format           string         `json:"output_format"`
	TestFormat       string         `json:"test_output_format"`
	NameFormat       string         `json:"test_name_format"`
	Visibility       string         `json:"visibility"`
	StdoutVisibility string         `json:"stdout_visibility"`
	Extra            map[string]any `json:"extra_data"`
	Tests            []resultsTest  `json:"tests"`
	Leaderboard      []any          `json:"leaderboard"`
}

type resultsTest struct {
	Score      *float64       `json:"score"`
	MaxScore   *float64       `json:"max_score"`
	Status     string         `json:"status"`
	Name       string         `json:"name"`
	NameFormat string         `json:"name_format"`
	Number     string         `json:"number"`
	Output     string         `json:"output"`
	Format     string         `json:"output_format"`
	Tags       []string       `json:"tags"`
	Visibility string         `json:"visibility"`
	Extra      map[string]any `json:"extra_data"`
}

func checkGradescope(t *testing.T, r *Report, got string) {
	t.Helper()
	var s results
	decode(t, got, &s)
	visibilities := []string{"hidden", "after_due_date", "after_published", "visible"}
	switch {
	case s.Score == nil || *s.Score != r.Points:
		t.Errorf("gradescope: score %v, want %v", s.Score, r.Points)
	case s.Time == nil || *s.Time != float64(r.Took):
		t.Errorf("gradescope: execution_time %v, want %v", s.Time, r.Took)
	case !slices.Contains(visibilities, s.Visibility) || !slices.Contains(visibilities, s.StdoutVisibility):
		t.Errorf("gradescope: visibility %q, of stdout %q", s.Visibility, s.StdoutVisibility)
	case s.Format != "text":
		t.Errorf("gradescope: output_format %q: what a student's program printed must not be taken for markup", s.Format)
	case s.Tests == nil:
		t.Error("gradescope: tests is null")
	}
	harmless(t, "gradescope", s.Output)

	rest := slices.Clone(s.Tests)
	sum, numbers := 0.0, map[string]bool{}
	for _, it := range r.Results {
		i := slices.IndexFunc(rest, func(g resultsTest) bool { return len(g.Tags) == 2 && g.Tags[1] == it.ID })
		if !it.counts() {
			if i >= 0 {
				t.Errorf("gradescope: %s is %s, and counts", it.ID, it.Outcome)
			}
			if !strings.Contains(s.Output, it.name()) {
				t.Errorf("gradescope: %s is not mentioned in %q", it.ID, s.Output)
			}
			continue
		}
		if i < 0 {
			t.Errorf("gradescope: no test for %s", it.ID)
			continue
		}
		g := rest[i]
		rest = slices.Delete(rest, i, i+1)
		if g.Score == nil || *g.Score != it.Points || g.MaxScore == nil || *g.MaxScore != it.Max || g.Status != string(it.Outcome) {
			t.Errorf("gradescope: %s has %v of %v points and is %s; want %v", it.ID, g.Score, g.MaxScore, g.Status, it)
			continue
		}
		if g.Name != it.name() || g.Name == "" || g.Format != "text" || numbers[g.Number] {
			t.Errorf("gradescope: test %+v, want name %q and a number of its own", g, it.name())
		}
		numbers[g.Number] = true
		sum += *g.Score
		harmless(t, "gradescope", g.Name+g.Output)
		for _, d := range it.details() {
			if !strings.Contains(strings.ReplaceAll(g.Output, "\n    ", "\n"), d.text) {
				t.Errorf("gradescope: no %s %q", d.label, d.text)
			}
		}
	}
	if len(rest) > 0 {
		t.Errorf("gradescope: %d tests too many", len(rest))
	}
	if math.Abs(sum-r.Points) > 1e-6*max(1, math.Abs(sum)) {
		t.Errorf("gradescope: the tests have %v points together, want %v", sum, r.Points)
	}
}

// junitRules is junit-10.xsd of Jenkins' xunit plugin, as far as we use it. An
// attribute with a ! is required.
var junitRules = map[string]struct{ children, attributes string }{
	"testsuites": {"testsuite", "name time tests failures errors"},
	"testsuite": {
		"properties testcase system-out system-err testsuite",
		"name! tests! failures! errors! group time skipped timestamp hostname id package file log url",
	},
	"properties": {"property", ""},
	"property":   {"", "name! value!"},
	"testcase":   {"skipped error failure system-out system-err", "name! time classname group"},
	"failure":    {"#", "type message"},
	"skipped":    {"#", "type message"},
	"system-out": {"#", ""},
}

var surefireTime = regexp.MustCompile(`^(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?$`)

func checkJUnit(t *testing.T, r *Report, got string) {
	t.Helper()
	harmless(t, "junit", got)
	var path []string
	d := xml.NewDecoder(strings.NewReader(got))
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("junit: %v in\n%s", err, got)
		}
		switch token := token.(type) {
		case xml.StartElement:
			name := token.Name.Local
			if len(path) == 0 && name != "testsuites" || len(path) > 0 && !slices.Contains(strings.Fields(junitRules[path[len(path)-1]].children), name) {
				t.Errorf("junit: <%s> in %v", name, path)
			}
			checkAttributes(t, token)
			path = append(path, name)
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); text != "" && junitRules[path[len(path)-1]].children != "#" {
				t.Errorf("junit: text %q in %v", text, path)
			}
		}
	}

	var back junitSuites
	if err := xml.Unmarshal([]byte(got), &back); err != nil {
		t.Fatal(err)
	}
	cases := map[string]junitCase{}
	failures, n := 0, 0
	for _, suite := range back.Suites {
		failed, skipped := 0, 0
		for _, c := range suite.Cases {
			cases[c.Class+"\n"+c.Name] = c
			if c.Failure != nil {
				failed++
			}
			if c.Skipped != nil {
				skipped++
			}
		}
		if suite.Tests != len(suite.Cases) || suite.Failures != failed || suite.Skipped != skipped || suite.Errors != 0 {
			t.Errorf("junit: suite %q says tests %d, failures %d, skipped %d; it has %d, %d, %d",
				suite.Name, suite.Tests, suite.Failures, suite.Skipped, len(suite.Cases), failed, skipped)
		}
		n += suite.Tests
		failures += failed
	}
	if len(cases) != len(r.Results) || n != len(r.Results) {
		t.Errorf("junit: %d cases, %d different ones; want %d", n, len(cases), len(r.Results))
	}
	if back.Tests != n || back.Failures != failures {
		t.Errorf("junit: testsuites says tests %d, failures %d; want %d, %d", back.Tests, back.Failures, n, failures)
	}
	for _, it := range r.Results {
		class := cmp.Or(oneLine(it.Section), "other")
		c, ok := cases[class+"\n"+it.name()+" ("+it.ID+")"]
		if !ok {
			t.Errorf("junit: no case for %s", it.ID)
			continue
		}
		if (c.Failure != nil) != (it.Outcome == Failed) || (c.Skipped != nil) != (!it.counts()) {
			t.Errorf("junit: %s is %s, and has failure %v, skipped %v", it.ID, it.Outcome, c.Failure, c.Skipped)
		}
		if c.Failure != nil {
			for _, d := range it.details() {
				if !strings.Contains(strings.ReplaceAll(c.Failure.Text, "\n    ", "\n"), d.text) {
					t.Errorf("junit: no %s %q", d.label, d.text)
				}
			}
			if c.Failure.Message == "" {
				t.Errorf("junit: %s has no message", it.ID)
			}
		}
	}
}

func checkAttributes(t *testing.T, e xml.StartElement) {
	t.Helper()
	allowed := strings.Fields(junitRules[e.Name.Local].attributes)
	for _, a := range e.Attr {
		i := slices.IndexFunc(allowed, func(name string) bool { return strings.TrimSuffix(name, "!") == a.Name.Local })
		if i < 0 {
			t.Errorf("junit: <%s %s=…>", e.Name.Local, a.Name.Local)
			continue
		}
		allowed = slices.Delete(allowed, i, i+1)
		if a.Name.Local == "time" && !surefireTime.MatchString(a.Value) {
			t.Errorf("junit: time %q", a.Value)
		}
	}
	for _, name := range allowed {
		if strings.HasSuffix(name, "!") {
			t.Errorf("junit: <%s> without %s", e.Name.Local, name)
		}
	}
}

var tapPoint = regexp.MustCompile(`^(not )?ok ([0-9]+) - (.*)$`)

// checkTAP reads a report by the rules of TAP 14, and has it read by Perl's
// TAP::Parser.
func checkTAP(t *testing.T, r *Report, got string) {
	t.Helper()
	harmless(t, "tap", got)
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) < 2 || lines[0] != "TAP version 14" || lines[1] != fmt.Sprintf("1..%d", len(r.Results)) {
		t.Fatalf("tap: begins with %q", lines[:min(2, len(lines))])
	}
	n := 0
	for i := 2; i < len(lines); i++ {
		line := lines[i]
		if strings.HasPrefix(line, "#") {
			continue
		}
		m := tapPoint.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("tap: line %d is no test point: %q", i+1, line)
		}
		if n++; m[2] != strconv.Itoa(n) || n > len(r.Results) {
			t.Fatalf("tap: point %s, want %d of %d", m[2], n, len(r.Results))
		}
		it := &r.Results[n-1]
		description, directive := tapSplit(m[3])
		if description != it.name() {
			t.Errorf("tap: description %q, want %q", description, it.name())
		}
		if (m[1] == "not ") != (it.Outcome == Failed) || strings.HasPrefix(directive, "SKIP ") != !it.counts() {
			t.Errorf("tap: %s is %s: %q", it.ID, it.Outcome, line)
		}
		if i++; i == len(lines) || lines[i] != "  ---" {
			t.Fatalf("tap: no block behind point %d", n)
		}
		var block []string
		for i++; i < len(lines) && lines[i] != "  ..."; i++ {
			text, ok := strings.CutPrefix(lines[i], "  ")
			if !ok {
				t.Fatalf("tap: line %d in a block is not indented: %q", i+1, lines[i])
			}
			block = append(block, text)
		}
		if i == len(lines) {
			t.Fatalf("tap: the block of point %d has no end", n)
		}
		checkDiagnostic(t, it, strings.Join(block, "\n"))
	}
	if n != len(r.Results) {
		t.Errorf("tap: %d points, want %d", n, len(r.Results))
	}
}

// tapSplit unescapes a description and a directive, as TAP 14 has it.
func tapSplit(text string) (description, directive string) {
	var parts [2]strings.Builder
	part := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && (text[i+1] == '\\' || text[i+1] == '#'):
			i++
			parts[part].WriteByte(text[i])
		case c == '#' && part == 0 && i > 0 && text[i-1] == ' ' && i+1 < len(text) && text[i+1] == ' ':
			part, i = 1, i+1
		default:
			parts[part].WriteByte(c)
		}
	}
	if part == 1 {
		return strings.TrimSuffix(parts[0].String(), " "), parts[1].String()
	}
	return parts[0].String(), ""
}

func checkDiagnostic(t *testing.T, it *Result, block string) {
	t.Helper()
	var got struct {
		ID, Section, Did, Expected, Seen, Output, Notes string
		ByHand                                          string `yaml:"by_hand"`
		Points, Max, Seconds                            float64
	}
	if err := yaml.UnmarshalWithOptions([]byte(block), &got, yaml.Strict()); err != nil {
		t.Fatalf("tap: %v in\n%s", err, block)
	}
	if got.ID != it.ID || math.Abs(got.Points-it.Points) > 0.01 || math.Abs(got.Max-it.Max) > 0.01 {
		t.Errorf("tap: %+v, want %+v", got, it)
	}
	for _, d := range it.details() {
		text := map[string]string{"did": got.Did, "expected": got.Expected, "seen": got.Seen, "by hand": got.ByHand, "output": got.Output}[d.label]
		if d.label == "note" {
			if !strings.Contains(got.Notes, d.text) {
				t.Errorf("tap: no note %q in %q", d.text, got.Notes)
			}
		} else if it.Outcome == Failed && text != d.text {
			t.Errorf("tap: %s is %q, want %q", d.label, text, d.text)
		}
	}
}

// TestPerlReadsTAP has the reports read by TAP::Parser, which is what prove
// uses. It does not know version 14 before Test::Harness 3.45 or so, and reads
// the rest as version 13.
func TestPerlReadsTAP(t *testing.T) {
	if out, err := exec.Command("perl", "-MTAP::Parser", "-e1").CombinedOutput(); err != nil {
		sandbox.Lack(t, fmt.Errorf("needs Perl's TAP::Parser: %w: %s; apt-get install perl", err, out))
	}
	const reader = `
use TAP::Parser; local $/;
my $p = TAP::Parser->new({ tap => <STDIN> });
while (my $r = $p->next) {
	if ($r->is_test) { printf "%s %d%s\n", $r->is_actual_ok ? "ok" : "not ok", $r->number, $r->has_skip ? " skip" : "" }
	elsif ($r->is_yaml) { printf "id %s\n", $r->data->{id} }
	elsif ($r->is_unknown || $r->is_bailout) { printf "unexpected: %s\n", $r->raw }
}
print "error: $_\n" for $p->parse_errors;
`
	for name, r := range map[string]*Report{"sample": sample(), "nasty": nasty()} {
		tap, ok := strings.CutPrefix(render(t, r, TAP, Screen{}), "TAP version 14\n")
		if !ok {
			t.Fatal("not version 14")
		}
		cmd := exec.Command("perl", "-e", reader)
		cmd.Stdin = strings.NewReader("TAP version 13\n" + tap)
		got, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		var want strings.Builder
		for i, it := range r.Results {
			status, skip := "ok", ""
			if it.Outcome == Failed {
				status = "not ok"
			}
			if !it.counts() {
				skip = " skip"
			}
			fmt.Fprintf(&want, "%s %d%s\nid %s\n", status, i+1, skip, it.ID)
		}
		if string(got) != want.String() {
			t.Errorf("%s: Perl reads\n%s\nwant\n%s", name, got, want.String())
		}
	}
}
