package grade

import (
	"cmp"
	"fmt"
	"io"
	"strings"
)

func (r *Report) writeTAP(w io.Writer) {
	fmt.Fprintf(w, "TAP version 14\n1..%d\n", len(r.Results))
	fmt.Fprintf(w, "# %s, profile %s, on %s\n", oneLine(r.Rubric), r.Profile, oneLine(r.Target))
	for i, result := range r.Results {
		result.writeTAP(w, i+1)
	}
	fmt.Fprintf(w, "# %s of %s: %s\n", points(r.Points), plural(r.Max, "point"), r.summary())
}

func (r *Result) writeTAP(w io.Writer, number int) {
	status, directive := "ok", ""
	switch r.Outcome {
	case Failed:
		status = "not ok"
	case ByHand:
		directive = " # SKIP left to a person"
	case Skipped:
		directive = " # SKIP " + tapEscape(cmp.Or(oneLine(r.Seen), "skipped"))
	}
	fmt.Fprintf(w, "%s %d - %s%s\n", status, number, tapEscape(r.name()), directive)

	fmt.Fprintf(w, "  ---\n  id: %s\n  section: %s\n", yamlQuote(r.ID), yamlQuote(oneLine(r.Section)))
	fmt.Fprintf(w, "  points: %s\n  max: %s\n  seconds: %s\n", points(r.Points), points(r.Max), r.Took.milli())
	var notes []string
	for _, d := range r.details() {
		switch {
		case d.label == "note":
			notes = append(notes, d.text)
		case r.Outcome == Failed:
			fmt.Fprintf(w, "  %s: %s\n", strings.ReplaceAll(d.label, " ", "_"), yamlQuote(d.text))
		}
	}
	if notes != nil {
		fmt.Fprintf(w, "  notes: %s\n", yamlQuote(strings.Join(notes, "\n")))
	}
	fmt.Fprint(w, "  ...\n")
}

// tapEscape makes a description or a reason of a text, in which # would begin a
// directive.
func tapEscape(line string) string {
	return strings.NewReplacer(`\`, `\\`, `#`, `\#`).Replace(line)
}

// yamlQuote makes a double-quoted scalar of a visible text. It is on one line,
// whatever the text: a block scalar is beyond some of TAP's readers, Perl's for
// one, and may have a line that looks like the end of the block.
func yamlQuote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text) + `"`
}
