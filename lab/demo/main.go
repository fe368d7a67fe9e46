// Demo shows kstatd in one go, in network and mount namespaces of its own: it
// starts the daemon, sends a known number of packets, shows the files before
// and after, and checks every figure. Nothing of the host's traffic is seen,
// and nothing is left.
//
//	go run ./lab/demo -kstatd bin/kstatd -engine bpf
//
// It exits with 1 if a figure is not what it should be.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

func main() {
	kstatd := flag.String("kstatd", "bin/kstatd", "the daemon's `binary`")
	engine := flag.String("engine", "nfqueue", "what counts: `nfqueue`, bpf or auto")
	flag.Parse()
	inside, status, err := sandbox.Reexec()
	if err == nil && inside {
		err = show(*kstatd, *engine)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		status = 1
	}
	os.Exit(status)
}

// show is the demo.
func show(kstatd, engine string) (err error) {
	needed := []sandbox.Thing{sandbox.FUSE, sandbox.IPv6, sandbox.NFQueue, sandbox.NFTables}
	if engine == "bpf" {
		needed = []sandbox.Thing{sandbox.FUSE, sandbox.IPv6, sandbox.BPF}
	}
	if err := sandbox.Missing(needed...); err != nil {
		return err
	}
	base, err := os.MkdirTemp("", "kstat-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(base)) }()
	d := &demo{kstatd: kstatd, engine: engine, dir: filepath.Join(base, "kstat")}
	defer d.kill()

	fmt.Print("A private network: only lo, and nobody but this demo on it. Your own traffic is not touched.\n\n")
	script := []func() error{
		d.start,
		d.cat("nout", "0\n"),
		d.echo("1", "start"),
		d.send("3 TCP connections to a closed port of 127.0.0.1: a SYN and a RST each, 6 TCP packets", func() error {
			return connect(netip.MustParseAddr("127.0.0.1"), 3)
		}),
		d.cat("nout", "0\n"),
		d.say("# nothing is published before the 10th packet (cat counter), so far there are"),
		d.cat("pending", "6\n"),
		d.send("4 UDP datagrams, and receive them", func() error { return datagrams(netip.MustParseAddr("127.0.0.1"), 4) }),
		d.cat("nout", "6\n"),
		d.echo("1", "counter"),
		d.send("5 pings to 127.0.0.1: 5 requests, 5 replies", func() error { return traffic.Ping(netip.MustParseAddr("127.0.0.1"), 5) }),
		d.send("2 pings and 2 TCP connections to ::1", func() error {
			return errors.Join(traffic.Ping(netip.MustParseAddr("::1"), 2), connect(netip.MustParseAddr("::1"), 2))
		}),
		d.cat("nout", "10\n"),
		d.cat("protocols", `#name            number family      packets           bytes
icmp                  1 ipv4             10             280
tcp                   6 ipv4              6             300
tcp                   6 ipv6              4             280
udp                  17 ipv4              4             512
ipv6-icmp            58 ipv6              4             192
`),
		d.cat("uncounted", "0\n"),
		d.echo("0", "start"),
		d.send("3 more TCP connections, which nobody counts", func() error { return connect(netip.MustParseAddr("127.0.0.1"), 3) }),
		d.cat("nout", "10\n"),
		d.stop,
	}
	for _, step := range script {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Print("\nEvery figure was as it should be.\n")
	return nil
}

// demo is the daemon and its tree.
type demo struct {
	kstatd, engine, dir string
	cmd                 *exec.Cmd
	manager             io.Closer // is told of the end
}

// start starts the daemon and waits until it says that it is ready.
func (d *demo) start() error {
	args := []string{"--mount", "mnt/kstat"}
	if d.engine != "nfqueue" {
		args = append(args, "--engine", d.engine)
	}
	fmt.Println("$ kstatd", strings.Join(args, " "), "&")
	args[1] = d.dir
	d.cmd = sandbox.Command(d.kstatd, args...)
	d.cmd.Stdout, d.cmd.Stderr = os.Stdout, os.Stderr
	var err error
	d.manager, err = sandbox.StartReady(d.cmd)
	return err
}

// stop ends the daemon, and looks whether the tree is gone.
func (d *demo) stop() error {
	fmt.Println("$ kill %1")
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("kstatd: %w", err)
	}
	fmt.Println("$ ls mnt/kstat")
	if _, err := os.Lstat(d.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is still there: %w", d.dir, err)
	}
	fmt.Println("ls: cannot access 'mnt/kstat': No such file or directory")
	return nil
}

// kill ends a daemon that is still there because a step has failed, and its
// manager.
func (d *demo) kill() {
	if d.manager != nil {
		defer d.manager.Close()
	}
	if d.cmd != nil && d.cmd.ProcessState == nil && d.cmd.Process != nil {
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		_ = d.cmd.Wait()
	}
}

func (d *demo) cat(name, want string) func() error {
	return func() error {
		fmt.Println("$ cat mnt/kstat/" + name)
		got, err := os.ReadFile(filepath.Join(d.dir, name))
		if err != nil {
			return err
		}
		fmt.Print(string(got))
		if string(got) != want {
			return fmt.Errorf("%s should be %q", name, strings.TrimSpace(want))
		}
		return nil
	}
}

func (d *demo) echo(text, name string) func() error {
	return func() error {
		fmt.Printf("$ echo %s > mnt/kstat/%s\n", text, name)
		return os.WriteFile(filepath.Join(d.dir, name), []byte(text+"\n"), 0)
	}
}

func (d *demo) say(text string) func() error {
	return func() error {
		fmt.Println(text)
		return nil
	}
}

func (d *demo) send(what string, send func() error) func() error {
	return func() error {
		fmt.Println("# send", what)
		return send()
	}
}

// connect makes n TCP connections that are refused.
func connect(to netip.Addr, n int) error {
	closed, err := traffic.ClosedPort(to)
	if err != nil {
		return err
	}
	return traffic.TCPConnect(closed, n)
}

// datagrams sends n UDP packets of 128 bytes, headers included, and receives
// each: what has arrived has been counted.
func datagrams(to netip.Addr, n int) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
	if err != nil {
		return err
	}
	defer c.Close()
	payload := make([]byte, 100)
	for range n {
		if _, err := c.WriteTo(payload, c.LocalAddr()); err != nil {
			return err
		}
		if _, err := c.Read(payload); err != nil {
			return err
		}
	}
	return nil
}
