package world

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"kstat/fs"
)

// runInit is PID 1 of a world. It never returns.
func runInit() {
	caught := catch()
	_ = os.WriteFile("/proc/self/comm", []byte(initName), 0) // else it is called exe
	files, err := passed()
	if err == nil && len(files) != 2 {
		err = errors.New("this program is started by kstat run only")
	}
	var conn net.Conn
	if err == nil {
		conn, err = net.FileConn(files[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kstat:", err)
		os.Exit(statusWorld)
	}
	files[0].Close()
	m := message{Ended: true}
	if m.Status, err = live(conn, files[1], caught); err != nil {
		m.Error = asError(err)
	}
	_ = send(conn, m) // nobody is left to tell
	os.Exit(0)
}

// live makes the world, runs the command, and returns its status.
func live(conn net.Conn, text *os.File, caught chan os.Signal) (int, error) {
	forCommand := inherited()
	p, err := readPlan(text)
	if err != nil {
		return 0, err
	}
	c := p.Config
	var command atomic.Int64 // its number, 0 before it has one
	go relay(conn, caught, &command)
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
			return 0, fmt.Errorf("load the module with %q: %w; %s", strings.TrimSpace(c.Params), err, m.log.text())
		}
	}
	if c.HostNet { // a network of its own goes with the world, rule, queue and all
		defer m.remove()
	}
	if err := startStage(&command, text, mount); err != nil {
		return 0, err
	}
	for _, fd := range forCommand { // whoever waits for their end waits for the command's
		unix.Close(fd)
	}
	return reap(int(command.Load()))
}

// isolate makes the fresh namespaces fit to live in.
func isolate(c *Config) error {
	switch err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the root directory is no mount point, as in a chroot: mounts could not be kept from the host; mount --bind it on itself before chroot")
	case err != nil:
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := c.mountAnew("proc", "/proc"); err != nil {
		return fmt.Errorf("mount a /proc for the new PID namespace: %w; a container that hides parts of /proc forbids it, unless it is --privileged", err)
	}
	if c.HostNet {
		return nil
	}
	if err := LoopbackUp(); err != nil {
		return fmt.Errorf("bring lo up in a new network: %w; run it as root", err)
	}
	// A sysfs shows the network devices of who has mounted it.
	if err := c.mountAnew("sysfs", "/sys"); err != nil {
		c.tell("/sys is the host's, and shows its network devices: %v", err)
	}
	return nil
}

// LoopbackUp brings up lo of the calling thread's network namespace.
func LoopbackUp() error {
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

// mountAnew mounts a file system over the host's, and on it what is mounted on
// the host's.
func (c *Config) mountAnew(fstype, dir string) error {
	below, err := c.cloneBelow(dir)
	if err != nil {
		return err
	}
	defer below.close()
	if err := unix.Mount(fstype, dir, fstype, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	below.attach(c)
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
func startStage(command *atomic.Int64, text *os.File, mount int) error {
	world := os.NewFile(uintptr(mount), "world")
	defer world.Close()
	words, word, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the command: %w", err)
	}
	defer words.Close()
	numbers, done, err := passOn(text, world, word)
	word.Close()
	if err != nil {
		return err
	}
	child, err := syscall.ForkExec("/proc/self/exe", append([]string{stageName}, numbers...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS},
	})
	done()
	if err != nil {
		return fmt.Errorf("start the command: %w", err)
	}
	command.Store(int64(child))
	said, err := io.ReadAll(words)
	switch {
	case err != nil:
		return fmt.Errorf("start the command: %w", err)
	case len(said) > 0:
		return parseError(said)
	}
	return nil
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
