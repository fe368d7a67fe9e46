//go:build !race

package packaging

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

// A machine is a copy of this one, with a /proc, /dev, /run and /tmp of its own
// and this test's network. Nothing that is done in it changes a file outside.
type machine struct {
	init    *exec.Cmd
	changes string // what differs from this machine, below /
}

// boot is the first process of a machine: it mounts, and becomes its argument.
// What the kernel has only once, /sys and /proc/sys, is read-only.
const boot = `
set -e
cd "$1"
shift
mount -t proc proc proc
mount -o bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
for node in null zero full random urandom tty fuse; do
	touch dev/$node
	mount -o bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -o bind "$1" mnt
shift
exec chroot . "$@"
`

// newMachine starts one, with a folder of files in /mnt and a first process.
func newMachine(t testing.TB, files string, init ...string) *machine {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.Root, sandbox.NFQueue, sandbox.NFTables, sandbox.FUSE)
	root, changes := overlay(t, "/")
	log, err := os.Create(filepath.Join(t.TempDir(), "console"))
	must(t, err)
	defer log.Close()
	cmd := sandbox.Command("/bin/sh", append([]string{"-c", boot, "sh", root, files}, init...)...)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	cmd.Env = []string{"container=kstat", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("the machine's console:\n%s", said)
		}
	})
	return &machine{cmd, changes}
}

// command returns what runs in the machine.
func (m *machine) command(args ...string) *exec.Cmd {
	cmd := sandbox.Command("nsenter", append([]string{
		"--target", strconv.Itoa(m.init.Process.Pid), "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd=/", "--",
	}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "MANWIDTH=200", "HOME=/root"}
	return cmd
}

// run runs a command in the machine, which must succeed, and returns what it
// printed, without white space at its ends.
func (m *machine) run(t testing.TB, args ...string) string {
	t.Helper()
	return strings.TrimSpace(output(t, m.command(args...)))
}

// await asks until a command succeeds: for what the machine's first process
// has no other way to tell.
func (m *machine) await(t testing.TB, args ...string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		said, err := m.command(args...).CombinedOutput()
		switch {
		case err == nil:
			return
		case time.Now().After(end):
			t.Fatalf("%q: %v\n%s", args, err, said)
		}
	}
}

// bookkeeping is what dpkg, rpm and man remember for themselves.
var bookkeeping = regexp.MustCompile(`^(var/(lib/(dpkg|rpm)|log|cache/man)|root/\.rpmdb|usr/lib/sysimage/rpm)(/|$)`)

// state lists what differs from this machine, but for bookkeeping. A file that
// was deleted counts.
func (m *machine) state(t testing.TB) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(m.changes, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(m.changes, path)
		if d.IsDir() || bookkeeping.MatchString(name) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		names = append(names, fmt.Sprintf("%s %v %d", name, info.Mode(), st.Size))
		return nil
	}))
	return names
}

const conffile = "/etc/default/kstatd"

// dpkg is told to leave triggers alone: man-db's takes seconds, and is not ours.

// TestDebianService is the life of the package where systemd runs: a real one,
// as the first process of a machine.
func TestDebianService(t *testing.T) {
	need(t, "dpkg:/usr/bin/dpkg", "systemd:/lib/systemd/systemd", "init-system-helpers:/usr/bin/deb-systemd-helper", "man-db:/usr/bin/man", "util-linux:/usr/bin/nsenter")
	deb := debFile(t)
	m := newMachine(t, filepath.Dir(deb), "/lib/systemd/systemd", "--unit=sysinit.target", "--log-target=console", "--show-status=0")
	m.await(t, "systemctl", "is-system-running", "--wait")
	// Of containers' images: the one forbids every service, the other leaves out manual pages.
	m.run(t, "rm", "-f", "/usr/sbin/policy-rc.d", "/etc/dpkg/dpkg.cfg.d/docker")
	before := m.state(t)

	m.run(t, "dpkg", "--no-triggers", "--install", "/mnt/"+filepath.Base(deb))
	if got := m.run(t, "systemctl", "is-active", "kstatd") + " " + m.run(t, "systemctl", "is-enabled", "kstatd"); got != "active enabled" {
		t.Errorf("installed, the service is %s; want active enabled", got)
	}
	if got := m.run(t, "cat", "/run/kstat/start", "/run/kstat/nout"); got != "0\n0" {
		t.Errorf("start and nout: %q", got)
	}
	if got := m.run(t, "man", "-P", "cat", "kstatd"); !strings.Contains(got, "--exclude-loopback") {
		t.Errorf("man kstatd:\n%s", got)
	}
	if got := m.run(t, "man", "-w", "kstat-run"); got != "/usr/share/man/man1/kstat-run.1.gz" {
		t.Errorf("man -w kstat-run: %s", got)
	}
	if got := m.run(t, "kstat", "version"); got != "kstat "+release {
		t.Errorf("kstat version: %s", got)
	}

	// The unit's sandbox, with the flags of the configuration file: exact.
	m.run(t, "sh", "-c", `echo 'KSTATD_FLAGS="--start --counter 1 --hook output"' > `+conffile)
	m.run(t, "systemctl", "restart", "kstatd")
	must(t, traffic.Datagrams(netip.MustParseAddr("127.0.0.1"), 7))
	if got := m.run(t, "cat", "/run/kstat/proto/udp/packets", "/run/kstat/hook", "/run/kstat/uncounted"); got != "7\noutput\n0" {
		t.Errorf("after 7 datagrams: %q", got)
	}

	if said, err := m.command("systemd-analyze", "verify", "/usr/lib/systemd/system/kstatd.service").CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, said)
	}

	// The engine in the kernel, by the drop-in of deploy/README.md.
	if sandbox.Missing(sandbox.BPF) == nil {
		m.run(t, "sh", "-c", `mkdir /run/systemd/system/kstatd.service.d &&
			printf '[Service]\nSystemCallFilter=bpf\n' > /run/systemd/system/kstatd.service.d/bpf.conf &&
			sed -i.orig 's/--start/--start --engine bpf/' `+conffile+` && systemctl daemon-reload && systemctl restart kstatd`)
		must(t, traffic.Datagrams(netip.MustParseAddr("127.0.0.1"), 5))
		if got := m.run(t, "cat", "/run/kstat/engine", "/run/kstat/proto/udp/packets", "/run/kstat/uncounted"); got != "bpf\n5\n0" {
			t.Errorf("after 5 datagrams: %q", got)
		}
		m.run(t, "sh", "-c", "rm -r /run/systemd/system/kstatd.service.d; mv "+conffile+".orig "+conffile+"; systemctl daemon-reload; systemctl restart kstatd")
	}

	// An upgrade keeps the administrator's file, and restarts.
	mainPID := m.run(t, "systemctl", "show", "-P", "MainPID", "kstatd")
	m.run(t, "sh", "-c", `cd /tmp && dpkg-deb -R /mnt/*.deb new && sed -i 's/^Version: .*/Version: 0.2.0-1/' new/DEBIAN/control &&
		dpkg-deb --root-owner-group -Zgzip -z1 -b new new.deb >/dev/null && dpkg --no-triggers --install new.deb && rm -r new new.deb`)
	if got := m.run(t, "dpkg-query", "-W", "-f", "${Version}", "kstatd"); got != "0.2.0-1" {
		t.Errorf("upgraded to %s", got)
	}
	if got := m.run(t, "cat", conffile); !strings.Contains(got, "--hook output") {
		t.Errorf("the upgrade changed %s: %s", conffile, got)
	}
	if got := m.run(t, "systemctl", "show", "-P", "MainPID", "kstatd"); got == mainPID || got == "0" {
		t.Errorf("main process %s after the upgrade, %s before", got, mainPID)
	}
	if got := m.run(t, "cat", "/run/kstat/hook"); got != "output" {
		t.Errorf("hook after the upgrade: %s", got)
	}
	// A reinstalled package does not enable what the administrator has disabled.
	m.run(t, "systemctl", "disable", "kstatd")
	m.run(t, "dpkg", "--no-triggers", "--install", "--force-downgrade", "/mnt/"+filepath.Base(deb))
	if got, _ := m.command("systemctl", "is-enabled", "kstatd").Output(); string(got) != "disabled\n" {
		t.Errorf("disabled, and installed again: %s", got)
	}

	// The socket for metrics, as the administrator enables it, goes with the rest.
	m.run(t, "systemctl", "stop", "kstatd")
	m.run(t, "systemctl", "enable", "--now", "kstatd.socket")
	m.run(t, "systemctl", "start", "kstatd")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if answer, err := client.Get("http://127.0.0.1:9469/metrics"); err != nil {
		t.Error(err)
	} else {
		if answer.StatusCode != http.StatusOK {
			t.Errorf("/metrics: %s", answer.Status)
		}
		must(t, answer.Body.Close())
	}

	m.run(t, "dpkg", "--no-triggers", "--remove", "kstatd")
	if got := m.run(t, "systemctl", "list-units", "--state=active,failed", "--plain", "--no-legend", "kstatd*"); got != "" {
		t.Errorf("removed, and there runs: %s", got)
	}
	if got := m.run(t, "sh", "-c", "ls -d /run/kstat /usr/*bin/kstat* /usr/lib/systemd/system/kstat* 2>/dev/null || :; grep fuse.kstatd /proc/self/mountinfo || :"); got != "" {
		t.Errorf("removed, and there is: %s", got)
	}
	m.run(t, "test", "-e", conffile)
	m.run(t, "dpkg", "--no-triggers", "--purge", "kstatd")
	if left := m.state(t); !slices.Equal(left, before) {
		t.Errorf("purged, and left behind: %q; before: %q", left, before)
	}

	// Where policy-rc.d forbids it, nothing is started.
	m.run(t, "sh", "-c", `printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d`)
	m.run(t, "dpkg", "--no-triggers", "--install", "/mnt/"+filepath.Base(deb))
	if got, _ := m.command("systemctl", "is-active", "kstatd").Output(); string(got) != "inactive\n" {
		t.Errorf("installed in spite of policy-rc.d, the service is %s", got)
	}
	m.run(t, "rm", "/usr/sbin/policy-rc.d")

	// What somebody runs by hand is not the package's: its tree stays.
	m.run(t, "systemd-run", "--service-type=notify", "--property=NotifyAccess=all", "--unit=byhand", "kstatd", "--mount", "/run/kstat")
	m.run(t, "dpkg", "--no-triggers", "--purge", "kstatd")
	if got := m.run(t, "cat", "/run/kstat/nout"); got != "0" {
		t.Errorf("nout of a kstatd that is not the service: %s", got)
	}
	m.run(t, "systemctl", "stop", "byhand")
	if left := m.state(t); !slices.Equal(left, before) {
		t.Errorf("purged, and left behind: %q; before: %q", left, before)
	}
	if got := m.run(t, "systemctl", "--failed", "--plain", "--no-legend"); got != "" {
		t.Errorf("failed: %s", got)
	}
}

// TestDebianChroot: where no systemd runs, nothing is started, and nothing
// fails.
func TestDebianChroot(t *testing.T) {
	need(t, "dpkg:/usr/bin/dpkg", "init-system-helpers:/usr/bin/deb-systemd-helper", "util-linux:/usr/bin/nsenter")
	deb := debFile(t)
	m := newMachine(t, filepath.Dir(deb), "/usr/bin/sleep", "infinity")
	m.await(t, "test", "-e", "/mnt/"+filepath.Base(deb))
	m.run(t, "rm", "-f", "/etc/dpkg/dpkg.cfg.d/docker")
	before := m.state(t)
	m.run(t, "dpkg", "--no-triggers", "--install", "/mnt/"+filepath.Base(deb))
	if got := m.run(t, "readlink", "/etc/systemd/system/multi-user.target.wants/kstatd.service"); got != "/lib/systemd/system/kstatd.service" && got != "/usr/lib/systemd/system/kstatd.service" {
		t.Errorf("enabled as %s", got)
	}
	if got := m.run(t, "sh", "-c", "pidof kstatd || :"); got != "" {
		t.Errorf("kstatd runs: %s", got)
	}
	if got := m.run(t, "dpkg", "--verify", "kstatd"); got != "" {
		t.Errorf("dpkg --verify: %s", got)
	}
	m.run(t, "dpkg", "--no-triggers", "--purge", "kstatd")
	if left := m.state(t); !slices.Equal(left, before) {
		t.Errorf("purged, and left behind: %q; before: %q", left, before)
	}
}

func TestRPM(t *testing.T) {
	need(t, "rpm:/usr/bin/rpm", "util-linux:/usr/bin/nsenter")
	file := rpmFile(t)
	if got := output(t, sandbox.Command("rpm", "-K", file)); got != file+": digests OK\n" {
		t.Errorf("rpm -K: %s", got)
	}
	if got := output(t, sandbox.Command("rpm", "-qp", "--qf", "%{NAME} %{VERSION} %{RELEASE} %{LICENSE} %{BUILDTIME} %{BUILDHOST}", file)); got != "kstatd "+number+" 1 MIT "+epoch+" kstat" {
		t.Errorf("rpm -qp: %s", got)
	}
	m := newMachine(t, filepath.Dir(file), "/usr/bin/sleep", "infinity")
	m.await(t, "test", "-e", "/mnt/"+filepath.Base(file))
	before := m.state(t)
	// Debian's rpm knows no installed package, so that /bin/sh is not met.
	m.run(t, "rpm", "--force-debian", "--nodeps", "--install", "/mnt/"+filepath.Base(file))
	if got := m.run(t, "rpm", "--verify", "--nodeps", "kstatd"); got != "" {
		t.Errorf("rpm --verify: %s", got)
	}
	if got := m.run(t, "rpm", "--query", "--configfiles", "kstatd"); got != "/etc/sysconfig/kstatd" {
		t.Errorf("configuration: %s", got)
	}
	if got := m.run(t, "kstatd", "--version"); got != "kstatd "+release {
		t.Errorf("kstatd --version: %s", got)
	}
	m.run(t, "rpm", "--force-debian", "--erase", "kstatd")
	if left := m.state(t); !slices.Equal(left, before) {
		t.Errorf("erased, and left behind: %q; before: %q", left, before)
	}
}
