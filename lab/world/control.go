package world

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// controlPath is where the tools inside find init. Each open file is one
// conversation: a request is written, its reply read.
const controlPath = worldDir + "/control"

// request is what a tool wants.
type request struct {
	Insert *string `json:",omitempty"` // the parameters
	Delete bool    `json:",omitempty"`
	Clear  bool    `json:",omitempty"` // the log
}

// reply is what it gets.
type reply struct {
	Errno   syscall.Errno
	Entries []entry       // the module's part of the log
	Cleared time.Duration // when the log was cleared last, since boot
}

// control is the file at controlPath.
type control struct {
	gofs.Inode
	module *module
}

var (
	_ gofs.NodeGetattrer = (*control)(nil)
	_ gofs.NodeOpener    = (*control)(nil)
)

// Getattr describes the file: everybody may ask, and only root may change.
func (n *control) Getattr(_ context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Nlink = 0o666, 1
	return 0
}

// Open begins a conversation.
func (n *control) Open(context.Context, uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	return &conversation{module: n.module}, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH, 0
}

type conversation struct {
	module *module
	mu     sync.Mutex
	reply  []byte
}

var (
	_ gofs.FileWriter = (*conversation)(nil)
	_ gofs.FileReader = (*conversation)(nil)
)

// Write takes a request and does it.
func (c *conversation) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	var wanted request
	if err := json.Unmarshal(data, &wanted); err != nil {
		return 0, syscall.EINVAL
	}
	caller, ok := fuse.FromContext(ctx)
	answer, err := json.Marshal(c.module.do(wanted, ok && caller.Uid == 0))
	if err != nil {
		return 0, syscall.EIO
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reply = answer
	return uint32(len(data)), 0
}

// Read returns a part of the reply.
func (c *conversation) Read(_ context.Context, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := min(offset, int64(len(c.reply)))
	to := min(from+int64(len(dest)), int64(len(c.reply)))
	return fuse.ReadResultData(c.reply[from:to]), 0
}

// do does what is wanted.
func (m *module) do(wanted request, root bool) (r reply) {
	var err error
	switch {
	case (wanted.Insert != nil || wanted.Delete || wanted.Clear) && !root:
		err = syscall.EPERM
	case wanted.Insert != nil:
		err = m.insert(*wanted.Insert)
	case wanted.Delete:
		err = m.remove()
	case wanted.Clear:
		m.log.clear()
	default:
		r.Entries, r.Cleared = m.log.snapshot()
	}
	if err != nil && !errors.As(err, &r.Errno) {
		r.Errno = syscall.EIO
	}
	return r
}
