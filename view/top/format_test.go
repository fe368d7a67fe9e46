package top

import (
	"math"
	"slices"
	"testing"
)

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 7: "7", 0.5: "0.5", 0.04: "0", 9.94: "9.9", 9.96: "10", 10.4: "10", 99.5: "100", 999: "999", 999.4: "999",
		999.6: "1.00k", 1000: "1.00k", 1234: "1.23k", 9994: "9.99k", 9996: "10.0k", 12345: "12.3k", 99949: "99.9k", 99960: "100k",
		123456: "123k", 999499: "999k", 999600: "1.00M", 1e9: "1.00G", 2.5e12: "2.50T", 1e15: "1.00P", 18446744073709551615: "18.4E",
	} {
		if got := short(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	if got := short(unknown); got != "-" {
		t.Errorf("unknown: %q", got)
	}
	for v := 0.01; v < 1e19; v *= 1.07 {
		if got := short(v); len(got) > 5 {
			t.Errorf("%v: %q is longer than 5", v, got)
		}
	}
}

func TestCount(t *testing.T) {
	for _, c := range []struct {
		n     uint64
		width int
		want  string
	}{
		{0, 1, "0"}, {7, 9, "7"}, {999, 9, "999"}, {1000, 9, "1,000"}, {123456, 9, "123,456"}, {1234567, 9, "1,234,567"},
		{12345678, 9, "12.3M"}, {12345678, 10, "12,345,678"}, {math.MaxUint64, 26, "18,446,744,073,709,551,615"}, {math.MaxUint64, 25, "18.4E"},
	} {
		if got := count(c.n, c.width); got != c.want {
			t.Errorf("%d in %d columns: %q, want %q", c.n, c.width, got, c.want)
		}
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		part, whole uint64
		want        string
	}{
		{0, 0, "-"}, {0, 5, "0%"}, {5, 5, "100%"}, {1, 3, "33.3%"}, {1, 1001, "<0.1%"}, {1, 1000, "0.1%"}, {1000, 1001, ">99.9%"}, {999, 1000, "99.9%"},
		{math.MaxUint64 - 1, math.MaxUint64, ">99.9%"},
	} {
		if got := percent(c.part, c.whole); got != c.want {
			t.Errorf("%d of %d: %q, want %q", c.part, c.whole, got, c.want)
		}
	}
}

// ramped is a history that ends with such packets per second, and twice as many
// bytes, backwards.
func ramped(values ...float64) *history {
	h := newHistory()
	for i, v := range values {
		h.push(pair{v, 2 * values[len(values)-1-i]})
	}
	return h
}

func TestSpark(t *testing.T) {
	h := ramped(0, 1, 2, 3, 4, 5, 6, unknown, 0.001)
	for _, c := range []struct {
		g         *glyphs
		of, width int
		want      string
	}{
		{&unicode, packets, 12, "   ▁▂▃▄▅▆▇ ▂"},
		{&unicode, packets, 3, "▇ ▂"},
		{&unicode, bytes, 9, "▂ ▇▆▅▄▃▂▁"},
		{&ascii, packets, 9, "_.:-=+* ."},
	} {
		if got := c.g.spark.spark(h, c.of, c.width); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got := unicode.spark.spark(ramped(0, 0, 0), packets, 4); got != " ▁▁▁" {
		t.Errorf("of nothing: %q", got)
	}
	if got := len(ascii.spark.spark(h, packets, 1000)); got != kept {
		t.Errorf("%d columns, want %d", got, kept)
	}
}

func TestChart(t *testing.T) {
	lines, top := unicode.spark.chart(ramped(0, 1, 4, 5, 8, 16, 24, unknown, 0), packets, 10, 3)
	want := []string{
		"       █  ",
		"      ██  ",
		" ▁▁▄▅███ ▁",
	}
	if top != 24 || !slices.Equal(lines, want) {
		t.Errorf("up to %v\n%q, want\n%q", top, lines, want)
	}
	lines, top = ascii.spark.chart(ramped(0, 0), packets, 3, 2)
	if want := []string{"   ", " __"}; top != 0 || !slices.Equal(lines, want) {
		t.Errorf("of nothing, up to %v: %q, want %q", top, lines, want)
	}
}
