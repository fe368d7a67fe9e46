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

// TestTurn: each round has every subject once, and over the rounds each comes behind both of its neighbours.
func TestTurn(t *testing.T) {
	for n := 1; n <= 6; n++ {
		behind := make(map[[2]int]bool)
		for round := range 2 * n {
			seen := make(map[int]bool)
			for i := range n {
				now := turn(round, i, n)
				seen[now] = true
				if i > 0 {
					behind[[2]int{turn(round, i-1, n), now}] = true
				}
			}
			if len(seen) != n {
				t.Errorf("round %d of %d subjects has %d", round, n, len(seen))
			}
		}
		for i := range n {
			for _, j := range []int{(i + 1) % n, (i + n - 1) % n} {
				if j != i && !behind[[2]int{j, i}] {
					t.Errorf("%d subjects: %d never comes behind %d", n, i, j)
				}
			}
		}
	}
}
