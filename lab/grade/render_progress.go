package grade

import (
	"fmt"
	"io"
	"os"
)

// Progress shows on a terminal which item is being tried, in one line that is
// written anew and erased at the end. Where a line cannot be erased, it shows
// nothing.
type Progress struct {
	w      io.Writer
	screen func() Screen // asked each time, as a window may be resized
	total  int
	failed int
}

// NewProgress returns the progress of that many items, to be shown on f.
func NewProgress(f *os.File, total int) *Progress {
	return &Progress{w: f, screen: func() Screen { return ScreenOf(f) }, total: total}
}

// Each takes what [Rubric.Run] tells of an item.
func (p *Progress) Each(i int, item *Item, result *Result) {
	if result == nil {
		p.show(i, item)
	} else if result.Outcome == Failed {
		p.failed++
	}
}

// Done erases the line.
func (p *Progress) Done() {
	if p.screen().Erase {
		fmt.Fprint(p.w, erase)
	}
}

// erase goes to the beginning of the line and clears it (ECMA-48, CR and EL).
const erase = "\r\x1b[K"

func (p *Progress) show(i int, item *Item) {
	s := p.screen()
	if !s.Erase {
		return
	}
	head := fmt.Sprintf("[%*d/%d] ", len(fmt.Sprint(p.total)), i+1, p.total)
	failed := ""
	if p.failed > 0 {
		failed = fmt.Sprintf("%d failed, ", p.failed)
	}
	// The last column stays free: some terminals go to the next line behind it.
	title := (&Result{ID: item.ID, Title: item.Title}).name()
	if room := s.width() - 1 - len(head) - len(failed) - columns(" …"); columns(title) > room {
		title = title[:fit(title, max(room, 1))]
	}
	fmt.Fprint(p.w, erase, s.paint(dim, head), s.paint(alert, failed), title, " …")
}
