package world

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kstat/lab/kmod"
)

// Self is where a command finds this program.
const Self = toolsDir + "/kstat"

const (
	toolsDir = worldDir + "/tools"
	binDir   = worldDir + "/bin"
)

// place is what is to be done about one tool.
type place struct {
	host string // the host's program of that name, links followed; "" if it has none
	dir  string // where ours is to appear; "" means over the host's
}

// find returns the places that a tool goes to, that of the host's own first.
// There is none if nothing is to be done: sudo works, or the tool is that of a
// world around this one.
func find(tool string) (places []place) {
	around := false
	seen := make(map[string]bool) // directories, links followed
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil || seen[real] {
			continue
		}
		seen[real] = true
		path := filepath.Join(dir, tool)
		if link, err := os.Readlink(path); err == nil && link == Self {
			around = true
			continue
		}
		host, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		p := place{host: host}
		// BusyBox is one program under all names: nothing is mounted over that.
		if !slices.Contains(kmod.Tools(), filepath.Base(host)) {
			p.dir = dir
		}
		places = append(places, p)
	}
	switch {
	case len(places) > 0:
		if tool == "sudo" && setUserID(places[0].host) {
			return nil
		}
		return places
	case around:
		return nil
	}
	dirs := []string{"/usr/sbin", "/sbin"}
	if slices.Contains([]string{"kmod", "lsmod", "dmesg", "sudo"}, tool) {
		dirs = []string{"/usr/bin", "/bin"}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			return []place{{dir: dir}}
		}
	}
	return nil
}

// setUserID reports whether a program becomes root. In a user namespace, root's
// files belong to nobody, and it does not.
func setUserID(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Uid == 0 && st.Mode&unix.S_ISUID != 0
}

// placeTools puts this program in the place of the host's insmod and friends,
// whose originals stay at hand in toolsDir: over the file, or, where there is none,
// through an overlay on the directory. If the kernel permits no overlay, it
// returns directories for PATH.
func (s *stage) placeTools() (path string, err error) {
	// By its name: the program that runs was opened in the host's mount namespace.
	if err := show(s.Program, Self); err != nil {
		return "", fmt.Errorf("show the kstat program to the world: %w", err)
	}
	var over []string                  // files of the host
	added := make(map[string][]string) // directory of the host: names
	kept := make(map[string]bool)
	for _, tool := range kmod.Tools() {
		for _, p := range find(tool) {
			keep := tool
			switch {
			case p.dir != "":
				added[p.dir] = append(added[p.dir], tool)
			case slices.Contains(over, p.host):
				continue
			default:
				over = append(over, p.host)
				keep = filepath.Base(p.host)
			}
			if p.host == "" || kept[keep] {
				continue
			}
			kept[keep] = true
			if err := bind(p.host, filepath.Join(toolsDir, keep), 0); err != nil {
				return "", err
			}
		}
	}
	if path, err = s.addTools(added); err != nil {
		return "", err
	}
	for _, file := range over {
		if err := show(Self, file); err != nil {
			return "", err
		}
		s.Config.tell("%s is kstat", file)
	}
	return path, nil
}

// show is bind for a program that is not to be changed under its other name.
func show(program, where string) error {
	mount, err := clone(program, 0)
	if err != nil {
		return err
	}
	err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		unix.Close(mount)
		return fmt.Errorf("protect %s: %w", program, err)
	}
	return attach(mount, where)
}

// addTools makes tools appear in directories of the host, which become
// read-only by that.
func (s *stage) addTools(added map[string][]string) (path string, err error) {
	if len(added) == 0 {
		return "", nil
	}
	bin, err := fsmount("tmpfs", []option{{"source", "kstat"}, {"mode", "755"}}, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err == nil {
		err = attach(bin, binDir)
	}
	if err != nil {
		return "", fmt.Errorf("make a directory of tools: %w", err)
	}
	for dir, names := range added {
		ours := binDir + "/" + strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-")
		err := os.Mkdir(ours, 0o755)
		for _, name := range names {
			err = errors.Join(err, os.Symlink(Self, filepath.Join(ours, name)))
		}
		if err != nil {
			return "", fmt.Errorf("make a directory of tools: %w", err)
		}
		if err := s.overlay(ours, dir); err != nil {
			s.Config.tell("%v are in PATH only, not in %s: overlay: %v", names, dir, err)
			path = ours + ":" + path
			continue
		}
		s.Config.tell("%s is read-only, and has %v of kstat's", dir, names)
	}
	return path, nil
}

// overlay makes what is in upper appear in a directory of the host.
func (s *stage) overlay(upper, dir string) error {
	below, err := s.Config.cloneBelow(dir)
	if err != nil {
		return err
	}
	defer below.close()
	over, err := fsmount("overlay", []option{{"source", "kstat"}, {"lowerdir", upper + ":" + dir}}, attributes(dir))
	if err != nil {
		return err
	}
	if err := s.cover(over, dir); err != nil {
		return err
	}
	below.attach(s.Config)
	return nil
}
