package fs

import (
	"context"
	"syscall"
	"testing"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// as returns the context of a user's request.
func as(uid uint32) context.Context {
	return &fuse.Context{Caller: fuse.Caller{Owner: fuse.Owner{Uid: uid}}}
}

// TestShare: what users hold open is bounded, for all of them together. What one
// closes another can have, and root has all that it wants.
func TestShare(t *testing.T) {
	s := newShare()
	const size = shareSize / 4
	dir := &Dir{share: s}
	node := &Node{share: s, file: File{Read: func() ([]byte, error) { return make([]byte, size), nil }}}
	open := func(uid uint32) (*handle, syscall.Errno) {
		h, _, errno := node.Open(as(uid), unix.O_RDONLY)
		if errno != 0 {
			return nil, errno
		}
		for range 2 { // a text takes another's place
			if _, errno := h.(*handle).Read(as(uid), make([]byte, 1), 0); errno != 0 {
				return h.(*handle), errno
			}
		}
		return h.(*handle), 0
	}
	var held []*handle
	for i := range 3 {
		h, errno := open(uint32(1000 + i))
		if errno != 0 {
			t.Fatal(i, errno)
		}
		held = append(held, h)
	}
	full, errno := open(1000)
	if errno != unix.ENFILE {
		t.Errorf("one text too many: %v", errno)
	}
	for range 4 {
		if _, errno := open(0); errno != 0 {
			t.Error("root:", errno)
		}
	}
	full.Release(as(1000))
	held[0].Release(as(1000))
	again, errno := open(2000)
	if errno != 0 {
		t.Error("after one was closed:", errno)
	}

	var folders []gofs.FileHandle
	for errno = 0; errno == 0; {
		var f gofs.FileHandle
		if f, _, errno = dir.OpendirHandle(as(1000), 0); errno == 0 {
			folders = append(folders, f)
		}
	}
	if n := len(folders); errno != unix.ENFILE || n > size/folderTake || n < size/folderTake-1 {
		t.Errorf("%d folders, %v", n, errno)
	}
	if _, _, errno := dir.OpendirHandle(as(0), 0); errno != 0 {
		t.Error("root, a folder:", errno)
	}
	for _, f := range folders {
		f.(gofs.FileReleasedirer).Releasedir(as(1000), 0)
	}
	for _, h := range append(held[1:], again) {
		h.Release(as(1000))
	}
	if left := s.left.Load(); left != shareSize {
		t.Errorf("all is closed, and %d of %d bytes are left", left, shareSize)
	}
}
