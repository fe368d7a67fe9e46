package sandbox

import (
	"os/exec"
	"syscall"

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
