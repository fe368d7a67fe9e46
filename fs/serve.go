package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ErrUnmounted is returned by [Server.Run] if somebody has unmounted the tree.
var ErrUnmounted = errors.New("the tree was unmounted by somebody else")

// Server answers the kernel's requests for a tree.
type Server struct {
	ended chan struct{} // closed when the kernel has let go of the tree
}

// Serve begins to answer the requests for the tree that come over a connection,
// as [MountPoint.Mount] has made it, and takes the connection over.
func (t *Tree) Serve(connection *os.File) (*Server, error) {
	return Serve(connection, t.Root(), time.Hour)
}

// Serve is [Tree.Serve] for a file system that holds trees, or files of them,
// among others. The kernel may keep names and attributes for the given time,
// unless a Lookup sets another.
func Serve(connection *os.File, root gofs.InodeEmbedder, keep time.Duration) (*Server, error) {
	// go-fuse closes the descriptor in the end, and so would the os.File.
	fd, err := unix.FcntlInt(connection.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err = errors.Join(err, connection.Close()); err != nil {
		return nil, fmt.Errorf("serve the tree: %w", err)
	}
	// It outlives go-fuse's.
	notices, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve the tree: %w", err), unix.Close(fd))
	}
	options := &gofs.Options{
		EntryTimeout: &keep,
		AttrTimeout:  &keep,
		// Every file of the tree says its mode, and reset's is 0200.
		NullPermissions: true,
		MountOptions: fuse.MountOptions{
			MaxWrite:      maxWrite,
			DisableXAttrs: true,
			// It is for files that are backed by files. For ours go-fuse writes the
			// header into a pipe, and then thinks better of it: three system calls a read.
			DisableSplice: true,
			// It would give the kernel sizes that refuseSplice does not know of.
			DisableReadDirPlus: true,
			// Only a file system that holds more than a tree has any; they never change.
			EnableSymlinkCaching: true,
			Logger:               log.New(io.Discard, "", 0),
		},
	}
	files := &refuseSplice{RawFileSystem: gofs.NewNodeFS(root, options), kernel: notices, beliefs: map[uint64]belief{}}
	server, err := fuse.NewServer(files, fmt.Sprintf("/dev/fd/%d", fd), &options.MountOptions)
	if err == nil {
		go server.Serve()
		err = server.WaitMount()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve the tree: %w", err), unix.Close(fd), unix.Close(notices))
	}
	s := &Server{ended: make(chan struct{})}
	go func() {
		server.Wait()
		_ = unix.Close(notices) // nothing is said over it any more
		close(s.ended)
	}()
	return s, nil
}

// Run returns ErrUnmounted if the tree is unmounted, and nil if ctx ends
// first.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-s.ended:
		return ErrUnmounted
	case <-ctx.Done():
		return nil
	}
}

// Drain waits until the tree, which has been unmounted, is not used any more,
// for at most the given time: somebody may have a file open.
func (s *Server) Drain(limit time.Duration) {
	select {
	case <-s.ended:
	case <-time.After(limit):
	}
}
