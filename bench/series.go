package main

import (
	"slices"
)

// series holds one figure per round, in the order of the rounds.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// over divides round by round. A round whose divisor is 0 is left out.
func (s series) over(t series) series {
	var out series
	for i := range min(len(s), len(t)) {
		if t[i] != 0 {
			out = append(out, s[i]/t[i])
		}
	}
	return out
}

// less subtracts round by round.
func (s series) less(t series) series {
	var out series
	for i := range min(len(s), len(t)) {
		out = append(out, s[i]-t[i])
	}
	return out
}
