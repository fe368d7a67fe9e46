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

// A Stream is what an open file gives that is read as it comes. Its methods are
// for one goroutine at a time.
type Stream interface {
	// Next appends to buffer what comes next, one item at least, and returns
	// it. If there is nothing it waits; it ends when size bytes are there, or
	// when it would have to wait again. The error is io.EOF at the end,
	// [stats.ErrInterrupted] if interrupt was closed meanwhile, and
	// [stats.ErrNoNews] if it would have to wait and interrupt is nil.
	Next(buffer []byte, size int, interrupt <-chan struct{}) ([]byte, error)
	Close()
}

// stream is an open file that gives what comes, wherever in the file that is
// read: the position means nothing. It is no stream for the kernel
// (FOPEN_STREAM), though it could be, as head(1) complains if it cannot seek.
type stream struct {
	source Stream
	wait   bool // else O_NONBLOCK

	// turn holds one value, which a reader takes while it uses what is below.
	// It is no mutex, because who waits for it must be able to be interrupted.
	turn   chan struct{}
	buffer []byte
	left   []byte // of the buffer, to be read
}

var (
	_ gofs.FileReader   = (*stream)(nil)
	_ gofs.FileReleaser = (*stream)(nil)
)

func newStream(f *File, wait bool) (*stream, error) {
	source, err := f.Stream()
	if err != nil {
		f.Log.Error("open refused", "file", f.Name, "err", err)
		return nil, err
	}
	s := &stream{source: source, wait: wait, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s, nil
}

// Read waits for what comes next. Ctx ends when the reader gets a signal, or
// when the tree is gone.
func (s *stream) Read(ctx context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, syscall.EINTR
	}
	if len(s.left) == 0 {
		var interrupt <-chan struct{}
		if s.wait {
			interrupt = ctx.Done()
		}
		buffer, err := s.source.Next(s.buffer[:0], len(dest), interrupt)
		switch {
		case errors.Is(err, io.EOF):
			return fuse.ReadResultData(nil), 0
		case err != nil:
			return nil, errno(err)
		}
		s.buffer, s.left = buffer, buffer
	}
	n := copy(dest, s.left)
	s.left = s.left[n:]
	return fuse.ReadResultData(dest[:n]), 0
}

// Release ends the stream.
func (s *stream) Release(context.Context) syscall.Errno {
	s.source.Close()
	return 0
}

// watch is publications, one line per read: with more, head(1) would swallow
// what it does not show.
type watch struct{ *stats.Watcher }

func (w watch) Next(buffer []byte, _ int, interrupt <-chan struct{}) ([]byte, error) {
	p, missed, err := w.Watcher.Next(interrupt)
	switch {
	case err != nil:
		return nil, err
	case missed > 0:
		return fmt.Appendf(buffer, "missed %d\n", missed), nil
	}
	return fmt.Appendf(buffer, "%d %d %d %d\n", p.Number, p.TCP, p.Packets, p.Time), nil
}
