package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kstat/hook"
)

// Config says what a world is like.
type Config struct {
	Command []string // with its arguments

	Loaded  bool       // load the module before the command begins
	Params  string     // its parameters, as insmod takes them: "start=1 counter=5"
	Point   hook.Point // where packets are counted
	HostNet bool       // share the network of the host, instead of a new one with lo alone
	Mutant  string     // name of a fault that the module has, see [kstat/lab/mutant]

	Version string // of kstat
	Verbose bool   // say on standard error what the world is made of
}

// Default returns what is usual: the module is not loaded, and would count at
// POSTROUTING in a network of its own.
func Default() Config { return Config{Point: hook.Postrouting} }

// SetHook chooses where packets are counted, by the hook's name.
func (c *Config) SetHook(name string) (err error) {
	c.Point, err = hook.ParsePoint(name)
	return err
}

// Error is why there is no world, or no command in it. Status is what a shell
// would exit with: 125 for the world, 126 for a command that cannot be executed,
// 127 for one that is not there.
type Error struct {
	Status int
	Reason string
}

// Error returns the reason.
func (e *Error) Error() string { return e.Reason }

// Exit statuses of what is not the command's doing, as env(1), timeout(1) and
// nohup(1) have them.
const (
	statusWorld   = 125
	statusExecute = 126
	statusFind    = 127
)

// The names by which this program, started again, knows what it is to be.
const (
	initName  = "kstat-init"
	stageName = "kstat-stage"
)

// Main turns the calling program into a part of a world, if it was started as
// one, and does not return then. Call it first thing in main.
func Main() {
	switch os.Args[0] {
	case initName:
		runInit()
	case stageName:
		runStage()
	}
}

// message is what the process outside and init tell each other, a packet each,
// over a SOCK_SEQPACKET socket.
type message struct {
	Signal int // outside to init: pass it on

	Ended  bool // init to outside, last
	Status int  // of the command
	Error  *Error
}

func send(conn net.Conn, m message) error {
	text, err := json.Marshal(m)
	if err == nil {
		_, err = conn.Write(text)
	}
	return err
}

func receive(conn net.Conn) (m message, err error) {
	buffer := make([]byte, 64<<10)
	n, err := conn.Read(buffer)
	if err == nil {
		err = json.Unmarshal(buffer[:n], &m)
	}
	return m, err
}

// Run runs a command in a world of its own, with the caller's descriptors,
// environment and working directory, and returns its exit status, 128 plus the
// number if a signal ended it. Signals that the caller ignores, other than SIGHUP
// and SIGINT, are not ignored by the command: Go's runtime takes them.
func Run(c Config) (int, *Error) {
	if c.HostNet && os.Geteuid() != 0 {
		return 0, &Error{statusWorld, "--net host needs root: packets of the host may be counted by nobody else; use --net new"}
	}
	// The parent-death signal is sent when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	caught := catch()
	defer signal.Stop(caught)
	defer keepTerminal()()
	init, conn, err := begin(&c)
	if err != nil {
		return 0, asError(err)
	}
	defer conn.Close()
	ended := make(chan message, 1)
	go func() {
		m, _ := receive(conn) // without a message, Wait tells
		ended <- m
	}()
	for {
		select {
		case s := <-caught:
			_ = send(conn, message{Signal: int(s.(syscall.Signal))}) // it may just have ended
		case m := <-ended:
			err := init.Wait()
			switch {
			case m.Error != nil:
				return 0, m.Error
			case !m.Ended:
				return 0, &Error{statusWorld, fmt.Sprintf("the private world was destroyed from outside, and the command with it (%v)", err)}
			}
			return m.Status, nil
		}
	}
}

// asError returns why there is no world.
func asError(err error) *Error {
	var known *Error
	if !errors.As(err, &known) {
		known = &Error{statusWorld, err.Error()}
	}
	return known
}

// keepTerminal returns a function that makes the caller's process group the
// terminal's foreground again, if it is that now: a shell inside makes one of its
// own, and does not live to undo that if it is told to exit.
func keepTerminal() (restore func()) {
	for fd := range 3 {
		group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err != nil || group != unix.Getpgrp() {
			continue
		}
		return func() {
			signal.Ignore(unix.SIGTTOU) // which is what asking from the background would get
			defer signal.Reset(unix.SIGTTOU)
			_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, group)
		}
	}
	return func() {}
}

// begin starts PID 1 of a new world: for root as he is, else, or if that is
// refused, in a user namespace in which the caller is root.
func begin(c *Config) (*exec.Cmd, net.Conn, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find the kstat program: %w", err)
	}
	dir, _ := os.Getwd() // it may have no name
	text, err := (&plan{Config: c, Dir: dir, Program: program}).file()
	if err != nil {
		return nil, nil, err
	}
	defer text.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("begin a private world: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "world"), os.NewFile(uintptr(fds[1]), "world")
	defer ours.Close()
	defer theirs.Close()
	init, err := startInit(c, theirs, text)
	if err != nil {
		return nil, nil, err
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, init.Process.Kill(), init.Wait())
	}
	return init, conn, nil
}

func startInit(c *Config, files ...*os.File) (*exec.Cmd, error) {
	numbers, done, err := passOn(files...)
	if err != nil {
		return nil, err
	}
	defer done()
	command := func(flags uintptr) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = append([]string{initName}, numbers...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		flags |= unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC
		if !c.HostNet {
			flags |= unix.CLONE_NEWNET
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Cloneflags: flags}
		return cmd
	}
	if os.Geteuid() == 0 {
		cmd := command(0)
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		if c.HostNet || !errors.Is(err, unix.EPERM) {
			return nil, refusal(err)
		}
	}
	cmd := command(unix.CLONE_NEWUSER)
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	if err := cmd.Start(); err != nil {
		return nil, refusal(err)
	}
	return cmd, nil
}

// refusal says that namespaces are refused, and what to do about it.
func refusal(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return fmt.Errorf("new namespaces are refused: %w; %s", err, cure())
	}
	return fmt.Errorf("begin a private world: %w", err)
}

// cure says what stands in the way of user namespaces here.
func cure() string {
	for _, knob := range []struct{ path, bad, cure string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1 permits them"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0 permits them"},
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000 permits them"},
	} {
		if text, err := os.ReadFile(knob.path); err == nil && strings.TrimSpace(string(text)) == knob.bad {
			return knob.cure + ", or run it as root"
		}
	}
	if os.Geteuid() == 0 {
		return "in a container, this takes --privileged"
	}
	return "run it as root; in a container, with --privileged"
}
