package fs

import (
	"encoding/binary"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// refuseSplice is a file system in which sendfile(2) and splice(2) from a file
// fail with EINVAL, as in procfs from one that only knows read(2): who tries
// them, as the cats of BusyBox and uutils and Python's shutil do, then reads.
//
// From Linux 6.5 on they would find a file of size 0 empty. They go through the
// page cache (filemap_splice_read), even where reads do not (FOPEN_DIRECT_IO),
// and ask for nothing beyond the size that the kernel believes in. So it is made
// to believe in another than stat(2) shows, and what is read for the page cache
// is refused.
//
// A notice that stores a byte beyond that size makes it larger, and the
// attributes that the kernel is just asking for show in stat(2) and nowhere else
// (fuse_notify_store, fuse_change_attributes: attr_version). The byte lies on the
// second page or behind, and nobody gets to see it.
type refuseSplice struct {
	fuse.RawFileSystem
	kernel int // the connection's descriptor

	mu      sync.Mutex
	beliefs map[uint64]belief // by node
}

// belief is what the kernel believes of a file's size.
type belief struct {
	size   uint64 // no more than this
	shaken bool   // it may be 0 by now
}

// strengthen makes the kernel believe in a larger size, if it knows the node.
func (r *refuseSplice) strengthen(node uint64) {
	r.mu.Lock()
	b := r.beliefs[node]
	b.size, b.shaken = max(b.size, uint64(unix.Getpagesize()))+1, false
	r.beliefs[node] = b
	r.mu.Unlock()

	const notifyStore, length = 4, 40 + 1 // FUSE_NOTIFY_STORE; fuse_out_header, fuse_notify_store_out, the byte
	notice := make([]byte, length)
	put := binary.NativeEndian
	put.PutUint32(notice[0:], length)
	put.PutUint32(notice[4:], notifyStore)
	put.PutUint64(notice[16:], node)
	put.PutUint64(notice[24:], b.size-1)
	put.PutUint32(notice[32:], 1)
	_, _ = unix.Write(r.kernel, notice) // a node that the kernel does not know has no size there
}

// shake notes that the kernel was told a size of 0.
func (r *refuseSplice) shake(node uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.beliefs[node]; ok {
		b.shaken = true
		r.beliefs[node] = b
	}
}

func empty(a *fuse.Attr) bool { return a.Mode&unix.S_IFMT == unix.S_IFREG && a.Size == 0 }

// GetAttr says what stat(2) is to show.
func (r *refuseSplice) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	status := r.RawFileSystem.GetAttr(cancel, in, out)
	if status.Ok() && empty(&out.Attr) {
		r.strengthen(in.NodeId)
	}
	return status
}

// Lookup says what stat(2) is to show, where the kernel keeps it. Where it does
// not, everybody who opens a file looks it up, and others have it open.
func (r *refuseSplice) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	status := r.RawFileSystem.Lookup(cancel, header, name, out)
	switch {
	case !status.Ok() || !empty(&out.Attr):
	case out.AttrTimeout() > 0:
		r.shake(out.NodeId)
	default:
		r.strengthen(out.NodeId)
	}
	return status
}

// SetAttr comes with every > of a shell. Its size goes before any notice.
func (r *refuseSplice) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	status := r.RawFileSystem.SetAttr(cancel, in, out)
	switch {
	case !status.Ok() || !empty(&out.Attr):
	case out.Timeout() > 0:
		r.shake(in.NodeId)
	default:
		out.Size = 1 // and stat(2) asks again
	}
	return status
}

// Open is what a splice comes after.
func (r *refuseSplice) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	status := r.RawFileSystem.Open(cancel, in, out)
	r.mu.Lock()
	b, known := r.beliefs[in.NodeId]
	r.mu.Unlock()
	if status.Ok() && (!known || b.shaken) {
		r.strengthen(in.NodeId)
	}
	return status
}

// Read is for a process, whose descriptors own the read, or for the page cache.
func (r *refuseSplice) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if in.ReadFlags&fuse.READ_LOCKOWNER == 0 {
		return nil, fuse.EINVAL
	}
	return r.RawFileSystem.Read(cancel, in, buf)
}

// Writev is what go-fuse asks for first. It may make the size larger than a
// notice has.
func (r *refuseSplice) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	r.mu.Lock()
	if b, ok := r.beliefs[in.NodeId]; ok {
		b.size = max(b.size, in.Offset+uint64(in.Size))
		r.beliefs[in.NodeId] = b
	}
	r.mu.Unlock()
	return r.RawFileSystem.Writev(cancel, in, data)
}

// Forget is for a node that the kernel knows no more.
func (r *refuseSplice) Forget(node, lookups uint64) {
	r.mu.Lock()
	delete(r.beliefs, node)
	r.mu.Unlock()
	r.RawFileSystem.Forget(node, lookups)
}
