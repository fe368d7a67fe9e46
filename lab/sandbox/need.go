package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Thing is something of the machine's that a test cannot do without.
type Thing int

const (
	// Namespaces: this process is in a sandbox. Name it in every test that
	// sends packets, adds rules or mounts.
	Namespaces Thing = iota
	// NFQueue: the kernel has nfnetlink_queue, and we may use it here.
	NFQueue
	// NFTables: the kernel has nf_tables, and we may use it here.
	NFTables
	// FUSE: /dev/fuse is open to us, and we may mount such a file system.
	FUSE
	// Root: we can become another user, as [AsUser] does; the root of a user
	// namespace that maps only one cannot.
	Root
	// IPv6: lo has ::1.
	IPv6
	// BPF: the kernel has BPF programs at netfilter hooks, and we may load
	// them.
	BPF
	// Prometheus: Debian's prometheus and promtool are installed.
	Prometheus
	// VictoriaMetrics: Debian's victoria-metrics is installed.
	VictoriaMetrics
)

// things says for each Thing what it is called, how its presence is proved,
// and what a person can do who misses it. It is never written.
var things = [...]struct {
	name  string
	probe func() error
	cure  string
}{
	Namespaces: {"Namespaces", probeNamespaces, "run as root, or permit user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"},
	NFQueue:    {"NFQueue", probeNFQueue, "load nfnetlink_queue, and run with CAP_NET_ADMIN"},
	NFTables:   {"NFTables", probeNFTables, "load nf_tables, and run with CAP_NET_ADMIN"},
	FUSE:       {"FUSE", probeFUSE, "run as root, or load fuse and make /dev/fuse 0666"},
	Root:       {"Root", probeRoot, "run as root, outside any user namespace"},
	IPv6:       {"IPv6", probeIPv6, "boot without ipv6.disable=1, and set sysctl net.ipv6.conf.lo.disable_ipv6=0"},
	BPF:        {"BPF", probeBPF, "boot Linux 6.4 or newer, with CONFIG_NETFILTER_BPF_LINK and CONFIG_DEBUG_INFO_BTF, and run as root, outside any user namespace"},

	Prometheus:      {"Prometheus", probePrograms("prometheus", "promtool"), "apt-get install prometheus"},
	VictoriaMetrics: {"VictoriaMetrics", probePrograms("victoria-metrics"), "apt-get install victoria-metrics"},
}

// String returns the name of the constant.
func (t Thing) String() string { return things[t].name }

// Need skips the test if the machine lacks one of the things, and says which,
// why, and what to do about it. If the environment has KSTAT_REQUIRE=1, it
// fails the test instead, unless the kernel is too old to have the thing.
func Need(tb testing.TB, needed ...Thing) {
	tb.Helper()
	for _, t := range needed {
		err := Missing(t)
		if err != nil && tooOld(t) {
			tb.Skip(err)
		}
		Lack(tb, err)
	}
}

// Lack ends the test if there is an error, which says what is missing and what
// to do about it: by a skip, or as a failure if the environment has
// KSTAT_REQUIRE=1.
func Lack(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case os.Getenv("KSTAT_REQUIRE") == "1":
		tb.Fatal(err)
	default:
		tb.Skip(err)
	}
}

// Program returns the path of a program of the Debian package of the same name,
// or ends the test as [Need] does.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Lack(tb, fmt.Errorf("needs %s: %w; apt-get install %[1]s", name, err))
	}
	if name == "tcpdump" && os.Geteuid() == 0 {
		Need(tb, Root) // it becomes another user
	}
	return path
}

// Through has a program, as [Program] finds it, read input, and returns the
// lines that it prints. That it fails is fatal.
func Through(tb testing.TB, input []byte, name string, args ...string) []string {
	tb.Helper()
	cmd := Command(Program(tb, name), args...)
	cmd.Stdin = bytes.NewReader(input)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s: %v: %s", name, err, complaint.String())
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// tooOld reports whether no kernel of this version has the thing.
func tooOld(t Thing) bool {
	if t != BPF {
		return false
	}
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) != nil {
		return false
	}
	n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return n == 2 && (major < 6 || major == 6 && minor < 4)
}

// Missing tries whether the things are there, and returns nil if they are. If
// not, the error is of the first that is not: it wraps what the kernel said,
// mostly a [syscall.Errno], and ends with what a person can do.
func Missing(needed ...Thing) error {
	for _, t := range needed {
		if err := things[t].probe(); err != nil {
			return fmt.Errorf("needs %v: %w; %s", t, err, things[t].cure)
		}
	}
	return nil
}

func probeNamespaces() error {
	switch {
	case refused != nil:
		return refused
	case !entered():
		return errOutside
	}
	return nil
}

// From linux/netfilter/nfnetlink_queue.h; golang.org/x/sys/unix lacks them.
const (
	nfqnlMsgConfig    = 2 // NFQNL_MSG_CONFIG
	nfqaCfgCmd        = 1 // NFQA_CFG_CMD
	nfqnlCfgCmdPFBind = 3 // NFQNL_CFG_CMD_PF_BIND
)

// probeNFQueue sends NFQNL_CFG_CMD_PF_BIND, which has had no effect since
// Linux 3.8 (net/netfilter/nfnetlink_queue.c) but must be understood. Without
// the module, nfnetlink answers EINVAL.
func probeNFQueue() error {
	command := []byte{nfqnlCfgCmdPFBind, 0, 0, unix.AF_INET} // struct nfqnl_msg_config_cmd
	err := nfnetlink(unix.NFNL_SUBSYS_QUEUE, nfqnlMsgConfig, nl.NewRtAttr(nfqaCfgCmd, command))
	if err != nil {
		return fmt.Errorf("ask nfnetlink_queue: %w", err)
	}
	return nil
}

// probeNFTables asks for the generation of the rule set.
func probeNFTables() error {
	if err := nfnetlink(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN); err != nil {
		return fmt.Errorf("ask nf_tables: %w", err)
	}
	return nil
}

// nfnetlink sends one request and returns the error of its acknowledgement.
func nfnetlink(subsystem, message int, attributes ...nl.NetlinkRequestData) error {
	r := nl.NewNetlinkRequest(subsystem<<8|message, unix.NLM_F_ACK)
	r.AddData(&nl.Nfgenmsg{})
	for _, a := range attributes {
		r.AddData(a)
	}
	_, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// probeFUSE opens the device, and a mount that it never makes: fsopen(2) wants
// the right to mount, and knows the file system.
func probeFUSE() error {
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	device.Close()
	mount, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen fuse: %w", err)
	}
	return unix.Close(mount)
}

// probeRoot starts "/" as nobody. The change of user comes before exec, and no
// exec of a directory succeeds: it is refused with EACCES after all went well.
func probeRoot() error {
	_, err := syscall.ForkExec("/", []string{"/"}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody}},
	})
	if err != syscall.EACCES {
		return fmt.Errorf("become user %d: %w", Nobody, err)
	}
	return nil
}

func probeIPv6() error {
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open an IPv6 socket: %w", err)
	}
	defer unix.Close(s)
	if err := unix.Bind(s, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}); err != nil {
		return fmt.Errorf("bind to ::1: %w", err)
	}
	return nil
}

// probePrograms returns a probe of programs in PATH.
func probePrograms(names ...string) func() error {
	return func() error {
		for _, name := range names {
			if _, err := exec.LookPath(name); err != nil {
				return err
			}
		}
		return nil
	}
}

func probeBPF() error { return features.HaveProgramType(ebpf.Netfilter) }
