package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// plan is what the stage is to do.
type plan struct {
	Config *Config
	Dir    string // the working directory of the command
}

// file returns the plan as a file to read.
func (p plan) file() (*os.File, error) {
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("start the command: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if err = json.NewEncoder(f).Encode(p); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	return f, err
}

// runStage mounts the file system in its own mount namespace and becomes the
// command. It never returns.
func runStage() {
	for _, fd := range []int{mountFD, wordFD, planFD} {
		unix.CloseOnExec(fd)
	}
	var p plan
	err := json.NewDecoder(os.NewFile(planFD, "plan")).Decode(&p)
	if err == nil {
		err = p.enact()
	}
	var known *Error
	if !errors.As(err, &known) {
		known = &Error{statusWorld, err.Error()}
	}
	_ = json.NewEncoder(os.NewFile(wordFD, "word")).Encode(known)
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
func (p plan) enact() error {
	if err := mountWorld(); err != nil {
		return err
	}
	tree, err := p.mountTree()
	if err != nil {
		return err
	}
	path, err := placeTools(p.Config)
	if err != nil {
		return err
	}
	_ = os.Setenv("KSTAT_MOUNT", tree)
	if path != "" {
		_ = os.Setenv("PATH", path+os.Getenv("PATH"))
	}
	// By its name, because the directory may be below what was just mounted.
	if err := os.Chdir(p.Dir); err != nil {
		p.Config.tell("the working directory is %s: %v", "/", os.Chdir("/"))
	}
	return become(p.Config.Command)
}

// Where things are in the command's eyes.
const (
	procDir   = "/proc"
	moduleDir = "/sys/module"
	worldDir  = "/proc/.kstat"
)

// mountWorld mounts the file system's folders in their places, and below
// worldDir what they cover.
func mountWorld() error {
	places := []struct{ folder, place, covered string }{
		{"proc", procDir, worldDir + "/proc"},
		{"module", moduleDir, worldDir + "/module"},
	}
	var covered, folders []int
	for _, p := range places {
		mount, err := clone(p.place, 0)
		if err != nil {
			return err
		}
		covered = append(covered, mount)
	}
	// Only what is mounted somewhere can be cloned, so it is, for a moment.
	if err := attach(mountFD, procDir); err != nil {
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
		if err := errors.Join(attach(folders[i], p.place), attach(covered[i], p.covered)); err != nil {
			return err
		}
	}
	return attach(tree, worldDir+"/tree")
}

// mountTree mounts the tree of kstatd where the command's KSTAT_MOUNT says, or
// on /run/kstat, and returns where.
func (p plan) mountTree() (string, error) {
	dir := os.Getenv("KSTAT_MOUNT")
	if dir == "" {
		dir = "/run/kstat"
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(p.Dir, dir)
	}
	info, err := os.Stat(dir)
	if err != nil && strings.HasPrefix(dir, "/run/") {
		if err := privateRun(p.Config); err != nil {
			return "", err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("make %s in a private /run: %w", dir, err)
		}
	} else if err != nil || !info.IsDir() {
		return "", fmt.Errorf("KSTAT_MOUNT is %s, which is no directory: make it, or choose another", dir)
	}
	return dir, bind(worldDir+"/tree", dir)
}

// privateRun puts a /run in the place of the host's that has all that is in
// it, and takes new names without the host noticing.
func privateRun(c *Config) error {
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
			c.tell("%s stays away: %v", path, err)
			continue
		}
		things = append(things, t)
	}
	mount, err := fsmount("tmpfs", []option{{"source", "kstat"}, {"mode", "755"}}, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err == nil {
		err = attach(mount, dir)
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
			c.tell("%s stays away: %v", path, err)
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
	if errors.Is(err, unix.ENOEXEC) { // a script without #!
		err = unix.Exec("/bin/sh", append([]string{"sh", path}, command[1:]...), os.Environ())
	}
	return &Error{statusExecute, fmt.Sprintf("%s: %v", name, err)}
}
