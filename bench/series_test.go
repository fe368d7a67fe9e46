package main

import (
	"slices"
	"testing"
)

func TestSeries(t *testing.T) {
	for _, tc := range []struct {
		in   series
		want float64
	}{
		{nil, 0},
		{series{3}, 3},
		{series{9, 1, 5}, 5},
		{series{4, 1, 2, 3}, 2.5},
	} {
		if got := tc.in.median(); got != tc.want {
			t.Errorf("median of %v: got %v, want %v", tc.in, got, tc.want)
		}
	}
	in := series{2, 6, 5}
	if got, want := in.over(series{1, 3, 0}), (series{2, 2}); !slices.Equal(got, want) {
		t.Errorf("over: got %v, want %v", got, want)
	}
	if !slices.Equal(in, series{2, 6, 5}) {
		t.Errorf("median or over changed its series: %v", in)
	}
}
