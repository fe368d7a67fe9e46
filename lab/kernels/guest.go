package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	plan = "/kernels.json" // the steps, in the machine
	port = "kernels"       // the virtio port's name
	last = `{"Action":"end"}`
)

// A step is one command to run in the machine. What it prints is that of go test -json, if Test is empty; else it is a test of
// that name itself, which its exit status decides.
type step struct {
	Package, Test string
	Dir           string
	Args          []string
	Timeout       time.Duration
}

// event is a line of go test -json.
type event struct {
	Time    time.Time
	Action  string
	Package string  `json:",omitempty"`
	Test    string  `json:",omitempty"`
	Output  string  `json:",omitempty"`
	Elapsed float64 `json:",omitempty"`
}

// guest is the machine's process 1: it makes a root directory of what is in the image, and has the steps run by another process,
// as the orphans of those come to this one. It does not return.
func guest() {
	err := prepare()
	if err == nil {
		err = reap(exec.Command("/init", "-steps"))
	}
	if err != nil {
		fmt.Println("kernels: init:", err)
	}
	unix.Sync()
	err = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Println("kernels: power off:", err)
	select {}
}

// prepare unpacks the root directory, moves there, and mounts and loads what a system has before its first service.
func prepare() error {
	if err := mount("tmpfs", "/new", "size=90%"); err != nil {
		return err
	}
	if err := untar("/root.tar", "/new"); err != nil {
		return err
	}
	if err := os.Remove("/root.tar"); err != nil {
		return err
	}
	if err := errors.Join(os.Chdir("/new"), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/")); err != nil {
		return err
	}
	for _, m := range []struct{ kind, on, options string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", "mode=0755"}, {"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"}, {"tmpfs", "/dev/shm", ""},
		{"tmpfs", "/run", "mode=0755"}, {"bpf", "/sys/fs/bpf", ""}, {"cgroup2", "/sys/fs/cgroup", ""}, {"tracefs", "/sys/kernel/tracing", ""},
	} {
		if err := mount(m.kind, m.on, m.options); err != nil && m.kind != "tracefs" {
			return err
		}
	}
	for link, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(to, "/dev/"+link); err != nil {
			return err
		}
	}
	os.Setenv("PATH", "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin")
	os.Setenv("HOME", "/root")
	os.Setenv("KSTAT_REQUIRE", "1") // a test that skips what it could do has failed
	// What systemd and udev do on a Debian at boot; modules of netfilter are the kernel's to ask for.
	for _, words := range [][]string{
		{"depmod"}, {"modprobe", "-a", "-q", "virtio_pci", "virtio_console", "fuse", "loop", "ext4"}, {"chmod", "0666", "/dev/fuse"}, {"ip", "link", "set", "lo", "up"},
		{"truncate", "-s", "1G", "/tmp.ext4"}, {"mkfs.ext4", "-q", "-E", "lazy_itable_init=1", "/tmp.ext4"}, {"mount", "-o", "loop", "/tmp.ext4", "/tmp"}, {"chmod", "1777", "/tmp"},
	} {
		// modprobe says 1 for what is built in and has no name of its own there
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil && words[0] != "modprobe" {
			return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
		}
	}
	return unix.Sethostname([]byte("kernels"))
}

func mount(kind, on, options string) error {
	if err := os.MkdirAll(on, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, on, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, on, err)
	}
	return nil
}

func untar(name, dir string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		to := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		case tar.TypeReg:
			var file *os.File
			if file, err = os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644); err == nil {
				_, err = io.Copy(file, r)
				err = errors.Join(err, file.Close())
			}
		}
		if err == nil && h.Typeflag != tar.TypeSymlink {
			err = syscall.Chmod(to, uint32(h.Mode))
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", h.Name, err)
		}
	}
}

// reap runs cmd, and takes every other process that ends with it.
func reap(cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case pid == cmd.Process.Pid && status.ExitStatus() != 0:
			return fmt.Errorf("the steps ended with %d", status)
		case pid == cmd.Process.Pid:
			return nil
		}
	}
}

// steps runs the plan and writes to the port, after everything else, the last line.
func steps() error {
	out, err := results()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(plan)
	if err != nil {
		return err
	}
	var todo []step
	if err := json.Unmarshal(text, &todo); err != nil {
		return err
	}
	for _, s := range todo {
		fmt.Println("kernels:", s.Package, s.Test)
		if err := s.run(out); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(out, last)
	return errors.Join(err, out.Close())
}

// results opens the port to this machine's host.
func results() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if text, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(text)) == port {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_WRONLY, 0)
		}
	}
	return nil, errors.New("no virtio port " + port)
}

// run runs a step. The error is that of the port.
func (s step) run(out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.Timeout)
	defer cancel()
	args := s.Args
	if s.Test == "" {
		args = append([]string{"/usr/local/bin/test2json", "-t", "-p", s.Package}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = s.Dir
	cmd.WaitDelay = 10 * time.Second
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if s.Test == "" {
		cmd.Stdout, cmd.Stderr = out, os.Stdout
	}
	say := func(e event) error {
		e.Time, e.Package = time.Now(), s.Package
		line, err := json.Marshal(e)
		if err == nil {
			_, err = out.Write(append(line, '\n'))
		}
		return err
	}
	began := time.Now()
	if s.Test != "" {
		if err := say(event{Action: "run", Test: s.Test}); err != nil {
			return err
		}
	}
	err := cmd.Run()
	if s.Test == "" {
		if err == nil || errors.As(err, new(*exec.ExitError)) && ctx.Err() == nil {
			return nil // test2json has said it
		}
		return say(event{Action: "fail"})
	}
	action := "pass"
	if err != nil {
		action = "fail"
		fmt.Fprintln(&text, err)
	}
	for line := range strings.Lines(text.String()) {
		if err := say(event{Action: "output", Test: s.Test, Output: line}); err != nil {
			return err
		}
	}
	elapsed := time.Since(began).Seconds()
	return errors.Join(say(event{Action: action, Test: s.Test, Elapsed: elapsed}), say(event{Action: action, Elapsed: elapsed}))
}
