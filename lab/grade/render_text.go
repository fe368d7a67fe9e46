package grade

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"kstat/view/tty"
)

// Screen is what a text is shown on. The zero value is a file: plain, 80
// columns wide.
type Screen struct {
	Columns int  // 0 means 80
	Color   bool // it knows ANSI colors, and they are wanted
	Erase   bool // it is a terminal on which a line can be written anew
}

// ScreenOf returns what f is, by what the kernel and the environment say of it.
func ScreenOf(f *os.File) Screen {
	if !tty.Is(f) {
		return Screen{}
	}
	s := Screen{Erase: tty.Steered(f), Color: tty.Colored(f)}
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		s.Columns = int(size.Col)
	}
	return s
}

// width is how many columns there are.
func (s Screen) width() int { return cmp.Or(s.Columns, 80) }

// style is what follows ESC [ in a sequence that selects it (ECMA-48, SGR).
type style string

const (
	bold   style = "1m"
	dim    style = "2m"
	green  style = "32m"
	yellow style = "33m"
	cyan   style = "36m"
	alert  style = "1;31m" // bold red
	praise style = "1;32m"
)

// paint returns the text in a style, where there are styles.
func (s Screen) paint(st style, text string) string {
	if !s.Color || st == "" || text == "" {
		return text
	}
	return "\x1b[" + string(st) + text + "\x1b[0m"
}

const (
	maxMeasure = 100 // columns: longer lines are hard to read
	markColumn = 2   // pass, FAIL
	itemColumn = 8   // titles, labels
	textColumn = 18  // what follows a label
	minMeasure = 20  // of a text, however narrow the screen
)

// page writes text for a person.
type page struct {
	w      io.Writer
	screen Screen
	right  int // the last column
}

func (r *Report) writeText(w io.Writer, s Screen) {
	p := page{w, s, max(min(s.width(), maxMeasure), textColumn+minMeasure)}
	p.paragraph(bold, r.Rubric)
	p.paragraph(dim, fmt.Sprintf("profile %s, on %s, by kstat %s", r.Profile, r.Target, r.Version))
	for _, c := range r.chapters() {
		fmt.Fprintln(p.w)
		p.entry("", bold, c.Name, c.score())
		for _, result := range c.Results {
			p.result(&result)
		}
	}
	fmt.Fprintln(p.w)
	verdict := praise
	if !r.Passed() {
		verdict = alert
	}
	p.entry("", verdict, "total", points(r.Points)+"/"+points(r.Max))
	p.paragraph("", fmt.Sprintf("%s, in %s", r.summary(), r.Took.duration()))
}

// score is the points of a section, "" if nothing in it counts.
func (c *chapter) score() string {
	for _, result := range c.Results {
		if result.counts() {
			return points(c.Points) + "/" + points(c.Max)
		}
	}
	return ""
}

func (p *page) result(r *Result) {
	score := points(r.Points) + "/" + points(r.Max)
	if !r.counts() {
		score = "-/" + points(r.Max)
	}
	switch r.Outcome {
	case Passed:
		p.entry("pass", green, r.name(), score)
	case Failed:
		p.entry("FAIL", alert, r.name(), score)
	case Skipped:
		p.entry("skip", yellow, r.name(), score)
	case ByHand:
		p.entry("hand", cyan, r.name()+" (left to a person)", score)
	}
	for _, d := range r.details() {
		p.detail(d)
	}
}

// entry writes a mark, a title, and a score at the right. Without a mark, the
// title begins the line and has the style.
func (p *page) entry(mark string, st style, title, score string) {
	var head, indent string
	if mark != "" {
		head = spaces(markColumn) + p.screen.paint(st, mark) + spaces(itemColumn-markColumn-len(mark))
		indent = spaces(itemColumn)
	}
	lines := wrap(oneLine(title), max(p.right-len(indent)-len(score)-2, 1))
	gap := spaces(p.right - len(indent) - columns(lines[0]) - len(score))
	if mark == "" {
		lines[0], score = p.screen.paint(st, lines[0]), p.screen.paint(bold, score)
	}
	fmt.Fprintln(p.w, strings.TrimRight(head+lines[0]+gap+score, " "))
	for _, line := range lines[1:] {
		fmt.Fprintln(p.w, indent+line)
	}
}

// detail writes a label and a text beside it.
func (p *page) detail(d detail) {
	width := p.right - textColumn
	var lines []string
	switch d.label {
	case "by hand":
		lines = strings.Split(d.text, "\n") // commands are not broken, so that they can be copied
	case "output":
		lines = wrap(d.text, width-2)
		for i, line := range lines {
			lines[i] = p.screen.paint(dim, "|") + " " + line
		}
	default:
		lines = wrap(d.text, width)
	}
	head := spaces(itemColumn) + p.screen.paint(dim, d.label) + spaces(textColumn-itemColumn-len(d.label))
	for _, line := range lines {
		fmt.Fprintln(p.w, strings.TrimRight(head+line, " "))
		head = spaces(textColumn)
	}
}

// paragraph writes a text over the whole width.
func (p *page) paragraph(st style, text string) {
	for _, line := range wrap(oneLine(text), p.right) {
		fmt.Fprintln(p.w, p.screen.paint(st, line))
	}
}

// wrap breaks a text into lines of at most width columns: at spaces, and where
// there is none, anywhere. There is at least one line, and one column.
func wrap(text string, width int) []string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		for columns(line) > width {
			end := fit(line, width)
			if end == len(line) {
				break // a single character, and wider than that
			}
			indent := len(line) - len(strings.TrimLeft(line, " "))
			if space := strings.LastIndexByte(line[:min(end+1, len(line))], ' '); space > indent {
				end = space
			}
			lines = append(lines, strings.TrimRight(line[:end], " "))
			line = strings.TrimLeft(line[end:], " ")
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}

// fit returns how many bytes of a text, which is wider than that, width columns
// hold; one character at least.
func fit(text string, width int) int {
	used := 0
	for i, c := range text {
		if used += columnsOf(c); used > width && i > 0 {
			return i
		}
	}
	return len(text)
}

// columns returns how wide a terminal shows a text that is visible.
func columns(text string) int {
	n := 0
	for _, c := range text {
		n += columnsOf(c)
	}
	return n
}

// wide are the blocks that terminals show two columns wide, roughly: Unicode's
// East Asian Width, and pictures.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1},
		{0x2e80, 0x303e, 1},
		{0x3041, 0xa4cf, 1},
		{0xac00, 0xd7a3, 1},
		{0xf900, 0xfaff, 1},
		{0xfe30, 0xfe6f, 1},
		{0xff00, 0xff60, 1},
		{0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{
		{0x1f300, 0x1f64f, 1},
		{0x1f900, 0x1f9ff, 1},
		{0x20000, 0x3fffd, 1},
	},
}

func spaces(n int) string { return strings.Repeat(" ", max(n, 0)) }

func columnsOf(c rune) int {
	switch {
	case unicode.In(c, unicode.Mn, unicode.Me):
		return 0 // it is put on the character before it
	case unicode.Is(wide, c):
		return 2
	}
	return 1
}
