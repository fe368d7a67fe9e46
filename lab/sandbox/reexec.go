package sandbox

import (
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
)

// outer is the environment variable that marks a sandbox. Its value is the
// network namespace outside, as /proc/self/ns/net shows it: a process that
// finds itself in that very namespace is not in a sandbox, whoever set the
// variable.
const outer = "KSTAT_SANDBOX"

// errOutside is why Namespaces are missing in a program that never asked.
var errOutside = errors.New("this process is in no sandbox")

// refused is why there is no sandbox, nil before anybody asked for one. It is
// written by Reexec, before any test runs.
var refused error

// Reexec runs the calling program again, in a sandbox: the same executable,
// arguments, environment, working directory and standard files.
//
// It returns twice. In the sandbox, inside is true, and the program goes on.
// Outside, it returns when the inner process has ended, with its exit status,
// or 128 plus the number of the signal that ended it; the program then has
// nothing left to do but to exit with that status. SIGINT, SIGQUIT and SIGTERM
// that arrive in the meantime are forwarded.
//
// Call it first thing in main. What has been done before is done twice.
//
// An error means that there is no sandbox and that nothing has been run: the
// kernel does not permit the namespaces, or what they are needed for.
func Reexec() (inside bool, status int, err error) {
	if entered() {
		refused = settle()
		return refused == nil, 0, refused
	}
	status, refused = run()
	return false, status, refused
}

// entered reports whether this process, or an ancestor, has been re-executed.
func entered() bool {
	outside := os.Getenv(outer)
	here, err := os.Readlink("/proc/self/ns/net")
	return err == nil && strings.HasPrefix(outside, "net:[") && here != outside
}

// run starts the inner process and waits for its end.
func run() (status int, err error) {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 0, err
	}

	// The parent-death signal is sent when the thread that forked ends, not
	// the process: stay on it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, unix.SIGQUIT, unix.SIGTERM)
	defer close(signals)
	defer signal.Stop(signals)

	inner, err := start(here)
	if err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			inner.Process.Signal(s) // it may just have ended
		}
	}()

	err = inner.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("wait for the sandbox: %w", err)
	}
	if w := inner.ProcessState.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal()), nil
	}
	return inner.ProcessState.ExitCode(), nil
}

// start begins the inner process. A privileged caller gets the namespaces as
// he is; a caller who may not have them that way gets them in a user namespace.
func start(here string) (*exec.Cmd, error) {
	command := func(flags uintptr) *exec.Cmd {
		cmd := Command("/proc/self/exe")
		cmd.Args = os.Args
		cmd.Env = append(os.Environ(), outer+"="+here)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr.Cloneflags = flags | unix.CLONE_NEWNET | unix.CLONE_NEWNS |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		return cmd
	}

	if os.Geteuid() == 0 {
		if cmd := command(0); cmd.Start() == nil {
			return cmd, nil
		}
	}
	cmd := command(unix.CLONE_NEWUSER)
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process in new namespaces: %w", err)
	}
	return cmd, nil
}

// settle makes fresh namespaces fit to live in. Bringing lo up is its last
// step, so that the processes further down find their work done: they may be
// fuzzing workers, or another user's, who could not do it.
func settle() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if lo.Flags&net.FlagUp != 0 {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	hideTrees()
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// hideTrees takes the trees of the host's kstatds out of this mount tree, of
// which tests would find one too many. It does not ask a daemon, which may be
// dead. What a user namespace has inherited is locked, and stays.
func hideTrees() {
	mounts, _ := listFUSE()
	for _, m := range mounts {
		if m.kind == "fuse.kstatd" {
			_ = unix.Unmount(unescape.Replace(m.point), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
}

// unescape takes back what the kernel does to paths in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
