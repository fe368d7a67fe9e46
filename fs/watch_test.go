package fs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

// figuresOf returns the first three columns of a line of watch.
func figuresOf(t *testing.T, line string) string {
	t.Helper()
	columns := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(columns) != 4 || !strings.HasSuffix(line, "\n") {
		t.Fatalf("no line of watch: %q", line)
	}
	return strings.Join(columns[:3], " ")
}

// reading is a command that reads watch.
type reading struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Reader
	errs  strings.Builder // to be read after the end
}

// reads starts a command on watch, and waits until it reads.
func (s *server) reads(name string, args ...string) *reading {
	s.t.Helper()
	r := &reading{t: s.t, cmd: sandbox.Command(name, append(args, s.path("watch"))...)}
	stdout, err := r.cmd.StdoutPipe()
	must(s.t, err)
	r.lines = bufio.NewReader(stdout)
	r.cmd.Stderr = &r.errs
	must(s.t, r.cmd.Start())
	s.t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
	})
	for end := time.Now().Add(sandbox.AwaitLimit); !r.blocked(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal(name, "does not read")
		}
	}
	return r
}

// blocked reports whether the command is in a read of watch.
func (r *reading) blocked() bool {
	proc := fmt.Sprintf("/proc/%d/", r.cmd.Process.Pid)
	in, _ := os.ReadFile(proc + "syscall")
	var number, fd int
	_, _ = fmt.Sscanf(string(in), "%d 0x%x", &number, &fd)
	name, _ := os.Readlink(fmt.Sprint(proc, "fd/", fd))
	return number == unix.SYS_READ && filepath.Base(name) == "watch"
}

func (r *reading) expect(want string) {
	r.t.Helper()
	line, err := r.lines.ReadString('\n')
	must(r.t, err)
	if got := figuresOf(r.t, line); got != want {
		r.t.Errorf("got %q, want %q", got, want)
	}
}

// end waits for the command's end.
func (r *reading) end() (rest string, err error) {
	text, _ := io.ReadAll(r.lines)
	return string(text), r.cmd.Wait()
}

// TestWatchTools: what people type. Each gets a line per read, however large its
// buffer is.
func TestWatchTools(t *testing.T) {
	s := serve(t)
	cat, head := s.reads("cat"), s.reads("head", "-n", "3")
	began := time.Now().UnixNano()
	s.tell("add 6 0 15 40")
	s.tell("add 17 0 5 40")
	s.tell("add 6 1 12 40")
	for _, r := range []*reading{cat, head} {
		for _, want := range []string{"1 10 10", "2 15 20", "3 25 30"} {
			r.expect(want)
		}
	}
	if rest, err := head.end(); rest != "" || err != nil {
		t.Errorf("head: %q, %v", rest, err)
	}
	s.tell("add 6 0 8 40")
	line, err := cat.lines.ReadString('\n')
	must(t, err)
	var number, tcp, all uint64
	var at int64
	if n, err := fmt.Sscanf(line, "%d %d %d %d\n", &number, &tcp, &all, &at); n != 4 || number != 4 || tcp != 35 || all != 40 ||
		at < began || at > time.Now().UnixNano() {
		t.Errorf("%q: %v; it is between %d and %d", line, err, began, time.Now().UnixNano())
	}
	must(t, cat.cmd.Process.Signal(unix.SIGINT))
	if rest, err := cat.end(); rest != "" || err == nil || err.Error() != "signal: interrupt" {
		t.Errorf("cat: %q, %v", rest, err)
	}
	s.tell("idle")
}

// TestWatchParts: a line that does not fit into the reader's buffer comes in
// parts, and a position means nothing.
func TestWatchParts(t *testing.T) {
	s := serve(t)
	f, err := os.Open(s.path("watch"))
	must(t, err)
	defer f.Close()
	s.tell("add 6 0 25 40")
	var line []byte
	for one := make([]byte, 1); len(line) == 0 || line[len(line)-1] != '\n'; line = append(line, one[0]) {
		_, err := f.Read(one)
		must(t, err)
	}
	large := make([]byte, 1<<20)
	n, err := sandbox.Uninterrupted(func() (int, error) { return unix.Pread(int(f.Fd()), large, 12345) })
	must(t, err)
	if got := figuresOf(t, string(line)) + ", " + figuresOf(t, string(large[:n])); got != "1 10 10, 2 20 20" {
		t.Errorf("got %q", got)
	}
	s.tell("add 6 0 25 40")
	n, err = f.Read(large)
	must(t, err)
	if got := figuresOf(t, string(large[:n])); got != "3 30 30" {
		t.Errorf("a large buffer: got %q", got)
	}
}

// TestWatchNonBlocking: opened with O_NONBLOCK it says EAGAIN instead of
// waiting.
func TestWatchNonBlocking(t *testing.T) {
	s := serve(t)
	fd, err := unix.Open(s.path("watch"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	line := make([]byte, 100)
	read := func() (int, error) { return unix.Read(fd, line) }
	for i, want := range []string{"1 10 10", "2 20 20"} {
		if n, err := sandbox.Uninterrupted(read); err != unix.EAGAIN {
			t.Fatalf("got %d, %v, want EAGAIN", n, err)
		}
		s.tell("add 6 0 10 40")
		n, err := sandbox.Uninterrupted(read)
		must(t, err)
		if got := figuresOf(t, string(line[:n])); got != want {
			t.Errorf("%d: got %q, want %q", i, got, want)
		}
	}
}

// TestWatchRefuses: it cannot be written, by nobody, and not be opened by more
// than 1,024.
func TestWatchRefuses(t *testing.T) {
	s := serve(t)
	for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_TRUNC} {
		if fd, err := unix.Open(s.path("watch"), flags, 0); err != unix.EACCES {
			t.Errorf("open with flags %x: got %d, %v, want EACCES", flags, fd, err)
		}
	}
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < 1200 {
		t.Skipf("at most %d descriptors", limit.Cur)
	}
	var all []int
	for range 1024 {
		fd, err := unix.Open(s.path("watch"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(t, err)
		all = append(all, fd)
	}
	if fd, err := unix.Open(s.path("watch"), unix.O_RDONLY, 0); err != unix.ENFILE {
		t.Errorf("one more: got %d, %v, want ENFILE", fd, err)
	}
	for _, fd := range all {
		must(t, unix.Close(fd))
	}
	s.tell("idle")
}

// TestWatchOpens: thousands of opens leave no goroutine, nor do readers that are
// killed or interrupted.
func TestWatchOpens(t *testing.T) {
	s := serve(t)
	for range 10_000 {
		fd, err := unix.Open(s.path("watch"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(t, err, unix.Close(fd))
	}
	s.tell("idle")
	for i := range 40 {
		r := s.reads("cat")
		must(t, r.cmd.Process.Signal([]unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGKILL, unix.SIGHUP}[i%4]))
		if rest, err := r.end(); rest != "" || err == nil {
			t.Errorf("cat: %q, %v", rest, err)
		}
	}
	s.tell("idle")
}

// TestWatchStopped: a reader that is stopped with the terminal's Ctrl-Z, and
// goes on, is in the middle of the same read.
func TestWatchStopped(t *testing.T) {
	s := serve(t)
	r := s.reads("cat")
	must(t, sandbox.Stop(r.cmd.Process.Pid))
	s.tell("add 6 0 10 40")
	s.tell("add 6 0 10 40")
	must(t, r.cmd.Process.Signal(unix.SIGCONT))
	r.expect("1 10 10")
	r.expect("2 20 20")
}

// TestWatchEnds: an end of the daemon is an end of the file for those who wait,
// and does not wait for them.
func TestWatchEnds(t *testing.T) {
	s := serve(t)
	waiting := []*reading{s.reads("cat"), s.reads("cat")}
	if last := s.end(unix.SIGTERM); last != "ended: <nil>" {
		t.Error(last)
	}
	for _, r := range waiting {
		if rest, err := r.end(); rest != "" || err != nil {
			t.Errorf("cat: %q, %v", rest, err)
		}
	}
}

// TestFaultWatchServerKilled: who waits for a server that is killed gets an
// error, at once.
func TestFaultWatchServerKilled(t *testing.T) {
	s := serve(t)
	r := s.reads("cat")
	s.end(unix.SIGKILL)
	if rest, err := r.end(); rest != "" || err == nil || !slices.ContainsFunc([]unix.Errno{unix.ECONNABORTED, unix.EIO}, func(e unix.Errno) bool {
		return strings.HasSuffix(strings.ToLower(r.errs.String()), e.Error()+"\n")
	}) {
		t.Errorf("cat: %q, %v: %s", rest, err, r.errs.String())
	}
	must(t, unix.Unmount(s.dir, unix.MNT_DETACH), os.Remove(s.dir))
}
