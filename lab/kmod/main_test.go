package kmod

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

// The test binary is also each of the tools, when a link of that name leads to
// it, and what prepares the ground for a real tool.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case slices.Contains(Tools(), name):
		os.Exit(Main(os.Args[0], os.Args[1:], &fake{real: os.Getenv("KMOD_TEST_REAL")}))
	case name == "stage":
		fmt.Fprintln(os.Stderr, stage(os.Args[1], os.Args[2], os.Args[3:]))
		os.Exit(127)
	}
	sandbox.Main(m)
}

// fake is a kernel with one module, which it shows below root as sysfs would.
type fake struct {
	root  string
	errno syscall.Errno // of every call, if it is not 0
	logs  [][]Message   // what Messages returns, call by call; then EPERM
	real  string        // the directory of the host's tools
	calls []string
}

func (f *fake) call(format string, a ...any) error {
	f.calls = append(f.calls, fmt.Sprintf(format, a...))
	if f.errno != 0 {
		return fmt.Errorf("call the fake kernel: %w", f.errno)
	}
	return nil
}

func (f *fake) Insert(params string) error {
	err := f.call("insert %q", params)
	if err == nil {
		err = f.load("0")
	}
	return err
}

func (f *fake) Delete() error {
	err := f.call("delete")
	if err == nil {
		err = os.RemoveAll(filepath.Join(f.root, "sys/module/kstat"))
	}
	return err
}

func (f *fake) Messages() ([]Message, error) {
	if len(f.logs) == 0 {
		return nil, syscall.EPERM
	}
	log := f.logs[0]
	f.logs = f.logs[1:]
	return log, f.call("messages")
}

func (f *fake) Clear() error { return f.call("clear") }

func (f *fake) Real(tool string) string {
	path := filepath.Join(f.real, tool)
	if _, err := os.Stat(path); f.real == "" || err != nil {
		return ""
	}
	return path
}

// load makes the module appear, with so many users, and used by those modules.
func (f *fake) load(users string, holders ...string) error {
	dir := filepath.Join(f.root, "sys/module/kstat")
	if err := os.MkdirAll(filepath.Join(dir, "holders"), 0o755); err != nil {
		return err
	}
	files := map[string]string{"initstate": "live", "refcnt": users, "coresize": "16384"}
	for _, h := range holders {
		files["holders/"+h] = ""
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// newFake makes a kernel without the module.
func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{root: t.TempDir()}
	for _, dir := range []string{"proc", "sys/module"} {
		if err := os.MkdirAll(filepath.Join(f.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// outcome is what a tool leaves behind.
type outcome struct {
	status   int
	out, err string
}

func (o outcome) String() string {
	return fmt.Sprintf("status %d\nout: %q\nerr: %q", o.status, o.out, o.err)
}

// run runs a tool of ours in this process.
func (f *fake) run(argv0 string, args ...string) outcome {
	var out, err bytes.Buffer
	t := &tool{argv0: argv0, name: filepath.Base(argv0), args: args, kernel: f, root: f.root, stdout: &out, out: bufio.NewWriter(&out), err: &err, most: warning}
	status := t.run()
	t.out.Flush()
	return outcome{status, out.String(), err.String()}
}

// runReal runs the host's own tool where the fake's /sys/module and /proc are
// the real ones, and where the kernel answers every call about modules as the
// fake would.
func (f *fake) runReal(t *testing.T, path, argv0 string, args ...string) outcome {
	t.Helper()
	cmd := sandbox.Command(testBinary(t), append([]string{f.root, strconv.Itoa(int(f.errno)), path, argv0}, args...)...)
	cmd.Args[0] = "stage"
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	return result(t, cmd)
}

// result runs a command to its end.
func result(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func testBinary(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// stage becomes the program argv[0], called as argv[1]. It returns if it cannot.
func stage(root, errno string, argv []string) error {
	runtime.LockOSThread() // the thread that is prepared is the one that goes on
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{"/sys/module", "/proc"} {
		if err := unix.Mount(root+dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind to %s: %w", dir, err)
		}
	}
	n, err := strconv.ParseUint(errno, 10, 16)
	if err != nil {
		return err
	}
	if err := answer(uint32(n), unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE); err != nil {
		return fmt.Errorf("install a filter: %w", err)
	}
	return syscall.Exec(argv[0], argv[1:], os.Environ())
}

// answer lets these system calls of this thread return an errno, or success.
func answer(errno uint32, calls ...uint32) error {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // seccomp_data.nr
	for i, nr := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(calls) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
	)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// needReal returns the path of a tool of the host's, and skips the test if it
// is not installed, or fails it where it should be.
func needReal(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range strings.Split(sbin, ":") {
		if path := filepath.Join(dir, name); isExecutable(path) {
			return path
		}
	}
	sandbox.Lack(t, fmt.Errorf("needs %s: install it (kmod, util-linux, binutils)", name))
	return ""
}

func isExecutable(path string) bool { return unix.Access(path, unix.X_OK) == nil }

// needKmod is needReal for kmod's tools. kmod 34 has other words and options.
func needKmod(t *testing.T) {
	t.Helper()
	text, err := exec.Command(needReal(t, "kmod"), "-V").Output()
	if err != nil {
		t.Fatal(err)
	}
	var version int
	if _, err := fmt.Sscanf(string(text), "kmod version %d", &version); err != nil || version < 30 || version > 33 {
		t.Skipf("compares with kmod 30 to 33; this is %.20q", text)
	}
}

// origin is what Debian's build of kmod says of its own source.
var origin = regexp.MustCompile(`\S*libkmod/\S+\.c:\d+ \w+\(\) `)
