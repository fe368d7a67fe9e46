package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// plot is curves over two axes, as SVG that is readable on light and on dark.
type plot struct {
	title, desc string
	x, y        axis
	curves      []curve
	marks       []mark
	levels      []mark
	notes       []string // beneath
}

// axis maps values to the plane. A logarithmic one begins above 0.
type axis struct {
	label     string
	low, high float64
	log       bool
	ticks     []float64
	text      func(float64) string
}

type point struct{ x, y float64 }

// curve is points joined by lines. What is beyond its end has not been reached, and that is what dot shows.
type curve struct {
	name   string
	points []point
	dashed bool
	dot    bool
}

// mark is a line across the plot at a value of the x axis, or of the y axis (a level).
type mark struct {
	at   float64
	text string
}

const (
	plotWidth, plotHeight         = 960, 560
	plotLeft, plotRight           = 84, 640 // the names of curves are to the right
	plotTop, plotBottom           = 64, 470
	lineHeight                    = 17.0
	maxCurves                     = 8
	lightColours, darkColours     = "#0969da #cf222e #1a7f37 #8250df #bc4c00 #57606a #bf3989 #0b7285", "#58a6ff #ff7b72 #56d364 #d2a8ff #ffa657 #9198a1 #ff9bce #4dd0e1"
	fontFamily                    = "system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"
	plotStyleLight, plotStyleDark = "#ffffff #d0d7de #1f2328 #59636e #d8dee4", "#0d1117 #3d444d #f0f6fc #9198a1 #262c36"
)

func (a axis) place(v, from, to float64) float64 {
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log10(max(v, a.low)), math.Log10(low), math.Log10(high)
	}
	return from + (v-low)/(high-low)*(to-from)
}

func (p *plot) at(v point) (x, y float64) {
	return p.x.place(v.x, plotLeft, plotRight), p.y.place(v.y, plotBottom, plotTop)
}

func style() string {
	var b strings.Builder
	scheme := func(plain, colours string) {
		c := strings.Fields(plain)
		fmt.Fprintf(&b, ".page{fill:%s;stroke:%s}.name{fill:%s}.note{fill:%s}.grid{stroke:%s}.mark{stroke:%s}", c[0], c[1], c[2], c[3], c[4], c[3])
		for i, colour := range strings.Fields(colours) {
			fmt.Fprintf(&b, ".c%d{stroke:%s}.f%d{fill:%s}", i, colour, i, colour)
		}
	}
	scheme(plotStyleLight, lightColours)
	b.WriteString("@media (prefers-color-scheme: dark){")
	scheme(plotStyleDark, darkColours)
	b.WriteString("}")
	return b.String()
}

func (p *plot) write(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" aria-labelledby="title desc" font-family="%s" font-size="13">`+"\n",
		plotWidth, plotHeight, fontFamily)
	fmt.Fprintf(&b, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n<style>%s</style>\n", escape(p.title), escape(p.desc), style())
	fmt.Fprintf(&b, `<rect class="page" x="0.5" y="0.5" width="%d" height="%d" rx="10"/>`+"\n", plotWidth-1, plotHeight-1)
	text(&b, plotLeft, 30, "name", `font-size="16" font-weight="600"`, p.title)
	p.writeAxes(&b)
	for _, m := range p.marks {
		x := p.x.place(m.at, plotLeft, plotRight)
		fmt.Fprintf(&b, `<path class="mark" stroke-dasharray="2 4" d="M%.1f %d V%d"/>`+"\n", x, plotTop, plotBottom)
		text(&b, 0, 0, "note", fmt.Sprintf(`font-size="11.5" transform="translate(%.1f %d) rotate(-90)"`, x-4, plotBottom-6), m.text)
	}
	for _, m := range p.levels {
		y := p.y.place(m.at, plotBottom, plotTop)
		fmt.Fprintf(&b, `<path class="mark" stroke-dasharray="2 4" d="M%d %.1f H%d"/>`+"\n", plotLeft, y, plotRight)
		text(&b, plotLeft+6, y-4, "note", `font-size="11.5"`, m.text)
	}
	for i, c := range p.curves {
		p.writeCurve(&b, i%maxCurves, c)
	}
	p.writeNames(&b)
	for i, note := range p.notes {
		text(&b, plotLeft, plotHeight-12-lineHeight*float64(len(p.notes)-1-i), "note", `font-size="11.5"`, note)
	}
	b.WriteString("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}

func (p *plot) writeAxes(b *bytes.Buffer) {
	for _, v := range p.x.ticks {
		x := p.x.place(v, plotLeft, plotRight)
		fmt.Fprintf(b, `<path class="grid" d="M%.1f %d V%d"/>`+"\n", x, plotTop, plotBottom)
		text(b, x, plotBottom+18, "note", `text-anchor="middle"`, p.x.text(v))
	}
	for _, v := range p.y.ticks {
		y := p.y.place(v, plotBottom, plotTop)
		fmt.Fprintf(b, `<path class="grid" d="M%d %.1f H%d"/>`+"\n", plotLeft, y, plotRight)
		text(b, plotLeft-8, y+4, "note", `text-anchor="end"`, p.y.text(v))
	}
	text(b, (plotLeft+plotRight)/2, plotBottom+38, "name", `text-anchor="middle"`, p.x.label)
	text(b, plotLeft, plotTop-12, "name", "", p.y.label)
}

func (p *plot) writeCurve(b *bytes.Buffer, colour int, c curve) {
	if len(c.points) == 0 {
		return
	}
	var path strings.Builder
	for i, v := range c.points {
		x, y := p.at(v)
		path.WriteByte("ML"[min(i, 1)])
		fmt.Fprintf(&path, "%.1f %.1f", x, y)
	}
	dash := ""
	if c.dashed {
		dash = ` stroke-dasharray="6 4"`
	}
	fmt.Fprintf(b, `<path class="c%d" fill="none" stroke-width="2"%s d="%s"/>`+"\n", colour, dash, path.String())
	dots := c.points
	if c.dot {
		dots = dots[len(dots)-1:]
	}
	for _, v := range dots {
		x, y := p.at(v)
		fmt.Fprintf(b, `<circle class="f%d" cx="%.1f" cy="%.1f" r="3"/>`+"\n", colour, x, y)
	}
}

// writeNames puts a curve's name to the right of where it ends, and none over another.
func (p *plot) writeNames(b *bytes.Buffer) {
	type name struct{ curve, y, x, own float64 }
	var names []name
	for i, c := range p.curves {
		if len(c.points) > 0 {
			x, y := p.at(c.points[len(c.points)-1])
			names = append(names, name{float64(i), y, x, y})
		}
	}
	slices.SortFunc(names, func(a, b name) int { return int(math.Copysign(1, a.y-b.y)) })
	for i := range names {
		if i > 0 {
			names[i].y = max(names[i].y, names[i-1].y+lineHeight)
		}
	}
	// Those that the last one's place has pushed out of the plot go up again.
	for i := len(names) - 1; i >= 0; i-- {
		limit := float64(plotBottom)
		if i < len(names)-1 {
			limit = names[i+1].y - lineHeight
		}
		names[i].y = min(names[i].y, limit)
	}
	for _, n := range names {
		colour := int(n.curve) % maxCurves
		fmt.Fprintf(b, `<path class="c%d" stroke-width="0.8" fill="none" opacity="0.6" d="M%.1f %.1fL%d %.1f"/>`+"\n", colour, n.x+5, n.own, plotRight+14, n.y)
		text(b, plotRight+18, n.y+4, fmt.Sprintf("f%d", colour), "", p.curves[int(n.curve)].name)
	}
}

func text(b *bytes.Buffer, x, y float64, class, more, s string) {
	place := ""
	if x != 0 || y != 0 {
		place = fmt.Sprintf(` x="%.1f" y="%.1f"`, x, y)
	}
	if more != "" {
		more = " " + more
	}
	fmt.Fprintf(b, `<text class="%s"%s%s>%s</text>`+"\n", class, place, more, escape(s))
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder fails never
	return b.String()
}
