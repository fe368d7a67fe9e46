package fs

import (
	"context"
	"testing"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// as returns the context of a user's request.
func as(uid uint32) context.Context {
	return &fuse.Context{Caller: fuse.Caller{Owner: fuse.Owner{Uid: uid}}}
}

// TestShare: what users hold open is bounded, for all of them together, and no
// one of them can have what others need. What one closes another can have, and
// root has all that it wants.
func TestShare(t *testing.T) {
	p := newPool()
	const size = poolSize / 16
	dir := &Dir{pool: p}
	node := &Node{pool: p, file: File{Read: func() ([]byte, error) { return make([]byte, size-fileTakes), nil }}}
	var files, folders []func() // that close them
	// open opens as many as a user can have, at most limit.
	open := func(uid uint32, limit int) (n int) {
		for ; n < limit; n++ {
			h, _, errno := node.Open(as(uid), unix.O_RDONLY)
			for i := 0; i < 2 && errno == 0; i++ { // a text takes another's place
				_, errno = h.(*handle).Read(as(uid), make([]byte, 1), 0)
			}
			if h != nil {
				files = append(files, func() { h.(*handle).Release(as(uid)) })
			}
			if errno != 0 && errno != unix.ENFILE {
				t.Fatal(errno)
			}
			if errno != 0 {
				return n
			}
		}
		return n
	}
	for i, want := range []int{8, 4, 2, 1, 0} { // each as much as it leaves
		if n := open(uint32(1000+i), 100); n != want {
			t.Errorf("user %d can have %d, want %d", i, n, want)
		}
	}
	if n := open(0, 100); n != 100 {
		t.Errorf("root can have %d, want all that it wants", n)
	}
	if n := open(1000, 1); n != 0 {
		t.Error("who has as much as is left gets one more")
	}
	for _, f := range files[:8] {
		f()
	}
	if n := open(2000, 100); n < 4 {
		t.Errorf("after 8 were closed another can have %d", n)
	}
	for _, f := range files[8:] {
		f()
	}

	for full := false; !full; {
		f, _, errno := dir.OpendirHandle(as(1000), 0)
		if full = errno != 0; full && errno != unix.ENFILE {
			t.Fatal(errno)
		}
		if !full {
			folders = append(folders, func() { f.(gofs.FileReleasedirer).Releasedir(as(1000), 0) })
		}
	}
	if n, half := len(folders), poolSize/2/folderTake; n != half {
		t.Errorf("a user can have %d folders, want %d", n, half)
	}
	if _, _, errno := dir.OpendirHandle(as(0), 0); errno != 0 {
		t.Error("root, a folder:", errno)
	}
	for _, f := range folders {
		f()
	}
	if p.left != poolSize || len(p.taken) != 0 {
		t.Errorf("all is closed, and %d of %d bytes are left, %d users have some", p.left, poolSize, len(p.taken))
	}
}
