package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"kstat/stats"
)

// watch is an open file that gives a line per read, wherever in the file that
// is: the position means nothing. It is no stream for the kernel (FOPEN_STREAM),
// though it could be, as head(1) complains if it cannot seek.
type watch struct {
	watcher *stats.Watcher
	wait    bool // else O_NONBLOCK

	// turn holds one value, which a reader takes while it uses what is below.
	// It is no mutex, because who waits for it must be able to be interrupted.
	turn chan struct{}
	line []byte // what is left of the last one
}

var (
	_ gofs.FileReader   = (*watch)(nil)
	_ gofs.FileReleaser = (*watch)(nil)
)

func newWatch(f *File, wait bool) (*watch, error) {
	watcher, err := f.Watch()
	if err != nil {
		f.Log.Error("open refused", "file", f.Name, "err", err)
		return nil, err
	}
	w := &watch{watcher: watcher, wait: wait, turn: make(chan struct{}, 1)}
	w.turn <- struct{}{}
	return w, nil
}

// Read waits for the next publication. Ctx ends when the reader gets a signal,
// or when the tree is gone.
func (w *watch) Read(ctx context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	select {
	case <-w.turn:
		defer func() { w.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, syscall.EINTR
	}
	if len(w.line) == 0 {
		var interrupt <-chan struct{}
		if w.wait {
			interrupt = ctx.Done()
		}
		p, missed, err := w.watcher.Next(interrupt)
		switch {
		case errors.Is(err, io.EOF):
			return fuse.ReadResultData(nil), 0
		case err != nil:
			return nil, errno(err)
		}
		w.line = publicationLine(w.line, p, missed)
	}
	n := copy(dest, w.line)
	w.line = w.line[n:]
	return fuse.ReadResultData(dest[:n]), 0
}

// Release ends the watch.
func (w *watch) Release(context.Context) syscall.Errno {
	w.watcher.Close()
	return 0
}

// publicationLine renders what a watcher has returned, into a buffer.
func publicationLine(buffer []byte, p stats.Publication, missed uint64) []byte {
	if missed > 0 {
		return fmt.Appendf(buffer[:0], "missed %d\n", missed)
	}
	return fmt.Appendf(buffer[:0], "%d %d %d %d\n", p.Number, p.TCP, p.Packets, p.Time)
}
