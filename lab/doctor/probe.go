package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// probeName is how this program knows that it is to be a probe: its arguments
// are the probe's name and what the probe is to be told.
const probeName = "kstat-probe"

// insideWord is the argument by which it knows that it is the command in a
// world that a probe has made.
const insideWord = "kstat-probe-inside"

// probeOf returns what a probe does, in a process of its own, which may be in
// namespaces of its own; nil if there is no such probe.
func probeOf(name string) func(argument string) (answer, error) {
	switch name {
	case "nfqueue":
		return probeNFQueue
	case "bpf":
		return probeBPF
	case "fuse":
		return probeFUSE
	case "read":
		return probeRead
	case "world":
		return probeWorld
	case "rights":
		return probeRights
	}
	return nil
}

// Main turns the calling program into a probe, if it was started as one, and
// does not return then. Call it first thing in main.
func Main() {
	if len(os.Args) == 2 && os.Args[1] == insideWord {
		runInside()
	}
	if os.Args[0] != probeName || len(os.Args) != 3 {
		return
	}
	probe := probeOf(os.Args[1])
	if probe == nil {
		return
	}
	a, err := probe(os.Args[2])
	if err != nil {
		a.Error = err.Error()
		a.Errno = errno(err)
	}
	_ = json.NewEncoder(os.Stdout).Encode(a)
	os.Exit(0)
}

// answer is what a probe tells.
type answer struct {
	Text  string            // what was read
	Facts map[string]string // by names of the probe's own
	Error string
	Errno int // 0 if there is none
}

// probeError is the error that a probe has told.
type probeError struct {
	text  string
	errno syscall.Errno
}

func (e *probeError) Error() string { return e.text }
func (e *probeError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// errHung is the error of a probe that did not answer in time.
var errHung = errors.New("no answer in time")

// refusedError is the error of a probe that could not be started in namespaces
// of its own.
type refusedError struct{ error }

func (e *refusedError) Unwrap() error { return e.error }

func errno(err error) int {
	var e syscall.Errno
	if errors.As(err, &e) {
		return int(e)
	}
	return 0
}

// probe runs a probe in new namespaces, given as CLONE_NEW… flags: for root as
// he is, else, or if that is refused, in a user namespace in which the caller is
// root. It reports whether that was so.
func (v *visit) probe(name, argument string, namespaces uintptr) (a answer, user bool, err error) {
	if v.self.uid == 0 || namespaces == 0 {
		a, err = v.start(name, argument, namespaces)
		if !errors.Is(err, unix.EPERM) || namespaces == 0 || !isRefused(err) {
			return a, false, err
		}
	}
	a, err = v.start(name, argument, namespaces|unix.CLONE_NEWUSER)
	return a, true, err
}

func isRefused(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused)
}

func (v *visit) start(name, argument string, namespaces uintptr) (answer, error) {
	type end struct {
		answer
		err error
	}
	ended := make(chan end, 1)
	began := make(chan *os.Process, 1)
	go func() {
		// The parent-death signal is sent when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		a, err := runProbe(name, argument, namespaces, began)
		ended <- end{a, err}
	}()
	select {
	case e := <-ended:
		return e.answer, e.err
	case <-v.ctx.Done():
	}
	// It is killed, and nobody waits for it: one that waits for a FUSE server
	// which has its request and does not answer cannot be killed.
	select {
	case process := <-began:
		_ = process.Kill()
	default:
	}
	return answer{}, errHung
}

func runProbe(name, argument string, namespaces uintptr, began chan<- *os.Process) (a answer, err error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{probeName, name, argument}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Cloneflags: namespaces}
	if namespaces&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	done, err := emptyInput(cmd)
	if err != nil {
		return a, err
	}
	defer done()
	if err := cmd.Start(); err != nil {
		return a, &refusedError{fmt.Errorf("start a process in namespaces of its own: %w", err)}
	}
	began <- cmd.Process
	err = cmd.Wait()
	if json.Unmarshal(stdout.Bytes(), &a) != nil {
		said, _, _ := strings.Cut(stderr.String(), "\n")
		return a, fmt.Errorf("the probe ended early: %v %s", err, said)
	}
	if a.Error != "" {
		return a, &probeError{a.Error, syscall.Errno(a.Errno)}
	}
	return a, nil
}

// emptyInput gives a command a standard input that is at its end. It is not
// /dev/null, which is one of the things that may be missing.
func emptyInput(cmd *exec.Cmd) (done func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin = r
	return func() { r.Close() }, w.Close()
}
