package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/goleak"
)

// patience is how long things may take to go away after the last test, on a busy
// machine. The kernel drops a closed file's mount or table a moment after close
// returns, and goroutines end when they are run.
const patience = 5 * time.Second

// checks is what is asked after the tests. The zero value asks for the usual.
type checks struct {
	goroutines []goleak.Option
	after      []func() error
}

// leaks returns one line for each thing that has come since before, and stays.
func (c *checks) leaks(before []string) []string {
	end := time.Now().Add(patience)
	var found []string
	err := goleak.Find(c.goroutines...) // which waits for half a second
	for err != nil && time.Now().Before(end) {
		err = goleak.Find(c.goroutines...)
	}
	if err != nil {
		found = append(found, err.Error())
	}

	isOld := func(thing string) bool { return slices.Contains(before, thing) }
	left := slices.DeleteFunc(holdings(), isOld)
	for len(left) > 0 && time.Now().Before(end) {
		time.Sleep(patience / 100)
		left = slices.DeleteFunc(holdings(), isOld)
	}
	return append(found, left...)
}

// holdings names all that this process has of descriptors, FUSE mounts and,
// in a sandbox, nftables tables. A thing has the same name each time. What
// cannot be listed is named as the error it gave.
func holdings() []string {
	var all []string
	for _, list := range []func() ([]string, error){descriptors, fuseMounts, tables} {
		things, err := list()
		if err != nil {
			things = append(things, err.Error())
		}
		all = append(all, things...)
	}
	return all
}

// descriptors lists the open files but for the two of Go's poller.
func descriptors() ([]string, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink(dir + "/" + e.Name())
		switch {
		case err != nil: // the directory's own descriptor, closed by now
		case target == "anon_inode:[eventpoll]", target == "anon_inode:[eventfd]":
		default:
			open = append(open, fmt.Sprintf("descriptor %s, %s", e.Name(), target))
		}
	}
	return open, nil
}

// fuseMounts names the FUSE mounts of this mount namespace, dead ones too.
func fuseMounts() (names []string, err error) {
	mounts, err := listFUSE()
	for _, m := range mounts {
		names = append(names, fmt.Sprintf("mount %s of type %s on %s", m.id, m.kind, m.point))
	}
	return names, err
}

// fuseMount is a FUSE mount, in the words of /proc/self/mountinfo.
type fuseMount struct{ id, kind, point string }

func listFUSE() (mounts []fuseMount, err error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for line := range strings.Lines(string(info)) {
		// proc(5): ID parent dev root point options [tags…] - type source …
		head, tail, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(head), strings.Fields(tail)[0]
		if kind == "fuse" || strings.HasPrefix(kind, "fuse.") {
			mounts = append(mounts, fuseMount{fields[0], kind, fields[4]})
		}
	}
	return mounts, nil
}

// tables lists the nftables tables of a sandbox, and none anywhere else.
func tables() ([]string, error) {
	if Missing(Namespaces) != nil || Missing(NFTables) != nil {
		return nil, nil
	}
	list, err := listTables()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range list {
		names = append(names, fmt.Sprintf("nftables table %s of family %d", t.Name, t.Family))
	}
	return names, nil
}
