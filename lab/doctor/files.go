package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
	"kstat/lab/shell"
	"kstat/lab/world"
	"kstat/stats"
)

const device = "/dev/fuse"

// deviceError says whether this user can open the device.
func deviceError() error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// hasFUSE reports whether the kernel has FUSE, loaded.
func hasFUSE() bool {
	return slices.ContainsFunc(lines("/proc/filesystems"), func(l string) bool {
		return strings.TrimPrefix(l, "nodev") == "\tfuse"
	})
}

func lookAtDevice(v *visit) finding {
	err := deviceError()
	info, statErr := os.Stat(device)
	covered := slices.ContainsFunc(v.mounted, func(m mounted) bool { return m.dir == device })
	switch {
	case statErr == nil && !isFUSE() && covered:
		return failure("something else is mounted over it").by(v.sudo("umount "+device), "unmount that")
	case statErr == nil && !isFUSE():
		return failure("it is something else").
			by(v.sudo("rm -f /dev/fuse")+" && "+v.sudo("mknod -m 666 /dev/fuse c 10 229"), "make it anew")
	case errors.Is(err, unix.ENOENT) && !hasFUSE():
		return failure("it is not there, and the kernel has no FUSE").
			by(v.sudo("modprobe fuse"), "load it; in a container, do that on the host, and give it the device: --device /dev/fuse")
	case errors.Is(err, unix.ENOENT):
		return failure("it is not there, although the kernel has FUSE").
			by(v.sudo("mknod -m 666 /dev/fuse c 10 229"), "make it; a container is better given it: --device /dev/fuse")
	case errors.Is(err, unix.EACCES):
		mode := "in a directory that is closed to it"
		if statErr == nil {
			mode = fmt.Sprintf("mode %04o", info.Mode().Perm())
		}
		f := failure("this user may not open it (%s)", mode).
			by(v.sudo("chmod 666 /dev/fuse"), "open it to users; udev's rules make that last")
		f.features = []Feature{FUSE, Run} // root may
		return f
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return failure("the kernel has no FUSE: %v", err).by(v.sudo("modprobe fuse"), "load it")
	case errors.Is(err, unix.EPERM):
		return failure("a device cgroup forbids it: %v", err).by("", "give the container the device: --device /dev/fuse")
	case err != nil:
		return failure("%v", err)
	case v.self.uid == 0 && info.Mode().Perm()&0o006 != 0o006:
		return fine("can be opened; by others it cannot (mode %04o), who need that for kstat run", info.Mode().Perm()).
			with("chmod 666 /dev/fuse opens it to users")
	}
	return fine("can be opened")
}

// isFUSE reports whether what is there is the device, 10:229.
func isFUSE() bool {
	var st unix.Stat_t
	return unix.Stat(device, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR &&
		unix.Major(st.Rdev) == 10 && unix.Minor(st.Rdev) == 229
}

func tryFUSE(v *visit) finding {
	if err := deviceError(); err != nil {
		return skipped("not tried: %v", err)
	}
	if !isFUSE() {
		return skipped("not tried: %s is something else", device)
	}
	_, user, err := v.probe("fuse", "", unix.CLONE_NEWNS)
	switch {
	case errors.Is(err, errHung):
		return v.noAnswer()
	case isRefused(err):
		return v.refused(err)
	case err != nil && err.Error() == errChroot.Error(): // it comes from another process
		return skipped("not tried: %v", err)
	case user && errors.Is(err, unix.EPERM):
		return v.permit(failure("%v", err))
	case err != nil:
		return failure("%v", err)
	}
	how := "tried in a mount namespace of its own"
	if user {
		how += ", as root of a user namespace"
	}
	return fine("works").with(how)
}

// errChroot is unix.EINVAL of a mount that is no mount point.
var errChroot = fmt.Errorf("the root directory is no mount point, as in a chroot: %w", unix.EINVAL)

// privateMounts keeps what this process mounts from everybody else.
func privateMounts() error {
	switch err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); {
	case errors.Is(err, unix.EINVAL):
		return errChroot
	case err != nil:
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// probeFUSE mounts a tree, has a process read it, and takes it away.
func probeFUSE(string) (a answer, err error) {
	if err := privateMounts(); err != nil {
		return a, err
	}
	dir, err := scratch()
	if err != nil {
		return a, err
	}
	table := stats.NewTable()
	log := slog.New(slog.DiscardHandler)
	engine, err := hook.New(hook.Config{Point: hook.Postrouting, Log: log}, table)
	if err != nil {
		return a, err
	}
	names, _ := stats.HostNames()
	tree := &fs.Tree{
		Table: table, Engine: engine, Names: names, Log: log, PID: os.Getpid(), Version: "probe",
		Health: func() (fs.Health, uint64, error) { return fs.Health{Gaps: []fs.Gap{}}, 0, nil },
	}
	point, err := fs.Lock(filepath.Join(dir, "kstat"))
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, point.Close()) }()
	connection, err := point.Mount()
	if err != nil {
		return a, err
	}
	server, err := tree.Serve(connection)
	if err != nil {
		return a, err
	}
	defer server.Drain(time.Second)
	defer point.Unmount()
	reader := exec.Command("/proc/self/exe")
	reader.Args = []string{probeName, "read", filepath.Join(dir, "kstat", "nout")}
	done, err := emptyInput(reader)
	if err != nil {
		return a, err
	}
	defer done()
	text, err := reader.Output()
	if err != nil {
		return a, fmt.Errorf("read the tree: %w", err)
	}
	var read answer
	if err := json.Unmarshal(text, &read); err != nil {
		return a, fmt.Errorf("read the tree: %w", err)
	}
	if read.Error != "" {
		return a, &probeError{read.Error, unix.Errno(read.Errno)}
	}
	if read.Text != "0\n" {
		return a, fmt.Errorf("nout reads %q", read.Text)
	}
	return a, nil
}

// scratch mounts an empty file system over a directory that every system has.
func scratch() (dir string, err error) {
	for _, dir = range []string{"/tmp", "/run", "/mnt", "/var"} {
		if err = unix.Mount("kstat", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("mount a tmpfs: %w", err)
}

// probeRead reads a file, which may never answer.
func probeRead(path string) (a answer, err error) {
	f, err := os.Open(path)
	if err != nil {
		return a, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	a.Text = string(text)
	return a, err
}

// mounted is a mount of a kind that matters here.
type mounted struct {
	dir, fstype string
}

// readMounts lists what is mounted, where several are, the uppermost.
func readMounts() (all []mounted, err error) {
	mounts, err := fs.Mounts()
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range mounts {
		all = slices.DeleteFunc(all, func(o mounted) bool { return o.dir == m.Dir })
		all = append(all, mounted{m.Dir, m.FSType})
	}
	return all, nil
}

// daemonOf is what a tree's stats.json tells of its daemon.
type daemonOf struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Engine  string `json:"engine"`
	Start   int    `json:"start"`
}

// lookAtDaemons looks at every tree that is mounted, and at kstatds that have
// none here.
func lookAtDaemons(v *visit) (all []finding) {
	if v.mountsE != nil {
		return []finding{warning("%v", v.mountsE)}
	}
	var seen []int
	for _, m := range v.mounted {
		if m.fstype != fs.FSType {
			continue
		}
		f, pid := v.lookAtTree(m.dir)
		f.title = "kstatd on " + m.dir
		seen = append(seen, pid)
		all = append(all, f)
	}
	for _, p := range processes() {
		if p.name == "kstatd" && p.nearby() && !slices.Contains(seen, p.pid) && !slices.Contains(seen, 0) {
			f := fine("runs, and its tree is not to be seen from here")
			f.title = fmt.Sprintf("kstatd, pid %d", p.pid)
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		all = append(all, fine("none runs"))
	}
	return all
}

// readLimit is how long a tree may take to answer: as long as there is time. On
// a busy machine a process does not begin at once, and a kstatd that is well
// must not be called hung.
func (v *visit) readLimit() time.Duration { return v.Limit - v.Limit/10 }

// lookAtTree says how the daemon of a tree is, and which process that is, 0 if
// that cannot be told.
func (v *visit) lookAtTree(dir string) (finding, int) {
	a, err := v.within(v.readLimit()).start("read", filepath.Join(dir, "stats.json"), 0)
	var d daemonOf
	if err == nil {
		err = json.Unmarshal([]byte(a.Text), &d)
	}
	switch {
	case err == nil:
		state := "stopped"
		if d.Start == 1 {
			state = "counting"
		}
		return fine("well: pid %d, engine %s, %s", d.PID, d.Engine, state).with("version " + d.Version), d.PID
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		all := processes()
		if pid := supervisorOf(all, dir, false); pid != 0 {
			if isStopped(all, pid) {
				return failure("without a worker: pid %d, which should start one, is stopped by a signal", pid).
					by(v.sudo(fmt.Sprintf("kill -CONT %d", pid)), "let it go on"), pid
			}
			return warning("without a worker, which pid %d is about to replace", pid).
				by("kstat doctor fuse", "ask again in a second"), pid
		}
		return warning("dead: its daemon is gone, and every access fails").
			by(v.sudo("umount -l "+shell.Quote(dir)), "unmount it; a kstatd that is started there does so, too"), 0
	case errors.Is(err, errHung):
		return v.hung(dir)
	case errors.Is(err, unix.ENOENT) && !isTree(dir):
		return fine("has just ended"), 0
	case errors.Is(err, unix.ENOENT):
		return warning("of another version: it has no stats.json"), 0
	}
	return warning("cannot be read: %v", err), 0
}

// isTree reports whether a tree is mounted on dir.
func isTree(dir string) bool {
	all, _ := readMounts()
	return slices.Contains(all, mounted{dir, fs.FSType})
}

// hung explains a tree that does not answer.
func (v *visit) hung(dir string) (finding, int) {
	all := processes()
	supervisor := supervisorOf(all, dir, true)
	if supervisor == 0 {
		return failure("hung: no answer within %v", v.readLimit()).
			by(v.sudo("umount -l "+shell.Quote(dir)), "end its kstatd with SIGKILL, and unmount it"), 0
	}
	family := []process{}
	for _, p := range all {
		if p.pid == supervisor || p.parent == supervisor && strings.HasPrefix(p.name, "kstatd") {
			family = append(family, p)
		}
	}
	var pids []string
	stopped := false
	for _, p := range family {
		pids = append(pids, strconv.Itoa(p.pid))
		stopped = stopped || isStopped(family, p.pid)
	}
	list := strings.Join(pids, " ")
	if stopped {
		return failure("hung: stopped by a signal (pid %d), no answer within %v", supervisor, v.readLimit()).
			by(v.sudo("kill -CONT "+list), "let it go on"), supervisor
	}
	return failure("hung: pid %d does not answer within %v", supervisor, v.readLimit()).
		by(v.sudo("kill -KILL "+list)+"; "+v.sudo("umount -l "+shell.Quote(dir)), "if that stays so for some seconds, end it, which lets packets pass, and unmount it"), supervisor
}

// isStopped reports whether a process is stopped by a signal, or traced.
func isStopped(all []process, pid int) bool {
	return slices.ContainsFunc(all, func(p process) bool { return p.pid == pid && strings.ContainsAny(p.state, "Tt") })
}

// supervisorOf returns the process that has a mount point: who has locked it,
// or, as only root can see that, the only kstatd that was told to mount there.
// With guess, it may also be the only kstatd there is. 0 is none.
func supervisorOf(all []process, dir string, guess bool) int {
	if place, err := fs.Look(dir); err == nil {
		if place.Holder != 0 || os.Geteuid() == 0 {
			return place.Holder
		}
	}
	var told, any []int
	for _, p := range all {
		if p.name != "kstatd" {
			continue
		}
		any = append(any, p.pid)
		for arg := range strings.SplitSeq(content(fmt.Sprintf("/proc/%d/cmdline", p.pid)), "\x00") {
			arg = strings.TrimPrefix(strings.TrimLeft(arg, "-"), "mount=")
			if arg == dir || arg != "" && strings.HasSuffix(dir, "/"+arg) {
				told = append(told, p.pid)
			}
		}
	}
	switch {
	case len(told) == 1:
		return told[0]
	case len(any) == 1 && guess:
		return any[0]
	}
	return 0
}

// within is a visit whose probes have less time.
func (v *visit) within(d time.Duration) *visit {
	shorter := *v
	ctx, cancel := context.WithTimeout(v.ctx, d)
	shorter.ctx = ctx
	time.AfterFunc(d+time.Second, cancel)
	return &shorter
}

// process is one of the machine's.
type process struct {
	pid, parent int
	name, state string
}

// nearby reports whether the process is in our network namespace, or may be:
// not everybody can tell. One that has ended is in none.
func (p *process) nearby() bool {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.pid))
	ours, _ := os.Readlink("/proc/self/ns/net")
	return errors.Is(err, os.ErrPermission) || err == nil && theirs == ours
}

// processes lists those that can be seen, but for threads of the kernel.
func processes() (all []process) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// pid (name) state parent …; a name may have any character in it.
		stat := content("/proc/" + e.Name() + "/stat")
		open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
		if open < 0 || end < open {
			continue
		}
		rest := strings.Fields(stat[end+1:])
		if len(rest) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(rest[1])
		all = append(all, process{pid, parent, stat[open+1 : end], rest[0]})
	}
	return all
}

func lookAtMountPoint(v *visit) finding {
	place, err := fs.Look(v.Mount)
	title := place.Dir
	switch {
	case errors.Is(err, unix.ENOTEMPTY):
		return failure("%s: the directory is not empty", title).
			by(v.sudo("kstatd --mount "+shell.Quote(title+"2")), "take another, or empty it")
	case errors.Is(err, unix.EACCES) && v.self.uid != 0:
		return skipped("cannot be looked at: %v", err)
	case err != nil:
		return failure("%v", err).by(v.sudo("kstatd --mount /run/kstat2"), "take another")
	case place.Tree && place.Holder == 0:
		return fine("%s: a tree is mounted there, see below", title)
	case place.Holder != 0:
		return warning("%s: pid %d has it", title, place.Holder).
			by(v.sudo("kstatd --queue "+strconv.Itoa(int(v.freeQueue()))+" --mount "+shell.Quote(title+"2")), "nothing, for that one; a second kstatd takes another")
	case place.Missing:
		if err := unix.Access(filepath.Dir(title), unix.W_OK); err != nil {
			if v.self.uid != 0 {
				return skipped("%s: root makes it", title)
			}
			return failure("%s cannot be made: %v", title, err).by("kstatd --mount /dev/shm/kstat", "take a directory that can be made")
		}
		return fine("%s: can be made", title)
	case place.Made:
		return fine("%s: left by a kstatd that was killed; the next one takes it over", title).with("rmdir " + shell.Quote(title) + " removes it")
	}
	return fine("%s: empty", title)
}

func lookAtMountNamespace(v *visit) finding {
	ours, err1 := os.Readlink("/proc/self/ns/mnt")
	first, err2 := os.Readlink("/proc/1/ns/mnt")
	switch {
	case world.Inside():
		return fine("a world's")
	case err1 != nil || err2 != nil:
		return skipped("that of process 1 cannot be seen")
	case ours != first:
		return warning("not that of process 1: a tree that is mounted here is seen in here only").
			by(v.sudo("nsenter -t 1 -m kstatd"), "start kstatd where its readers are")
	}
	return fine("that of process 1: everybody sees a tree")
}
