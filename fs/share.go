package fs

import (
	"context"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// share is how much of the serving process's memory all users but root may keep
// together, by what they hold open: everybody may read, and the process that
// counts is to live. A nil one has no end. It is used by any goroutine.
type share struct{ left atomic.Int64 }

// In bytes. What an open file takes beside its text, and a folder with its
// list, was measured, and rounded up.
const (
	shareSize  = 8 << 20
	fileTakes  = 512
	folderTake = 6 << 10
)

func newShare() *share {
	s := new(share)
	s.left.Store(shareSize)
	return s
}

// of returns the share that a request is held to: none, if it is root's.
func (s *share) of(ctx context.Context) *share {
	if caller, ok := fuse.FromContext(ctx); ok && caller.Uid == 0 {
		return nil
	}
	return s
}

// take takes some bytes, or gives them back if they are negative. The error is
// ENFILE.
func (s *share) take(bytes int) error {
	if s == nil {
		return nil
	}
	if s.left.Add(-int64(bytes)) < 0 && bytes > 0 {
		s.left.Add(int64(bytes))
		return unix.ENFILE
	}
	return nil
}
