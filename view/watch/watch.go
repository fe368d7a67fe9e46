package watch

import (
	"errors"
	"io"
	"time"

	"kstat/fs"
	"kstat/view/tree"
)

// Watch says what is printed, and where.
type Watch struct {
	Tree  tree.Tree
	Out   io.Writer
	JSON  bool   // an object a line, else text
	Count uint64 // of lines with figures, after which it ends; 0: none
}

// ErrEnded: the daemon has ended, as it was asked to.
var ErrEnded = errors.New("kstatd has ended")

// limits are how long a tree may be dead until that is an error, and gone until
// that is the daemon's end. A worker is replaced within a second, unless several
// die in a row; for a moment of that nothing is mounted.
type limits struct {
	dead, gone time.Duration
}

var patience = limits{5 * time.Second, 2 * time.Second}

// persist tries until a tree answers, its daemon has ended, or the patience is
// at its end.
func persist[T any](patience limits, try func() (T, error)) (T, error) {
	begun := time.Now()
	last := begun // moment in which something was there
	for ; ; time.Sleep(20 * time.Millisecond) {
		result, err := try()
		now := time.Now()
		switch {
		case errors.Is(err, tree.ErrAbsent):
			if now.Sub(last) >= patience.gone {
				return result, errors.Join(ErrEnded, err)
			}
		case errors.Is(err, tree.ErrDead):
			if last = now; now.Sub(begun) >= patience.dead {
				return result, err
			}
		default:
			return result, err
		}
	}
}

// first looks before anything is printed. That there is no tree is no end of a
// daemon then.
func (w *Watch) first() (*fs.Document, error) {
	d, err := w.Tree.Stats()
	if errors.Is(err, tree.ErrDead) {
		return persist(patience, w.Tree.Stats)
	}
	return d, err
}

// Publications prints a line for each publication from now on.
func (w *Watch) Publications() error {
	before, err := w.first()
	if err != nil {
		return err
	}
	source, err := persist(patience, w.Tree.Watch)
	if err != nil {
		return err
	}
	// Not the one of now: it may have been replaced.
	defer func() { _ = source.Close() }()

	l := publicationLines{format: format{w.JSON}}
	l.after(before)
	if _, err := w.Out.Write(l.header()); err != nil {
		return err
	}
	for printed := uint64(0); w.Count == 0 || printed < w.Count; {
		p, err := source.Next()
		switch {
		case err == io.EOF:
			return ErrEnded
		case errors.Is(err, tree.ErrDead):
			var next *tree.Publications
			if next, err = persist(patience, w.Tree.Watch); err != nil {
				return err
			}
			_ = source.Close()
			source = next
			continue
		case err != nil:
			return err
		}
		for _, line := range l.lines(p) {
			if _, err := w.Out.Write(line); err != nil {
				return err
			}
		}
		if p.Missed == 0 {
			printed++
		}
	}
	return nil
}

// Intervals prints a line for each interval of that length from now on.
func (w *Watch) Intervals(every time.Duration) error {
	before, err := w.first()
	if err != nil {
		return err
	}
	l := intervalLines{format: format{w.JSON}, last: before, at: time.Now()}
	if _, err := w.Out.Write(l.header()); err != nil {
		return err
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for printed := uint64(0); w.Count == 0 || printed < w.Count; printed++ {
		<-ticks.C
		now, err := persist(patience, w.Tree.Stats)
		if err != nil {
			return err
		}
		for _, line := range l.lines(now, time.Now()) {
			if _, err := w.Out.Write(line); err != nil {
				return err
			}
		}
	}
	return nil
}
