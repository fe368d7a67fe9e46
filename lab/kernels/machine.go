package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A machine is a virtual one: two processors, 3 GB, no disk, no network.
type machine struct {
	arch, kernel, initrd string
	console              string // the file that its console is written to
	timeout              time.Duration
}

// up is on the console once the kernel has started the first program.
const up = "kernels: up"

// errAccel is of a machine that did not come so far as to print [up].
var errAccel = errors.New("the machine does not start")

// run boots the machine and passes on what it says on its port, line by line. No error means that the last line was there.
func (m machine) run(ctx context.Context, accel string, to io.Writer) error {
	return m.runBy(ctx, accelerators(accel, m.arch), to)
}

// runBy tries one accelerator after the other until the machine starts.
func (m machine) runBy(ctx context.Context, accels []string, to io.Writer) error {
	var err error
	for _, a := range accels {
		began := time.Now()
		if err = m.boot(ctx, a, to); !errors.Is(err, errAccel) {
			fmt.Printf("ran for %.0f s, by %s\n", time.Since(began).Seconds(), a)
			return err
		}
		fmt.Printf("%s does not work here: %v\n", a, err)
	}
	return err
}

// accelerators lists what may run a machine of this architecture here, the fastest first.
func accelerators(asked, arch string) []string {
	if asked != "auto" {
		return []string{asked}
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil || arch != runtime.GOARCH {
		return []string{"tcg"}
	}
	f.Close()
	return []string{"kvm", "tcg"}
}

func (m machine) boot(ctx context.Context, accel string, to io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	cpu := map[string]string{"kvm": "host", "tcg": "max"}[accel]
	console, program := "ttyS0", "qemu-system-x86_64"
	args := []string{"-M", "pc"}
	how := accel
	if accel == "tcg" && m.arch == "amd64" {
		// The kernel patches its code where it runs (static keys of netfilter's, for one), and qemu 7.2 lets another processor run
		// into what was there before: packets pass by a hook, or the kernel dies of "Oops: int3".
		how += ",thread=single"
	}
	if m.arch == "arm64" {
		console, program = "ttyAMA0", "qemu-system-aarch64"
		args = []string{"-M", "virt,gic-version=max"}
		if accel == "tcg" {
			cpu += ",pauth-impdef=on"
		}
	}
	args = append(args, "-accel", how, "-cpu", cpu, "-smp", "2", "-m", "3G", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", "console="+console+" panic=-1 oops=panic quiet",
		"-serial", "file:"+m.console,
		"-chardev", "stdio,id=port,signal=off", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name="+port)
	if err := os.Remove(m.console); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe() // at its end qemu would take the port for one that nobody listens to
	if err != nil {
		return err
	}
	defer in.Close()
	said := &watched{stop: func() { _ = cmd.Process.Kill() }}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := false
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if strings.TrimSpace(line) == last {
			ended = true
		} else if line != "" {
			_, _ = io.WriteString(to, line)
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	log, _ := os.ReadFile(m.console)
	switch {
	case !bytes.Contains(log, []byte(up)):
		return fmt.Errorf("%w: %s", errAccel, said.first())
	case ctx.Err() != nil:
		err = fmt.Errorf("the machine hung, or had too little time: %v", m.timeout)
	case !ended:
		err = errors.New("the machine ended before its last line")
	case err == nil:
		return nil
	}
	fmt.Printf("the end of its console, %s:\n%s", m.console, tail(log, 40))
	return err
}

// watched is the standard error of qemu's, which goes on for ever after such a line.
type watched struct {
	text bytes.Buffer
	stop func()
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	if bytes.Contains(w.text.Bytes(), []byte("KVM internal error")) {
		w.stop()
	}
	return n, err
}

func (w *watched) first() string {
	line, _, _ := strings.Cut(w.text.String(), "\n")
	return strings.TrimSpace(line)
}

// tail is the last n lines.
func tail(text []byte, n int) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

// bootable is what qemu takes as a kernel for arm64: it does not know those that unpack themselves under EFI, of Linux 6.1 and
// newer (drivers/firmware/efi/libstub/zboot-header.S).
func bootable(kernel []byte) ([]byte, error) {
	if len(kernel) < 64 || string(kernel[4:8]) != "zimg" {
		return kernel, nil
	}
	at, size := binary.LittleEndian.Uint32(kernel[8:]), binary.LittleEndian.Uint32(kernel[12:])
	if kind := string(bytes.TrimRight(kernel[24:32], "\x00")); kind != "gzip" {
		return nil, fmt.Errorf("the kernel is packed by %s", kind)
	}
	if int(at)+int(size) > len(kernel) {
		return nil, errors.New("the kernel is cut off")
	}
	r, err := gzip.NewReader(bytes.NewReader(kernel[at : at+size]))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// assemble makes kernel and image of these packages and files, which are named as they are to be in the machine.
func assemble(dir, init string, debs []string, files map[string]string, texts map[string]string) (kernel, initrd string, err error) {
	kernel, initrd = filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd")
	im, err := newImage(initrd, init)
	if err != nil {
		return "", "", err
	}
	var image []byte
	for _, deb := range debs {
		k, err := im.unpack(deb)
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", deb, err)
		}
		if k != nil {
			image = k
		}
	}
	if image == nil {
		return "", "", errors.New("no kernel in the packages")
	}
	for name, from := range files {
		if err := im.copy(name, from); err != nil {
			return "", "", err
		}
	}
	for name, text := range texts {
		if err := im.write(name, 0o644, []byte(text)); err != nil {
			return "", "", err
		}
	}
	for name, target := range links {
		if err := im.link(name, target); err != nil {
			return "", "", err
		}
	}
	if err := im.end(); err != nil {
		return "", "", err
	}
	if image, err = bootable(image); err != nil {
		return "", "", err
	}
	return kernel, initrd, os.WriteFile(kernel, image, 0o644)
}

// links are what Debian's packages make when they are installed.
var links = map[string]string{
	"etc/mtab":                  "/proc/self/mounts",
	"usr/bin/awk":               "gawk",
	"usr/sbin/iptables":         "xtables-nft-multi",
	"usr/sbin/iptables-restore": "xtables-nft-multi",
	"usr/sbin/iptables-save":    "xtables-nft-multi",
	"usr/sbin/ip6tables":        "xtables-nft-multi",
}
