package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Nobody is the user, and the group, that owns nothing.
const Nobody = 65534

// Command is [exec.Command] for a process that does not outlive this one: the
// kernel sends it SIGKILL. To be exact, it does so when the thread ends that
// called Start. Go's threads end with the process, except for those of
// goroutines that exit while they hold runtime.LockOSThread.
//
// The process belongs to the network namespace of the thread that starts it:
// started within [Peer.Do], it runs at the peer.
func Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// AsUser makes cmd, which has not been started, run with the given number as
// its user and only group, and returns it. It needs [Root]. Files the
// command is to read, its executable too, must be open to that user.
func AsUser(cmd *exec.Cmd, uid uint32) *exec.Cmd {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	return cmd
}

// readyLimit is how long a daemon may take to be ready, on a busy machine.
const readyLimit = 30 * time.Second

// StartReady starts a daemon, and returns when it has said READY=1, as it would
// to a service manager (sd_notify(3)). Nobody hears what else it says; from when
// manager is closed it is refused. After an error, as when it ends instead, the
// daemon does not run.
func StartReady(cmd *exec.Cmd) (manager io.Closer, err error) {
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"}) // the kernel finds a name
	if err != nil {
		return nil, err
	}
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+notify.LocalAddr().String())
	_ = notify.SetReadDeadline(time.Now().Add(readyLimit))
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, notify.Close())
	}
	var ended atomic.Bool
	go func() { // it is left for the caller to wait for
		_ = unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		ended.Store(true)
		_ = notify.SetReadDeadline(time.Now())
	}()
	if err := awaitReady(notify); err != nil {
		if ended.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			err = errors.New("it has ended before it was ready")
		}
		_ = cmd.Process.Signal(unix.SIGTERM)
		kill := time.AfterFunc(readyLimit, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		return nil, errors.Join(fmt.Errorf("%s: %w", cmd.Path, err), notify.Close())
	}
	return notify, nil
}

func awaitReady(notify *net.UnixConn) error {
	message := make([]byte, 100)
	n, err := notify.Read(message)
	switch {
	case err != nil:
		return fmt.Errorf("it does not say that it is ready: %w", err)
	case string(message[:n]) != "READY=1":
		return fmt.Errorf("it says %q, and not READY=1", message[:n])
	}
	return nil
}
