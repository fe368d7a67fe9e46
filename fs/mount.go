package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// source and fstype are how the mount shows in /proc/self/mountinfo.
	source  = "kstat"
	subtype = "kstatd"
	fstype  = "fuse." + subtype
)

// madeAttr marks a directory that was made to be a mount point, so that one
// that is left by a killed daemon is removed by the next.
const madeAttr = "user.kstatd.made"

// Mount is a mounted tree.
type Mount struct {
	dir    string   // absolute, without symbolic links
	under  *os.File // the directory beneath; its lock is ours
	made   bool     // we made it
	device string   // of the mount, as in mountinfo
	server *fuse.Server
	ended  chan struct{} // closed when the kernel has let go of the tree
}

// Mount mounts the tree on dir. A missing directory is made; one that is no
// directory, a symbolic link, not empty or mounted on by somebody else is
// refused. What a killed kstatd has left there is cleared away.
//
// The directory itself is the lock that keeps a second kstatd off: flock(2) on
// it is held as long as the mount, ends with the process, and is the same for
// everybody who sees the directory, whatever namespace they are in.
func (t *Tree) Mount(dir string) (_ *Mount, err error) {
	dir, err = resolve(dir)
	if err != nil {
		return nil, err
	}
	m := &Mount{dir: dir, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			m.forget()
		}
	}()
	if err := m.lock(); err != nil {
		return nil, err
	}
	hour := time.Hour
	m.server, err = gofs.Mount(dir, &root{tree: t}, &gofs.Options{
		EntryTimeout: &hour,
		AttrTimeout:  &hour,
		// Every file of the tree says its mode, and reset's is 0200.
		NullPermissions: true,
		MountOptions: fuse.MountOptions{
			FsName:            source,
			Name:              subtype,
			AllowOther:        true,
			Options:           []string{"default_permissions"},
			DirectMountStrict: true,
			DirectMountFlags:  unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
			DisableXAttrs:     true,
			Logger:            log.New(io.Discard, "", 0),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	go func() {
		m.server.Wait()
		close(m.ended)
	}()
	if top, err := topMount(dir); err == nil && top != nil {
		m.device = top.device
	}
	return m, nil
}

// resolve returns dir as an absolute path whose parents are no symbolic links.
// Its last element is not looked at.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", dir, err)
	}
	if dir == "/" {
		return "", fmt.Errorf("mount point /: choose a directory of its own: %w", unix.EINVAL)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", fmt.Errorf("mount point %s: its parent directory cannot be used: %w", dir, err)
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// lock opens the directory, takes its lock, and sees to it that it can be
// mounted on.
func (m *Mount) lock() error {
	top, err := topMount(m.dir)
	if err != nil {
		return err
	}
	switch {
	case top == nil:
		err = m.open()
	case top.fstype == fstype:
		err = m.openBeneath()
	default:
		return m.refuse(unix.EBUSY, "a %s file system is mounted there", top.fstype)
	}
	if err != nil {
		return err
	}
	if err := unix.Flock(int(m.under.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		m.made = false
		return m.refuse(unix.EBUSY, "it is used by another kstatd, %s", lockHolder(m.under))
	}
	if top != nil {
		// The lock of whoever mounted this is gone, and so is its process.
		if err := unix.Unmount(m.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("clear the dead mount on %s: %w", m.dir, err)
		}
	}
	return m.inspect()
}

// open opens the directory, or makes it.
func (m *Mount) open() error {
	fd, err := unix.Open(m.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		if err := os.Mkdir(m.dir, 0o755); err != nil {
			return fmt.Errorf("make the mount point: %w", err)
		}
		m.made = true
		_ = unix.Setxattr(m.dir, madeAttr, []byte("1"), 0) // not every file system can
		fd, err = unix.Open(m.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR) && isSymlink(m.dir):
		return m.refuse(unix.ELOOP, "it is a symbolic link; name the directory itself")
	case errors.Is(err, unix.ENOTDIR):
		return m.refuse(unix.ENOTDIR, "it is not a directory")
	case err != nil:
		return fmt.Errorf("mount point %s: %w", m.dir, err)
	}
	m.under = os.NewFile(uintptr(fd), m.dir)
	return nil
}

func isSymlink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// openBeneath opens the directory that a mount covers, without touching the
// mount, whose server may be dead or hung: in a copy of the parent's mount
// nothing is mounted.
func (m *Mount) openBeneath() error {
	parent, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(m.dir), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return m.refuse(unix.EBUSY, "a kstatd is mounted there, and what it covers cannot be seen (%v)", err)
	}
	defer unix.Close(parent)
	fd, err := unix.Openat(parent, filepath.Base(m.dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("directory beneath the mount on %s: %w", m.dir, err)
	}
	m.under = os.NewFile(uintptr(fd), m.dir)
	return nil
}

// inspect looks at the locked directory, which nothing is mounted on by now.
func (m *Mount) inspect() error {
	var opened, named unix.Stat_t
	if err := unix.Fstat(int(m.under.Fd()), &opened); err != nil {
		return fmt.Errorf("mount point %s: %w", m.dir, err)
	}
	if err := unix.Lstat(m.dir, &named); err != nil || opened.Dev != named.Dev || opened.Ino != named.Ino {
		return m.refuse(unix.EBUSY, "it changed while it was looked at; try again")
	}
	if _, err := m.under.Readdirnames(1); !errors.Is(err, io.EOF) {
		m.made = false
		return m.refuse(unix.ENOTEMPTY, "the directory is not empty; choose another, or empty it")
	}
	if n, err := unix.Fgetxattr(int(m.under.Fd()), madeAttr, nil); err == nil && n > 0 {
		m.made = true
	}
	return nil
}

// refuse returns the error for a mount point that cannot be used.
func (m *Mount) refuse(errno unix.Errno, format string, args ...any) error {
	return fmt.Errorf("mount point %s: %s: %w", m.dir, fmt.Sprintf(format, args...), errno)
}

// forget removes the directory if it is ours, and gives up the lock.
func (m *Mount) forget() error {
	var err error
	if m.made {
		err = os.Remove(m.dir)
	}
	if m.under != nil {
		err = errors.Join(err, m.under.Close())
	}
	return err
}

// ErrUnmounted is returned by [Mount.Run] if somebody else has unmounted the
// tree.
var ErrUnmounted = errors.New("the tree was unmounted")

// Run serves the tree until ctx ends, and unmounts it. Files that somebody
// still has open do not hold it up: they give ENODEV or ENOTCONN afterwards.
func (m *Mount) Run(ctx context.Context) error {
	select {
	case <-m.ended:
		return errors.Join(fmt.Errorf("%s: %w", m.dir, ErrUnmounted), m.forget())
	case <-ctx.Done():
	}
	err := m.unmount()
	select {
	case <-m.ended:
	case <-time.After(time.Second): // somebody has a file open
	}
	return errors.Join(err, m.forget())
}

// unmount takes the tree off, if it is still on top.
func (m *Mount) unmount() error {
	top, err := topMount(m.dir)
	switch {
	case err != nil:
		return err
	case top == nil || top.device != m.device:
		return fmt.Errorf("unmount %s: another file system is mounted there by now: %w", m.dir, unix.EBUSY)
	}
	if err := unix.Unmount(m.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	return nil
}
