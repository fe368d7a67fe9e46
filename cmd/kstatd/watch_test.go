package main

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

// watching is a cat of a file whose reads wait.
type watching struct {
	t     *testing.T
	file  string
	cmd   *exec.Cmd
	lines *bufio.Reader
	errs  strings.Builder
}

// watch starts a cat of watch, and waits until it reads.
func (d *running) watch() *watching { return d.cat("watch") }

func (d *running) cat(file string) *watching {
	d.t.Helper()
	w := &watching{t: d.t, file: file, cmd: sandbox.Command("cat", filepath.Join(d.dir, file))}
	stdout, err := w.cmd.StdoutPipe()
	must(d.t, err)
	w.lines = bufio.NewReader(stdout)
	w.cmd.Stderr = &w.errs
	must(d.t, w.cmd.Start())
	d.t.Cleanup(func() {
		if w.cmd.ProcessState == nil {
			_ = w.cmd.Process.Kill()
			_ = w.cmd.Wait()
		}
	})
	sandbox.Await(d.t, "a read of "+file, w.blocked)
	return w
}

// blocked reports whether the command is in a read of the file.
func (w *watching) blocked() bool {
	proc := fmt.Sprintf("/proc/%d/", w.cmd.Process.Pid)
	in, _ := os.ReadFile(proc + "syscall")
	var number, fd int
	_, _ = fmt.Sscanf(string(in), "%d 0x%x", &number, &fd)
	name, _ := os.Readlink(fmt.Sprint(proc, "fd/", fd))
	return number == unix.SYS_READ && filepath.Base(name) == w.file
}

// expect takes a line, and compares it but for its time, which is returned.
func (w *watching) expect(want string) (at int64) {
	w.t.Helper()
	line, err := w.lines.ReadString('\n')
	must(w.t, err)
	got := strings.TrimSuffix(line, "\n")
	if strings.HasPrefix(want, "missed ") {
		if got != want {
			w.t.Fatalf("got %q, want %q", got, want)
		}
		return 0
	}
	var number, tcp, all uint64
	if n, err := fmt.Sscanf(line, "%d %d %d %d\n", &number, &tcp, &all, &at); n != 4 || fmt.Sprint(number, tcp, all) != want {
		w.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
	return at
}

// end waits for the command's end.
func (w *watching) end() (rest, complaint string, err error) {
	text, _ := io.ReadAll(w.lines)
	err = w.cmd.Wait()
	return string(text), w.errs.String(), err
}

// TestWatch: three readers see the same, each publication once, in order, with
// the figures of its own packet; before, nothing; and in the end, the end.
func TestWatch(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		for _, n := range []uint64{1, 2, 10} {
			t.Run(fmt.Sprintf("N=%d", n), func(t *testing.T) {
				dir := mountDir(t)
				d := start(t, dir, engine, "--start", fmt.Sprint("--counter=", n))
				closed, err := traffic.ClosedPort(lo)
				must(t, err)
				must(t, traffic.TCPConnect(closed, 5))
				readers := []*watching{d.watch(), d.watch(), d.watch()}
				last := make([]int64, len(readers))
				number, began := 10/n, time.Now().UnixNano()
				for round := range uint64(3) {
					must(t, traffic.TCPConnect(closed, 5), traffic.Ping(lo, 5)) // 10 of TCP, and 10 others
					for sent := n; sent <= 20; sent += n {
						number++
						for i, r := range readers {
							at := r.expect(fmt.Sprint(number, 10+10*round+min(10, sent), 10+20*round+sent))
							if at < max(began, last[i]) || at > time.Now().UnixNano() {
								t.Errorf("publication %d: its time %d is not between %d and now", number, at, max(began, last[i]))
							}
							last[i] = at
						}
					}
				}
				d.write("start", "0")
				for _, r := range readers { // a stop does not end the watch
					sandbox.Await(t, "a read of "+r.file, r.blocked)
				}
				d.end(unix.SIGTERM)
				for _, r := range readers {
					if rest, complaint, err := r.end(); rest != "" || complaint != "" || err != nil {
						t.Errorf("at the end: %q, %q, %v", rest, complaint, err)
					}
				}
				nothingLeft(t, dir)
			})
		}
	})
}

// TestWatchStopped: a reader that sleeps through more than is kept is told how
// much that was, and goes on without a hole; one beside it has seen all.
func TestWatchStopped(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--counter=1")
		peer := sandbox.Veth(t)
		to := netip.AddrPortFrom(peer.Void4, 9)
		sleeper, other := d.watch(), d.watch()
		must(t, traffic.UDP(to, 1, 10))
		for _, r := range []*watching{sleeper, other} {
			r.expect("1 0 1")
		}
		must(t, sandbox.Stop(sleeper.cmd.Process.Pid))
		const sent = stats.Kept + 1000
		for n := 1; n <= sent; {
			until := min(n+500, sent+1)
			must(t, traffic.UDP(to, until-n, 10))
			for ; n < until; n++ {
				other.expect(fmt.Sprint(n+1, 0, n+1))
			}
		}
		must(t, sleeper.cmd.Process.Signal(unix.SIGCONT))
		const missed = sent - stats.Kept/2
		sleeper.expect(fmt.Sprint("missed ", missed))
		for n := 1 + missed; n <= sent; n++ {
			sleeper.expect(fmt.Sprint(n+1, 0, n+1))
		}
		must(t, traffic.UDP(to, 1, 10))
		for _, r := range []*watching{sleeper, other} {
			r.expect(fmt.Sprint(sent+2, 0, sent+2))
		}
	})
}

// TestFaultWatchTerminated: readers that wait, that are stopped, and one that
// holds the file without reading, do not hold up the daemon's end.
func TestFaultWatchTerminated(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir := mountDir(t)
		d := start(t, dir, engine, "--start")
		waiting, stopped := d.watch(), d.watch()
		must(t, sandbox.Stop(stopped.cmd.Process.Pid))
		held, err := os.Open(filepath.Join(dir, "watch"))
		must(t, err)
		defer held.Close()
		began := time.Now()
		d.end(unix.SIGTERM)
		within(t, "the end of a daemon that is watched", time.Since(began), 2*time.Second)
		if rest, complaint, err := waiting.end(); rest != "" || complaint != "" || err != nil {
			t.Errorf("at the end: %q, %q, %v", rest, complaint, err)
		}
		nothingLeft(t, dir)
		must(t, stopped.cmd.Process.Signal(unix.SIGCONT))
		if _, _, err := stopped.end(); err == nil {
			t.Error("a reader that slept through the end gets no error")
		}
	})
}

// TestFaultWatchWorkerKilled: who waits gets an error; who opens the file again
// sees the numbers go on.
func TestFaultWatchWorkerKilled(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir := mountDir(t)
		d := start(t, dir, engine, "--start", "--counter=2")
		r := d.watch()
		must(t, traffic.Ping(lo, 3))
		for i := 1; i <= 3; i++ {
			r.expect(fmt.Sprint(i, 0, 2*i))
		}
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		rest, complaint, err := r.end()
		if rest != "" || err == nil || !slices.ContainsFunc([]unix.Errno{unix.ECONNABORTED, unix.ENOTCONN, unix.EIO}, func(e unix.Errno) bool {
			return strings.HasSuffix(strings.ToLower(complaint), e.Error()+"\n")
		}) {
			t.Errorf("as the worker was killed: %q, %q, %v", rest, complaint, err)
		}
		sandbox.Await(t, "the next worker", d.readable)
		r = d.watch()
		must(t, traffic.Ping(lo, 2))
		for i := 4; i <= 5; i++ {
			r.expect(fmt.Sprint(i, 0, 2*i))
		}
		d.end(unix.SIGTERM)
		if rest, complaint, err := r.end(); rest != "" || complaint != "" || err != nil {
			t.Errorf("at the end: %q, %q, %v", rest, complaint, err)
		}
		nothingLeft(t, dir)
	})
}
