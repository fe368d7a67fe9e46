package world

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// option is one of a file system's mount options; a flag has no value.
type option struct{ key, value string }

// fsmount makes a mount that is in no namespace yet; [attach] puts it there.
func fsmount(fstype string, options []option, attributes int) (mount int, err error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fs)
	for _, o := range options {
		if o.value == "" {
			err = unix.FsconfigSetFlag(fs, o.key)
		} else {
			err = unix.FsconfigSetString(fs, o.key, o.value)
		}
		if err != nil {
			return 0, fmt.Errorf("option %s=%s: %w", o.key, o.value, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
}

// clone copies the mount at path, without what is mounted further below. It is
// in no namespace.
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

// bind makes what is at one path appear at another, too.
func bind(path, where string) error {
	mount, err := clone(path, 0)
	if err != nil {
		return err
	}
	return attach(mount, where)
}

// mountsBelow lists the mount points below dir that are not below another.
func mountsBelow(dir string) ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var all []string
	for line := range strings.Lines(string(info)) {
		point := unescape(strings.Fields(line)[4])
		covers := func(other string) bool { return point == other || strings.HasPrefix(point, other+"/") }
		if strings.HasPrefix(point, dir+"/") && !slices.ContainsFunc(all, covers) {
			all = append(all, point)
		}
	}
	return all, nil
}

// unescape undoes the octal escapes of proc(5).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
