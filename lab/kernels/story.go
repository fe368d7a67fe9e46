package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"kstat/lab/traffic"
)

// A story is what a person does with kstatd, in the machine itself: every packet that leaves it is one that was sent here.
type story struct {
	engine string // the flag
	takes  string // the engine that is to be taken; none if kstatd is to refuse
	by     string // the module that is to bring packets to the queue, if one is to
}

const (
	tree  = "/run/kstat"
	quick = 20 * time.Second // more than anything takes, also in an emulated machine
)

// tell tells it, and says what it sees.
func (s story) tell() error {
	switch {
	case s.takes == "":
		return s.refused()
	case s.takes == "nfqueue" && s.by == "":
		return s.unable()
	}
	d, err := s.start()
	if err != nil {
		return err
	}
	defer d.kill()
	loopback := netip.MustParseAddr("127.0.0.1")
	closed, err := traffic.ClosedPort(loopback)
	if err != nil {
		return err
	}
	connect := func(n int) error { return traffic.TCPConnect(closed, n) } // two packets each
	watch, err := d.watch()
	if err != nil {
		return err
	}
	for _, do := range []func() error{
		has("engine", s.takes+"\n"), has("start", "0\n"), has("counter", "10\n"),
		func() error { return connect(1) }, // which nobody counts
		write("start", "1"),
		func() error { return connect(3) },
		has("nout", "0\n"), has("pending", "6\n"),
		func() error { return traffic.Ping(loopback, 2) }, // 4 packets: the tenth
		has("nout", "6\n"), has("pending", "0\n"),
		watch.line("1 6 10 "),
		write("counter", "1"),
		func() error { return traffic.Ping(netip.IPv6Loopback(), 1) },
		func() error { return connect(1) },
		has("nout", "8\n"), has("uncounted", "0\n"), has("proto/ipv6-icmp/packets", "2\n"),
		s.looksAtRule,
		doctor("nfqueue", "ok"),
		write("start", "0"),
		func() error { return connect(1) },
		has("nout", "8\n"), has("start", "0\n"),
		traces(0),
		write("start", "1"),
		func() error { return connect(1) },
		has("nout", "10\n"),
		func() error { return d.end(unix.SIGKILL) },
		traces(0),
		func() error { return connect(1) }, // goes on its way
	} {
		if err := do(); err != nil {
			return err
		}
	}
	// The tree is dead, and in nobody's way.
	if d, err = s.start(); err != nil {
		return fmt.Errorf("after SIGKILL: %w", err)
	}
	defer d.kill()
	for _, do := range []func() error{
		has("nout", "0\n"), write("counter", "1"), write("start", "1"),
		func() error { return connect(2) },
		has("nout", "4\n"),
		func() error { return d.end(unix.SIGTERM) },
		traces(0),
	} {
		if err := do(); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is left: %v", tree, err)
	}
	return nil
}

// often starts it again and again: what a start does at the same time may differ each time.
func (s story) often(n int) error {
	for i := range n {
		d, err := s.start()
		if err == nil {
			err = d.end(unix.SIGTERM)
		}
		if err != nil {
			return fmt.Errorf("start %d: %w", i, err)
		}
	}
	return nil
}

// refused looks at how kstatd says that it cannot.
func (s story) refused() error {
	out, err := exec.Command("kstatd", "--mount", tree, "--engine", s.engine).CombinedOutput()
	fmt.Print(string(out))
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return fmt.Errorf("kstatd ended with %v, not 1", err)
	}
	if strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "this kernel has no BPF programs at netfilter hooks") {
		return errors.New("not the one line that names the cause")
	}
	if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is left: %v", tree, err)
	}
	return doctor("bpf", "fail")()
}

// unable looks at how kstatd says that it can queue by no way.
func (s story) unable() error {
	d, err := s.start()
	if err != nil {
		return err
	}
	defer d.kill()
	if err := write("start", "1")(); !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the write ended with %v, not EOPNOTSUPP", err)
	}
	if err := errors.Join(has("start", "0\n")(), traces(0)(), d.end(unix.SIGTERM)); err != nil {
		return err
	}
	if !strings.Contains(d.log.String(), "neither nft's queue expression nor the NFQUEUE target") {
		return errors.New("the log does not name the cause")
	}
	return nil
}

// daemon is a kstatd.
type daemon struct {
	cmd  *exec.Cmd
	said chan string // a line of its log each
	log  strings.Builder
}

func (s story) start() (*daemon, error) {
	d := &daemon{cmd: exec.Command("kstatd", "--mount", tree, "--engine", s.engine), said: make(chan string, 100)}
	log, err := d.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(d.said)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			d.said <- lines.Text()
		}
	}()
	for late := time.After(quick); ; {
		select {
		case line, ok := <-d.said:
			fmt.Println(line)
			if !ok {
				return nil, fmt.Errorf("kstatd ended before it was ready: %w", d.cmd.Wait())
			}
			if strings.Contains(line, "msg=ready") {
				return d, nil
			}
		case <-late:
			d.kill()
			return nil, errors.New("kstatd is not ready")
		}
	}
}

// end ends it by a signal and waits until it, and its worker, have.
func (d *daemon) end(signal unix.Signal) error {
	fmt.Println("$ kill -" + unix.SignalName(signal))
	if err := d.cmd.Process.Signal(signal); err != nil {
		return err
	}
	for line := range d.said { // the worker's, too
		fmt.Println(line)
		d.log.WriteString(line)
	}
	if err := d.cmd.Wait(); signal == unix.SIGTERM && err != nil {
		return fmt.Errorf("kstatd: %w", err)
	}
	return nil
}

// kill ends one that is still there because something has failed.
func (d *daemon) kill() {
	if d.cmd.ProcessState == nil {
		_ = d.end(unix.SIGTERM)
	}
}

func has(name, want string) func() error {
	return func() error {
		got, err := os.ReadFile(filepath.Join(tree, name))
		fmt.Printf("$ cat %s\n%s", name, got)
		if err == nil && string(got) != want {
			err = fmt.Errorf("%s should be %q", name, want)
		}
		return err
	}
}

func write(name, text string) func() error {
	return func() error {
		fmt.Printf("$ echo %s > %s\n", text, name)
		return os.WriteFile(filepath.Join(tree, name), []byte(text+"\n"), 0)
	}
}

// watching is a cat of the file watch.
type watching struct{ lines chan string }

func (d *daemon) watch() (*watching, error) {
	f, err := os.Open(filepath.Join(tree, "watch"))
	if err != nil {
		return nil, err
	}
	w := &watching{lines: make(chan string, 1)}
	go func() {
		defer f.Close()
		line, err := bufio.NewReader(f).ReadString('\n')
		if err != nil && err != io.EOF {
			line = err.Error()
		}
		w.lines <- line
	}()
	return w, nil
}

// line waits for the first publication.
func (w *watching) line(begin string) func() error {
	return func() error {
		select {
		case line := <-w.lines:
			fmt.Printf("$ head -n 1 watch\n%s", line)
			if !strings.HasPrefix(line, begin) {
				return fmt.Errorf("watch should begin with %q", begin)
			}
			return nil
		case <-time.After(quick):
			return errors.New("watch says nothing")
		}
	}
}

// looksAtRule says by which way packets come.
func (s story) looksAtRule() error {
	if s.takes == "bpf" {
		return traces(2)()
	}
	out, err := exec.Command("nft", "list", "chain", "inet", "kstat", "postrouting").CombinedOutput()
	fmt.Printf("$ nft list chain inet kstat postrouting\n%s", out)
	if err != nil {
		return fmt.Errorf("nft: %w", err)
	}
	users, err := os.ReadFile("/sys/module/" + s.by + "/refcnt")
	if err == nil && strings.TrimSpace(string(users)) == "0" {
		err = errors.New("nobody uses " + s.by)
	}
	return errors.Join(err, traces(1)())
}

// traces counts what is in the kernel of kstatd's: tables, queues, links. It waits a little: the kernel takes them away when
// the processes have ended, not before.
func traces(want int) func() error {
	return func() error {
		var found []string
		for end := time.Now().Add(quick); ; time.Sleep(10 * time.Millisecond) {
			found = nil
			out, err := exec.Command("nft", "list", "tables").Output()
			if err != nil {
				return fmt.Errorf("nft list tables: %w", err)
			}
			if t := strings.TrimSpace(string(out)); t != "" {
				found = append(found, t)
			}
			if want == 0 {
				queues, err := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				if q := strings.TrimSpace(string(queues)); q != "" {
					found = append(found, "queue "+q)
				}
			}
			links := new(link.Iterator)
			for links.Next() {
				if info, err := links.Link.Info(); err == nil && info.Netfilter() != nil {
					found = append(found, fmt.Sprint("link ", info.ID))
				}
			}
			if len(found) == want {
				return nil
			}
			if time.Now().After(end) {
				return fmt.Errorf("in the kernel there should be %d of kstatd's: %q", want, found)
			}
		}
	}
}

// doctor asks kstat doctor for a feature.
func doctor(feature, want string) func() error {
	return func() error {
		out, err := exec.Command("kstat", "doctor", "--limit", "10s", "--json").Output()
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			return err
		}
		var report struct {
			Features []struct {
				ID, Status string
				Because    []string
			}
		}
		if err := json.Unmarshal(out, &report); err != nil {
			return fmt.Errorf("kstat doctor: %w: %s", err, out)
		}
		got := map[string]string{}
		for _, f := range report.Features {
			got[f.ID] = f.Status
			fmt.Println("kstat doctor:", f.ID, f.Status, strings.Join(f.Because, " "))
		}
		for id, want := range map[string]string{feature: want, "fuse": "ok", "run": "ok", "run-root": "ok", "metrics": "ok"} {
			if got[id] != want {
				return fmt.Errorf("kstat doctor says %s: %s, not %s\n%s", id, got[id], want, out)
			}
		}
		return nil
	}
}
