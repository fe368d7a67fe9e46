package fs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/stats"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveDir); dir != "" {
		serveTree(dir)
		return
	}
	sandbox.Main(m)
}

// A tree must not be read by the process that serves it. So the tests start
// this test binary once more, as a server with an engine that only pretends,
// and tell it over its standard input what packets to count.

const serveDir = "KSTAT_TEST_SERVE"

// pretender is an engine that sees the packets which it is told of. Its Start
// fails if refuse is set, with that errno.
type pretender struct {
	started atomic.Bool
	refuse  atomic.Int32
}

func (*pretender) Name() string    { return "pretender" }
func (*pretender) Point() string   { return "postrouting" }
func (p *pretender) Started() bool { return p.started.Load() }
func (p *pretender) Stop() error   { p.started.Store(false); return nil }
func (p *pretender) Start() error {
	if errno := p.refuse.Load(); errno != 0 {
		return fmt.Errorf("pretended: %w", unix.Errno(errno))
	}
	p.started.Store(true)
	return nil
}
func (*pretender) Uncounted() (uint64, error) { return 3, nil }

// poet is a tracer of at most two verses at a time.
type poet struct{ open atomic.Int32 }

func (p *poet) Text() (Stream, error) {
	if p.open.Add(1) > 2 {
		p.open.Add(-1)
		return nil, stats.ErrTooManyWatchers
	}
	return &verse{poet: p}, nil
}
func (*poet) Pcapng() (Stream, error) { return nil, unix.EBADE }

// verse gives three lines at a time, for ever. What does not fit the reader's
// buffer is the tree's to keep.
type verse struct {
	*poet
	n int
}

func (v *verse) Close() { v.open.Add(-1) }

func (v *verse) Next(buffer []byte, _ int, _ <-chan struct{}) ([]byte, error) {
	for range 3 {
		v.n++
		buffer = fmt.Appendf(buffer, "line %d\n", v.n)
	}
	return buffer, nil
}

// serveTree is the serving process. It obeys one command a line:
//
//	add PROTOCOL FAMILY PACKETS BYTES
//	refuse ERRNO
//	idle
//	hurry
//
// and answers each with a line.
func serveTree(dir string) {
	drainLimit.Store(int64(sandbox.AwaitLimit))
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	engine := new(pretender)
	tree := &Tree{
		Table:  stats.NewTable(),
		Engine: engine,
		Names:  stats.BuiltinNames(),
		Health: func() (Health, uint64, error) {
			uncounted, err := engine.Uncounted()
			return Health{Restarts: 1, Repairs: 2, Flushes: 3, Gaps: []Gap{{Seconds: 0.5}}}, uncounted, err
		},
		PID:     os.Getpid(),
		Version: "test",
		Tracer:  new(poet),
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	point, err := Lock(dir)
	if err != nil {
		fmt.Println("mount:", err)
		return
	}
	connection, err := point.Mount()
	if err != nil {
		fmt.Println("mount:", errors.Join(err, point.Close()))
		return
	}
	server, err := tree.Serve(connection)
	if err != nil {
		fmt.Println("mount:", errors.Join(err, point.Close()))
		return
	}
	go func() {
		fmt.Println("ready")
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fmt.Println(obey(lines.Text(), tree.Table, engine))
		}
	}()
	err = server.Run(ctx)
	tree.Table.Finish()
	err = errors.Join(err, point.Unmount())
	server.Drain(time.Duration(drainLimit.Load()))
	select {
	case <-server.ended:
	default:
		err = errors.Join(err, errors.New("somebody holds a file"))
	}
	fmt.Println("ended:", errors.Join(err, point.Close()))
}

func obey(command string, table *stats.Table, engine *pretender) string {
	var protocol, family, packets, bytes, errno int
	if n, _ := fmt.Sscanf(command, "add %d %d %d %d", &protocol, &family, &packets, &bytes); n == 4 {
		for range packets {
			table.Add([]stats.Packet{{
				Class: stats.ClassOf(stats.Family(family), stats.Protocol(protocol)),
				Bytes: uint32(bytes),
			}})
		}
		return "done"
	}
	if n, _ := fmt.Sscanf(command, "refuse %d", &errno); n == 1 {
		engine.refuse.Store(int32(errno))
		return "done"
	}
	switch command {
	case "idle":
		return idle()
	case "hurry":
		drainLimit.Store(int64(time.Second))
		return "done"
	}
	return "no such command"
}

// drainLimit is how long the serving process waits at its end for those who have
// a file open: for a second, as kstatd does, if it is told to hurry.
var drainLimit atomic.Int64

// idle waits until no goroutine waits for publications or wakes those who do.
func idle() string {
	for end := time.Now().Add(sandbox.AwaitLimit); ; time.Sleep(time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		switch {
		case !bytes.Contains(stacks, []byte("kstat/fs.(*stream)")) && !bytes.Contains(stacks, []byte("kstat/stats")):
			return "done"
		case time.Now().After(end):
			return "goroutines are left: " + strconv.Quote(string(stacks))
		}
	}
}

// server is a serving process.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string
	stdin  io.WriteCloser
	stdout *bufio.Scanner
	waited bool
}

// newServer starts a server on dir, and returns what it says first: "ready",
// or why not.
func newServer(t *testing.T, dir string) (*server, string) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.FUSE)
	s := &server{t: t, dir: dir, cmd: sandbox.Command("/proc/self/exe")}
	s.cmd.Env = append(os.Environ(), serveDir+"="+dir)
	s.cmd.Stderr = os.Stderr
	stdout, err := s.cmd.StdoutPipe()
	must(t, err)
	s.stdin, err = s.cmd.StdinPipe()
	must(t, err, s.cmd.Start())
	s.stdout = bufio.NewScanner(stdout)
	if !s.stdout.Scan() {
		t.Fatal("the server said nothing")
	}
	return s, s.stdout.Text()
}

// refused starts a server that must not come up, and returns why.
func refused(t *testing.T, dir string) string {
	t.Helper()
	s, said := newServer(t, dir)
	must(t, s.cmd.Wait())
	return said
}

// serve starts a server that must come up, on a directory of its own that
// every user can reach.
func serve(t *testing.T) *server {
	t.Helper()
	parent, err := os.MkdirTemp("", "kstat-test-")
	must(t, err, os.Chmod(parent, 0o755))
	t.Cleanup(func() { must(t, os.Remove(parent)) })
	return serveOn(t, filepath.Join(parent, "kstat"))
}

// serveOn starts a server that must come up.
func serveOn(t *testing.T, dir string) *server {
	t.Helper()
	s, said := newServer(t, dir)
	if said != "ready" {
		t.Fatal("the server said:", said)
	}
	t.Cleanup(func() {
		if !s.waited {
			s.end(unix.SIGTERM)
		}
	})
	return s
}

// tell gives the server a command and waits for the answer.
func (s *server) tell(format string, args ...any) {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.stdin, format+"\n", args...); err != nil {
		s.t.Fatal(err)
	}
	if !s.stdout.Scan() || s.stdout.Text() != "done" {
		s.t.Fatalf("%s: the server said %q", fmt.Sprintf(format, args...), s.stdout.Text())
	}
}

// end signals the server, waits for it, and returns its last words.
func (s *server) end(signal unix.Signal) (last string) {
	s.t.Helper()
	must(s.t, s.cmd.Process.Signal(signal))
	for s.stdout.Scan() {
		if text := s.stdout.Text(); strings.HasPrefix(text, "ended:") {
			last = text
		}
	}
	s.waited = true
	if err := s.cmd.Wait(); err != nil && signal != unix.SIGKILL {
		s.t.Error("server:", err)
	}
	return last
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *server) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	must(s.t, err)
	return string(text)
}

// write makes one write(2).
func (s *server) write(name, text string) (int, error) {
	fd, err := unix.Open(s.path(name), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.Write(fd, []byte(text))
}

func (s *server) expect(name, want string) {
	s.t.Helper()
	if got := s.read(name); got != want {
		s.t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
