package grade

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// Profile is how strict a grading is.
type Profile string

// The profiles.
const (
	// Contract wants all of docs/contract.md.
	Contract Profile = "contract"
	// Coursework wants what the assignment states: a missing newline, any error
	// for junk, and publication after N TCP packets instead of N of any protocol
	// are accepted, and noted.
	Coursework Profile = "coursework"
)

// Rubric is a list of items.
type Rubric struct {
	Title string
	Items []Item
}

// Item is one thing to grade.
type Item struct {
	ID      string
	Section string
	Title   string
	Points  float64
	Limit   time.Duration // after which it has failed; 0 means DefaultLimit
	Repeat  string        // shell commands by which a person does the same, on the default paths

	// Unloaded says that Try begins without the module, if that can be
	// unloaded: it is for a script that loads it by itself.
	Unloaded bool

	// Try does the experiment. nil means that it is left to a person. Its
	// context ends when the time is over; an experiment that goes on all the
	// same is abandoned.
	Try func(context.Context, *Bench) Verdict
}

// DefaultLimit is how long an item may take if it does not say.
const DefaultLimit = 30 * time.Second

// Verdict is what an experiment came to. The zero value is a pass.
type Verdict struct {
	Outcome             Outcome // "" means Passed
	Did, Expected, Seen string
	Repeat              string // "" means the item's
	Notes               []string
	Output              string
}

// Run tries the items in order. It calls each, which may be nil, with an item's
// number, from 0 on: before the item with a nil result, and after it with its
// result.
//
// Every item finds the target in the same state: loaded anew if that can be,
// stopped, counter at 10, and nothing pending. At the end the target is as Run
// has found it, but for its figures.
//
// If ctx ends, Run returns, and the items that were not finished are missing
// from the report.
func (r *Rubric) Run(ctx context.Context, b *Bench, each func(i int, item *Item, result *Result)) *Report {
	if each == nil {
		each = func(int, *Item, *Result) {}
	}
	report := &Report{Schema: Schema, Rubric: r.Title, Profile: b.Profile, Target: b.Name, Began: time.Now()}
	found := b.look()
	for i := range r.Items {
		item := &r.Items[i]
		each(i, item, nil)
		result := item.run(ctx, b)
		if ctx.Err() != nil {
			break
		}
		report.add(result)
		each(i, item, &result)
	}
	b.leave(found)
	report.Took = since(report.Began)
	return report
}

// add adds a result and its points.
func (r *Report) add(result Result) {
	r.Results = append(r.Results, result)
	if result.Outcome == Passed || result.Outcome == Failed {
		r.Points += result.Points
		r.Max += result.Max
	}
}

func since(t time.Time) Seconds { return Seconds(time.Since(t).Seconds()) }

// run tries an item.
func (item *Item) run(ctx context.Context, b *Bench) Result {
	began := time.Now()
	v := Verdict{Outcome: ByHand}
	if item.Try != nil {
		v = item.try(ctx, b)
	}
	result := Result{
		ID:      item.ID,
		Section: item.Section,
		Title:   item.Title,
		Outcome: cmp.Or(v.Outcome, Passed),
		Max:     item.Points,
		Took:    since(began),
		Notes:   v.Notes,
		Output:  v.Output,
	}
	switch result.Outcome {
	case Passed:
		result.Points = item.Points
	case Failed:
		result.Did, result.Expected, result.Seen = v.Did, v.Expected, v.Seen
		result.Repeat = cmp.Or(v.Repeat, b.onTarget(item.Repeat))
	case Skipped:
		result.Seen = v.Seen
	}
	return result
}

// grace is how long an experiment whose time is over may take to say what it
// was about.
const grace = time.Second

// try brings the target into its known state, and does the experiment within
// the item's limit.
func (item *Item) try(ctx context.Context, b *Bench) Verdict {
	limit := cmp.Or(item.Limit, DefaultLimit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	renewed := make(chan struct{})
	done := make(chan Verdict, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- Verdict{
					Outcome:  Failed,
					Did:      "tried it",
					Expected: "the experiment ends",
					Seen:     fmt.Sprintf("a mistake in the experiment itself: panic: %v", p),
					Output:   string(debug.Stack()),
				}
			}
		}()
		wrong := func() *Verdict {
			defer close(renewed)
			return b.renew(ctx, !item.Unloaded)
		}()
		if wrong != nil {
			done <- *wrong
			return
		}
		done <- item.Try(ctx, b)
	}()

	select {
	case v := <-done:
		return v
	case <-ctx.Done():
	}
	<-renewed // that heeds ctx
	v := Verdict{Did: "tried it", Seen: "it went on, and was left alone"}
	select {
	case v = <-done:
	case <-time.After(grace):
	}
	v.Outcome = Failed
	v.Expected = fmt.Sprintf("it ends within %v", limit)
	return v
}
