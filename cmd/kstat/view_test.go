package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

var lo4, lo6 = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")

// binaries are a kstatd, and this test binary by the name of kstat, in a folder
// that is open to everybody.
var binaries struct {
	once sync.Once
	dir  string
	err  error
}

// program returns the path of kstatd or kstat.
func program(t testing.TB, name string) string {
	t.Helper()
	b := &binaries
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "kstat-view-"); b.err != nil {
			return
		}
		if b.err = os.Chmod(b.dir, 0o755); b.err != nil {
			return
		}
		build := exec.Command("go", "build", "-buildvcs=false", "-o", b.dir, "kstat/cmd/kstatd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go build: %w: %s", err, out)
			return
		}
		var self []byte
		if self, b.err = os.ReadFile("/proc/self/exe"); b.err == nil {
			b.err = os.WriteFile(filepath.Join(b.dir, "kstat"), self, 0o755)
		}
	})
	must(t, b.err)
	return filepath.Join(b.dir, name)
}

// removeBinaries is the end of what program made.
func removeBinaries() error {
	if binaries.dir == "" {
		return nil
	}
	return os.RemoveAll(binaries.dir)
}

// daemon is a kstatd that runs.
type daemon struct {
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	log  bytes.Buffer
	done bool
}

// startDaemon starts a kstatd and waits until it is ready. It is to be looked
// at, and not to be watched over: no fault of the daemon's is tested here.
func startDaemon(t testing.TB, dir string, flags ...string) *daemon {
	t.Helper()
	needWorld(t)
	d := &daemon{t: t, dir: dir, cmd: sandbox.Command(program(t, "kstatd"), append([]string{"--mount", dir}, flags...)...)}
	d.cmd.Stderr = &d.log
	manager, err := sandbox.StartReady(d.cmd)
	if err != nil {
		t.Fatalf("%v; its log:\n%s", err, d.log.String())
	}
	defer manager.Close()
	t.Cleanup(func() { d.end(unix.SIGTERM) })
	return d
}

func (d *daemon) end(signal unix.Signal) {
	if !d.done {
		d.done = true
		_ = d.cmd.Process.Signal(signal)
		_ = d.cmd.Wait()
	}
}

func (d *daemon) read(name string) string {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, name))
	must(d.t, err)
	return strings.TrimSuffix(string(text), "\n")
}

func (d *daemon) write(name, text string) {
	d.t.Helper()
	must(d.t, os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0))
}

// worker returns the process that counts.
func (d *daemon) worker() int {
	d.t.Helper()
	if workers := sandbox.Children(d.cmd.Process.Pid); len(workers) > 0 {
		return workers[0]
	}
	d.t.Fatal("kstatd has no worker")
	return 0
}

// stop stops the whole daemon by a signal, until what it returns is called.
func (d *daemon) stop() (goOn func()) {
	d.t.Helper()
	both := []int{d.cmd.Process.Pid, d.worker()} // the supervisor first, or it would kill the other
	must(d.t, sandbox.Stop(both...))
	return func() {
		for _, pid := range both {
			_ = unix.Kill(pid, unix.SIGCONT)
		}
	}
}

// mix sends 6 TCP packets and 10 ICMP ones over IPv4, 4 and 4 over IPv6, and
// 3 UDP datagrams of 40 bytes, header and all.
func mix(t testing.TB) {
	t.Helper()
	port4, err := traffic.ClosedPort(lo4)
	must(t, err)
	port6, err := traffic.ClosedPort(lo6)
	must(t, err)
	sink, err := traffic.UDPSink(lo4)
	must(t, err)
	t.Cleanup(func() { must(t, sink.Close()) }) // late: datagrams may still be queued
	// Whoever sends a datagram does not wait until it is counted: what is answered comes last.
	must(t, traffic.UDP(sink.AddrPort, 3, 12),
		traffic.TCPConnect(port4, 3), traffic.Ping(lo4, 5), traffic.TCPConnect(port6, 2), traffic.Ping(lo6, 2))
}

// mixed is what mix sends.
var mixed = map[string]figures{
	"icmp ipv4":      {10, 280},
	"tcp ipv4":       {6, 300},
	"tcp ipv6":       {4, 280},
	"udp ipv4":       {3, 120},
	"ipv6-icmp ipv6": {4, 192},
	"total":          {27, 1172},
}

type figures struct{ packets, bytes uint64 }

func (f figures) times(n uint64) figures { return figures{f.packets * n, f.bytes * n} }

// mixes is what n of them are.
func mixes(n uint64) map[string]figures {
	all := make(map[string]figures)
	for name, f := range mixed {
		all[name] = f.times(n)
	}
	return all
}

// screen is a terminal of tmux's, which nobody sees.
type screen struct {
	t       testing.TB
	socket  string
	columns int
}

// inTerminal runs a shell's command in a terminal with a dark background. The
// environment is PATH and what is given.
func inTerminal(t testing.TB, columns, lines int, env []string, command string) *screen {
	t.Helper()
	return inPaintedTerminal(t, columns, lines, "#101010", env, command)
}

func inPaintedTerminal(t testing.TB, columns, lines int, background string, env []string, command string) *screen {
	t.Helper()
	sandbox.Program(t, "tmux")
	dir, err := os.MkdirTemp("", "tmux-") // a socket's name is short
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	s := &screen{t: t, socket: filepath.Join(dir, "s"), columns: columns}
	must(t, os.WriteFile(filepath.Join(dir, "conf"), []byte("set -g window-style bg="+background+"\n"), 0o644))
	server := s.tmux("-D") // no daemon: it ends with us
	server.Env = append([]string{"PATH=" + os.Getenv("PATH"), "GORACE=" + os.Getenv("GORACE"), asTool + "=1"}, env...)
	must(t, server.Start())
	t.Cleanup(func() {
		_ = s.tmux("kill-server").Run()
		_ = server.Wait()
		must(t, os.RemoveAll(dir))
	})
	s.await("a server", func(string) bool { _, err := os.Stat(s.socket); return err == nil })
	s.do("new-session", "-d", "-x", strconv.Itoa(columns), "-y", strconv.Itoa(lines), command+"; echo $? >"+s.socket+".status")
	return s
}

func (s *screen) tmux(args ...string) *exec.Cmd {
	cmd := sandbox.Command("tmux", append([]string{"-u", "-S", s.socket, "-f", filepath.Join(filepath.Dir(s.socket), "conf")}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

func (s *screen) do(args ...string) string {
	s.t.Helper()
	out, err := s.tmux(args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// keys presses keys, in tmux's names.
func (s *screen) keys(keys ...string) {
	s.t.Helper()
	s.do(append([]string{"send-keys"}, keys...)...)
}

// command returns the command's process.
func (s *screen) command() (pid int) {
	s.t.Helper()
	shell, err := strconv.Atoi(strings.TrimSpace(s.do("display-message", "-p", "#{pane_pid}")))
	must(s.t, err)
	s.await("command", func(string) bool {
		children := sandbox.Children(shell)
		if len(children) == 1 {
			pid = children[0]
		}
		return len(children) == 1
	})
	return pid
}

// text is what the screen shows.
func (s *screen) text() string {
	out, _ := s.tmux("capture-pane", "-p").Output()
	return string(out)
}

// await waits until the screen is as it should be.
func (s *screen) await(what string, ready func(text string) bool) string {
	s.t.Helper()
	for end := time.Now().Add(sandbox.AwaitLimit); ; time.Sleep(10 * time.Millisecond) {
		text := s.text()
		if ready(text) {
			return text
		}
		if time.Now().After(end) {
			s.t.Fatalf("there is no %s on the screen:\n%s", what, text)
		}
	}
}

func (s *screen) awaitText(parts ...string) string {
	s.t.Helper()
	return s.await(fmt.Sprintf("%q", parts), func(text string) bool { return containsAll(text, parts...) })
}

func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// rowPattern is a line of the table from 80 columns on: name, family, rates,
// packets, bytes, and perhaps a share.
var rowPattern = regexp.MustCompile(`(?m)^ (\S+) +(ipv4|ipv6|) +([\d.kM-]+) +([\d.kM-]+) +([\d,]+) +([\d,]+)`)

// rows reads the table: figures by name and family, and in which order.
func rows(text string) (all map[string]figures, order []string) {
	all = make(map[string]figures)
	for _, m := range rowPattern.FindAllStringSubmatch(text, -1) {
		name := strings.TrimSpace(m[1] + " " + m[2])
		number := func(s string) uint64 {
			n, _ := strconv.ParseUint(strings.ReplaceAll(s, ",", ""), 10, 64)
			return n
		}
		all[name] = figures{number(m[5]), number(m[6])}
		order = append(order, name)
	}
	return all, order
}

// awaitRows waits until the table shows just that.
func (s *screen) awaitRows(want map[string]figures) string {
	s.t.Helper()
	return s.await(fmt.Sprint("table of ", want), func(text string) bool {
		got, _ := rows(text)
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
}

// awaitOrder waits until the lines have that order.
func (s *screen) awaitOrder(want ...string) {
	s.t.Helper()
	s.await(fmt.Sprint("order ", want), func(text string) bool {
		_, order := rows(text)
		return slices.Equal(order, append(slices.Clone(want), "total"))
	})
}

// awaitEnd waits until the command has ended, and returns its exit status. It
// is not tmux's word for it, which now and then overlooks the end of a child.
func (s *screen) awaitEnd() (status string) {
	s.t.Helper()
	s.await("end", func(string) bool {
		text, _ := os.ReadFile(s.socket + ".status")
		status = strings.TrimSpace(string(text))
		return status != ""
	})
	return status
}

var utf8 = []string{"LANG=C.UTF-8"}

// topLine is the command line of a quick kstat top.
func topLine(t testing.TB, dir string, flags ...string) string {
	return strings.Join(append([]string{program(t, "kstat"), "top", "--interval", "100ms", "--mount", dir}, flags...), " ")
}

func treeDir(t testing.TB) string { return filepath.Join(t.TempDir(), "kstat") }

// TestTop: what it shows is what was sent, and each key does what it says.
func TestTop(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t), "--counter", "4")
	s := inTerminal(t, 100, 24, utf8, topLine(t, d.dir))
	s.awaitText("○ stopped", "nout 0 ", "counter 4 ", "pending 0 ", "uncounted 0 ", "by nfqueue at postrouting", d.dir, "nothing has been counted yet", "s start")

	s.keys("s")
	s.awaitText("● started", "counting started")
	if got := d.read("start"); got != "1" {
		t.Errorf("start reads %q", got)
	}
	s.keys("Escape") // the answer goes
	s.awaitText("s stop")
	mix(t)
	text := s.awaitRows(mixes(1))
	if !containsAll(text, "nout 10 ", "pending 3 ", " 37.0%", " 22.2%", " 100%") || d.read("nout") != "10" {
		t.Errorf("nout is %s; the screen:\n%s", d.read("nout"), text)
	}
	s.await("rate of 0", func(text string) bool { return regexp.MustCompile(`(?m)^ total +0 +0 `).MatchString(text) })

	s.awaitOrder("icmp ipv4", "tcp ipv4", "tcp ipv6", "ipv6-icmp ipv6", "udp ipv4") // by packets
	s.keys("o")
	s.awaitOrder("udp ipv4", "tcp ipv6", "ipv6-icmp ipv6", "tcp ipv4", "icmp ipv4")
	s.keys("Right") // by bytes
	s.awaitOrder("tcp ipv4", "icmp ipv4", "tcp ipv6", "ipv6-icmp ipv6", "udp ipv4")
	s.keys("Right", "Right") // share, and around to the protocol
	s.awaitOrder("icmp ipv4", "tcp ipv4", "tcp ipv6", "udp ipv4", "ipv6-icmp ipv6")
	s.keys("Right", "o") // by family, the other way round
	s.awaitOrder("tcp ipv6", "ipv6-icmp ipv6", "icmp ipv4", "tcp ipv4", "udp ipv4")
	s.keys("Left") // the protocol again
	s.awaitOrder("icmp ipv4", "tcp ipv4", "tcp ipv6", "udp ipv4", "ipv6-icmp ipv6")

	s.keys("c", "0", "Enter")
	s.awaitText("a number from 1 to 4294967295")
	s.keys("x")
	s.awaitText("digits only")
	s.keys("C-u", "9", "9", "BSpace", "Enter")
	s.awaitText("counter is 9", "counter 9 ")
	if got := d.read("counter"); got != "9" {
		t.Errorf("counter reads %q", got)
	}
	s.keys("c", "5", "Escape")
	s.awaitText("counter 9 ", "c counter")

	s.keys("p")
	s.awaitText(" paused ", "p go on")
	mix(t)
	before := s.text()
	s.await("clock that goes on", func(text string) bool { return clockOf(text) != clockOf(before) })
	s.awaitRows(mixes(1))
	s.keys("Space")
	s.awaitRows(mixes(2))

	s.keys("r", "n")
	s.awaitText("r reset")
	s.keys("r")
	s.awaitText("reset: set all published and pending figures to zero? y/n")
	s.keys("y")
	s.awaitText("all figures were set to zero", "nout 0 ", "pending 0 ")
	s.awaitRows(mixes(0))
	s.keys("t") // since the daemon started
	s.awaitRows(mixes(2))
	s.keys("t")
	s.awaitRows(mixes(0))

	s.keys("b")
	s.awaitText("b packets")
	s.keys("?")
	s.awaitText("start or stop counting (root)", "? back")
	s.keys("?", "s")
	s.awaitText("○ stopped", "counting stopped")
	if got := d.read("start"); got != "0" {
		t.Errorf("start reads %q", got)
	}
	s.keys("q")
	if status := s.awaitEnd(); status != "0" {
		t.Errorf("exit status %s", status)
	}
}

// clockOf is the end of the line of the title.
func clockOf(text string) string {
	return regexp.MustCompile(`\d\d:\d\d:\d\d`).FindString(text)
}

// TestTopSizes: the terminal's size changes, and the picture with it.
func TestTopSizes(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t), "--counter", "4", "--start")
	mix(t)
	s := inTerminal(t, 80, 24, utf8, topLine(t, d.dir))
	s.awaitRows(mixes(1))
	for _, c := range []struct {
		columns, lines int
		shown, hidden  []string
	}{
		{40, 10, []string{"kstat top", "● started", "uncounted 0", "protocol", "packets/s", "packets▼", "icmp", "total", "q quit", "of 5"}, []string{"bytes/s", "share"}},
		{200, 60, []string{"every 100ms", "bytes/s", "share", "packets/s, 6s", "t all time"}, []string{" of 5"}},
		{80, 24, []string{"bytes/s", "family", "last 1.1s", "? help"}, []string{"share", " of 5"}},
		{20, 5, []string{"kstat top", "uncounted 0", "q quit"}, []string{"bytes"}},
		{100, 9, []string{"share", "1–4 of 5"}, nil},
	} {
		s.do("resize-window", "-x", strconv.Itoa(c.columns), "-y", strconv.Itoa(c.lines))
		text := s.await(fmt.Sprintf("%+v", c), func(text string) bool {
			return containsAll(text, c.shown...) && !slices.ContainsFunc(c.hidden, func(part string) bool { return strings.Contains(text, part) })
		})
		if n := strings.Count(text, "\n"); n != c.lines {
			t.Errorf("%d lines, want %d:\n%s", n, c.lines, text)
		}
	}
	s.keys("Down")
	s.awaitText("2–5 of 5")
	s.awaitOrder("tcp ipv4", "tcp ipv6", "ipv6-icmp ipv6", "udp ipv4")
	s.keys("PageDown")
	s.awaitText("2–5 of 5")
	s.keys("PageUp")
	s.awaitText("1–4 of 5")
}

// TestTopNoSize: a terminal that does not know its size has one.
func TestTopNoSize(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t))
	p := openTerminal(t) // 0 columns, 0 lines
	defer p.ours.Close()
	cmd := tool("top", "--mount", d.dir)
	cmd.Env = append(cmd.Environ(), "TERM=xterm")
	p.start(cmd)
	p.await("nothing has been counted yet")
	p.write("q")
	p.await("\x1b[?1049l")
	must(t, cmd.Wait())
}

// colours are SGR codes that set one.
var colours = regexp.MustCompile(`\x1b\[([\d;:]*;)?(3[0-8]|4[0-8]|9[0-7]|10[0-7])[;:\dm]`)

// TestTopColours: there are some, unless nobody wants them; and no more than
// ASCII where the locale has no more.
func TestTopColours(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t), "--start")
	mix(t)
	const darkFaint, lightFaint = "38;5;245m", "38;5;242m"
	for _, c := range []struct {
		name    string
		env     []string
		flags   []string
		light   bool
		colours bool
		ascii   bool
	}{
		{name: "dark", env: utf8, colours: true},
		{name: "light", env: utf8, colours: true, light: true},
		{name: "NO_COLOR", env: append([]string{"NO_COLOR=yes"}, utf8...)},
		{name: "--no-color", env: utf8, flags: []string{"--no-color"}},
		{name: "empty NO_COLOR", env: []string{"NO_COLOR=", "LC_ALL=C", "LANG=C.UTF-8"}, colours: true, ascii: true},
	} {
		background := "#101010"
		if c.light {
			background = "#ffffff"
		}
		s := inPaintedTerminal(t, 100, 24, background, c.env, topLine(t, d.dir, c.flags...))
		s.awaitRows(mixed)
		styled := s.do("capture-pane", "-e", "-p")
		if c.light { // which is known a moment after the first picture
			s.await("light picture", func(string) bool {
				styled = s.do("capture-pane", "-e", "-p")
				return strings.Contains(styled, lightFaint) && !strings.Contains(styled, darkFaint)
			})
		} else if c.colours && (strings.Contains(styled, lightFaint) || !strings.Contains(styled, darkFaint)) {
			t.Errorf("%s: not for a dark background: %q", c.name, styled)
		}
		if colours.MatchString(styled) != c.colours {
			t.Errorf("%s: colours, or none, in %q", c.name, styled)
		}
		isASCII := strings.IndexFunc(styled, func(r rune) bool { return r > 126 }) < 0
		if isASCII != c.ascii || isASCII != strings.Contains(styled, "* started") {
			t.Errorf("%s: ASCII alone, or more, in %q", c.name, styled)
		}
	}
}

// TestTopUnprivileged: everybody may look, and is told why he may not write.
func TestTopUnprivileged(t *testing.T) {
	needWorld(t)
	sandbox.Need(t, sandbox.Root)
	dir, err := os.MkdirTemp("", "kstat-view-")
	must(t, err, os.Chmod(dir, 0o755))
	defer func() { must(t, os.Remove(dir)) }()
	d := startDaemon(t, filepath.Join(dir, "kstat"), "--start")
	defer d.end(unix.SIGTERM)
	mix(t)
	s := inTerminal(t, 100, 24, utf8, fmt.Sprintf("setpriv --reuid=%d --regid=%[1]d --clear-groups %s", sandbox.Nobody, topLine(t, d.dir)))
	s.awaitRows(mixed)
	s.keys("s")
	s.awaitText("start: permission denied: only root may write it (sudo)", "● started")
	s.keys("r", "y")
	s.awaitText("reset: permission denied: only root may write it (sudo)")
	s.keys("c", "7", "Enter")
	s.awaitText("counter: permission denied: only root may write it (sudo)")
	s.awaitRows(mixed)
	if start, counter := d.read("start"), d.read("counter"); start != "1" || counter != "10" {
		t.Errorf("start %s, counter %s", start, counter)
	}
}

// TestTopRestart: a worker that dies, a daemon that is killed, one that ends.
func TestTopRestart(t *testing.T) {
	needWorld(t)
	dir := treeDir(t)
	d := startDaemon(t, dir, "--start", "--counter", "1")
	mix(t)
	s := inTerminal(t, 100, 24, utf8, topLine(t, dir))
	s.awaitRows(mixed)
	must(t, unix.Kill(d.worker(), unix.SIGKILL))
	s.awaitText("worker restarts 1", "gaps 1", "● started")
	mix(t)
	s.awaitRows(mixes(2))

	d.end(unix.SIGKILL)
	s.awaitText("✗ no figures", "its kstatd has died")
	d = startDaemon(t, dir, "--start", "--counter", "1")
	s.awaitText("kstatd was restarted", "● started", "nothing has been counted yet")
	mix(t)
	text := s.awaitRows(mixed)
	if strings.Contains(text, " -1") {
		t.Errorf("a rate is negative:\n%s", text)
	}

	d.end(unix.SIGTERM)
	s.awaitText("✗ no figures", "no kstatd is mounted on "+dir)
	startDaemon(t, dir)
	s.awaitText("kstatd was restarted", "○ stopped", "nothing has been counted yet")
}

// TestTopHung: a daemon that does not answer holds up neither the picture nor
// the way out.
func TestTopHung(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t))
	s := inTerminal(t, 100, 24, utf8, topLine(t, d.dir))
	s.awaitText("○ stopped")
	// It is stopped between two looks: whose request a daemon has taken, and does
	// not answer, cannot be ended by anybody.
	top := s.command()
	must(t, sandbox.Stop(top))
	defer d.stop()()
	must(t, unix.Kill(top, unix.SIGCONT))
	s.awaitText("✗ no answer for ")
	s.keys("?")
	s.awaitText("start or stop counting (root)")
	s.keys("q")
	if status := s.awaitEnd(); status != "0" {
		t.Errorf("exit status %s", status)
	}

	late := inTerminal(t, 100, 24, utf8, topLine(t, d.dir))
	late.awaitText("✗ no answer for ")
	late.keys("C-c")
	if status := late.awaitEnd(); status != "0" {
		t.Errorf("begun when the daemon was stopped: exit status %s", status)
	}
}

// TestViewHungSignal: who waits for a daemon that does not answer can be
// interrupted.
func TestViewHungSignal(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t))
	defer d.stop()()
	for _, args := range [][]string{{"top", "--once"}, {"watch"}, {"watch", "--interval", "1s"}} {
		cmd := tool(append(args, "--mount", d.dir)...)
		must(t, cmd.Start())
		overdue := time.AfterFunc(2*sandbox.AwaitLimit, func() { _ = cmd.Process.Kill() })
		for end := time.Now().Add(sandbox.AwaitLimit); !waitsForFUSE(cmd.Process.Pid) && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		must(t, cmd.Process.Signal(unix.SIGINT))
		_ = cmd.Wait()
		overdue.Stop()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != unix.SIGINT {
			t.Errorf("kstat %q: %v", args, cmd.ProcessState)
		}
	}
}

// waitsForFUSE reports whether a thread of a process waits for a FUSE server's
// answer.
func waitsForFUSE(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
	for _, path := range threads {
		if where, _ := os.ReadFile(path); string(where) == "request_wait_answer" {
			return true
		}
	}
	return false
}

func TestTopOnce(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t), "--start", "--counter", "4")
	mix(t)
	const want = `started, by nfqueue at postrouting, nout 10, counter 4, pending 3, uncounted 0

   protocol  family  packets/s  bytes/s  packets  bytes  share
       icmp    ipv4        0.0      0.0       10    280  37.0%
        tcp    ipv4        0.0      0.0        6    300  22.2%
        tcp    ipv6        0.0      0.0        4    280  14.8%
  ipv6-icmp    ipv6        0.0      0.0        4    192  14.8%
        udp    ipv4        0.0      0.0        3    120  11.1%
      total                0.0      0.0       27   1172   100%
`
	for _, flags := range [][]string{nil, {"--once"}} {
		got := end(t, tool(append([]string{"top", "--interval", "50ms", "--mount", d.dir}, flags...)...))
		if got != (outcome{stdout: want}) {
			t.Errorf("%q: status %d, %q, standard output:\n%s\nwant:\n%s", flags, got.status, got.stderr, got.stdout, want)
		}
	}
}

// TestViewMisuse: what cannot be is one line.
func TestViewMisuse(t *testing.T) {
	for _, c := range []struct {
		args []string
		want outcome
	}{
		{[]string{"top", "--interval", "1ms"}, outcome{2, "", "kstat top: --interval 1ms is too short: 50ms or more (kstat top --help lists the flags)\n"}},
		{[]string{"top", "--interval", "-1s"}, outcome{2, "", "kstat top: --interval -1s is too short: 50ms or more (kstat top --help lists the flags)\n"}},
		{[]string{"top", "--interval", "1"}, outcome{2, "", "kstat top: invalid value \"1\" for flag -interval: take a duration, like 500ms, 10s or 2m (kstat top --help lists the flags)\n"}},
		{[]string{"top", "now"}, outcome{2, "", "kstat top: \"now\" is not a flag, and nothing else is expected (kstat top --help lists the flags)\n"}},
		{[]string{"top", "--mount", "/nowhere"}, outcome{1, "", "kstat top: no kstatd is mounted on /nowhere: start one there, or name another directory by --mount\n"}},
		{[]string{"watch", "--interval", "0"}, outcome{2, "", "kstat watch: --interval 0s is too short: 50ms or more (kstat watch --help lists the flags)\n"}},
		{[]string{"watch", "--interval", "often"}, outcome{2, "", "kstat watch: invalid value \"often\" for flag -interval: take a duration, like 500ms, 10s or 2m (kstat watch --help lists the flags)\n"}},
		{[]string{"watch", "-n", "0"}, outcome{2, "", "kstat watch: invalid value \"0\" for flag -n: take a number from 1 on (kstat watch --help lists the flags)\n"}},
		{[]string{"watch", "it"}, outcome{2, "", "kstat watch: \"it\" is not a flag, and nothing else is expected (kstat watch --help lists the flags)\n"}},
		{[]string{"watch", "--mount", "/nowhere"}, outcome{1, "", "kstat watch: no kstatd is mounted on /nowhere: start one there, or name another directory by --mount\n"}},
	} {
		if got := end(t, tool(c.args...)); got != c.want {
			t.Errorf("kstat %q: %+v, want %+v", c.args, got, c.want)
		}
	}
}

// watching is a kstat watch that runs.
type watching struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdout io.Closer
	lines  *bufio.Reader
	errs   bytes.Buffer
}

// startWatch starts one, and waits until it waits.
func startWatch(t testing.TB, d *daemon, flags ...string) *watching {
	t.Helper()
	w := runWatch(t, d, flags...)
	w.awaitOpen(d, "")
	return w
}

// runWatch starts one.
func runWatch(t testing.TB, d *daemon, flags ...string) *watching {
	t.Helper()
	w := &watching{t: t, cmd: tool(append([]string{"watch", "--mount", d.dir}, flags...)...)}
	stdout, err := w.cmd.StdoutPipe()
	must(t, err)
	w.stdout, w.lines = stdout, bufio.NewReader(stdout)
	w.cmd.Stderr = &w.errs
	must(t, w.cmd.Start())
	t.Cleanup(func() {
		if w.cmd.ProcessState == nil {
			_ = w.cmd.Process.Kill()
			_ = w.cmd.Wait()
		}
	})
	return w
}

// watched names the open watch of the process, which is another one in another
// worker's mount; nothing if there is none.
func (w *watching) watched(d *daemon) string {
	proc := fmt.Sprintf("/proc/%d/", w.cmd.Process.Pid)
	links, _ := os.ReadDir(proc + "fd")
	for _, link := range links {
		if to, _ := os.Readlink(proc + "fd/" + link.Name()); to == filepath.Join(d.dir, "watch") {
			info, _ := os.ReadFile(proc + "fdinfo/" + link.Name())
			_, after, _ := strings.Cut(string(info), "mnt_id:")
			id, _, _ := strings.Cut(strings.TrimSpace(after), "\n")
			return id
		}
	}
	return ""
}

// awaitOpen waits until another watch is open than before.
func (w *watching) awaitOpen(d *daemon, before string) {
	w.t.Helper()
	for end := time.Now().Add(sandbox.AwaitLimit); ; time.Sleep(5 * time.Millisecond) {
		if now := w.watched(d); now != "" && now != before {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("watch is not opened; it says %q", w.errs.String())
		}
	}
}

// clockPattern is the first column of text.
var clockPattern = regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{6} `)

// expect takes the next line, without its time, with one blank between columns.
func (w *watching) expect(want string) {
	w.t.Helper()
	line, err := w.lines.ReadString('\n')
	must(w.t, err)
	got := strings.Join(strings.Fields(clockPattern.ReplaceAllString(line, "at ")), " ")
	if got != want {
		w.t.Errorf("got %q, want %q", got, want)
	}
}

func (w *watching) end() outcome {
	w.t.Helper()
	rest, err := io.ReadAll(w.lines)
	must(w.t, err)
	_ = w.cmd.Wait()
	return outcome{w.cmd.ProcessState.ExitCode(), string(rest), w.errs.String()}
}

// TestWatchPublications: one line for each, with what has come since the last.
func TestWatchPublications(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t), "--start", "--counter", "2")
	port, err := traffic.ClosedPort(lo4)
	must(t, err)
	must(t, traffic.TCPConnect(port, 2))
	w := startWatch(t, d)
	must(t, traffic.TCPConnect(port, 1), traffic.Ping(lo4, 1))
	w.expect("#time publication nout total +nout +total")
	w.expect("at 3 6 6 +2 +2")
	w.expect("at 4 6 8 +0 +2")
	d.write("reset", "1")
	must(t, traffic.TCPConnect(port, 1))
	w.expect("at 5 2 2 +2 +2")

	few := startWatch(t, d, "-n", "2", "--json")
	must(t, traffic.Ping(lo6, 2))
	for _, want := range []publicationLine{{6, 2, 4, 0, 2}, {7, 2, 6, 0, 2}} {
		line, err := few.lines.ReadBytes('\n')
		must(t, err)
		var got struct {
			Time time.Time `json:"time"`
			publicationLine
		}
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		must(t, decoder.Decode(&got))
		if age := time.Since(got.Time); got.publicationLine != want || age < 0 || age > time.Minute {
			t.Errorf("%s, want %+v", line, want)
		}
		w.expect(fmt.Sprintf("at %d %d %d +%d +%d", want.Publication, want.NOut, want.Total, want.NOutDelta, want.TotalDelta))
	}
	if got := few.end(); got != (outcome{}) {
		t.Errorf("after two lines: %+v", got)
	}

	// Another worker goes on with the numbers.
	before := w.watched(d)
	must(t, unix.Kill(d.worker(), unix.SIGKILL))
	w.awaitOpen(d, before)
	must(t, traffic.Ping(lo4, 1))
	w.expect("at 8 2 8 +0 +2")

	unfinished := startWatch(t, d, "-n", "5")
	d.end(unix.SIGTERM)
	if got := w.end(); got != (outcome{0, "", "kstat watch: kstatd has ended\n"}) {
		t.Errorf("at the daemon's end: %+v", got)
	}
	unfinished.expect("#time publication nout total +nout +total")
	if got := unfinished.end(); got != (outcome{1, "", "kstat watch: kstatd has ended\n"}) {
		t.Errorf("at the daemon's end, with lines to come: %+v", got)
	}
}

type publicationLine struct {
	Publication uint64 `json:"publication"`
	NOut        uint64 `json:"nout"`
	Total       uint64 `json:"total"`
	NOutDelta   uint64 `json:"nout_delta"`
	TotalDelta  uint64 `json:"total_delta"`
}

// TestWatchIntervals: what is in the lines is what was sent, neither more nor
// less.
func TestWatchIntervals(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t), "--start", "--counter", "1000")
	mix(t)
	asText, asJSON := runWatch(t, d, "--interval", "50ms"), runWatch(t, d, "--interval", "50ms", "--json")
	asText.expect("#time packets")
	_, err := asJSON.lines.ReadBytes('\n') // it has begun
	must(t, err)
	mix(t)

	sums := map[string]figures{}
	for sum := (figures{}); sum.packets < mixed["total"].packets; {
		line, err := asText.lines.ReadString('\n')
		must(t, err)
		fields := strings.Fields(clockPattern.ReplaceAllString(line, ""))
		if slices.Equal(fields, []string{"-"}) {
			continue
		}
		for i := 0; i+1 < len(fields); i += 2 {
			n, err := strconv.ParseUint(strings.TrimPrefix(fields[i+1], "+"), 10, 64)
			must(t, err)
			name := strings.Replace(fields[i], "/", " ", 1)
			sums[name] = figures{packets: sums[name].packets + n}
			sum.packets += n
		}
	}
	for name, want := range mixed {
		if name != "total" && sums[name].packets != want.packets {
			t.Errorf("text: %s %d, want %d", name, sums[name].packets, want.packets)
		}
	}

	sums = map[string]figures{}
	for sums["total"].packets < mixed["total"].packets {
		line, err := asJSON.lines.ReadBytes('\n')
		must(t, err)
		var got struct {
			Seconds        float64
			Packets, Bytes uint64
			Protocols      []struct {
				Name, Family   string
				Packets, Bytes uint64
			}
		}
		must(t, json.Unmarshal(line, &got))
		if got.Seconds <= 0 {
			t.Errorf("an interval of %v s", got.Seconds)
		}
		sums["total"] = figures{sums["total"].packets + got.Packets, sums["total"].bytes + got.Bytes}
		for _, p := range got.Protocols {
			name := p.Name + " " + p.Family
			sums[name] = figures{sums[name].packets + p.Packets, sums[name].bytes + p.Bytes}
		}
	}
	if !maps.Equal(sums, mixed) {
		t.Errorf("JSON: %v, want %v", sums, mixed)
	}

	must(t, asText.cmd.Process.Signal(unix.SIGINT))
	asText.end()
	if status := asText.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGINT {
		t.Errorf("after Ctrl-C: %v", asText.cmd.ProcessState)
	}
	d.end(unix.SIGTERM)
	if got := asJSON.end(); got.status != 0 || got.stderr != "kstat watch: kstatd has ended\n" {
		t.Errorf("at the daemon's end: %+v", got)
	}
}

// TestWatchClosedPipe: it ends when nobody reads what it writes, also when
// there is nothing to write.
func TestWatchClosedPipe(t *testing.T) {
	needWorld(t)
	d := startDaemon(t, treeDir(t), "--start", "--counter", "2")
	w := startWatch(t, d)
	w.expect("#time publication nout total +nout +total")
	must(t, traffic.Ping(lo4, 1))
	w.expect("at 1 0 2 +0 +2")
	must(t, w.stdout.Close())
	_ = w.cmd.Wait()
	if status := w.cmd.ProcessState.ExitCode(); status != 0 || w.errs.String() != "" {
		t.Errorf("status %d, %q", status, w.errs.String())
	}
}
