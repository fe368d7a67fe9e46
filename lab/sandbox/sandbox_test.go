package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// role makes a child of this test binary do one thing. The tests named TestRole
// are the children's; without a role they do nothing. See child.
const role = "KSTAT_SANDBOX_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(role) == "forbidden" {
		// Root of a user namespace of its own may forbid itself namespaces.
		for _, kind := range []string{"net", "user"} {
			if err := os.WriteFile("/proc/sys/user/max_"+kind+"_namespaces", []byte("0"), 0); err != nil {
				panic(err)
			}
		}
	}
	Main(m, After(func() error {
		if os.Getenv(role) == "check" {
			return errors.New("the caller's own")
		}
		return nil
	}))
}

// child returns a command that runs one test of this binary outside any
// sandbox of ours, in the given role.
func child(test, as string) *exec.Cmd {
	cmd := Command("/proc/self/exe", "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), outer+"=", "KSTAT_REQUIRE=", role+"="+as)
	return cmd
}

// TestOwnNamespaces compares this sandbox with one below it.
func TestOwnNamespaces(t *testing.T) {
	Need(t, Namespaces)
	out, err := child("TestRoleNamespaces", "namespaces").Output()
	if err != nil {
		t.Fatalf("%v; output:\n%s", err, out)
	}
	for _, kind := range namespaces {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), "\n"+kind+":[") || strings.Contains(string(out), ours) {
			t.Errorf("outside %s, inside\n%s", ours, out)
		}
	}
}

func TestRoleNamespaces(t *testing.T) {
	if os.Getenv(role) == "" {
		return
	}
	for _, kind := range namespaces {
		ns, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(ns)
	}
}

// namespaces are those that every sandbox has.
var namespaces = []string{"net", "mnt", "ipc", "uts"}

func TestLoopbackIsUp(t *testing.T) {
	Need(t, Namespaces)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if lo.Flags&net.FlagUp == 0 {
		t.Error("lo is down")
	}
}

func TestMountsArePrivate(t *testing.T) {
	Need(t, Namespaces)
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		head, _, _ := strings.Cut(line, " - ")
		if strings.Contains(head, " shared:") || strings.Contains(head, " master:") {
			t.Errorf("not private: %s", line)
		}
	}
}

// TestHostsTreeIsHidden: a kstatd of the host's is none of a test's.
func TestHostsTreeIsHidden(t *testing.T) {
	Need(t, Namespaces, FUSE)
	dir := filepath.Join(t.TempDir(), "a tree")
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device.Fd())
	if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mount("kstat", dir, "fuse.kstatd", 0, options)); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if mounts, _ := fuseMounts(); !strings.Contains(strings.Join(mounts, "\n"), `a\040tree`) {
		t.Fatalf("no tree among %q", mounts)
	}
	out, err := child("TestRoleTrees", "trees").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "trees: []\n") {
		t.Errorf("%v; in a sandbox below this one:\n%s", err, out)
	}
}

func TestRoleTrees(t *testing.T) {
	if os.Getenv(role) == "" {
		return
	}
	mounts, err := fuseMounts()
	fmt.Printf("trees: %q\n", mounts)
	if err != nil {
		t.Fatal(err)
	}
}

func TestExitStatus(t *testing.T) {
	Need(t, Namespaces)
	for as, want := range map[string]int{"pass": 0, "fail": 1, "exit": 42, "killed": 128 + int(syscall.SIGKILL)} {
		out, err := child("TestRoleEnd", as).CombinedOutput()
		if got := status(err); got != want {
			t.Errorf("%s: status %d, want %d; output:\n%s", as, got, want, out)
		}
	}
}

func TestRoleEnd(t *testing.T) {
	switch os.Getenv(role) {
	case "fail":
		t.Fail()
	case "exit":
		os.Exit(42)
	case "killed":
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	Need(t, Namespaces)
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGTERM} {
		cmd, ready := begin(t, "TestRoleWait", "wait")
		expectLine(t, ready, "ready")
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		// The inner process dies of the signal, and the outer one says so.
		if got, want := status(cmd.Wait()), 128+int(s); got != want {
			t.Errorf("%v: status %d, want %d", s, got, want)
		}
	}
}

// TestNohup: under nohup, what tests start dies of a hang-up all the same, and
// the tests do not.
func TestNohup(t *testing.T) {
	Need(t, Namespaces)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := child("TestRoleHangUp", "hang up")
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`, self}, cmd.Args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS: TestRoleHangUp") {
		t.Errorf("%v; output:\n%s", err, out)
	}
}

func TestRoleHangUp(t *testing.T) {
	if os.Getenv(role) == "" {
		return
	}
	if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := status(Command("sh", "-c", "kill -HUP $$").Run()); got != -1 {
		t.Errorf("status %d, want death by the signal", got)
	}
}

func TestNothingOutlivesTheOuterProcess(t *testing.T) {
	Need(t, Namespaces)
	cmd, ready := begin(t, "TestRoleWait", "wait")
	expectLine(t, ready, "ready")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The inner process and its command hold the pipe: its end is theirs.
	if _, err := new(bytes.Buffer).ReadFrom(ready); err != nil {
		t.Errorf("the sandbox outlives its outer process: %v", err)
	}
	cmd.Wait()
}

// TestRoleWait has a child that would live for long, too.
func TestRoleWait(t *testing.T) {
	if os.Getenv(role) == "" {
		return
	}
	cmd := Command("sleep", "1000")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(os.Stderr, "ready")
	cmd.Wait()
	select {}
}

func TestLeaksAreFound(t *testing.T) {
	Need(t, Namespaces)
	for as, want := range map[string]string{
		"none":       "",
		"goroutine":  "sandbox: left behind: found unexpected goroutines:",
		"descriptor": "sandbox: left behind: descriptor ",
		"table":      "sandbox: left behind: nftables table leak of family 1",
		"mount":      "of type fuse.leak on ",
		"check":      "sandbox: left behind: the caller's own",
	} {
		t.Run(as, func(t *testing.T) {
			t.Parallel() // each waits for what might go away yet
			switch as {
			case "mount":
				Need(t, FUSE)
			case "table":
				Need(t, NFTables)
			}
			cmd := child("TestRoleLeak", as)
			cmd.Env = append(cmd.Env, "KSTAT_LEAK_DIR="+t.TempDir())
			out, err := cmd.CombinedOutput()
			if got := status(err); (got == 0) != (want == "") {
				t.Errorf("status %d; output:\n%s", got, out)
			}
			if !strings.Contains(string(out), want) {
				t.Errorf("no line with %q; output:\n%s", want, out)
			}
		})
	}
}

func TestRoleLeak(t *testing.T) {
	switch os.Getenv(role) {
	case "goroutine":
		go func() { select {} }()
	case "descriptor":
		if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
			t.Fatal(err)
		}
	case "table":
		c, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		c.AddTable(&nftables.Table{Name: "leak", Family: nftables.TableFamilyINet})
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	case "mount":
		device, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)
		if err := unix.Mount("leak", os.Getenv("KSTAT_LEAK_DIR"), "fuse.leak", 0, data); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNamespacesForbidden(t *testing.T) {
	Need(t, Namespaces)
	run := func(env ...string) (string, int) {
		cmd := child("TestRoleNeed", "forbidden")
		cmd.Env = append(cmd.Env, env...)
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		out, err := cmd.CombinedOutput()
		return string(out), status(err)
	}

	const why = "needs Namespaces: start a process in new namespaces: fork/exec /proc/self/exe: no space left on device; run as root"
	out, code := run()
	if code != 0 || !strings.Contains(out, "--- SKIP") || !strings.Contains(out, why) {
		t.Errorf("status %d, want a skip that says %q; output:\n%s", code, why, out)
	}
	out, code = run("KSTAT_REQUIRE=1")
	if code != 1 || !strings.Contains(out, "--- FAIL") || !strings.Contains(out, why) {
		t.Errorf("required: status %d, want a failure that says %q; output:\n%s", code, why, out)
	}
}

func TestRoleNeed(t *testing.T) {
	if os.Getenv(role) != "" {
		Need(t, Namespaces)
	}
}

// TestAsNobody finds what an ordinary user has, in the user's own sandbox.
func TestAsNobody(t *testing.T) {
	Need(t, Namespaces, Root)
	device, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Fatal(err)
	}
	cmd := AsUser(child("TestRoleProbe", "probe"), Nobody)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v; output:\n%s", err, out)
	}

	want := map[Thing]string{
		Namespaces: "<nil>",
		Root:       "needs Root: become user 65534: ",
		FUSE:       "needs FUSE: open /dev/fuse: permission denied; ",
		NFQueue:    "<nil>",
		NFTables:   "<nil>",
		IPv6:       "<nil>",
		BPF:        "needs BPF: ",
	}
	if device.Mode().Perm()&0o006 == 0o006 {
		want[FUSE] = "<nil>"
	}
	for thing, text := range want {
		if text == "<nil>" && Missing(thing) != nil {
			continue // the machine's lack, not the user's
		}
		if line := fmt.Sprintf("%v=%s", thing, text); !strings.Contains(string(out), line) {
			t.Errorf("want %q in the output:\n%s", line, out)
		}
	}
}

func TestRoleProbe(t *testing.T) {
	if os.Getenv(role) == "" {
		return
	}
	for thing := range Thing(len(things)) {
		fmt.Printf("%v=%v\n", thing, Missing(thing))
	}
}

func TestMarkOfThisNamespaceIsNone(t *testing.T) {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, mark := range []string{"", "1", here} {
		t.Setenv(outer, mark)
		if entered() {
			t.Errorf("%s=%s taken for a sandbox", outer, mark)
		}
	}
	t.Setenv(outer, "net:[1]")
	if !entered() {
		t.Error("another namespace's mark not taken for a sandbox")
	}
}

func TestCommandAsUser(t *testing.T) {
	Need(t, Root)
	out, err := AsUser(Command("id"), Nobody).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimSpace(string(out))
	if !strings.HasPrefix(got, "uid=65534") || !strings.HasSuffix(got, "groups=65534(nogroup)") {
		t.Errorf("id says %q", got)
	}
}

func TestStartReady(t *testing.T) {
	for says, ready := range map[string]bool{"READY=1": true, "STOPPING=1": false} {
		cmd := Command("/proc/self/exe", "-test.run=^TestRoleNotify$")
		cmd.Env = append(os.Environ(), role+"="+says) // in this sandbox
		manager, err := StartReady(cmd)
		switch {
		case (err == nil) != ready:
			t.Errorf("after %s: %v", says, err)
		case ready == (cmd.ProcessState != nil):
			t.Errorf("after %s: %v", says, cmd.ProcessState)
		case ready:
			if err := errors.Join(manager.Close(), cmd.Process.Kill(), cmd.Wait()); err.Error() != "signal: killed" {
				t.Error(err)
			}
		}
	}
	began := time.Now()
	if _, err := StartReady(Command("/bin/false")); err == nil || !strings.Contains(err.Error(), "ended before it was ready") || time.Since(began) > readyLimit {
		t.Errorf("what ends at once: %v after %v", err, time.Since(began))
	}
	if _, err := StartReady(Command("/nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what does not exist: %v", err)
	}
}

// TestRoleNotify says something to whoever has started it, and goes on.
func TestRoleNotify(t *testing.T) {
	if os.Getenv(role) == "" {
		return
	}
	manager, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manager.Write([]byte(os.Getenv(role))); err != nil {
		t.Fatal(err)
	}
	select {}
}

func TestVethTwice(t *testing.T) {
	Need(t, Namespaces)
	t.Run("first", func(t *testing.T) {
		Veth(t)
		if p, err := NewPeer(); !errors.Is(err, unix.EEXIST) {
			t.Errorf("a second peer: %v, %v; want EEXIST", p, err)
		}
	})
	Veth(t) // the first is gone, wholly
}

func TestPeerDo(t *testing.T) {
	Need(t, Namespaces)
	p := Veth(t)
	namespace := func() string {
		ns, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}

	home := namespace()
	oops := errors.New("oops")
	err := p.Do(func() error {
		if namespace() == home {
			t.Error("f does not run in the peer's namespace")
		}
		return oops
	})
	if err != oops {
		t.Errorf("f's error came back as %v", err)
	}
	if now := namespace(); now != home {
		t.Errorf("in %s after Do, want %s", now, home)
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Do(func() error { runtime.Goexit(); return nil }) // as t.FailNow does
	}()
	<-done
}

// TestVethIsSilent looks at what would make noise, rather than listening for
// as long as it might take: the groups that would be reported, addresses that
// would be probed, and neighbours that would be resolved.
func TestVethIsSilent(t *testing.T) {
	Need(t, Namespaces, IPv6)
	p := Veth(t)
	look := func() error {
		groups, err := os.ReadFile("/proc/thread-self/net/igmp6")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(groups)) {
			f := strings.Fields(line) // index, interface, group, …
			all := f[2] == "ff020000000000000000000000000001" || f[2] == "ff010000000000000000000000000001"
			if f[1] == vethName && !all {
				t.Errorf("member of group %s", f[2])
			}
		}

		addrs, err := os.ReadFile("/proc/thread-self/net/if_inet6")
		if err != nil {
			return err
		}
		n := 0
		for line := range strings.Lines(string(addrs)) {
			f := strings.Fields(line) // address, index, bits, scope, flags, interface
			if f[5] != vethName {
				continue
			}
			n++
			if !strings.HasPrefix(f[0], "fd000009") || f[4] != "82" { // IFA_F_PERMANENT | IFA_F_NODAD
				t.Errorf("address %s with flags %s", f[0], f[4])
			}
		}
		if n != 1 {
			t.Errorf("%d IPv6 addresses, want 1", n)
		}
		return nil
	}
	if err := look(); err != nil {
		t.Error(err)
	}
	if err := p.Do(look); err != nil {
		t.Error(err)
	}
}

func TestPeerAddresses(t *testing.T) {
	Need(t, Namespaces)
	p := Veth(t)
	got := []netip.Addr{p.Own4, p.Addr4, p.Void4, p.Own6, p.Addr6, p.Void6}
	for i, want := range []string{"10.9.0.1", "10.9.0.2", "10.9.0.3", "fd00:9::1", "fd00:9::2", "fd00:9::3"} {
		if got[i] != netip.MustParseAddr(want) {
			t.Errorf("address %d is %s, want %s", i, got[i], want)
		}
	}
}

// FuzzInSandbox is there to be run with go test -fuzz: workers are inside.
func FuzzInSandbox(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) { Need(t, Namespaces) })
}

// begin starts a child whose standard error can be read.
func begin(t *testing.T, test, as string) (*exec.Cmd, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	r.SetReadDeadline(time.Now().Add(time.Minute))
	cmd := child(test, as)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return cmd, r
}

func expectLine(t *testing.T, r *os.File, want string) {
	t.Helper()
	got := make([]byte, len(want)+1)
	if n, err := r.Read(got); err != nil || string(got) != want+"\n" {
		t.Fatalf("child wrote %q (%v), want %q", got[:n], err, want)
	}
}

// status returns the exit status in the error of an ended command.
func status(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// TestNetworks: two networks are two, with lo up, and not ours.
func TestNetworks(t *testing.T) {
	Need(t, Namespaces)
	seen := map[string]bool{}
	look := func() error {
		here, err := os.Readlink("/proc/thread-self/ns/net")
		seen[here] = true
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:1") // each has this port
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		c, err := net.Dial("tcp", "127.0.0.1:1")
		if err != nil {
			return err
		}
		return c.Close()
	}
	if err := errors.Join(look(), OwnNetwork(t).Do(look), OwnNetwork(t).Do(look)); err != nil {
		t.Error(err)
	}
	if len(seen) != 3 {
		t.Errorf("networks: %v, want three", seen)
	}
}

// TestStop: a process that has been stopped does nothing, in none of its
// threads; one that has ended is an error.
func TestStop(t *testing.T) {
	cmd := Command("sh", "-c", "sleep 100 & echo; while :; do :; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	children := Children(cmd.Process.Pid)
	if len(children) != 1 {
		t.Fatalf("children: %v, want the sleep", children)
	}
	all := append(children, cmd.Process.Pid)
	if err := Stop(all...); err != nil {
		t.Error(err)
	}
	for _, pid := range all {
		if !stopped(pid) {
			t.Errorf("process %d is not stopped", pid)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	_ = cmd.Wait()
	if err := Stop(cmd.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("ended: got %v", err)
	}
}
