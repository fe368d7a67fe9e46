package world

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kstat/fs"
)

// option is one of a file system's mount options; a flag has no value.
type option struct{ key, value string }

// fsmount makes a mount that is in no namespace yet; [attach] puts it there.
func fsmount(fstype string, options []option, attributes int) (mount int, err error) {
	opened, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(opened)
	for _, o := range options {
		if o.value == "" {
			err = unix.FsconfigSetFlag(opened, o.key)
		} else {
			err = unix.FsconfigSetString(opened, o.key, o.value)
		}
		if err != nil {
			return 0, fmt.Errorf("option %s=%s: %w", o.key, o.value, err)
		}
	}
	if err := unix.FsconfigCreate(opened); err != nil {
		return 0, err
	}
	return unix.Fsmount(opened, unix.FSMOUNT_CLOEXEC, attributes)
}

// clone copies the mount at path; what is mounted further below it, too, if
// flags is AT_RECURSIVE. The copy is in no namespace.
func clone(path string, flags uint) (mount int, err error) {
	mount, err = unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return 0, fmt.Errorf("copy the mount of %s: %w", path, err)
	}
	return mount, nil
}

// attach mounts on a path what fsmount or clone has made, and closes it.
func attach(mount int, path string) error {
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount on %s: %w", path, err)
	}
	return nil
}

// bind makes what is at one path appear at another, too; flags are clone's.
func bind(path, where string, flags uint) error {
	mount, err := clone(path, flags)
	if err != nil {
		return err
	}
	return attach(mount, where)
}

// clones are copies of mounts that something is about to cover.
type clones map[string]int

// cloneBelow copies all that is mounted below a directory.
func (c *Config) cloneBelow(dir string) (clones, error) {
	points, err := mountsBelow(dir)
	if err != nil {
		return nil, err
	}
	all := make(clones)
	for _, point := range points {
		mount, err := clone(point, unix.AT_RECURSIVE)
		if err != nil {
			c.tell("%s is missing: %v", point, err)
			continue
		}
		all[point] = mount
	}
	return all, nil
}

// attach mounts the copies where they were.
func (all clones) attach(c *Config) {
	for point, mount := range all {
		delete(all, point)
		if err := attach(mount, point); err != nil {
			c.tell("%s is missing: %v", point, err)
		}
	}
}

func (all clones) close() {
	for _, mount := range all {
		unix.Close(mount)
	}
}

// attributes returns the mount attributes of a path, for what is to lie over it.
func attributes(path string) (attributes int) {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	}
	for flag, attribute := range map[int64]int{
		unix.ST_NOSUID: unix.MOUNT_ATTR_NOSUID,
		unix.ST_NODEV:  unix.MOUNT_ATTR_NODEV,
		unix.ST_NOEXEC: unix.MOUNT_ATTR_NOEXEC,
	} {
		if int64(st.Flags)&flag != 0 {
			attributes |= attribute
		}
	}
	return attributes
}

// mountsBelow lists the mount points below dir that are not below another.
func mountsBelow(dir string) ([]string, error) {
	mounts, err := fs.Mounts()
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var all []string
	for _, m := range mounts {
		covers := func(other string) bool { return m.Dir == other || strings.HasPrefix(m.Dir, other+"/") }
		if strings.HasPrefix(m.Dir, dir+"/") && !slices.ContainsFunc(all, covers) {
			all = append(all, m.Dir)
		}
	}
	return all, nil
}
