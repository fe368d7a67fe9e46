package fs

import (
	"context"
	"log/slog"
	"slices"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"kstat/stats"
)

// Engine is what the tree asks of whatever sees the packets. Its methods may
// be called by any goroutine. An error should wrap the errno that the writer
// of start is to get.
type Engine interface {
	Name() string
	Point() string
	Started() bool
	// Start returns when the next packet is sure to be seen, Stop when no
	// packet is in flight.
	Start() error
	Stop() error
	// Uncounted returns how many packets were seen by the kernel, and not
	// counted, while started.
	Uncounted() (uint64, error)
}

// Tracer shows packets themselves. Its methods may be called by any goroutine.
type Tracer interface {
	Text() (Stream, error)   // for trace_pipe
	Pcapng() (Stream, error) // for trace.pcapng
}

// TracerOf returns a Tracer of what opens the two files.
func TracerOf[S Stream](text, pcapng func() (S, error)) Tracer {
	return tracer{streams(text), streams(pcapng)}
}

type tracer struct{ text, pcapng func() (Stream, error) }

func (t tracer) Text() (Stream, error)   { return t.text() }
func (t tracer) Pcapng() (Stream, error) { return t.pcapng() }

// streams keeps one that is nil from becoming a Stream that is not.
func streams[S Stream](open func() (S, error)) func() (Stream, error) {
	return func() (Stream, error) {
		s, err := open()
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

// Tree is the figures as files. All fields must be set, but for Tracer: without
// it the tree lacks the files that show packets.
type Tree struct {
	Table   *stats.Table
	Engine  Engine
	Names   *stats.Names
	Health  func() (h Health, uncounted uint64, err error) // for stats.json, at one look; an error is as one of Uncounted
	PID     int                                            // of the daemon, for stats.json
	Version string                                         // of the daemon, for stats.json
	Tracer  Tracer
	Log     *slog.Logger
}

// file is one file of the tree, before it belongs to one; see [File].
type file struct {
	name   string
	mode   uint32
	size   uint64
	read   func(*Tree) ([]byte, error)
	write  func(*Tree, []byte) error
	stream func(*Tree) (Stream, error)
	about  string // for people, see Entry
}

// of returns the file of a tree.
func (f *file) of(t *Tree) File {
	bound := File{Name: f.name, Mode: f.mode, Size: f.size, Log: t.Log}
	if f.read != nil {
		bound.Read = func() ([]byte, error) { return f.read(t) }
	}
	if f.write != nil {
		bound.Write = func(text []byte) error { return f.write(t, text) }
	}
	if f.stream != nil {
		bound.Stream = func() (Stream, error) { return f.stream(t) }
	}
	return bound
}

// File returns the file of a name at the top of the tree, for another file
// system that shows it, too. There must be one.
func (t *Tree) File(name string) File {
	return files[slices.IndexFunc(files, func(f file) bool { return f.name == name })].of(t)
}

// Root returns the folder that holds the whole tree, for a file system to
// mount or to hold.
func (t *Tree) Root() gofs.InodeEmbedder { return &root{Dir: *NewDir(), tree: t} }

// files is the table of files, in the order of the contract. The protocols'
// folders are beside it, see protocolFiles.
var files = []file{
	{name: "nout", mode: 0o444, read: func(t *Tree) ([]byte, error) {
		return line(t.Table.Snapshot().Published(stats.TCP).Packets), nil
	}, about: "outgoing TCP packets, IPv4 and IPv6 together, as of the last publication"},
	{name: "counter", mode: 0o644, read: func(t *Tree) ([]byte, error) {
		return line(t.Table.Counter()), nil
	}, write: (*Tree).storeCounter, about: "publish after this many packets of any protocol"},
	{name: "start", mode: 0o644, size: pageSize, read: func(t *Tree) ([]byte, error) {
		return line(t.started()), nil
	}, write: (*Tree).storeStart, about: "1: counting; 0: not. 0 after the daemon has started, unless `--start`"},
	{name: "reset", mode: 0o200, write: (*Tree).storeReset, about: "write `1`: published and pending figures become 0"},
	{name: "pending", mode: 0o444, read: func(t *Tree) ([]byte, error) {
		return line(t.Table.Snapshot().Pending), nil
	}, about: "packets since the last publication, live"},
	{name: "uncounted", mode: 0o444, read: func(t *Tree) ([]byte, error) {
		n, err := t.Engine.Uncounted()
		return line(n), err
	}, about: "packets that passed the hook while started and were not counted, live"},
	{name: "hook", mode: 0o444, read: func(t *Tree) ([]byte, error) {
		return []byte(t.Engine.Point() + "\n"), nil
	}, about: "where packets are seen"},
	{name: "engine", mode: 0o444, read: func(t *Tree) ([]byte, error) {
		return []byte(t.Engine.Name() + "\n"), nil
	}, about: "what sees them"},
	{name: "protocols", mode: 0o444, read: func(t *Tree) ([]byte, error) {
		return protocolTable(t.Table.Snapshot(), t.Names), nil
	}, about: "published packets and bytes by protocol and family"},
	{name: "stats.json", mode: 0o444, read: func(t *Tree) ([]byte, error) {
		d, err := t.document()
		if err != nil {
			return nil, err
		}
		return d.render()
	}, about: "all of it, published and live; also what has gone wrong and was mended"},
	{name: "watch", mode: 0o444, stream: func(t *Tree) (Stream, error) {
		w, err := t.Table.Watch()
		if err != nil {
			return nil, err
		}
		return watch{w}, nil
	}, about: "a read waits for the next publication: its number, `nout`, packets of all protocols, nanoseconds since 1970"},
}

// traceFiles are in a tree that has a Tracer. They show what others send to
// whom, and the beginning of it.
var traceFiles = []file{
	{name: "trace_pipe", mode: 0o400, stream: func(t *Tree) (Stream, error) { return t.Tracer.Text() },
		about: "a read waits for packets: one line each, as tcpdump's"},
	{name: "trace.pcapng", mode: 0o400, stream: func(t *Tree) (Stream, error) { return t.Tracer.Pcapng() },
		about: "the same for Wireshark and tshark"},
}

// protocolsDir holds a folder per protocol. All of them can be opened; those
// that were seen are listed.
const protocolsDir = "proto"

// protocolFiles are the files in the folder of p: both families together, as
// of the last publication.
func protocolFiles(p stats.Protocol) []file {
	figure := func(pick func(stats.Figures) uint64) func(*Tree) ([]byte, error) {
		return func(t *Tree) ([]byte, error) {
			return line(pick(t.Table.Snapshot().Published(p))), nil
		}
	}
	return []file{
		{name: "packets", mode: 0o444, read: figure(func(f stats.Figures) uint64 { return f.Packets }),
			about: "published packets of one protocol, both families together"},
		{name: "bytes", mode: 0o444, read: figure(func(f stats.Figures) uint64 { return f.Bytes }),
			about: "published bytes of one protocol, both families together"},
	}
}

// Entry is what people are told of a file: the manual page is made of it, and the
// README's table is held to it.
type Entry struct {
	Path  string // below the mount point; NAME stands for a protocol's
	Mode  uint32
	About string // one line, what is literal in backquotes
}

// Files returns what there is in a tree.
func Files() []Entry {
	var entries []Entry
	add := func(folder string, files []file) {
		for _, f := range files {
			entries = append(entries, Entry{Path: folder + f.name, Mode: f.mode, About: f.about})
		}
	}
	add("", slices.Concat(files, traceFiles))
	add(protocolsDir+"/NAME/", protocolFiles(stats.TCP))
	return entries
}

func (t *Tree) storeCounter(text []byte) error {
	n, err := parseCounter(text)
	if err != nil {
		return err
	}
	return t.Table.SetCounter(n)
}

func (t *Tree) storeStart(text []byte) error {
	on, err := parseSwitch(text)
	if err != nil {
		return err
	}
	act, done := t.Engine.Stop, "counting stopped"
	if on {
		act, done = t.Engine.Start, "counting started"
	}
	before := t.Engine.Started()
	if err := act(); err != nil {
		t.Log.Error("writing start failed", "wanted", on, "err", err)
		return err
	}
	if before != on {
		t.Log.Info(done, "hook", t.Engine.Point(), "engine", t.Engine.Name())
	}
	return nil
}

func (t *Tree) storeReset(text []byte) error {
	on, err := parseSwitch(text)
	switch {
	case err != nil:
		return err
	case !on:
		return syscall.EINVAL
	}
	if err := t.Table.Reset(); err != nil {
		return err
	}
	t.Log.Info("figures reset")
	return nil
}

func (t *Tree) started() uint32 {
	if t.Engine.Started() {
		return 1
	}
	return 0
}

func (t *Tree) document() (*Document, error) {
	health, uncounted, err := t.Health()
	if err != nil {
		return nil, err
	}
	d := &Document{
		Schema:    Schema,
		Start:     int(t.started()),
		Uncounted: uncounted,
		Hook:      t.Engine.Point(),
		Engine:    t.Engine.Name(),
		PID:       t.PID,
		Version:   t.Version,
		Health:    health,
	}
	d.fill(t.Table.Snapshot(), t.Names)
	return d, nil
}

// root is the tree's top folder. go-fuse calls OnAdd when it is mounted.
type root struct {
	Dir
	tree *Tree
}

var _ gofs.NodeOnAdder = (*root)(nil)

// OnAdd builds the whole tree: no file comes or goes afterwards.
func (r *root) OnAdd(ctx context.Context) {
	born := time.Now()
	r.born, r.pool = born, newPool()
	r.fill(ctx, r.tree, r.files())
	protocols := &protocolsNode{Dir: *newDir(born, r.pool), tree: r.tree}
	r.addDir(ctx, protocolsDir, protocols)
	for p := range stats.Other + 1 {
		d := newDir(born, r.pool)
		protocols.addDir(ctx, r.tree.Names.Name(p), d)
		d.fill(ctx, r.tree, protocolFiles(p))
	}
}

// files returns the files at the top of the tree.
func (r *root) files() []file {
	if r.tree.Tracer == nil {
		return files
	}
	return slices.Concat(files, traceFiles)
}

// protocolsNode is the folder of the protocols' folders.
type protocolsNode struct {
	Dir
	tree *Tree
}

var _ gofs.NodeReaddirer = (*protocolsNode)(nil)

// Readdir lists the protocols whose published figures are not 0.
func (n *protocolsNode) Readdir(context.Context) (gofs.DirStream, syscall.Errno) {
	var entries []fuse.DirEntry
	last := stats.Other + 1
	for _, row := range n.tree.Table.Snapshot().Rows {
		p := row.Class.Protocol()
		if row.Published.Packets == 0 || p == last { // the other family came before
			continue
		}
		last = p
		name := n.tree.Names.Name(p)
		entries = append(entries, fuse.DirEntry{
			Name: name,
			Mode: fuse.S_IFDIR,
			Ino:  n.GetChild(name).StableAttr().Ino,
		})
	}
	return gofs.NewListDirStream(entries), 0
}
