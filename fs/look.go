package fs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Place is what a directory is to a kstatd that would mount there.
type Place struct {
	Dir     string // absolute, its parents without symbolic links
	Missing bool   // it is not there, and would be made
	Tree    bool   // a tree is mounted there, alive or not
	Holder  int    // the process that has locked it; 0 if none can be seen
	Made    bool   // a kstatd has made it
}

// Look says what [Lock] would find, with its reasons to refuse a directory, but
// changes nothing: it neither makes the directory nor takes the lock, and does
// not touch a mounted tree, whose server may be dead or hung.
func Look(dir string) (Place, error) {
	dir, err := resolve(dir)
	p := Place{Dir: dir}
	if err != nil {
		return p, err
	}
	m := &MountPoint{dir: dir}
	top, err := topMount(dir)
	switch {
	case err != nil:
		return p, err
	case top != nil && top.FSType != FSType:
		return p, m.refuse(unix.EBUSY, "a %s file system is mounted there", top.FSType)
	case top != nil:
		p.Tree = true
		err = m.openBeneath()
	default:
		fd, err2 := unix.Open(dir, openFlags, 0)
		if errors.Is(err2, unix.ENOENT) {
			p.Missing = true
			return p, nil
		}
		err = m.opened(fd, err2)
	}
	if err != nil {
		return p, err
	}
	defer m.under.Close()
	p.Made = m.marked()
	p.Holder = lockingProcess(m.under)
	if p.Tree || p.Holder != 0 {
		return p, nil
	}
	err = m.empty()
	if p.Made && errors.Is(err, unix.ENOTEMPTY) { // Lock sweeps it
		err = nil
	}
	return p, err
}
