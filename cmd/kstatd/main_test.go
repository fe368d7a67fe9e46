package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

// asDaemon makes this test binary the daemon.
const asDaemon = "KSTAT_TEST_AS_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		main()
		return
	}
	sandbox.Main(m)
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// command returns a kstatd that does not run yet.
func command(args ...string) *exec.Cmd {
	cmd := sandbox.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	return cmd
}

// once runs kstatd to its end.
func once(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// running is a kstatd that runs.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string
	log  sandbox.Output
	done chan error
}

// overEngines runs a test with every engine, named by a flag.
func overEngines(t *testing.T, test func(t *testing.T, engine string)) {
	for kind := range hook.KindAuto {
		t.Run(kind.String(), func(t *testing.T) { test(t, engineFlag+kind.String()) })
	}
}

const engineFlag = "--engine="

// need skips what cannot be run with some flags here.
func need(t *testing.T, flags ...string) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.FUSE)
	if slices.Contains(flags, engineFlag+"bpf") {
		sandbox.Need(t, sandbox.BPF)
	} else {
		sandbox.Need(t, sandbox.NFQueue, sandbox.NFTables)
	}
}

// start starts a kstatd on dir and waits until it says that it is ready, as a
// service manager would.
func start(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	need(t, args...)
	d := &running{t: t, dir: dir, cmd: command(append([]string{"--mount", dir}, args...)...), done: make(chan error, 1)}
	d.cmd.Stderr = &d.log
	manager, err := sandbox.StartReady(d.cmd)
	if err != nil {
		t.Fatalf("%v; its log:\n%s", err, d.log.String())
	}
	defer manager.Close()
	go func() { d.done <- d.cmd.Wait() }()
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			d.end(unix.SIGTERM)
		}
	})
	return d
}

// end signals the daemon and waits for its end, which must be a good one.
func (d *running) end(signal unix.Signal) {
	d.t.Helper()
	must(d.t, d.cmd.Process.Signal(signal))
	if err := <-d.done; err != nil && signal != unix.SIGKILL {
		d.t.Errorf("the daemon's end: %v; its log:\n%s", err, d.log.String())
	}
}

func (d *running) read(name string) string {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, name))
	must(d.t, err)
	return string(text)
}

func (d *running) write(name, text string) {
	d.t.Helper()
	must(d.t, os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0))
}

func (d *running) expect(name, want string) {
	d.t.Helper()
	if got := d.read(name); got != want {
		d.t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

func (d *running) document() (doc fs.Document) {
	d.t.Helper()
	must(d.t, json.Unmarshal([]byte(d.read("stats.json")), &doc))
	return doc
}

// nothingLeft fails if a kstatd that has ended left a table, a queue, a mount
// or its directory.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left := rules(t); len(left) > 0 {
		t.Error("left:", left)
	}
	if queues, err := os.ReadFile("/proc/self/net/netfilter/nfnetlink_queue"); err == nil && len(queues) > 0 {
		t.Errorf("queues left: %s", queues)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("left:", dir)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Error("still mounted:", dir)
	}
}

// rules are what kstatds have at the hook now: tables, else hook functions of
// the priorities that they take. To look for those would make the kernel drop
// what is queued.
func rules(t *testing.T) []string {
	t.Helper()
	found, err := sandbox.Tables("kstat")
	must(t, err)
	if len(found) > 0 || sandbox.Missing(sandbox.BPF) != nil {
		return found
	}
	for priority := int32(99); priority > 95; priority-- {
		hooked, err := sandbox.Hooked(priority)
		must(t, err)
		if hooked {
			found = append(found, fmt.Sprintf("a hook function of priority %d", priority))
		}
	}
	return found
}

func mountDir(t *testing.T) string { return filepath.Join(t.TempDir(), "kstat") }

var lo = netip.MustParseAddr("127.0.0.1")

// TestReadme is what the README shows, from start to end.
func TestReadme(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir := mountDir(t)
		d := start(t, dir, engine)
		d.expect("nout", "0\n")
		d.expect("start", "0\n")
		closed, err := traffic.ClosedPort(lo)
		must(t, err)
		must(t, traffic.TCPConnect(closed, 5))
		d.expect("pending", "0\n") // not started
		d.write("start", "1\n")
		d.expect("start", "1\n")
		must(t, traffic.TCPConnect(closed, 1), traffic.Ping(lo, 2))
		d.expect("nout", "0\n")
		d.expect("pending", "6\n")
		d.write("counter", "1\n")
		d.expect("nout", "2\n")
		d.expect("protocols", `#name            number family      packets           bytes
icmp                  1 ipv4              4             112
tcp                   6 ipv4              2             100
`)
		must(t, traffic.TCPConnect(closed, 3))
		d.expect("nout", "8\n")
		d.write("start", "0")
		must(t, traffic.TCPConnect(closed, 3))
		d.expect("nout", "8\n")
		d.expect("uncounted", "0\n")
		d.end(unix.SIGTERM)
		nothingLeft(t, dir)
		for _, part := range []string{"level=INFO msg=ready", "counting started", "counting stopped", `msg="counting ended" counted=12`} {
			if !strings.Contains(d.log.String(), part) {
				t.Errorf("the log lacks %q:\n%s", part, d.log.String())
			}
		}
	})
}

// TestEndsWhileCounting: each signal ends a daemon that counts, and leaves
// nothing.
func TestEndsWhileCounting(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT} {
			dir := mountDir(t)
			d := start(t, dir, engine, "--start", "--counter", "3", "--queue", "7", "--queues", "2")
			d.expect("start", "1\n")
			d.expect("counter", "3\n")
			must(t, traffic.Ping(lo, 2))
			if pending := d.read("pending"); pending != "1\n" {
				t.Errorf("pending %q, want 1", pending)
			}
			d.end(signal)
			nothingLeft(t, dir)
		}
	})
}

// TestKilledInTheMiddleOfATransfer: the transfer goes on, the table goes with
// the process, and the next daemon starts on what is left.
func TestKilledInTheMiddleOfATransfer(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir := mountDir(t)
		d := start(t, dir, engine, "--start")
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer listener.Close()
		transfer := make(chan error, 1)
		go func() { transfer <- traffic.Stream(listener, 256<<20) }()
		for d.document().Live.Bytes < 16<<20 { // it is well under way
			select {
			case err := <-transfer:
				t.Fatal("the transfer ended early:", err)
			default:
			}
		}
		d.end(unix.SIGKILL)
		took := sandbox.Await(t, "no rule", func() bool { return len(rules(t)) == 0 })
		t.Log("the rule was gone", took.Round(time.Microsecond), "after the process")

		next := start(t, dir, engine, "--start")
		next.expect("start", "1\n")
		must(t, <-transfer)
		next.end(unix.SIGTERM)
		nothingLeft(t, dir)
	})
}

// TestFlushedRuleset: another process flushes everything, and counting goes
// on.
func TestFlushedRuleset(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--counter", "1")
		must(t, sandbox.FlushRuleset(), traffic.Ping(lo, 5))
		d.expect("proto/icmp/packets", "10\n")
		d.expect("uncounted", "0\n")
	})
}

// TestExactUnderOverload: reads go on while a queue of 4 overflows, and at
// rest every packet is accounted for.
func TestExactUnderOverload(t *testing.T) {
	d := start(t, mountDir(t), "--start", "--queue-len", "4")
	peer := sandbox.Veth(t)
	const sent = 100_000
	flood := make(chan error, 1)
	go func() { flood <- traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), sent, 10) }()
	for flooding := true; flooding; {
		select {
		case err := <-flood:
			must(t, err)
			flooding = false
		default:
		}
		doc := d.document()
		if sum := doc.Live.Packets + doc.Uncounted; sum > sent {
			t.Fatalf("live %d + uncounted %d of %d", doc.Live.Packets, doc.Uncounted, sent)
		}
	}
	d.write("start", "0")
	doc := d.document()
	if doc.Live.Packets+doc.Uncounted != sent {
		t.Errorf("counted %d + uncounted %d, want %d", doc.Live.Packets, doc.Uncounted, sent)
	}
	if doc.Uncounted == 0 {
		t.Error("nothing overflowed: the test tests nothing")
	}
	if got := d.read("uncounted"); got != fmt.Sprintln(doc.Uncounted) {
		t.Errorf("uncounted reads %q, stats.json says %d", got, doc.Uncounted)
	}
}

// TestMountPointCalledMnt: where the default would be is not looked at.
func TestMountPointCalledMnt(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	d := start(t, "mnt")
	d.expect("nout", "0\n")
	d.end(unix.SIGTERM)
	nothingLeft(t, filepath.Join(dir, "mnt"))
}

// TestSecondDaemon: it ends at once, names the first, and leaves nothing.
func TestSecondDaemon(t *testing.T) {
	dir, other := mountDir(t), mountDir(t)
	first := start(t, dir, "--queue", "4")
	pid := fmt.Sprintf("pid %d ", first.cmd.Process.Pid)
	for what, args := range map[string][]string{
		"mount point":      {"--mount", dir, "--queue", "5"},
		"queue 4 is held":  {"--mount", other, "--queue", "4"},
		"queue 4 is held ": {"--mount", other, "--queue", "3", "--queues", "3"},
	} {
		began := time.Now()
		status, _, stderr := once(t, args...)
		within(t, "the end of a second daemon", time.Since(began), time.Second)
		if status != exitFailure || !strings.Contains(stderr, pid) || !strings.Contains(stderr, strings.TrimSpace(what)) {
			t.Errorf("%s: status %d, want %d; want %q in: %s", what, status, exitFailure, pid, stderr)
		}
	}
	if _, err := os.Lstat(other); err == nil {
		t.Error("a refused daemon left its mount point")
	}
	first.expect("nout", "0\n")

	second := start(t, other, "--queue", "5", "--start", "--hook", "input")
	first.write("start", "1")
	must(t, traffic.Ping(lo, 1))
	for _, d := range []*running{first, second} {
		d.expect("pending", "2\n")
	}
	first.end(unix.SIGTERM)
	must(t, traffic.Ping(lo, 1))
	second.expect("pending", "4\n")
	second.end(unix.SIGTERM)
	nothingLeft(t, dir)
	nothingLeft(t, other)
}

// TestQueueTakenByAStranger: the daemon names who has the queue, and leaves
// nothing.
func TestQueueTakenByAStranger(t *testing.T) {
	sandbox.Need(t, sandbox.Root) // who holds a queue is root's to see
	stranger := func() *hook.NFQueue {
		e, err := hook.New(hook.Config{Point: hook.Forward, Queue: 1}, stats.NewTable())
		must(t, err, e.Start())
		return e
	}
	e := stranger()
	dir := mountDir(t)
	status, _, stderr := once(t, "--mount", dir, "--queue", "1", "--start")
	if status != exitFailure || !strings.Contains(stderr, fmt.Sprintf("pid %d ", os.Getpid())) {
		t.Errorf("status %d: %s", status, stderr)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("the refused daemon left its mount point")
	}
	must(t, e.Close())
	nothingLeft(t, dir)
}

func TestStartUpFails(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue, sandbox.FUSE)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	status, _, stderr := once(t, "--mount", file)
	if status != exitFailure || !strings.Contains(stderr, "not a directory") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d: %s", status, stderr)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--queue", "65536"}, {"--queue", "-1"}, {"--queue", "x"}, {"--queues", "0"}, {"--queues", "129"}, {"--queue", "65535", "--queues", "2"},
		{"--queue-len", "0"}, {"--queue-len", "9999999"}, {"--counter", "0"}, {"--counter", "4294967296"}, {"--hook", "ingress"},
		{"--family", "arp"}, {"--mount", ""}, {"--mount"}, {"--no-such-flag"}, {"argument"}, {"--start=perhaps"},
		{"--manual", "kstatd.9"}, {"--completion", "tcsh"},
	} {
		status, stdout, stderr := once(t, args...)
		if status != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "kstatd: ") {
			t.Errorf("%q: status %d, stdout %q, stderr %q; want status 2 and one line", args, status, stdout, stderr)
		}
	}
	status, stdout, stderr := once(t, "--help")
	if status != 0 || stderr != "" {
		t.Errorf("--help: status %d, stderr %q", status, stderr)
	}
	for _, name := range []string{"mount DIR", "hook HOOK", "family FAMILY", "queue N", "queues N", "queue-len N", "counter N", "start", "exclude-loopback", "listen ADDR", "token-file FILE", "version"} {
		if !strings.Contains(stdout, "--"+name+" ") {
			t.Errorf("--help does not tell of %s:\n%s", name, stdout)
		}
	}
	for _, page := range []string{"kstatd.8", "kstat.5"} {
		if status, stdout, stderr := once(t, "--manual", page); status != 0 || stderr != "" || !strings.Contains(stdout, "\n.TH KSTAT") {
			t.Errorf("--manual %s: status %d, stderr %q, %q", page, status, stderr, stdout)
		}
	}
	if status, stdout, stderr := once(t, "--completion", "fish"); status != 0 || stderr != "" || !strings.Contains(stdout, "\ncomplete -c kstatd -l mount ") {
		t.Errorf("--completion fish: status %d, stderr %q, %q", status, stderr, stdout)
	}
	if status, stdout, _ := once(t, "--version"); status != 0 || !strings.HasPrefix(stdout, "kstatd ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("--version: status %d, %q", status, stdout)
	}
}

func TestNotPrivileged(t *testing.T) {
	sandbox.Need(t, sandbox.Root)
	// The test binary is in a directory that only root may enter.
	exe := filepath.Join("/tmp", fmt.Sprintf("kstatd-test-%d", os.Getpid()))
	text, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.WriteFile(exe, text, 0o755))
	defer os.Remove(exe)
	cmd := sandbox.AsUser(sandbox.Command(exe, "--mount", "/tmp/never"), 65534)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != exitFailure || bytes.Count(out, []byte("\n")) != 1 {
		t.Errorf("%v: %s", err, out)
	}
	for _, part := range []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "sudo"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("no %s in: %s", part, out)
		}
	}
}

// TestJournal: with the journal at the other end, each line begins with its
// level and has no time of its own.
func TestJournal(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		var st unix.Stat_t
		must(t, unix.Fstat(int(w.Fd()), &st))
		cmd := command(engine, "--mount", mountDir(t), "--start")
		cmd.Stderr = w
		cmd.Env = append(cmd.Env, fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
		must(t, cmd.Start(), w.Close())
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if !strings.HasPrefix(lines.Text(), "<6>msg=") {
				t.Errorf("a line that is not the journal's: %q", lines.Text())
			}
			if strings.Contains(lines.Text(), "msg=ready") {
				must(t, cmd.Process.Signal(unix.SIGTERM))
			}
		}
		must(t, cmd.Wait())
	})
}

// TestOneProcess: where a process cannot give up privileges, the daemon is one
// process, says so in one line, and does all the same.
func TestOneProcess(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		dir := mountDir(t)
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		at := "unix:" + filepath.Join(t.TempDir(), "sock")
		cmd := command(engine, "--mount", dir, "--start", "--counter", "1", "--listen", at)
		cmd.Stderr = w
		started := make(chan error)
		end := make(chan struct{})
		defer close(end)
		go func() { // what this thread gives up, its children never have
			runtime.LockOSThread()
			err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SETPCAP, 0, 0, 0)
			started <- errors.Join(err, cmd.Start())
			<-end
		}()
		must(t, <-started, w.Close())
		lines := bufio.NewScanner(r)
		var log []string
		for lines.Scan() {
			log = append(log, lines.Text())
			if strings.Contains(lines.Text(), "msg=ready") {
				break
			}
		}
		if len(log) != 3 || !strings.Contains(log[0], "running as one process") {
			t.Errorf("the log says %q, want one warning, where it listens, and ready", log)
		}
		must(t, traffic.Ping(lo, 3))
		if text, err := os.ReadFile(filepath.Join(dir, "proto/icmp/packets")); err != nil || string(text) != "6\n" {
			t.Errorf("6 packets: %q, %v", text, err)
		}
		if got := sample(t, at, packetsOf("ipv4", "icmp")); got != "6" {
			t.Errorf("over HTTP: %q packets, want 6", got)
		}
		must(t, cmd.Process.Signal(unix.SIGTERM))
		for lines.Scan() {
		}
		must(t, cmd.Wait())
		nothingLeft(t, dir)
	})
}

// TestWorkerPrivileges: the process that sees packets has CAP_NET_ADMIN, may
// never have more, and the tree shows the supervisor's number.
func TestWorkerPrivileges(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.worker()))
		must(t, err)
		want := fmt.Sprintf("%016x", 1<<unix.CAP_NET_ADMIN)
		for _, line := range []string{"CapPrm:\t" + want, "CapEff:\t" + want, "CapBnd:\t" + want, "CapInh:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), line+"\n") {
				t.Errorf("no %q in:\n%s", line, status)
			}
		}
		if pid := d.document().PID; pid != d.cmd.Process.Pid {
			t.Errorf("the tree says pid %d, want %d", pid, d.cmd.Process.Pid)
		}
	})
}

// TestUnmountedByAnother: the daemon ends with a status of its own, so that a
// service manager can leave it at that, says so once, and leaves nothing.
func TestUnmountedByAnother(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir := mountDir(t)
		d := start(t, dir, engine, "--start")
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
		<-d.done
		if status := d.cmd.ProcessState.ExitCode(); status != exitUnmounted || strings.Count(d.log.String(), "kstatd ends") != 1 {
			t.Errorf("status %d, want %d; the log:\n%s", status, exitUnmounted, d.log.String())
		}
		nothingLeft(t, dir)
	})
}
