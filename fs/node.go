package fs

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Dir is a folder. Nothing can be made or removed in it, by nobody.
type Dir struct {
	gofs.Inode
	born   time.Time
	pool   *pool
	access access
}

// NewDir returns a folder.
func NewDir() *Dir { return newDir(time.Now(), nil) }

func newDir(born time.Time, p *pool) *Dir {
	return &Dir{born: born, pool: p, access: access{mode: 0o555}}
}

// NewKernelDir returns a folder as the kernel's own file systems have them: of
// this mode, until its owner changes that.
func NewKernelDir(mode uint32) *Dir {
	return &Dir{born: time.Now(), access: access{mode: mode, loose: true}}
}

// access is who may do what: root is the owner, and the mode is fixed, unless
// it is loose.
type access struct {
	loose bool

	mu             sync.Mutex
	mode, uid, gid uint32
}

// get describes it.
func (a *access) get(out *fuse.AttrOut) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out.Mode, out.Uid, out.Gid = a.mode, a.uid, a.gid
}

// set changes it. The kernel has checked whether the caller may.
func (a *access) set(in *fuse.SetAttrIn) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) == 0 {
		return 0
	}
	if !a.loose {
		return syscall.EPERM
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if mode, ok := in.GetMode(); ok {
		a.mode = mode & 0o7777
	}
	if uid, ok := in.GetUID(); ok {
		a.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		a.gid = gid
	}
	return 0
}

var (
	_ gofs.NodeGetattrer      = (*Dir)(nil)
	_ gofs.NodeSetattrer      = (*Dir)(nil)
	_ gofs.NodeStatfser       = (*Dir)(nil)
	_ gofs.NodeOpendirHandler = (*Dir)(nil)
	_ gofs.NodeCreater        = (*Dir)(nil)
	_ gofs.NodeTmpfiler       = (*Dir)(nil)
	_ gofs.NodeMkdirer        = (*Dir)(nil)
	_ gofs.NodeMknoder        = (*Dir)(nil)
	_ gofs.NodeLinker         = (*Dir)(nil)
	_ gofs.NodeSymlinker      = (*Dir)(nil)
	_ gofs.NodeUnlinker       = (*Dir)(nil)
	_ gofs.NodeRmdirer        = (*Dir)(nil)
	_ gofs.NodeRenamer        = (*Dir)(nil)
)

// fill adds a node for each of files.
func (d *Dir) fill(ctx context.Context, tree *Tree, files []file) {
	for i := range files {
		node := newNode(files[i].of(tree), d.born, d.pool)
		d.AddChild(files[i].name, d.NewPersistentInode(ctx, node, gofs.StableAttr{Mode: fuse.S_IFREG}), false)
	}
}

// addDir adds a folder.
func (d *Dir) addDir(ctx context.Context, name string, child gofs.InodeEmbedder) {
	d.AddChild(name, d.NewPersistentInode(ctx, child, gofs.StableAttr{Mode: fuse.S_IFDIR}), false)
}

// Getattr describes the folder.
func (d *Dir) Getattr(_ context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	d.access.get(out)
	out.Nlink = 2
	out.SetTimes(&d.born, &d.born, &d.born)
	return 0
}

// OpendirHandle opens the folder, for a list of what the node's own Readdir says
// or else of its children.
func (d *Dir) OpendirHandle(ctx context.Context, _ uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	l := &listing{dir: d, share: d.pool.of(ctx)}
	if err := l.share.take(folderTake); err != nil {
		return nil, 0, errno(err)
	}
	return l, 0, 0
}

// listing is an open folder. go-fuse calls it for one goroutine at a time.
type listing struct {
	dir   *Dir
	share *share
	names gofs.DirStream // nil before the first read
}

var (
	_ gofs.FileReaddirenter = (*listing)(nil)
	_ gofs.FileSeekdirer    = (*listing)(nil)
	_ gofs.FileReleasedirer = (*listing)(nil)
)

// Readdirent returns the next name, nil at the end.
func (l *listing) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	if errno := l.list(ctx); errno != 0 || !l.names.HasNext() {
		return nil, errno
	}
	entry, errno := l.names.Next()
	return &entry, errno
}

// Seekdir goes to where a name was.
func (l *listing) Seekdir(ctx context.Context, offset uint64) syscall.Errno {
	if errno := l.list(ctx); errno != 0 {
		return errno
	}
	return l.names.(gofs.FileSeekdirer).Seekdir(ctx, offset)
}

// Releasedir closes it.
func (l *listing) Releasedir(context.Context, uint32) { _ = l.share.take(-folderTake) }

// list makes the list, once.
func (l *listing) list(ctx context.Context) (errno syscall.Errno) {
	if l.names != nil {
		return 0
	}
	if node, ok := l.dir.Operations().(gofs.NodeReaddirer); ok {
		l.names, errno = node.Readdir(ctx)
		return errno
	}
	var entries []fuse.DirEntry
	for name, child := range l.dir.Children() {
		entries = append(entries, fuse.DirEntry{Name: name, Mode: child.Mode(), Ino: child.StableAttr().Ino})
	}
	slices.SortFunc(entries, func(a, b fuse.DirEntry) int { return cmp.Compare(a.Ino, b.Ino) }) // as they were made
	l.names = gofs.NewListDirStream(entries)
	return 0
}

// Setattr takes new times, which it forgets, and what its access allows.
func (d *Dir) Setattr(ctx context.Context, h gofs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := d.access.set(in); errno != 0 {
		return errno
	}
	return d.Getattr(ctx, h, out)
}

// Statfs describes the file system.
func (*Dir) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno { return statfs(out) }

// Create refuses.
func (*Dir) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*gofs.Inode, gofs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

// Tmpfile refuses.
func (*Dir) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*gofs.Inode, gofs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}

// Mkdir refuses.
func (*Dir) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Mknod refuses.
func (*Dir) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Link refuses.
func (*Dir) Link(context.Context, gofs.InodeEmbedder, string, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Symlink refuses.
func (*Dir) Symlink(context.Context, string, string, *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Unlink refuses.
func (*Dir) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }

// Rmdir refuses.
func (*Dir) Rmdir(context.Context, string) syscall.Errno { return syscall.EPERM }

// Rename refuses.
func (*Dir) Rename(context.Context, string, gofs.InodeEmbedder, string, uint32) syscall.Errno {
	return syscall.EPERM
}

// File is a file as procfs and sysfs have them: its text is made when it is
// read, and a write is a store. Read or Write may be nil: that cannot be done,
// by nobody. Their errors become errnos. A file with Stream has neither: a read
// waits for what comes next.
type File struct {
	Name  string
	Mode  uint32 // permissions
	Loose bool   // its owner can change them, and root the owner, as the kernel's own files let them
	Size  uint64 // what stat shows, in bytes
	Read  func() ([]byte, error)
	Write func([]byte) error
	// Stream opens what the file gives.
	Stream func() (Stream, error)
	// Gone, if there is one, is asked before each read and write: its error is
	// for who has opened a file that is there no more.
	Gone func() error
	Log  *slog.Logger // is told of reads that are refused
}

// Node is a [File] in a file system.
type Node struct {
	gofs.Inode
	file   File
	born   time.Time
	pool   *pool
	access access
}

// NewNode returns a node of the file.
func NewNode(f File) *Node { return newNode(f, time.Now(), nil) }

func newNode(f File, born time.Time, p *pool) *Node {
	return &Node{file: f, born: born, pool: p, access: access{mode: f.Mode, loose: f.Loose}}
}

var (
	_ gofs.NodeGetattrer = (*Node)(nil)
	_ gofs.NodeSetattrer = (*Node)(nil)
	_ gofs.NodeStatfser  = (*Node)(nil)
	_ gofs.NodeOpener    = (*Node)(nil)
	_ gofs.NodeFsyncer   = (*Node)(nil)
)

// Getattr describes the file.
func (n *Node) Getattr(_ context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.access.get(out)
	out.Size, out.Nlink = n.file.Size, 1
	out.SetTimes(&n.born, &n.born, &n.born)
	return 0
}

// Setattr takes a truncation, which is how the O_TRUNC of a shell's > comes,
// and new times, as if it had done something, and what its access allows.
func (n *Node) Setattr(ctx context.Context, h gofs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.access.set(in); errno != 0 {
		return errno
	}
	if in.Valid&fuse.FATTR_SIZE != 0 && n.file.Write == nil {
		return syscall.EACCES
	}
	return n.Getattr(ctx, h, out)
}

// Statfs describes the file system.
func (*Node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno { return statfs(out) }

// statfs is what procfs says of itself (simple_statfs): without it a block
// would have no bytes, and a name no room for one.
func statfs(out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, unix.NAME_MAX
	return 0
}

// Open refuses what the file cannot do. The kernel has checked the mode, but
// lets root pass.
func (n *Node) Open(ctx context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	access := flags & unix.O_ACCMODE
	if n.file.Stream != nil && access == unix.O_RDONLY {
		s, err := newStream(&n.file, flags&unix.O_NONBLOCK == 0)
		if err != nil {
			return nil, 0, errno(err)
		}
		return s, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
	}
	if access != unix.O_WRONLY && n.file.Read == nil || access != unix.O_RDONLY && n.file.Write == nil {
		return nil, 0, syscall.EACCES
	}
	h := &handle{file: &n.file, share: n.pool.of(ctx)}
	if err := h.share.take(fileTakes); err != nil {
		return nil, 0, errno(err)
	}
	return h, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

// Fsync has nothing to do: a write has taken effect when it returns.
func (n *Node) Fsync(context.Context, gofs.FileHandle, uint32) syscall.Errno { return 0 }

// handle is an open file.
type handle struct {
	file  *File
	share *share

	mu   sync.Mutex
	text []byte // nil before the first read
}

var (
	_ gofs.FileReader   = (*handle)(nil)
	_ gofs.FileWriter   = (*handle)(nil)
	_ gofs.FileReleaser = (*handle)(nil)
)

// gone returns what Gone says.
func (h *handle) gone() error {
	if h.file.Gone == nil {
		return nil
	}
	return h.file.Gone()
}

// Read returns a part of the text. A read at the beginning takes a new one, as
// a seq_file of procfs does.
func (h *handle) Read(_ context.Context, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.gone(); err != nil {
		return nil, errno(err)
	}
	if offset == 0 || h.text == nil {
		text, err := h.file.Read()
		if err != nil {
			h.file.Log.Error("read refused", "file", h.file.Name, "err", err)
			return nil, errno(err)
		}
		if err := h.share.take(cap(text) - cap(h.text)); err != nil {
			return nil, errno(err)
		}
		h.text = text
	}
	from := min(offset, int64(len(h.text)))
	to := min(from+int64(len(dest)), int64(len(h.text)))
	return fuse.ReadResultData(h.text[from:to]), 0
}

// Write is one store, wherever in the file it was meant to go.
func (h *handle) Write(_ context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	err := h.gone()
	if err == nil {
		err = h.file.Write(data)
	}
	if err != nil {
		return 0, errno(err)
	}
	return uint32(len(data)), 0
}

// Release closes the file.
func (h *handle) Release(context.Context) syscall.Errno {
	_ = h.share.take(-fileTakes - cap(h.text))
	return 0
}
