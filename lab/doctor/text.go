package doctor

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"kstat/lab/grade"
	"kstat/view/tty"
)

// Screen is what a report is shown on. The zero value is a file of ASCII.
type Screen struct {
	Columns int  // 0 means 80
	Color   bool // ANSI colors are wanted
	Unicode bool // it is UTF-8
}

// ScreenOf returns what f is, by what the kernel and the environment say of it.
func ScreenOf(f *os.File) Screen {
	known := grade.ScreenOf(f)
	return Screen{Columns: known.Columns, Color: known.Color, Unicode: tty.UTF8(os.Getenv)}
}

// mark is what stands before a check.
func (s Screen) mark(status Status) string {
	var sign, plain, color string
	switch status {
	case OK:
		sign, plain, color = "✓", "+", "32"
	case Warn:
		sign, plain, color = "!", "!", "33"
	case Fail:
		sign, plain, color = "✗", "x", "1;31"
	default:
		sign, plain, color = "-", "-", "2"
	}
	if !s.Unicode {
		sign = plain
	}
	return s.paint(color, sign)
}

func (s Screen) paint(style, text string) string {
	if !s.Color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// page writes text for a person.
type page struct {
	w      *bufio.Writer
	screen Screen
	right  int // the last column
	label  int // the width of titles; 0: what was found is beneath them
}

// WriteText writes the report for a person: a line for each check, more for
// those with which something is to be done, and at last the verdicts. verbose
// adds the details.
func (r *Report) WriteText(w io.Writer, s Screen, verbose bool) error {
	p := &page{w: bufio.NewWriter(w), screen: s, right: min(s.Columns, 110)}
	if s.Columns == 0 {
		p.right = 80
	}
	p.right = max(p.right, 40)
	for _, c := range r.Checks {
		p.label = max(p.label, len(c.Title))
	}
	for _, f := range r.Features {
		p.label = max(p.label, len(f.Title))
	}
	p.label = min(p.label, 28)
	if p.right-6-p.label < 24 {
		p.label = 0
	}
	group := ""
	for _, c := range r.Checks {
		if c.Group != group {
			if group != "" {
				fmt.Fprintln(p.w)
			}
			group = c.Group
			fmt.Fprintln(p.w, s.paint("1", group))
		}
		p.entry(c.Status, c.Title, c.Found)
		p.cure(&c)
		if verbose {
			for _, d := range c.Details {
				p.text(6, "2", d)
			}
		}
	}
	fmt.Fprintf(p.w, "\n%s\n", s.paint("1", "verdict"))
	for _, v := range r.Features {
		p.verdict(r, &v)
	}
	return p.w.Flush()
}

// entry writes a line: a mark, a title, and what was found.
func (p *page) entry(status Status, title, found string) {
	title = visible(title)
	indent := 4 + p.label + 2
	head := "  " + p.screen.mark(status) + " " + title
	if len(title) > p.label {
		fmt.Fprintln(p.w, head)
		p.text(indent, "", found)
		return
	}
	head += strings.Repeat(" ", p.label-len(title)+2)
	for i, line := range wrap(visible(found), p.right-indent) {
		if i > 0 {
			head = strings.Repeat(" ", indent)
		}
		fmt.Fprintln(p.w, strings.TrimRight(head+line, " "))
	}
}

// cure writes what to do about a check.
func (p *page) cure(c *Check) {
	if c.Mend != "" {
		p.text(6, "", c.Mend+map[bool]string{true: ":"}[c.Command != ""])
	}
	if c.Command != "" { // never broken, so that it can be copied
		fmt.Fprintf(p.w, "          %s\n", p.screen.paint("36", visible(c.Command)))
	}
}

func (p *page) verdict(r *Report, v *Verdict) {
	var names []string
	found := ""
	for _, c := range r.Checks {
		if c.Status == v.Status && slices.Contains(v.Because, c.ID) && !slices.Contains(names, c.Title) {
			names = append(names, c.Title)
			found = c.Found
		}
	}
	switch v.Status {
	case OK:
		p.entry(OK, v.Title, "works")
	case Skip:
		p.entry(Skip, v.Title, "not known: "+found)
	default:
		p.entry(Fail, v.Title, "does not work; see above: "+strings.Join(names, ", "))
	}
}

// text writes a text, indented.
func (p *page) text(indent int, style, text string) {
	for _, line := range wrap(visible(text), p.right-indent) {
		if style != "" {
			line = p.screen.paint(style, line)
		}
		fmt.Fprintln(p.w, strings.Repeat(" ", indent)+line)
	}
}

// visible makes a text harmless: names of processes are theirs to choose.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, text)
}

// wrap breaks a text at spaces into lines of at most width columns, longer ones
// where there is no space. There is at least one.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
