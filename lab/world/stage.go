package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kstat/lab/kmod"
)

// stage is the process that is to become the command.
type stage struct {
	*plan
	mount   int      // the world's file system, mounted nowhere yet
	covered []string // what it has mounted over by now
}

// runStage mounts the file system in its own mount namespace and becomes the
// command. It never returns.
func runStage() {
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, unix.SIGQUIT) // the command may die of it with a core; we die without a trace
	go func() {
		<-quit
		os.Exit(128 + int(unix.SIGQUIT))
	}()
	files, err := passed()
	if err != nil || len(files) != 3 {
		fmt.Fprintln(os.Stderr, "kstat: this program is started by kstat run only")
		os.Exit(statusWorld)
	}
	p, err := readPlan(files[0])
	if err == nil {
		s := &stage{plan: p, mount: int(files[1].Fd())}
		err = s.enact()
	}
	_ = json.NewEncoder(files[2]).Encode(asError(err))
	os.Exit(statusWorld)
}

// parseError reads what a stage has said.
func parseError(said []byte) error {
	known := &Error{Status: statusWorld}
	if err := json.Unmarshal(said, known); err != nil {
		known.Reason = "the command could not be started"
	}
	return known
}

// enact returns only if it cannot become the command.
func (s *stage) enact() error {
	if err := s.mountWorld(); err != nil {
		return err
	}
	tree, err := s.mountTree()
	if err != nil {
		return err
	}
	s.coverNetworks()
	path, err := s.placeTools()
	if err != nil {
		return err
	}
	_ = os.Setenv("KSTAT_MOUNT", tree)
	if os.Getenv("PATH") == "" {
		_ = os.Setenv("PATH", "/bin:/usr/bin") // as execvp(3)
	}
	// The command is root, whoever the caller is, and insmod is to be found.
	_ = os.Setenv("PATH", path+kmod.SearchPath())
	s.enterDirectory()
	return become(s.Config.Command)
}

// enterDirectory sees to it that the command finds in its working directory what
// is mounted there by now. The directory itself is the caller's, whatever it is
// called by now, and is kept if its name leads nowhere.
func (s *stage) enterDirectory() {
	for _, dir := range s.covered {
		if s.Dir == dir || strings.HasPrefix(s.Dir, dir+"/") {
			if err := os.Chdir(s.Dir); err != nil {
				s.Config.tell("the working directory is that of the host: %v", err)
			}
			return
		}
	}
}

// cover mounts over a directory.
func (s *stage) cover(mount int, dir string) error {
	s.covered = append(s.covered, dir)
	return attach(mount, dir)
}

// Where things are in the command's eyes.
const (
	procDir   = "/proc"
	moduleDir = "/sys/module"
	worldDir  = "/proc/.kstat"
)

// mountWorld mounts the file system's folders in their places, and below
// worldDir what they cover.
func (s *stage) mountWorld() error {
	places := []struct{ folder, place, covered string }{
		{"proc", procDir, worldDir + "/proc"},
		{"module", moduleDir, worldDir + "/module"},
	}
	var covered, folders []int
	for _, p := range places {
		mount, err := clone(p.place, unix.AT_RECURSIVE)
		if err != nil {
			return err
		}
		covered = append(covered, mount)
	}
	// Only what is mounted somewhere can be cloned, so it is, for a moment.
	if err := attach(s.mount, procDir); err != nil {
		return err
	}
	for _, p := range places {
		mount, err := clone(filepath.Join(procDir, p.folder), 0)
		if err != nil {
			return err
		}
		folders = append(folders, mount)
	}
	tree, err := clone(filepath.Join(procDir, "tree"), 0)
	if err != nil {
		return err
	}
	if err := unix.Unmount(procDir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the file system from %s: %w", procDir, err)
	}
	for i, p := range places {
		if err := errors.Join(s.cover(folders[i], p.place), attach(covered[i], p.covered)); err != nil {
			return err
		}
	}
	if err := attach(tree, worldDir+"/tree"); err != nil {
		return err
	}
	return s.mountLasting()
}

// mountLasting mounts what neither comes nor goes in /proc over the nodes that
// the world's has of it.
func (s *stage) mountLasting() error {
	names, err := lasting(worldDir + "/proc")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := bind(filepath.Join(worldDir, "proc", name.Name()), filepath.Join(procDir, name.Name()), unix.AT_RECURSIVE); err != nil {
			s.Config.tell("%s/%s is missing: %v", procDir, name.Name(), err)
		}
	}
	return nil
}

// lasting lists what is in a procfs but for processes, links and modules.
func lasting(dir string) ([]os.DirEntry, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	return slices.DeleteFunc(names, func(e os.DirEntry) bool {
		_, err := strconv.Atoi(e.Name())
		return err == nil || e.Type() == os.ModeSymlink || e.Name() == "modules" || e.Name() == "kstat"
	}), nil
}

// mountTree mounts the tree of kstatd where the command's KSTAT_MOUNT says, or
// on /run/kstat, and returns where.
func (s *stage) mountTree() (string, error) {
	const usual = "/run/kstat"
	dir := os.Getenv("KSTAT_MOUNT")
	if dir == "" {
		dir = usual
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(s.Dir, dir)
	}
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return "", fmt.Errorf("KSTAT_MOUNT is %s, which is no directory: choose one", dir)
	case errors.Is(err, os.ErrNotExist) && filepath.Dir(dir) == filepath.Dir(usual):
		if err = s.privateRun(); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
		if err != nil && dir == usual {
			s.Config.tell("the tree is at %s/tree: %v", worldDir, err)
			return worldDir + "/tree", nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("KSTAT_MOUNT is %s: %w: make it, or choose another directory", dir, err)
	}
	return dir, bind(worldDir+"/tree", dir, 0)
}

// coverNetworks hides the host's named network namespaces from a command with a
// network of its own: it names its own, an ordinary user too, and leaves no name behind.
func (s *stage) coverNetworks() {
	const dir = "/run/netns"
	if _, err := os.Stat(dir); err != nil || s.Config.HostNet {
		return
	}
	mount, err := fsmount("tmpfs", []option{{"source", "kstat"}, {"mode", "755"}}, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err == nil {
		err = s.cover(mount, dir)
	}
	if err != nil {
		s.Config.tell("%s is the host's: %v", dir, err)
	}
}

// privateRun puts a /run in the place of the host's that has all that is in
// it, and takes new names without the host noticing.
func (s *stage) privateRun() error {
	const dir = "/run"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	type thing struct {
		os.FileInfo
		tree int
		link string
	}
	var things []thing
	for _, e := range entries {
		t := thing{}
		path := filepath.Join(dir, e.Name())
		if t.FileInfo, err = e.Info(); err == nil {
			if t.Mode()&os.ModeSymlink != 0 {
				t.link, err = os.Readlink(path)
			} else {
				t.tree, err = clone(path, unix.AT_RECURSIVE)
			}
		}
		if err != nil {
			s.Config.tell("%s is missing: %v", path, err)
			continue
		}
		things = append(things, t)
	}
	mount, err := fsmount("tmpfs", []option{{"source", "kstat"}, {"mode", "755"}}, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err == nil {
		err = s.cover(mount, dir)
	}
	if err != nil {
		return fmt.Errorf("make a private %s: %w", dir, err)
	}
	for _, t := range things {
		path := filepath.Join(dir, t.Name())
		switch {
		case t.link != "":
			err = os.Symlink(t.link, path)
		case t.IsDir():
			err = errors.Join(os.Mkdir(path, 0o755), attach(t.tree, path))
		default:
			err = errors.Join(os.WriteFile(path, nil, 0o644), attach(t.tree, path))
		}
		if err != nil {
			s.Config.tell("%s is missing: %v", path, err)
		}
	}
	return nil
}

// become replaces the stage by the command, as execvp(3) does. It returns only
// an error.
func become(command []string) error {
	name := command[0]
	path, err := exec.LookPath(name)
	switch {
	case errors.Is(err, exec.ErrDot): // who has . in his PATH means it
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return &Error{statusFind, fmt.Sprintf("%s: command not found", name)}
	case err != nil:
		return &Error{statusExecute, fmt.Sprintf("%s: %v", name, errors.Unwrap(err))}
	}
	err = unix.Exec(path, command, os.Environ())
	switch {
	case errors.Is(err, unix.ENOEXEC): // a script without #!
		err = unix.Exec("/bin/sh", append([]string{"sh", path}, command[1:]...), os.Environ())
	case errors.Is(err, unix.ENOENT): // it is there
		return &Error{statusExecute, fmt.Sprintf("%s: its interpreter is not there: %v", name, err)}
	}
	return &Error{statusExecute, fmt.Sprintf("%s: %v", name, err)}
}
