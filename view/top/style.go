package top

import (
	"image/color"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"kstat/view/tty"
)

// glyphs are the characters beside ASCII, or what stands for them.
type glyphs struct {
	spark                            ramp
	started, stopped, gone, down, up string
	dots, dash, left, vertical       string
}

var (
	unicode = glyphs{
		spark:   ramp{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"},
		started: "●", stopped: "○", gone: "✗", down: "▼", up: "▲",
		dots: "…", dash: "–", left: "←→", vertical: "↑↓",
	}
	ascii = glyphs{
		spark:   ramp{"_", ".", ":", "-", "=", "+", "*", "#"},
		started: "*", stopped: "o", gone: "x", down: "v", up: "^",
		dots: "~", dash: "-", left: "<>", vertical: "jk",
	}
)

// glyphsOf returns what the terminal of an environment can show.
func glyphsOf(getenv func(string) string) *glyphs {
	if tty.UTF8(getenv) {
		return &unicode
	}
	return &ascii
}

// theme is how things look. bubbletea turns colours into what the terminal has.
type theme struct {
	plain, strong, faint, accent, good, warn, bad, head, headSorted, key ansi.Style
}

// themeFor returns the theme for a dark or a light background.
func themeFor(dark bool) *theme {
	pick := func(light, darkColor color.RGBA) ansi.Color {
		if dark {
			return darkColor
		}
		return light
	}
	rgb := func(hex uint32) color.RGBA {
		return color.RGBA{uint8(hex >> 16), uint8(hex >> 8), uint8(hex), 0xff}
	}
	faint := pick(rgb(0x6c6c6c), rgb(0x8a8a8a))
	accent := pick(rgb(0x00708a), rgb(0x5fd7d7))
	bar := pick(rgb(0xe4e4e4), rgb(0x303030))
	text := pick(rgb(0x303030), rgb(0xd0d0d0))
	style := ansi.NewStyle
	return &theme{
		plain:      style(),
		strong:     style().Bold(),
		faint:      style().ForegroundColor(faint),
		accent:     style().ForegroundColor(accent),
		good:       style().Bold().ForegroundColor(pick(rgb(0x00762a), rgb(0x5fd787))),
		warn:       style().Bold().ForegroundColor(pick(rgb(0x875f00), rgb(0xffd75f))),
		bad:        style().Bold().ForegroundColor(pick(rgb(0xc00000), rgb(0xff5f5f))),
		head:       style().ForegroundColor(text).BackgroundColor(bar),
		headSorted: style().Bold().ForegroundColor(accent).BackgroundColor(bar),
		key:        style().Bold().ForegroundColor(accent),
	}
}

// span of text in one style.
type piece struct {
	style ansi.Style
	text  string
}

func (p piece) String() string {
	if len(p.style) == 0 || p.text == "" {
		return p.text
	}
	return p.style.Styled(p.text)
}

// item is some pieces that stay together.
type item []piece

func (i item) width() (width int) {
	for _, p := range i {
		width += ansi.StringWidth(p.text)
	}
	return width
}

func (i item) String() string {
	var b strings.Builder
	for _, p := range i {
		b.WriteString(p.String())
	}
	return b.String()
}

// flow puts items behind each other, with a gap between, into lines of a width.
// What does not fit into so many lines is left out.
func flow(items []item, width, gap, most int) (lines []string) {
	used := 0
	for _, i := range items {
		w := i.width()
		switch {
		case w > width:
			continue
		case len(lines) > 0 && used+gap+w <= width:
			lines[len(lines)-1] += strings.Repeat(" ", gap) + i.String()
			used += gap + w
		case len(lines) < most:
			lines = append(lines, i.String())
			used = w
		}
	}
	return lines
}

// spread puts items at both ends of a line. Those on the right give way, the
// first of them first.
func spread(left, right []item, width, gap int) string {
	line := strings.Join(flow(left, width, gap, 1), "")
	used := ansi.StringWidth(line)
	for ; len(right) > 0; right = right[1:] {
		tail := strings.Join(flow(right, 1<<10, gap, 1), "")
		if w := ansi.StringWidth(tail); used+gap+w <= width {
			return line + strings.Repeat(" ", width-used-w) + tail
		}
	}
	return line
}
