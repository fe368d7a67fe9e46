package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
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
	"kstat/lab/traffic"
)

// traceRun is a kstat trace that runs.
type traceRun struct {
	t           *testing.T
	cmd         *exec.Cmd
	out, errors sandbox.Output
}

// newTrace starts a kstat trace.
func newTrace(t *testing.T, dir string, args ...string) *traceRun {
	t.Helper()
	r := &traceRun{t: t, cmd: tool(append([]string{"trace", "--mount", dir}, args...)...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errors
	must(t, r.cmd.Start())
	return r
}

// startTrace starts a kstat trace, and waits until it waits for a packet.
func startTrace(t *testing.T, dir string, args ...string) *traceRun {
	t.Helper()
	r := newTrace(t, dir, args...)
	sandbox.Await(t, "a trace that reads", func() bool { return reads(r.cmd.Process.Pid) })
	return r
}

// awaitLines waits until so many lines are shown.
func (r *traceRun) awaitLines(n int) {
	r.t.Helper()
	sandbox.Await(r.t, fmt.Sprint(n, " lines"), func() bool { return strings.Count(r.out.String(), "\n") >= n })
}

// isTrace reports whether a link in /proc is to a file that shows packets.
func isTrace(fd string) bool {
	name, _ := os.Readlink(fd)
	return strings.HasPrefix(filepath.Base(name), "trace")
}

// opened reports whether a process has a trace open.
func opened(pid int) bool {
	open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(open, isTrace)
}

// reads reports whether a thread of a process is in a read of a trace.
func reads(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	return slices.ContainsFunc(threads, func(path string) bool {
		in, _ := os.ReadFile(path)
		var number, fd int
		n, _ := fmt.Sscanf(string(in), "%d 0x%x", &number, &fd)
		return n == 2 && number == unix.SYS_READ && isTrace(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	})
}

// packetsIn counts the packets in a pcapng file that is being written.
func packetsIn(file string) (n int) {
	text, _ := os.ReadFile(file)
	for len(text) >= 8 {
		size := binary.LittleEndian.Uint32(text[4:])
		if size < 12 || int(size) > len(text) {
			break
		}
		if binary.LittleEndian.Uint32(text) == 6 { // an enhanced packet block
			n++
		}
		text = text[size:]
	}
	return n
}

// end waits for the end, of itself or by a signal.
func (r *traceRun) end(signal unix.Signal) outcome {
	r.t.Helper()
	if signal != 0 {
		must(r.t, r.cmd.Process.Signal(signal))
	}
	_ = r.cmd.Wait()
	return outcome{r.cmd.ProcessState.ExitCode(), r.out.String(), r.errors.String()}
}

// matches compares a text with lines, each a regular expression.
func matches(text string, lines ...string) bool {
	return regexp.MustCompile(`^` + strings.Join(lines, "\n") + "\n$").MatchString(text)
}

// TestTrace: with a daemon, lines in columns and packets in a file that tshark
// reads; an end of each kind, and how many there were.
func TestTrace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	d := startDaemon(t, dir, "--start")
	lo := netip.MustParseAddr("127.0.0.1")
	closed, err := traffic.ClosedPort(lo)
	must(t, err)
	sink, err := traffic.UDPSink(lo)
	must(t, err)
	defer sink.Close()
	send := func() { // 4 ICMP, 5 UDP, 6 TCP, an RST the last
		must(t, traffic.Ping(lo, 2), traffic.UDP(sink.AddrPort, 5, 10), traffic.TCPConnect(closed, 3))
	}
	const place = `127\.0\.0\.1(\.\d+)?`
	columns := func(rest string) string {
		return `\d\d:\d\d:\d\d\.\d{6}  lo    Out  IP   ` + place + ` > ` + place + ` +` + rest
	}
	udp := columns(`UDP, length 10`)

	t.Run("enough", func(t *testing.T) {
		r := startTrace(t, dir, "-n", "4", "udp", "and", "port", fmt.Sprint(sink.AddrPort.Port()))
		send()
		if got := r.end(0); got.status != 0 || !matches(got.stdout, udp, udp, udp, udp) || !matches(got.stderr, `4 packets shown of 8, 0 missed`) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		for _, signal := range []unix.Signal{unix.SIGINT, unix.SIGTERM} {
			r := startTrace(t, dir, "icmp or (tcp and src port "+fmt.Sprint(closed.Port())+")")
			send()
			r.awaitLines(7)
			rst, request, reply := columns(`Flags \[R\.\], .*`), columns(`ICMP echo request, .*`), columns(`ICMP echo reply, .*`)
			if got := r.end(signal); got.status != 0 || !matches(got.stdout, request, reply, request, reply, rst, rst, rst) || got.stderr != "7 packets shown of 15, 0 missed\n" {
				t.Errorf("%v: %+v", signal, got)
			}
		}
	})
	t.Run("into a file", func(t *testing.T) {
		tshark := sandbox.Program(t, "tshark")
		file := filepath.Join(t.TempDir(), "packets.pcapng")
		must(t, os.WriteFile(file, bytes.Repeat([]byte("old"), 1000), 0o644))
		r := startTrace(t, dir, "--pcap", file, "not icmp")
		send()
		sandbox.Await(t, "all of it", func() bool { return packetsIn(file) == 11 })
		if got := r.end(unix.SIGINT); got != (outcome{0, "", "11 packets shown of 15, 0 missed\n"}) {
			t.Errorf("%+v", got)
		}
		info, err := os.Stat(file)
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("others may read it: %v", info.Mode())
		}
		cmd := sandbox.Command(tshark, "-r", "-", "-T", "fields", "-E", "separator= ", "-e", "frame.interface_name", "-e", "ip.proto", "-e", "tcp.flags.syn", "-e", "udp.length")
		packets, err := os.Open(file)
		must(t, err)
		defer packets.Close()
		cmd.Stdin = packets
		got := end(t, cmd)
		tcp := strings.Repeat("lo 6 1 \nlo 6 0 \n", 3)
		if want := strings.Repeat("lo 17  18\n", 5) + tcp; got.status != 0 || got.stdout != want {
			t.Errorf("%+v, want\n%s", got, want)
		}
	})
	const tooEarly = "kstat trace: ended before it could open its files\n"
	t.Run("into a pipe that nobody reads", func(t *testing.T) {
		fifo := filepath.Join(t.TempDir(), "fifo")
		must(t, unix.Mkfifo(fifo, 0o600))
		r := newTrace(t, dir, "--pcap", fifo)
		sandbox.Await(t, "an open trace", func() bool { return opened(r.cmd.Process.Pid) })
		if got := r.end(unix.SIGINT); got != (outcome{1, "", tooEarly}) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("the daemon hangs", func(t *testing.T) {
		r := startTrace(t, dir)
		goOn := d.stop()
		defer goOn()
		late := newTrace(t, dir)
		sandbox.Await(t, "another trace", func() bool { return waitsForFUSE(late.cmd.Process.Pid) })
		if got := late.end(unix.SIGTERM); got != (outcome{1, "", tooEarly}) {
			t.Errorf("to be opened: %+v", got)
		}
		// The kernel lets go of a thread that reads only when that was answered: it
		// and the first are left.
		must(t, r.cmd.Process.Signal(unix.SIGTERM))
		sandbox.Await(t, "its end", func() bool {
			threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", r.cmd.Process.Pid))
			return len(threads) <= 2
		})
		goOn()
		if got := r.end(0); got != (outcome{0, "", "0 packets shown, 0 missed\n"}) {
			t.Errorf("to be read: %+v", got)
		}
	})
	t.Run("into a pipe that closes", func(t *testing.T) {
		for _, args := range []string{"udp | head -n 2", "--pcap - | head -c 200"} {
			cmd := tool()
			cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `exec 3>&1; ( /proc/` + fmt.Sprint(os.Getpid()) + `/exe trace --mount "$0" ` + strings.Replace(args, " |", ` 2>&3; echo "status $?" >&3 ) |`, 1), dir}
			var out bytes.Buffer
			cmd.Stdout = &out
			must(t, cmd.Start())
			ended := make(chan error)
			go func() { ended <- cmd.Wait() }()
			for done := false; !done; {
				must(t, traffic.UDP(sink.AddrPort, 1, 10))
				select {
				case err := <-ended:
					must(t, err)
					done = true
				case <-time.After(10 * time.Millisecond):
				}
			}
			if got := out.String(); !regexp.MustCompile(`(?s)\d+ packets? shown( of \d+)?, 0 missed\nstatus 0\n`).MatchString(got) {
				t.Errorf("%s: %q", args, got)
			}
		}
	})
	t.Run("stopped", func(t *testing.T) {
		start := filepath.Join(dir, "start")
		must(t, os.WriteFile(start, []byte("0"), 0))
		r := startTrace(t, dir)
		if got, want := r.end(unix.SIGINT), "kstat trace: it is not counting yet: echo 1 > "+start+"\n0 packets shown, 0 missed\n"; got != (outcome{0, "", want}) {
			t.Errorf("%+v", got)
		}
		must(t, os.WriteFile(start, []byte("1"), 0))
	})
	t.Run("the worker dies", func(t *testing.T) {
		r := startTrace(t, dir)
		must(t, traffic.UDP(sink.AddrPort, 1, 10))
		r.awaitLines(1)
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		if got := r.end(0); got.status != 1 || !matches(got.stdout, udp) || !matches(got.stderr, `1 packet shown, 0 missed`, `kstat trace: the daemon's worker has died, and what came since is not shown: .*`) {
			t.Errorf("%+v", got)
		}
		sandbox.Await(t, "a new worker", func() bool {
			text, err := os.ReadFile(filepath.Join(dir, "start"))
			return err == nil && string(text) == "1\n"
		})
	})
	t.Run("the daemon ends", func(t *testing.T) {
		r := startTrace(t, dir)
		must(t, traffic.UDP(sink.AddrPort, 2, 10))
		d.end(unix.SIGTERM)
		if got := r.end(0); got.status != 0 || !matches(got.stdout, udp, udp) || got.stderr != "2 packets shown, 0 missed\n" {
			t.Errorf("%+v", got)
		}
	})
}

// TestTraceMisuse: each mistake is told by a line, with what to do.
func TestTraceMisuse(t *testing.T) {
	empty := t.TempDir()
	tree := t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "nout"), []byte("0\n"), 0o644))
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--mount", empty}, 1, "kstat trace: no kstatd is mounted on " + empty + ": start one there, or name another directory by --mount\n"},
		{[]string{"--mount", tree}, 1, "kstat trace: " + tree + "/trace_pipe: this tree has no such file: only that of a daemon has (kstatd, of this version)\n"},
		{[]string{"--mount", tree, "--pcap", "x"}, 1, "kstat trace: " + tree + "/trace.pcapng: this tree has no such file: only that of a daemon has (kstatd, of this version)\n"},
		{nil, 1, "kstat trace: no kstatd is mounted anywhere: start it (sudo kstatd), or name its directory by --mount\n"},
		{[]string{"-n", "0"}, 2, "kstat trace: invalid value \"0\" for flag -n: take a number from 1 on (kstat trace --help lists the flags)\n"},
		{[]string{"tpc"}, 2, "kstat trace: filter: \"tpc\" where a protocol, or ip, ip6, proto, host, net, port, portrange, src, dst is expected (kstat trace --help lists the flags)\n"},
	} {
		if _, err := os.Stat("/run/kstat"); c.args == nil && err == nil {
			continue // the host has one
		}
		cmd := tool(append([]string{"trace"}, c.args...)...)
		cmd.Dir = empty
		if got := end(t, cmd); got != (outcome{c.status, "", c.want}) {
			t.Errorf("%q: %+v, want %q", c.args, got, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(empty, "x")); err == nil {
		t.Error("a file was written")
	}
}
