package grade

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Format is a form in which a report is written.
type Format string

// The formats.
const (
	Text       Format = "text"       // for a person
	JSON       Format = "json"       // the Report itself
	Gradescope Format = "gradescope" // results.json of gradescope-autograders.readthedocs.io
	JUnit      Format = "junit"      // the XML that Jenkins, GitLab and many actions read
	TAP        Format = "tap"        // version 14 of testanything.org
)

var formats = []Format{Text, JSON, Gradescope, JUnit, TAP}

// ParseFormat returns the format of a name.
func ParseFormat(name string) (Format, error) {
	if f := Format(name); slices.Contains(formats, f) {
		return f, nil
	}
	return "", fmt.Errorf("no format %q: take one of %s", name, join(formats))
}

// Write writes the report. The screen matters to [Text] only.
//
// What the graded program has printed goes into a report. Only JSON keeps it to
// the byte, as far as JSON can; in the other formats a character that cannot be
// seen is shown as Go spells it, so that it does nothing to a terminal or a
// parser.
func (r *Report) Write(w io.Writer, f Format, s Screen) error {
	out := bufio.NewWriter(w) // it keeps the first error of w
	var err error
	switch f {
	case Text:
		r.writeText(out, s)
	case JSON:
		err = r.writeJSON(out)
	case Gradescope:
		err = r.writeGradescope(out)
	case JUnit:
		err = r.writeJUnit(out)
	case TAP:
		r.writeTAP(out)
	default:
		_, err = ParseFormat(string(f))
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

func (r *Report) writeJSON(w io.Writer) error {
	report := *r
	if report.Results == nil {
		report.Results = []Result{} // a list, not null
	}
	return encodeJSON(w, report)
}

func encodeJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(value)
}

// chapter is the results of one section.
type chapter struct {
	Name        string
	Points, Max float64 // of what counts
	Results     []Result
}

// chapters groups the results by section, in the order in which sections first
// come up.
func (r *Report) chapters() []chapter {
	var all []chapter
	for _, result := range r.Results {
		name := cmp.Or(oneLine(result.Section), "other")
		i := slices.IndexFunc(all, func(c chapter) bool { return c.Name == name })
		if i < 0 {
			i = len(all)
			all = append(all, chapter{Name: name})
		}
		all[i].Results = append(all[i].Results, result)
		if result.counts() {
			all[i].Points += result.Points
			all[i].Max += result.Max
		}
	}
	return all
}

// count returns how many results ended so, and for how many points they were.
func (r *Report) count(o Outcome) (n int, points float64) {
	for _, result := range r.Results {
		if result.Outcome == o {
			n++
			points += result.Max
		}
	}
	return n, points
}

// counts reports whether points were given or lost.
func (r *Result) counts() bool { return r.Outcome == Passed || r.Outcome == Failed }

// name is the title, or the ID if that is all there is, on one line.
func (r *Result) name() string { return cmp.Or(oneLine(r.Title), r.ID) }

// detail is a text about a result. It may have several lines.
type detail struct{ label, text string }

// details returns what there is to say about a result besides its outcome. Of
// one that passed, that is its notes.
func (r *Result) details() []detail {
	var all []detail
	add := func(label, text string) {
		var lines []string
		for line := range strings.SplitSeq(visible(text), "\n") {
			lines = append(lines, strings.TrimRight(line, " "))
		}
		if text = strings.Trim(strings.Join(lines, "\n"), "\n"); text != "" {
			all = append(all, detail{label, text})
		}
	}
	switch r.Outcome {
	case Failed:
		add("did", r.Did)
		add("expected", r.Expected)
		add("seen", r.Seen)
		add("by hand", r.Repeat)
		add("output", r.Output)
	case Skipped:
		add("because", r.Seen)
	}
	for _, note := range r.Notes {
		add("note", note)
	}
	return all
}

// summary is the outcome of all in a line.
func (r *Report) summary() string {
	var parts []string
	for _, o := range []struct {
		outcome Outcome
		words   string
	}{{Passed, "passed"}, {Failed, "failed"}, {Skipped, "skipped"}, {ByHand, "left to a person"}} {
		n, points := r.count(o.outcome)
		switch {
		case n == 0:
		case o.outcome == ByHand && points > 0:
			parts = append(parts, fmt.Sprintf("%d %s (%s)", n, o.words, plural(points, "point")))
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, o.words))
		}
	}
	if parts == nil {
		return "nothing was graded"
	}
	return strings.Join(parts, ", ")
}

// visible makes a text harmless: of what cannot be seen only the newline stays,
// the rest becomes \x1b and the like. A tab becomes spaces.
func visible(text string) string {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	var b strings.Builder
	column := 0
	for i, size := 0, 0; i < len(text); i += size {
		var c rune
		c, size = utf8.DecodeRuneInString(text[i:])
		begin := b.Len()
		switch {
		case c == '\n':
			b.WriteRune(c)
			column = 0
			continue
		case c == '\t':
			b.WriteString("        "[column%8:])
		case c == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case unicode.IsGraphic(c):
			b.WriteRune(c)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
		}
		column += columns(b.String()[begin:])
	}
	return b.String()
}

// oneLine makes a text visible and puts it on one line.
func oneLine(text string) string {
	var lines []string
	for line := range strings.SplitSeq(visible(text), "\n") {
		if words := strings.Fields(line); len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return strings.Join(lines, "; ")
}

// points shows a number of points: 10, 2.5.
func points(p float64) string {
	return strconv.FormatFloat(math.Round(p*100)/100, 'f', -1, 64)
}

// plural shows a number of things: 1 point, 2.5 points.
func plural(n float64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return points(n) + " " + thing
}

// duration shows a length of time as a person reads it.
func (s Seconds) duration() string {
	d := time.Duration(float64(s) * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// milli shows it in seconds, to three places.
func (s Seconds) milli() string { return strconv.FormatFloat(float64(s), 'f', 3, 64) }

func join[T ~string](words []T) string {
	text := make([]string, len(words))
	for i, word := range words {
		text[i] = string(word)
	}
	return strings.Join(text, ", ")
}
