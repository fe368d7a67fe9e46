//go:build !race

// The race detector brings a runtime with it that calls for other things.

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

// startUpCalls are the system calls that kstatd makes while it starts, each with
// how often. strace counts per thread.
var startUpCalls = map[string]int{
	"socket": 8, "bind": 8, "mount": 1, "memfd_create": 1, "ftruncate": 1, "flock": 1, "mkdirat": 1, "prctl": 43,
	"capget": 1, "connect": 1, "recvmsg": 4, "sendmsg": 6, "sendto": 4, "recvmmsg": 3,
	"setsockopt": 6, "getsockname": 4, "bpf": 30,
	"openat": 24, "close": 24, "read": 24, "fcntl": 24, "statx": 4, "newfstatat": 12, "fstat": 4, "getdents64": 8, "lseek": 4,
	"pread64": 4, "setxattr": 1, "fgetxattr": 1, "access": 1, "dup3": 4, "getsockopt": 4, "membarrier": 1, "madvise": 10,
	"execve": 2, "pidfd_open": 2, "pidfd_send_signal": 2, "waitid": 4, "kill": 1, "setpgid": 1, "prlimit64": 4,
	"getpid": 4, "getppid": 2, "geteuid": 1, "getegid": 1, "statfs": 1, "readlinkat": 2,
}

// fatalCalls are the others: those that Go's runtime makes, which ends the
// process by itself if they fail; pipe2, which go-fuse makes in an init
// function; and those without which the mount or its directory must stay.
var fatalCalls = map[string]int{
	"mmap": 12, "munmap": 2, "mprotect": 2, "clone": 4, "clone3": 1, "futex": 8, "nanosleep": 4, "sched_yield": 1, "sched_getaffinity": 1,
	"epoll_create1": 1, "epoll_ctl": 4, "epoll_pwait": 4, "eventfd2": 1, "write": 4, "pipe2": 2,
	"rt_sigaction": 8, "rt_sigprocmask": 8, "sigaltstack": 2, "arch_prctl": 1, "gettid": 2, "tgkill": 2, "getrandom": 1,
	"umount2": 1, "unlinkat": 1,
}

// infallibleCalls do not return, or whoever made them does not look. By writev a
// reader of the tree is answered, who would wait for as long as it is there.
var infallibleCalls = []string{"writev", "exit", "exit_group", "rt_sigreturn", "restart_syscall", "brk", "set_tid_address", "set_robust_list", "rseq", "pselect6", "fchmod", "wait4"}

// pipeCalls fail as no kernel lets them at the pipe by which os/exec hears of its
// child: strace does not carry out a call that fails, so that end stays open, or
// os/exec takes a worker that lives for one that has failed. It waits then, for
// good, in whatever thread the call was counted.
var pipeCalls = []string{"close", "read"}

// startFailing starts kstatd with a system call that fails, ends it once it is
// up, and reports whether it came up, whether it had to be killed as it waited
// for one of pipeCalls, and what it logged.
func startFailing(t *testing.T, engine, dir, call, errno string, when int) (up, killed bool, log string) {
	t.Helper()
	cmd := traced(t, engine, dir, "-qq", "-o", "/dev/null", "-e", "trace="+call,
		"-e", fmt.Sprintf("inject=%s:error=%s:when=%d", call, errno, when))
	var text strings.Builder
	cmd.Stderr = &text
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for end := time.Now().Add(20 * time.Second); len(ended) == 0; time.Sleep(5 * time.Millisecond) {
		if isUp(dir) {
			up = true
			must(t, cmd.Process.Signal(unix.SIGTERM))
			break
		}
		if time.Now().After(end) {
			must(t, cmd.Process.Kill())
			<-ended
			t.Errorf("%s %d fails with %s: neither up nor ended; its log:\n%s", call, when, errno, text.String())
			return false, true, text.String()
		}
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		must(t, cmd.Process.Kill())
		<-ended
		killed = true
		if !slices.Contains(pipeCalls, call) {
			t.Errorf("%s %d fails with %s: it does not end; its log:\n%s", call, when, errno, text.String())
		}
	}
	return up, killed, text.String()
}

// TestFaultStartUp makes the system calls of start-up fail, one after the
// other, by strace: each time there is a line that says so and a clean end, or
// the daemon comes up all the same. Nothing is left. If a call fails of which
// the process dies by itself, that is as if it had been killed: there is no
// rule and no process, and the next start succeeds in the same place.
func TestFaultStartUp(t *testing.T) {
	sandbox.Program(t, "strace")
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		calls, errnos := startUpCalls, []string{"EPERM", "ENOMEM", "EMFILE", "EINTR", "ENOBUFS"}
		fatal := fatalCalls
		if !fullLength() {
			calls = map[string]int{"socket": 3, "mount": 1, "memfd_create": 1, "prctl": 1, "bind": 2, "flock": 1, "bpf": 8}
			fatal, errnos = map[string]int{"clone": 1, "epoll_ctl": 1}, errnos[:2]
		}
		clean := func(dir string, up bool, log string) {
			if !up && (strings.HasSuffix(log, ": ") || strings.Contains(log, "goroutine")) {
				t.Errorf("no clear line: %s", log)
			}
			sandbox.Await(t, log+": nothing left", func() bool {
				_, err := os.Lstat(dir)
				return len(rules(t)) == 0 && errors.Is(err, os.ErrNotExist)
			})
		}
		deadly := func(dir string, _ bool, log string) {
			sandbox.Await(t, log+": no rule left", func() bool { return len(rules(t)) == 0 })
			_, err := unix.Lgetxattr(dir, "user.kstatd.made", nil)
			d := start(t, dir, engine, "--start")
			d.end(unix.SIGTERM)
			if err == unix.ENODATA { // it died before it could mark the directory that it had made, and the next one leaves that alone
				must(t, os.Remove(dir))
			}
			nothingLeft(t, dir)
		}
		ran, refused := 0, 0
		try := func(call, errno string, when int, check func(dir string, up bool, log string)) {
			dir := mountDir(t)
			up, killed, log := startFailing(t, engine, dir, call, errno, when)
			ran++
			if killed {
				check = deadly
			}
			if !up {
				refused++
			}
			check(dir, up, fmt.Sprintf("%s %d fails with %s: %s", call, when, errno, log))
		}
		for call, times := range calls {
			for _, errno := range errnos {
				for when := 1; when <= times; when += 1 + times/4 {
					try(call, errno, when, clean)
				}
			}
		}
		for call, times := range fatal { // an errno is as good as another: each at a place of its own
			for i, errno := range errnos {
				try(call, errno, 1+i*times/len(errnos), deadly)
			}
		}
		if refused == ran {
			t.Error("not one of them came up: the test tests nothing")
		}
		t.Logf("%d starts with a failing system call, %d of them refused, all clean", ran, refused)
	})
}

// TestFaultStartUpCalls: no system call of start-up is left out above.
func TestFaultStartUpCalls(t *testing.T) {
	sandbox.Program(t, "strace")
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		dir, list := mountDir(t), filepath.Join(t.TempDir(), "calls")
		cmd := traced(t, engine, dir, "-o", list)
		must(t, cmd.Start())
		sandbox.Await(t, "the tree", func() bool { return isUp(dir) })
		must(t, cmd.Process.Signal(unix.SIGTERM), cmd.Wait())
		nothingLeft(t, dir)
		var text []byte
		ended := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ exited`, cmd.Process.Pid))
		sandbox.Await(t, "what strace saw", func() bool {
			text, _ = os.ReadFile(list)
			return ended.Match(text)
		})
		made := map[string]bool{}
		for _, call := range regexp.MustCompile(`(?m)^[0-9]+ +([a-z0-9_]+)\(`).FindAllSubmatch(text, -1) {
			made[string(call[1])] = true
		}
		if !made["mount"] || !made["sendmsg"] && !made["bpf"] {
			t.Errorf("strace saw only %v", slices.Collect(maps.Keys(made)))
		}
		for call := range made {
			if startUpCalls[call] == 0 && fatalCalls[call] == 0 && !slices.Contains(infallibleCalls, call) {
				t.Errorf("%s is made, and nobody makes it fail", call)
			}
		}
	})
}

// traced returns a kstatd under strace, which is its child.
func traced(t *testing.T, engine, dir string, flags ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	must(t, err)
	strace := sandbox.Program(t, "strace")
	cmd := command(engine, "--mount", dir, "--start")
	cmd.Args = slices.Concat([]string{"strace", "-D", "-f"}, flags, []string{exe}, cmd.Args[1:])
	cmd.Path = strace
	return cmd
}

func isUp(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "start"))
	return err == nil && string(text) == "1\n"
}
