package world

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"kstat/fs"
	"kstat/lab/kmod"
)

// root is the top of the world's file system.
type root struct {
	fs.Dir
	module *module
}

var _ gofs.NodeOnAdder = (*root)(nil)

// OnAdd makes what is there with or without a module.
func (r *root) OnAdd(ctx context.Context) {
	m := r.module
	m.inodes = r.EmbeddedInode()
	folder := func(to *gofs.Inode, name string, node gofs.InodeEmbedder) *gofs.Inode {
		child := r.NewPersistentInode(ctx, node, gofs.StableAttr{Mode: fuse.S_IFDIR})
		to.AddChild(name, child, false)
		return child
	}
	file := func(to *gofs.Inode, name string, node gofs.InodeEmbedder) {
		to.AddChild(name, r.NewPersistentInode(ctx, node, gofs.StableAttr{Mode: fuse.S_IFREG}), false)
	}
	log := slog.New(m.log)

	proc := folder(m.inodes, "proc", &mirror{
		Dir: *fs.NewDir(), dir: "/proc", links: ".kstat/proc/", module: m,
		kstat: func(i *instance) *gofs.Inode { return i.proc },
	})
	names, err := lasting("/proc")
	if err != nil {
		m.config.tell("all of /proc is links: %v", err)
	}
	for _, name := range names { // something is mounted over each
		if name.IsDir() {
			folder(proc, name.Name(), fs.NewDir())
		} else {
			file(proc, name.Name(), fs.NewNode(fs.File{Name: name.Name(), Mode: 0o444, Log: log}))
		}
	}
	file(proc, "modules", fs.NewNode(fs.File{Name: "modules", Mode: 0o444, Read: m.modules, Log: log}))
	own := folder(proc, ".kstat", fs.NewDir())
	file(own, "control", &control{module: m})
	for _, name := range []string{"proc", "module", "tree", "bin"} {
		folder(own, name, fs.NewDir())
	}
	tools := folder(own, "tools", fs.NewDir())
	for _, name := range append([]string{"kstat"}, kmod.Tools()...) {
		file(tools, name, fs.NewNode(fs.File{Name: name, Mode: 0o444, Log: log}))
	}

	folder(m.inodes, "module", &mirror{
		Dir: *fs.NewKernelDir(sysfsDirMode), dir: "/sys/module", links: "../../proc/.kstat/module/", module: m,
		kstat: func(i *instance) *gofs.Inode { return i.sys },
	})
	folder(m.inodes, "tree", &treeDir{Dir: *fs.NewDir(), module: m})
}

// mirror is a folder of all that a directory of the host has, and of kstat. What
// was added to it is itself; all else is a symbolic link.
type mirror struct {
	fs.Dir
	dir    string // as init sees it
	links  string // where the command finds it, seen from where the mirror is mounted
	module *module
	kstat  func(*instance) *gofs.Inode
}

var (
	_ gofs.NodeLookuper  = (*mirror)(nil)
	_ gofs.NodeReaddirer = (*mirror)(nil)
)

// keep is how long the kernel may keep a name that neither comes nor goes.
const keep = time.Minute

// Lookup finds a name.
func (n *mirror) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	if name == "kstat" {
		i := n.module.live.Load()
		if i == nil {
			return nil, syscall.ENOENT
		}
		return found(ctx, n.kstat(i), out)
	}
	if child := n.GetChild(name); child != nil && child.StableAttr().Mode != syscall.S_IFLNK {
		return found(ctx, child, out)
	}
	if n.dir == "/proc" && (name == "self" || name == "thread-self") {
		return n.self(ctx, name, out)
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(n.dir+"/"+name, &st); err != nil {
		return nil, gofs.ToErrno(err)
	}
	target := n.links + name
	if st.Mode&syscall.S_IFMT == syscall.S_IFLNK { // mounts, net: through self
		text, err := os.Readlink(n.dir + "/" + name)
		if err != nil {
			return nil, gofs.ToErrno(err)
		}
		target = text
	}
	if _, err := strconv.Atoi(name); err != nil {
		out.SetEntryTimeout(keep)
		out.SetAttrTimeout(keep)
	}
	return n.link(ctx, target, out)
}

// self finds what /proc/self, or thread-self, is for the caller.
func (n *mirror) self(ctx context.Context, name string, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	caller, ok := fuse.FromContext(ctx)
	if !ok {
		return nil, syscall.EIO
	}
	tid := strconv.Itoa(int(caller.Pid)) // of the thread, whatever it is called
	pid, err := processOf(tid)
	if err != nil {
		return nil, syscall.ENOENT
	}
	if name == "self" {
		return n.link(ctx, pid, out)
	}
	return n.link(ctx, pid+"/task/"+tid, out)
}

// processOf returns the number of the process that a thread belongs to.
func processOf(tid string) (string, error) {
	status, err := os.ReadFile("/proc/" + tid + "/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "Tgid:"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("thread %s belongs to no process", tid)
}

// link returns a symbolic link. The kernel keeps its text for as long as the
// inode lives, so the text says which inode it is: self of one caller may be
// that of another who has got the same number.
func (n *mirror) link(ctx context.Context, target string, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	l := &gofs.MemSymlink{Data: []byte(target)}
	l.Attr.Mode = 0o777
	l.Attr.Size = uint64(len(target))
	l.Attr.Nlink = 1
	h := fnv.New64a()
	h.Write(l.Data)
	// Small numbers and those with the highest bit are go-fuse's.
	ino := h.Sum64()>>2 | 1<<62
	return found(ctx, n.NewInode(ctx, l, gofs.StableAttr{Mode: syscall.S_IFLNK, Ino: ino}), out)
}

// found fills in what is to be known of an inode.
func found(ctx context.Context, inode *gofs.Inode, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	var a fuse.AttrOut
	if errno := inode.Operations().(gofs.NodeGetattrer).Getattr(ctx, nil, &a); errno != 0 {
		return nil, errno
	}
	out.Attr = a.Attr
	return inode, 0
}

// Readdir lists what the host has, and what is ours.
func (n *mirror) Readdir(context.Context) (gofs.DirStream, syscall.Errno) {
	dir, err := os.Open(n.dir)
	if err != nil {
		return nil, gofs.ToErrno(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, gofs.ToErrno(err)
	}
	if n.dir == "/proc" && !slices.Contains(names, "modules") { // a kernel without modules
		names = append(names, "modules")
	}
	// A module of that name on the host is not this world's.
	names = slices.DeleteFunc(names, func(name string) bool { return name == "kstat" })
	var entries []fuse.DirEntry
	if n.module.live.Load() != nil {
		entries = append(entries, fuse.DirEntry{Name: "kstat", Mode: syscall.S_IFDIR})
	}
	for _, name := range names {
		e := fuse.DirEntry{Name: name, Mode: syscall.S_IFLNK}
		if child := n.GetChild(name); child != nil {
			e.Mode = child.StableAttr().Mode
		}
		entries = append(entries, e)
	}
	return gofs.NewListDirStream(entries), 0
}

// treeDir is /run/kstat: empty while no module is loaded.
type treeDir struct {
	fs.Dir
	module *module
}

var (
	_ gofs.NodeLookuper  = (*treeDir)(nil)
	_ gofs.NodeReaddirer = (*treeDir)(nil)
)

// Lookup finds a file of the module that is loaded.
func (n *treeDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	if i := n.module.live.Load(); i != nil {
		if child := i.tree.GetChild(name); child != nil {
			return found(ctx, child, out)
		}
	}
	return nil, syscall.ENOENT
}

// Readdir lists the files of the module that is loaded.
func (n *treeDir) Readdir(context.Context) (gofs.DirStream, syscall.Errno) {
	var entries []fuse.DirEntry
	if i := n.module.live.Load(); i != nil {
		for name, child := range i.tree.Children() {
			entries = append(entries, fuse.DirEntry{Name: name, Mode: child.StableAttr().Mode})
		}
	}
	return gofs.NewListDirStream(entries), 0
}
