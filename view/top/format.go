package top

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// short renders a figure that is not negative with three digits: 7, 0.5, 999,
// 1.20k, 34.5M.
func short(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v < 9.95:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	case v < 999.5:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	for _, unit := range "kMGTP" {
		v /= 1000
		switch {
		case v < 9.995:
			return fmt.Sprintf("%.2f%c", v, unit)
		case v < 99.95:
			return fmt.Sprintf("%.1f%c", v, unit)
		case v < 999.5:
			return fmt.Sprintf("%.0f%c", v, unit)
		}
	}
	return fmt.Sprintf("%.1fE", v/1000)
}

// count renders a figure exactly, with commas, or shortly if that is wider
// than width.
func count(n uint64, width int) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	if b.Len() > width {
		return short(float64(n))
	}
	return b.String()
}

// percent renders a part of a whole.
func percent(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	switch share := 100 * float64(part) / float64(whole); {
	case part == 0:
		return "0%"
	case part == whole:
		return "100%"
	case share < 0.1:
		return "<0.1%"
	case share > 99.9:
		return ">99.9%"
	default:
		return fmt.Sprintf("%.1f%%", share)
	}
}

// ramp is eight heights, of which the least stands for nothing in a sparkline.
type ramp [8]string

// spark draws the latest values of a history, as many as width has columns.
// The highest of them has nearly the full height, as there are lines above and
// below; what is more than nothing can be
// told from nothing; what is not known is blank.
func (r *ramp) spark(h *history, of, width int) string {
	shown := h[kept-min(width, kept):]
	top := highest(shown, of)
	var b strings.Builder
	for _, v := range shown {
		switch x := v[of]; {
		case math.IsNaN(x):
			b.WriteByte(' ')
		case x == 0:
			b.WriteString(r[0])
		default:
			b.WriteString(r[max(1, int(math.Ceil(x/top*float64(len(r)-2))))])
		}
	}
	return b.String()
}

// chart draws the same with several lines, from the top down, and returns what
// the highest value is.
func (r *ramp) chart(h *history, of, width, height int) (lines []string, top float64) {
	shown := h[kept-min(width, kept):]
	top = highest(shown, of)
	steps := len(r) // a line's glyphs have heights from 1 to 8
	for row := height - 1; row >= 0; row-- {
		var b strings.Builder
		for _, v := range shown {
			filled := 0 // steps
			if x := v[of]; x > 0 {
				filled = int(math.Ceil(x / top * float64(height*steps)))
			}
			switch filled -= row * steps; {
			case filled > 0:
				b.WriteString(r[min(filled, steps)-1])
			case row == 0 && v[of] == 0:
				b.WriteString(r[0])
			default:
				b.WriteByte(' ')
			}
		}
		lines = append(lines, b.String())
	}
	return lines, top
}

// highest returns the largest value that is known, or 0.
func highest(values []pair, of int) (top float64) {
	for _, v := range values {
		if v[of] > top { // NaN is not
			top = v[of]
		}
	}
	return top
}
