package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
)

// TestPlot: what is written is XML, curves are inside the axes, and no name is over another.
func TestPlot(t *testing.T) {
	p := &plot{
		title: "a < b & c", desc: "d",
		x: axis{label: "x", low: 1, high: 100, log: true, ticks: []float64{1, 10, 100}, text: power},
		y: axis{label: "y", high: 10, ticks: []float64{0, 10}, text: kilo},
	}
	for _, y := range []float64{0, 0, 0.1, 10, 10} {
		p.curves = append(p.curves, curve{name: "same", points: []point{{1, 0}, {100, y}}})
	}
	var b bytes.Buffer
	if err := p.write(&b); err != nil {
		t.Fatal(err)
	}
	var names []float64
	dots := 0
	for d := xml.NewDecoder(&b); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		at := make(map[string]string)
		for _, a := range e.Attr {
			at[a.Name.Local] = a.Value
		}
		number := func(name string) float64 {
			v, err := strconv.ParseFloat(at[name], 64)
			if err != nil {
				t.Fatalf("%s of %v: %v", name, e, err)
			}
			return v
		}
		switch {
		case e.Name.Local == "circle":
			dots++
			if x, y := number("cx"), number("cy"); x < plotLeft || x > plotRight || y < plotTop || y > plotBottom {
				t.Errorf("a dot at %v, %v", x, y)
			}
		case e.Name.Local == "text" && strings.HasPrefix(at["class"], "f"):
			names = append(names, number("y"))
		}
	}
	if dots != 10 || len(names) != 5 {
		t.Fatalf("%d dots and %d names, want 10 and 5", dots, len(names))
	}
	for i := range names[1:] {
		if names[i+1]-names[i] < lineHeight-0.2 {
			t.Errorf("names at %v", names)
		}
	}
}

// TestModel: the prediction follows from the terms, and says what limits it.
func TestModel(t *testing.T) {
	m := terms{stack: 2000, hook: 50, program: 10, shared: 30, handOver: 50, queued: 2000}
	for _, tc := range []struct {
		cpus    int
		want    float64
		byLines bool
	}{
		{1, 1e9 / 2060, false},
		{8, 8e9 / 2080, false},
		{64, 1e7, true}, // two lines of 50 ns
	} {
		if got, byLines := m.bpfMost(tc.cpus); got != tc.want || byLines != tc.byLines {
			t.Errorf("%d CPUs: got %v, %v, want %v, %v", tc.cpus, got, byLines, tc.want, tc.byLines)
		}
	}
	if err := m.complete(); err != nil {
		t.Error(err)
	}
	m.shared = 0
	if m.complete() == nil {
		t.Error("complete without a term")
	}
}
