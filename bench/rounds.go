package main

import (
	"context"
	"fmt"
	"os"
)

// sample is what one subject measured in one round, by the figure's name.
type sample map[string]float64

// subject is one side of a comparison.
type subject struct {
	name string
	// run starts what it needs, measures once and leaves nothing behind.
	run func(context.Context) (sample, error)
}

// table holds the samples of a row, one per round and subject.
type table struct {
	samples map[string][]sample
	failed  map[string]error
}

// turn answers which of n subjects is the i-th of a round. Every second round is the one before, turned about, and the next
// begins one further on: nobody always comes behind the same one, which leaves the machine in a state of its own.
func turn(round, i, n int) int {
	if round%2 == 1 {
		i = n - 1 - i
	}
	return (round/2 + i) % n
}

// rounds lets every subject run once a round. A subject that fails is out of the row: figures of the rounds it survived
// would be of another condition than the others'.
func (l *lab) rounds(ctx context.Context, row string, n int, subjects ...subject) *table {
	t := &table{samples: make(map[string][]sample), failed: make(map[string]error)}
	for r := range n {
		for i := range subjects {
			s := subjects[turn(r, i, len(subjects))]
			if t.failed[s.name] != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				t.failed[s.name] = err
				continue
			}
			fmt.Fprintf(os.Stderr, "bench: %s: round %d/%d: %s\n", row, r+1, n, s.name)
			got, err := s.run(ctx)
			if err != nil {
				t.failed[s.name] = err
				fmt.Fprintf(os.Stderr, "bench: %s: %s: %v\n", row, s.name, err)
				continue
			}
			t.samples[s.name] = append(t.samples[s.name], got)
		}
	}
	return t
}

// series answers one figure of a subject over the rounds, or why there is none.
func (t *table) series(subject, figure string) (series, error) {
	if err := t.failed[subject]; err != nil {
		return nil, err
	}
	var out series
	for _, s := range t.samples[subject] {
		v, ok := s[figure]
		if !ok {
			return nil, fmt.Errorf("no figure %q of %s", figure, subject)
		}
		out = append(out, v)
	}
	return out, nil
}

// median answers 0 for what was not measured.
func (t *table) median(subject, figure string) float64 {
	values, _ := t.series(subject, figure)
	return values.median()
}

// line is the report's line of one figure.
func (t *table) line(subject, figure, what, unit string) line {
	values, err := t.series(subject, figure)
	return line{what: what + ": " + subject, unit: unit, values: values, missing: err}
}

// ratio is the report's line of one figure of a over that of b, with its target if there is one.
func (t *table) ratio(a, b, figure, what string, target *target) line {
	out := t.compare(series.over, a, b, figure)
	out.what, out.unit, out.target = fmt.Sprintf("%s: %s ÷ %s", what, a, b), "ratio", target
	if out.missing == nil && len(out.values) == 0 {
		out.missing = fmt.Errorf("%s of %s is 0 in every round", figure, b)
	}
	return out
}

// difference is the report's line of one figure of a less that of b, with its target if there is one.
func (t *table) difference(a, b, figure, what, unit string, target *target) line {
	out := t.compare(series.less, a, b, figure)
	out.what, out.unit, out.target = fmt.Sprintf("%s: %s − %s", what, a, b), unit, target
	return out
}

func (t *table) compare(how func(a, b series) series, a, b, figure string) (out line) {
	above, err := t.series(a, figure)
	if err != nil {
		out.missing = err
		return out
	}
	below, err := t.series(b, figure)
	if err != nil {
		out.missing = err
		return out
	}
	out.values = how(above, below)
	return out
}
