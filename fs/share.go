package fs

import (
	"context"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// pool is how much of the serving process's memory all users but root may keep
// together, by what they hold open: everybody may read, and the process that
// counts is to live. A nil one has no end. It is used by any goroutine.
type pool struct {
	mu    sync.Mutex
	left  int            // bytes
	taken map[uint32]int // bytes, by user
}

// In bytes. What an open file takes beside its text, and a folder with its
// list, was measured, and rounded up.
const (
	poolSize   = 8 << 20
	fileTakes  = 512
	folderTake = 6 << 10
)

func newPool() *pool { return &pool{left: poolSize, taken: make(map[uint32]int)} }

// share is a user's part of a pool. A nil one has no end.
type share struct {
	pool *pool
	user uint32
}

// of returns the share that a request is held to: none, if it is root's.
func (p *pool) of(ctx context.Context) *share {
	caller, ok := fuse.FromContext(ctx)
	if p == nil || !ok || caller.Uid == 0 {
		return nil
	}
	return &share{pool: p, user: caller.Uid}
}

// take takes some bytes, or gives them back if they are negative. A user can
// have as much as is left for the others, and no more: ENFILE.
func (s *share) take(bytes int) error {
	if s == nil {
		return nil
	}
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	left, taken := p.left-bytes, p.taken[s.user]+bytes
	if bytes > 0 && taken > left {
		return unix.ENFILE
	}
	p.left = left
	if taken > 0 {
		p.taken[s.user] = taken
	} else {
		delete(p.taken, s.user)
	}
	return nil
}
