package trace

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// columns shows lines with what belongs together below each other.
type columns struct {
	out    *bufio.Writer
	color  bool
	device int // widths
	places int
}

func newColumns(out io.Writer, color bool) *columns {
	return &columns{out: bufio.NewWriterSize(out, 1<<16), color: color, device: 5, places: 34}
}

// widest is how wide a column becomes: two IPv6 addresses of the longer kind.
const widest = 60

// SGR sequences.
const (
	plain   = "\x1b[0m"
	dim     = "\x1b[2m"
	red     = "\x1b[31m"
	green   = "\x1b[32m"
	yellow  = "\x1b[33m"
	magenta = "\x1b[35m"
	cyan    = "\x1b[36m"
)

func (c *columns) in(color, text string) string {
	if !c.color || text == "" {
		return text
	}
	return color + text + plain
}

// color returns the color of a packet.
func color(rest string) string {
	switch {
	case strings.HasPrefix(rest, "Flags [R"):
		return red
	case strings.HasPrefix(rest, "Flags"):
		return cyan
	case strings.HasPrefix(rest, "UDP"):
		return green
	case strings.HasPrefix(rest, "ICMP"):
		return yellow
	}
	return magenta
}

func (c *columns) show(l *line) {
	if l.missed > 0 {
		packets := "packets"
		if l.missed == 1 {
			packets = "packet"
		}
		fmt.Fprintln(c.out, c.in(red, fmt.Sprintf("# %d %s missed", l.missed, packets)))
		return
	}
	c.device = max(c.device, min(len(l.device), widest))
	c.places = max(c.places, min(len(l.places), widest))
	fmt.Fprintf(c.out, "%s  %-*s %-3s  %-3s  %-*s  %s\n", c.in(dim, l.time), c.device, l.device, l.direction, l.family,
		c.places, l.places, c.in(color(l.rest), l.rest))
}
