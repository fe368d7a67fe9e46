package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
	"kstat/lab/kmod"
	"kstat/lab/mutant"
	"kstat/stats"
	"kstat/trace"
)

// module is the kernel module of a world, loaded or not.
type module struct {
	config *Config
	log    *kernelLog
	names  *stats.Names
	mu     sync.Mutex // held for the length of an insert or a remove
	live   atomic.Pointer[instance]

	inodes *gofs.Inode // the root of the file system, which makes all others
}

// instance is what a module is from one insmod to the next rmmod.
type instance struct {
	engine *hook.NFQueue
	table  *stats.Table
	trace  *trace.Trace
	queue  *hook.Reservation // in a network that others use, too
	cancel context.CancelFunc
	ended  chan struct{} // closed when the engine has
	gone   atomic.Bool   // it was removed; somebody may have files open

	proc, sys, tree *gofs.Inode // /proc/kstat, /sys/module/kstat, /run/kstat
}

func newModule(c *Config) *module {
	names, _ := stats.HostNames() // the built-in ones will do
	return &module{config: c, log: new(kernelLog), names: names}
}

// insert loads the module with parameters, as finit_module(2) does. The error
// is an errno, and the log says more.
func (m *module) insert(params string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live.Load() != nil {
		return unix.EEXIST
	}
	log := slog.New(m.log)
	i, err := m.load(params, log)
	if err != nil {
		return err
	}
	m.live.Store(i)
	log.Info("loaded", "hook", i.engine.Point(), "counter", i.table.Counter(), "start", i.engine.Started())
	return nil
}

// patience is how long packets of a world's own network wait for init, which a
// busy machine may keep from running for seconds. A module would count them.
const patience = time.Minute

func (m *module) load(params string, log *slog.Logger) (_ *instance, err error) {
	i := &instance{table: stats.NewTable(), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			i.close()
		}
	}()
	i.trace = trace.New(i.table, m.names)
	c := hook.Config{Point: m.config.Point, Log: log, Tracer: i.trace}
	if m.config.HostNet {
		if i.queue, err = reserve(&c); err != nil {
			log.Error("no queue is free", "err", err)
			return nil, err
		}
	} else {
		c.Armed = patience
	}
	if i.engine, err = hook.New(c, i.table); err != nil {
		log.Error("no engine", "err", err)
		return nil, err
	}
	tree := &fs.Tree{
		Table: i.table, Engine: i.engine, Names: m.names, Log: log,
		Health:  i.health,
		PID:     os.Getpid(),
		Version: m.config.Version,
		Tracer:  fs.TracerOf(i.trace.Text, i.trace.Pcapng),
	}
	files, err := moduleFiles(m.config.Mutant, tree)
	if err != nil {
		log.Error("no such module", "err", err)
		return nil, err
	}
	if err := setParameters(params, files, log); err != nil {
		return nil, err
	}
	i.grow(m.inodes, tree, files)
	ctx, cancel := context.WithCancel(context.Background())
	i.cancel = cancel
	go func() {
		defer close(i.ended)
		if err := i.engine.Run(ctx); err != nil {
			log.Error("counting has ended", "err", err)
		}
	}()
	return i, nil
}

// close ends what there is of an instance.
func (i *instance) close() {
	switch {
	case i.cancel != nil:
		i.cancel()
		<-i.ended
		i.table.Finish() // for who waits in watch
		i.trace.Finish() // and in the traces
	case i.engine != nil:
		_ = i.engine.Close() // it was never seen
	}
	if i.queue != nil {
		i.queue.Close()
	}
	for _, inode := range []*gofs.Inode{i.proc, i.sys, i.tree} {
		if inode != nil {
			forget(inode)
		}
	}
}

// remove unloads the module, as delete_module(2) does.
func (m *module) remove() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.live.Load()
	if i == nil {
		return unix.ENOENT
	}
	// First no new reader, then no new packet.
	m.live.Store(nil)
	i.gone.Store(true)
	i.close()
	slog.New(m.log).Info("unloaded")
	return nil
}

// forget lets go of inodes that were made to stay.
func forget(inode *gofs.Inode) {
	for name, child := range inode.Children() {
		forget(child)
		inode.RmChild(name)
	}
	inode.ForgetPersistent()
}

// lastQueue is the last number that is tried: a host with more worlds in its own
// network has another problem.
const lastQueue = 15

// reserve takes the first queue that nobody uses, for a network that others
// use, too.
func reserve(c *hook.Config) (*hook.Reservation, error) {
	for {
		r, err := hook.Reserve(*c)
		if err == nil || !errors.Is(err, unix.EBUSY) || c.Queue == lastQueue {
			return r, err
		}
		c.Queue++
	}
}

func (i *instance) health() (fs.Health, uint64, error) {
	status, err := i.engine.Status()
	return fs.Health{Repairs: status.Repairs, Flushes: status.Flushes, Gaps: []fs.Gap{}}, status.Uncounted, err
}

// moduleFiles returns the three files of the coursework, with a fault or without.
func moduleFiles(fault string, tree *fs.Tree) (map[string]fs.File, error) {
	if fault == "" {
		return map[string]fs.File{"nout": tree.File("nout"), "counter": tree.File("counter"), "start": tree.File("start")}, nil
	}
	nout, counter, start, err := mutant.Apply(fault, tree)
	return map[string]fs.File{"nout": nout, "counter": counter, "start": start}, err
}

// until makes a file of a module that is removed answer as the kernel does
// then: with EIO in procfs (proc_reg_read), with ENODEV in sysfs
// (kernfs_get_active).
func (i *instance) until(f fs.File, errno unix.Errno) fs.File {
	f.Gone = func() error {
		if i.gone.Load() {
			return errno
		}
		return nil
	}
	return f
}

// setParameters does what the kernel does with a module's parameters
// (kernel/params.c): an unknown one is told and passed over, a wrong value is
// EINVAL or what the parser says.
func setParameters(params string, files map[string]fs.File, log *slog.Logger) error {
	values := map[string]string{}
	for _, param := range fields(params) {
		name, value, _ := strings.Cut(param, "=")
		switch name {
		case "start":
			values[name] = value // last of all: what is set before must count for the first packet
			continue
		case "counter":
			n, err := fs.ParseParameter(value)
			if err == nil {
				err = files[name].Write(strconv.AppendUint(nil, uint64(n), 10))
			}
			if err != nil {
				return refuse(log, name, value, err)
			}
		default:
			log.Warn(fmt.Sprintf("unknown parameter '%s' ignored", name))
		}
	}
	if value, given := values["start"]; given {
		if err := files["start"].Write([]byte(value)); err != nil {
			return refuse(log, "start", value, err)
		}
	}
	return nil
}

// fields splits parameters as next_arg of lib/cmdline.c does: at blanks that are
// not within quotes, which go.
func fields(params string) (all []string) {
	quoted, open := false, false
	var b strings.Builder
	for _, r := range params {
		switch {
		case r == '"':
			quoted = !quoted
			open = true
		case !quoted && strings.ContainsRune(" \t\n", r):
			if open {
				all = append(all, b.String())
			}
			b.Reset()
			open = false
		default:
			b.WriteRune(r)
			open = true
		}
	}
	if open {
		all = append(all, b.String())
	}
	return all
}

func refuse(log *slog.Logger, name, value string, err error) error {
	log.Error(fmt.Sprintf("`%s' invalid for parameter `%s'", value, name))
	return err
}

// grow makes the module's files.
func (i *instance) grow(inodes *gofs.Inode, tree *fs.Tree, files map[string]fs.File) {
	ctx := context.Background()
	folder := func(mode uint32) *gofs.Inode {
		return inodes.NewPersistentInode(ctx, fs.NewKernelDir(mode), gofs.StableAttr{Mode: fuse.S_IFDIR})
	}
	add := func(to *gofs.Inode, f fs.File) {
		f.Loose = true
		to.AddChild(f.Name, inodes.NewPersistentInode(ctx, fs.NewNode(f), gofs.StableAttr{Mode: fuse.S_IFREG}), false)
	}
	fixed := func(to *gofs.Inode, name, text string) {
		add(to, fs.File{Name: name, Mode: 0o444, Size: sysfsSize, Log: files["start"].Log, Read: func() ([]byte, error) {
			return []byte(text + "\n"), nil
		}})
	}
	i.proc = folder(procDirMode)
	add(i.proc, i.until(files["nout"], unix.EIO))
	add(i.proc, i.until(files["counter"], unix.EIO))

	i.sys = folder(sysfsDirMode)
	parameters := folder(sysfsDirMode)
	i.sys.AddChild("parameters", parameters, false)
	add(parameters, i.until(files["start"], unix.ENODEV))
	i.sys.AddChild("holders", folder(sysfsDirMode), false)
	fixed(i.sys, "refcnt", "0")
	fixed(i.sys, "initstate", "live")
	fixed(i.sys, "coresize", moduleSize)
	fixed(i.sys, "initsize", "0")
	fixed(i.sys, "taint", moduleTaint)
	fixed(i.sys, "version", kmod.Version)

	i.tree = inodes.NewPersistentInode(ctx, tree.Root(), gofs.StableAttr{Mode: fuse.S_IFDIR})
}

// What the module tells of itself: 16 KiB of memory that it does not have, built
// out of tree, not signed.
const (
	moduleSize  = "16384"
	moduleTaint = "OE"
)

// What stat shows of folders, and of files of sysfs.
const (
	procDirMode  = 0o555
	sysfsDirMode = 0o755
	sysfsSize    = 4096
)

// modules is the text of /proc/modules: the host's, but for a line of a kstat of
// its own, and a line for ours.
func (m *module) modules() ([]byte, error) {
	theirs, err := os.ReadFile("/proc/modules")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without modules
		return nil, err
	}
	var text []byte
	if m.live.Load() != nil {
		text = fmt.Appendf(text, "kstat %s 0 - Live 0x0000000000000000 (%s)\n", moduleSize, moduleTaint)
	}
	for line := range bytes.Lines(theirs) {
		if !bytes.HasPrefix(line, []byte("kstat ")) {
			text = append(text, line...)
		}
	}
	return text, nil
}
