package fs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// source and FSType are how the mount shows in /proc/self/mountinfo.
	source  = "kstat"
	subtype = "kstatd"
	FSType  = "fuse." + subtype
)

// madeAttr marks a directory that was made to be a mount point, so that one
// that is left by a killed daemon is removed by the next. The other name is for
// file systems that have no such attributes of users', as tmpfs before Linux
// 6.6; it takes the host's CAP_SYS_ADMIN.
const (
	madeAttr      = "user.kstatd.made"
	madeAttrRoots = "trusted.kstatd.made"
)

// MountPoint is a directory that belongs to this process, to mount trees on.
// Its methods are for one goroutine.
type MountPoint struct {
	dir    string   // absolute, without symbolic links
	under  *os.File // the directory beneath; its lock is ours
	made   bool     // we made it
	device string   // of what we have mounted, as in mountinfo; "" if nothing is
}

// Lock takes a directory to mount on. A missing one is made; one that is no
// directory, a symbolic link, not empty or mounted on by somebody else is
// refused. What a killed kstatd has left there is cleared away.
//
// The directory itself is the lock that keeps a second kstatd off: flock(2) on
// it is held until Close, ends with the process, and is the same for everybody
// who sees the directory, whatever namespace they are in.
func Lock(dir string) (*MountPoint, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	m := &MountPoint{dir: dir}
	if err := m.lock(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Mount mounts a tree that nobody serves yet, and returns the connection to
// the kernel for whoever is to serve it (see [Tree.Serve]). Until then, those
// who touch the tree wait. The tree is dead once the last copy of the
// connection is closed; Mount puts a new one in the place of a dead one.
//
// The error wraps EBUSY if something else is mounted there by now, which stays
// as it is.
func (m *MountPoint) Mount() (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	connection := os.NewFile(uintptr(fd), "/dev/fuse")
	if err := m.mount(fd); err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	return connection, nil
}

// mount mounts the tree of a connection. Between the dead tree and the new one
// the directory beneath shows, for as short as two system calls take.
func (m *MountPoint) mount(fd int) error {
	top, err := topMount(m.dir)
	if err != nil {
		return err
	}
	if top != nil && top.device != m.device {
		return m.refuse(unix.EBUSY, "a %s file system is mounted there by now", top.FSType)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d,allow_other,default_permissions",
		fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxWrite)
	if top != nil {
		if err := m.Unmount(); err != nil {
			return err
		}
	}
	err = unix.Mount(source, m.dir, FSType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	if err != nil {
		return fmt.Errorf("mount on %s: %w", m.dir, err)
	}
	top, err = topMount(m.dir)
	if err == nil && top == nil {
		err = unix.ENOENT
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mount on %s, and find it: %w", m.dir, err),
			unix.Unmount(m.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	}
	m.device = top.device
	return nil
}

// maxWrite is the most that one read or write request carries.
const maxWrite = 128 << 10

// Unmount takes our tree off, if it is mounted. Files that somebody still has
// open do not hold it up. It refuses if something else is on top by now.
func (m *MountPoint) Unmount() error {
	if m.device == "" {
		return nil
	}
	top, err := topMount(m.dir)
	switch {
	case err != nil:
		return err
	case top == nil: // somebody was faster
		m.device = ""
		return nil
	case top.device != m.device:
		return m.refuse(unix.EBUSY, "another file system is mounted over the tree: unmount both")
	}
	if err := unix.Unmount(m.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	m.device = ""
	return nil
}

// Close unmounts, removes the directory if it was made, and gives up the lock.
func (m *MountPoint) Close() error {
	err := m.Unmount()
	if m.made && m.under != nil {
		m.sweep()
		if e := unix.Rmdir(m.dir); e != nil {
			err = errors.Join(err, fmt.Errorf("remove the mount point %s: %w", m.dir, e))
		}
		m.made = false
	}
	if m.under != nil {
		err = errors.Join(err, m.under.Close())
		m.under = nil
	}
	return err
}

// resolve returns dir as an absolute path whose parents are no symbolic links.
// Its last element is not looked at.
func resolve(dir string) (string, error) {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	} else {
		return "", fmt.Errorf("mount point %s: the working directory is gone, name an absolute path: %w", dir, err)
	}
	if dir == "/" {
		return "", fmt.Errorf("mount point /: choose a directory of its own: %w", unix.EINVAL)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("mount point %s: its parent directory cannot be used, make it first: %w", dir, err)
	} else if err != nil {
		return "", fmt.Errorf("mount point %s: its parent directory cannot be used: %w", dir, err)
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// lock opens the directory, takes its lock, and sees to it that it can be
// mounted on.
func (m *MountPoint) lock() error {
	top, err := topMount(m.dir)
	if err != nil {
		return err
	}
	switch {
	case top == nil:
		err = m.open()
	case top.FSType == FSType:
		err = m.openBeneath()
	default:
		return m.refuse(unix.EBUSY, "a %s file system is mounted there", top.FSType)
	}
	if err != nil {
		return err
	}
	switch err := unix.Flock(int(m.under.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		m.made = false
		return m.refuse(unix.EBUSY, "it is used by another kstatd, %s", lockHolder(m.under))
	case err != nil:
		return fmt.Errorf("lock the mount point %s: %w", m.dir, err)
	}
	if top != nil {
		// The lock of whoever mounted this is gone, and so is its process.
		if err := unix.Unmount(m.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("clear the dead mount on %s: %w", m.dir, err)
		}
	}
	return m.inspect()
}

// openFlags are those with which a directory is opened that may be a mount
// point.
const openFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// open opens the directory, or makes it.
func (m *MountPoint) open() error {
	fd, err := unix.Open(m.dir, openFlags, 0)
	if errors.Is(err, unix.ENOENT) {
		switch err := os.Mkdir(m.dir, 0o755); {
		case err == nil:
			m.made = true
			if err := unix.Setxattr(m.dir, madeAttr, []byte("1"), 0); errors.Is(err, unix.EOPNOTSUPP) {
				_ = unix.Setxattr(m.dir, madeAttrRoots, []byte("1"), 0) // not every file system can
			}
		case !errors.Is(err, unix.EEXIST): // another kstatd may be as fast
			return fmt.Errorf("make the mount point: %w", err)
		}
		fd, err = unix.Open(m.dir, openFlags, 0)
		if err != nil && m.made {
			m.made = false
			_ = unix.Rmdir(m.dir) // refused if somebody uses it already
		}
	}
	return m.opened(fd, err)
}

// opened keeps the directory that was opened, or says why it was not.
func (m *MountPoint) opened(fd int, err error) error {
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
func (m *MountPoint) openBeneath() error {
	parent, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(m.dir), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return m.refuse(unix.EBUSY, "a kstatd is mounted there, and what it covers cannot be seen (%v)", err)
	}
	defer unix.Close(parent)
	fd, err := unix.Openat(parent, filepath.Base(m.dir), openFlags, 0)
	if err != nil {
		return fmt.Errorf("directory beneath the mount on %s: %w", m.dir, err)
	}
	m.under = os.NewFile(uintptr(fd), m.dir)
	return nil
}

// inspect looks at the locked directory, which nothing is mounted on by now.
func (m *MountPoint) inspect() error {
	var opened, named unix.Stat_t
	if err := unix.Fstat(int(m.under.Fd()), &opened); err != nil {
		return fmt.Errorf("mount point %s: %w", m.dir, err)
	}
	if err := unix.Lstat(m.dir, &named); err != nil || opened.Dev != named.Dev || opened.Ino != named.Ino {
		return m.refuse(unix.EBUSY, "it changed while it was looked at; try again")
	}
	if m.marked() {
		m.made = true
		m.sweep()
	}
	err := m.empty()
	if errors.Is(err, unix.ENOTEMPTY) {
		m.made = false
	}
	return err
}

// marked reports whether a kstatd has made the directory.
func (m *MountPoint) marked() bool {
	n, err := unix.Fgetxattr(int(m.under.Fd()), madeAttr, nil)
	if errors.Is(err, unix.EOPNOTSUPP) {
		n, err = unix.Fgetxattr(int(m.under.Fd()), madeAttrRoots, nil)
	}
	return err == nil && n > 0
}

// empty returns an error, which wraps ENOTEMPTY if that is the reason, unless
// there is nothing in the directory.
func (m *MountPoint) empty() error {
	switch names, err := m.under.Readdirnames(1); {
	case len(names) > 0:
		return m.refuse(unix.ENOTEMPTY, "the directory is not empty; choose another, or empty it")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("look into the mount point %s: %w", m.dir, err)
	}
	return nil
}

// sweep removes from a directory that was made to be a mount point what a shell
// has put there: root's `echo 1 > start`, in the instant between a dead tree and
// the next one, makes a file of that name. Anything else stays.
func (m *MountPoint) sweep() {
	_, _ = m.under.Seek(0, io.SeekStart) // it may have been read
	names, err := m.under.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, name := range names {
		var st unix.Stat_t
		isFile := unix.Fstatat(int(m.under.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
		if isFile && st.Size <= pageSize && writable(name) {
			_ = unix.Unlinkat(int(m.under.Fd()), name, 0)
		}
	}
	_, _ = m.under.Seek(0, io.SeekStart)
}

// writable reports whether the tree has a file of that name that takes writes.
func writable(name string) bool {
	return slices.ContainsFunc(files, func(f file) bool { return f.name == name && f.write != nil })
}

// refuse returns the error for a mount point that cannot be used.
func (m *MountPoint) refuse(errno unix.Errno, format string, args ...any) error {
	return fmt.Errorf("mount point %s: %s: %w", m.dir, fmt.Sprintf(format, args...), errno)
}
