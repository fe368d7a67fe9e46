package grade

import (
	"fmt"
	"io"
	"strings"
)

// submission is results.json as Gradescope documents it:
// https://gradescope-autograders.readthedocs.io/en/latest/specs/
type submission struct {
	Score            float64          `json:"score"`
	ExecutionTime    Seconds          `json:"execution_time"`
	Output           string           `json:"output"`
	OutputFormat     string           `json:"output_format"`
	Visibility       string           `json:"visibility"`
	StdoutVisibility string           `json:"stdout_visibility"`
	ExtraData        map[string]any   `json:"extra_data"`
	Tests            []gradescopeTest `json:"tests"`
}

type gradescopeTest struct {
	Number       string   `json:"number"`
	Name         string   `json:"name"`
	Score        float64  `json:"score"`
	MaxScore     float64  `json:"max_score"`
	Status       string   `json:"status"`
	Output       string   `json:"output,omitempty"`
	OutputFormat string   `json:"output_format"`
	Tags         []string `json:"tags"`
}

// writeGradescope puts what does not count, being left to a person or skipped,
// into the text about the whole: a test without a score would be shown as
// passed or failed.
func (r *Report) writeGradescope(w io.Writer) error {
	var about strings.Builder
	fmt.Fprintf(&about, "%s: %s of %s\n", oneLine(r.Rubric), points(r.Points), plural(r.Max, "point"))
	fmt.Fprintf(&about, "%s, in %s\n", r.summary(), r.Took.duration())

	s := submission{
		Score:            r.Points,
		ExecutionTime:    r.Took,
		OutputFormat:     "text",
		Visibility:       "visible",
		StdoutVisibility: "hidden",
		ExtraData: map[string]any{
			"kstat": r.Version, "profile": r.Profile, "target": oneLine(r.Target), "max_score": r.Max,
		},
		Tests: []gradescopeTest{},
	}
	for i, c := range r.chapters() {
		for j, result := range c.Results {
			if !result.counts() {
				result.writeAside(&about)
				continue
			}
			var output strings.Builder
			for _, d := range result.details() {
				d.write(&output)
			}
			s.Tests = append(s.Tests, gradescopeTest{
				Number:       fmt.Sprintf("%d.%d", i+1, j+1),
				Name:         result.name(),
				Score:        result.Points,
				MaxScore:     result.Max,
				Status:       string(result.Outcome),
				Output:       output.String(),
				OutputFormat: "text",
				Tags:         []string{c.Name, result.ID},
			})
		}
	}
	s.Output = about.String()
	return encodeJSON(w, s)
}

// writeAside writes a line about a result that does not count.
func (r *Result) writeAside(w io.Writer) {
	words := "left to a person"
	if r.Outcome == Skipped {
		words = "skipped"
	}
	fmt.Fprintf(w, "%s: %s (%s)\n", words, r.name(), plural(r.Max, "point"))
	for _, d := range r.details() {
		d.write(w)
	}
}

// write writes a short text behind its label, and a longer one beneath.
func (d detail) write(w io.Writer) {
	if !strings.Contains(d.text, "\n") {
		fmt.Fprintf(w, "%s: %s\n", d.label, d.text)
		return
	}
	fmt.Fprintf(w, "%s:\n", d.label)
	for line := range strings.SplitSeq(d.text, "\n") {
		fmt.Fprintln(w, strings.TrimRight("    "+line, " "))
	}
}
