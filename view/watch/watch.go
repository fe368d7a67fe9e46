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

// patience is how long a tree may be dead until that is an error. A worker is
// replaced within a second, unless several die in a row.
const patience = 5 * time.Second

// persist tries until a tree answers, its daemon has ended, or the patience is
// at its end.
func persist[T any](t tree.Tree, patience time.Duration, try func() (T, error)) (T, error) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		result, err := try()
		absent := errors.Is(err, tree.ErrAbsent)
		switch {
		case absent && !t.Mounted():
			return result, errors.Join(ErrEnded, err)
		case !absent && !errors.Is(err, tree.ErrDead), time.Now().After(end):
			return result, err
		}
	}
}

// first looks before anything is printed. That there is no tree is no end of a
// daemon then.
func (w *Watch) first() (*fs.Document, error) {
	d, err := w.Tree.Stats()
	if errors.Is(err, tree.ErrDead) {
		return persist(w.Tree, patience, w.Tree.Stats)
	}
	return d, err
}

// Publications prints a line for each publication from now on.
func (w *Watch) Publications() error {
	before, err := w.first()
	if err != nil {
		return err
	}
	source, err := persist(w.Tree, patience, w.Tree.Watch)
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
			if next, err = persist(w.Tree, patience, w.Tree.Watch); err != nil {
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
		now, err := persist(w.Tree, patience, w.Tree.Stats)
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
