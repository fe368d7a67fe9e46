package world

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kstat/fs"
)

// What init and the stage are born with.
const (
	worldFD = 3 // init's: to the process outside
	mountFD = 3 // the stage's: the file system, not mounted anywhere yet
	wordFD  = 4 // the stage's: what goes wrong, nothing if the command is executed
	planFD  = 5 // the stage's: a plan
)

// runInit is PID 1 of a world. It never returns.
func runInit() {
	unix.CloseOnExec(worldFD)
	_ = os.WriteFile("/proc/self/comm", []byte(initName), 0) // else it is called exe
	file := os.NewFile(worldFD, "world")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kstat: begin a private world:", err)
		os.Exit(statusWorld)
	}
	m := message{Ended: true}
	m.Status, err = live(conn)
	if err != nil && !errors.As(err, &m.Error) {
		m.Error = &Error{statusWorld, err.Error()}
	}
	_ = send(conn, m) // nobody is left to tell
	os.Exit(0)
}

// live makes the world, runs the command, and returns its status.
func live(conn net.Conn) (int, error) {
	first, err := receive(conn)
	if err != nil || first.Config == nil {
		return 0, fmt.Errorf("begin a private world: %w", err)
	}
	c := first.Config
	caught := catch()
	if err := isolate(c); err != nil {
		return 0, err
	}
	connection, mount, err := newMount()
	if err != nil {
		return 0, err
	}
	m := newModule(c)
	if _, err := fs.Serve(connection, &root{module: m}, 0); err != nil {
		return 0, err
	}
	if c.Loaded {
		if err := m.insert(c.Params); err != nil {
			return 0, fmt.Errorf("load the module with %q: %w\n%s", c.Params, err, m.log.text())
		}
	}
	if c.HostNet { // a network of its own goes with the world, rule, queue and all
		defer m.remove()
	}
	child, err := startStage(c, plan{Config: c, Dir: first.Dir}, mount)
	if err != nil {
		return 0, err
	}
	go relay(conn, caught, child)
	return reap(child)
}

// isolate makes the fresh namespaces fit to live in.
func isolate(c *Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount a /proc for the new PID namespace: %w; a container that hides parts of /proc forbids it, unless it is --privileged", err)
	}
	if c.HostNet {
		return nil
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return newSys(c)
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// newSys mounts a sysfs that shows the new network's devices, and on it what is
// mounted on the host's. Where that is forbidden, the host's stays.
func newSys(c *Config) error {
	mounts, err := mountsBelow("/sys")
	if err != nil {
		return err
	}
	trees := make(map[string]int)
	for _, dir := range mounts {
		if trees[dir], err = clone(dir, unix.AT_RECURSIVE); err != nil {
			delete(trees, dir)
			c.tell("%s stays away: %v", dir, err)
		}
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		c.tell("/sys is the host's, and shows its network devices: %v", err)
		return nil
	}
	for dir, tree := range trees {
		if err := attach(tree, dir); err != nil {
			c.tell("%s stays away: %v", dir, err)
		}
	}
	return nil
}

// tell says something to who wants to know.
func (c *Config) tell(format string, args ...any) {
	if c.Verbose {
		fmt.Fprintf(os.Stderr, "kstat: world: "+format+"\n", args...)
	}
}

// newMount makes a FUSE file system, and returns the connection over which it
// is served and the mount, which is in no namespace yet.
func newMount() (connection *os.File, mount int, err error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open /dev/fuse: %w; chmod 666 /dev/fuse, or run it as root, where the kernel has FUSE", err)
	}
	connection = os.NewFile(uintptr(fd), "/dev/fuse")
	mount, err = fsmount("fuse", []option{
		{"source", "kstat"},
		{"subtype", "kstat"},
		{"fd", fmt.Sprint(fd)},
		{"rootmode", fmt.Sprintf("%o", unix.S_IFDIR)},
		{"user_id", "0"},
		{"group_id", "0"},
		{"allow_other", ""},
		{"default_permissions", ""},
	}, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("mount a FUSE file system: %w", err), connection.Close())
	}
	return connection, mount, nil
}

// startStage starts the process that is to become the command, and returns
// when it has, or cannot.
func startStage(c *Config, p plan, mount int) (child int, err error) {
	defer unix.Close(mount)
	words, word, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start the command: %w", err)
	}
	defer words.Close()
	text, err := p.file()
	if err != nil {
		word.Close()
		return 0, err
	}
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	child, err = syscall.ForkExec("/proc/self/exe", []string{stageName}, &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{0, 1, 2, mountFD: uintptr(mount), wordFD: word.Fd(), planFD: text.Fd()},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS},
	})
	word.Close()
	text.Close()
	if err != nil {
		return 0, fmt.Errorf("start the command: %w", err)
	}
	said, err := io.ReadAll(words)
	if err != nil || len(said) > 0 {
		return 0, parseError(said)
	}
	return child, nil
}

// relay passes on to the command the signals that the process outside was
// sent. A terminal sends its own to the whole process group, the command and init
// among it: what init has got itself is not passed on.
func relay(conn net.Conn, caught chan os.Signal, command int) {
	var last [65]atomic.Int64 // when init got each, in Unix nanoseconds
	go func() {
		for s := range caught {
			last[s.(syscall.Signal)].Store(time.Now().UnixNano())
		}
	}()
	for {
		m, err := receive(conn)
		if err != nil { // the process outside is gone
			os.Exit(statusWorld)
		}
		if m.Signal <= 0 || m.Signal >= len(last) {
			continue
		}
		// The kernel sends to a group at once, but Go tells us in its own time.
		time.Sleep(5 * time.Millisecond)
		if time.Since(time.Unix(0, last[m.Signal].Load())) > 100*time.Millisecond {
			_ = unix.Kill(command, syscall.Signal(m.Signal))
		}
	}
}

// reap waits for the command, as PID 1 has to for every orphan, and returns its
// status as a shell would.
func reap(command int) (int, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the command: %w", err)
		case pid != command:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
