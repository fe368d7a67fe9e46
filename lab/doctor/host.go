package doctor

import (
	"fmt"
	"math/bits"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel is what runs here.
type kernel struct {
	release, machine string
	major, minor     int // 0 if the release is not understood
}

func readKernel() (k kernel) {
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		k.release = unix.ByteSliceToString(name.Release[:])
		k.machine = unix.ByteSliceToString(name.Machine[:])
		if n, _ := fmt.Sscanf(k.release, "%d.%d", &k.major, &k.minor); n != 2 {
			k.major, k.minor = 0, 0
		}
	}
	return k
}

// before reports whether the kernel is older than a version.
func (k kernel) before(major, minor int) bool {
	return k.major != 0 && (k.major < major || k.major == major && k.minor < minor)
}

func lookAtKernel(v *visit) finding {
	k := v.kernel
	if k.before(5, 12) {
		return failure("Linux %s is too old: nftables tables with an owner came with 5.12", k.release).
			by("", "boot Linux 5.12 or newer (6.4 for --engine bpf); Debian 12 has 6.1")
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		return failure("there is no /proc, without which the rest cannot be told: %v", err).by(v.sudo("mount -t proc proc /proc"), "mount it")
	}
	return fine("Linux %s on %s", k.release, k.machine).with("the least is 5.12, for --engine bpf 6.4")
}

// self is this process, as far as its rights go.
type self struct {
	uid          int    // effective
	capabilities uint64 // effective, one bit each
	noNewPrivs   bool
	seccomp      string // 0, 1 or 2, as /proc/self/status has it
	nested       bool   // in a user namespace that is not the first one
	uidMap       string
}

func (s self) has(capability int) bool { return s.capabilities&(1<<capability) != 0 }

func readSelf() self {
	s := self{uid: os.Geteuid()}
	for _, line := range lines("/proc/self/status") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "CapEff":
			s.capabilities, _ = strconv.ParseUint(value, 16, 64)
		case "NoNewPrivs":
			s.noNewPrivs = value == "1"
		case "Seccomp":
			s.seccomp = value
		}
	}
	if maps := lines("/proc/self/uid_map"); len(maps) > 0 {
		s.uidMap = strings.Join(strings.Fields(strings.Join(maps, ", ")), " ")
		s.nested = s.uidMap != "0 0 4294967295"
	}
	return s
}

// lines reads a file of /proc; none if it cannot be read.
func lines(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// content reads a file of one line; "" if it cannot be read.
func content(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

func lookAtUser(v *visit) finding {
	name := ""
	if u, err := user.LookupId(strconv.Itoa(v.self.uid)); err == nil {
		name = " (" + u.Username + ")"
	}
	f := fine("uid %d%s", v.self.uid, name)
	if v.self.nested {
		f.found += ", in a user namespace"
	}
	return f.with("user map: " + v.self.uidMap)
}

// capability is one that something needs.
type capability struct {
	bit     int
	name    string
	purpose string
}

// missing lists those that this process lacks.
func (s self) missing(needed ...capability) (names []string) {
	for _, c := range needed {
		if !s.has(c.bit) {
			names = append(names, c.name+" ("+c.purpose+")")
		}
	}
	return names
}

func lookAtCapabilities(v *visit) finding {
	missing := v.self.missing(
		capability{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "to queue packets"},
		capability{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "to mount"})
	have := fmt.Sprintf("%d effective: %#x", bits.OnesCount64(v.self.capabilities), v.self.capabilities)
	switch {
	case len(missing) > 0 && v.self.uid == 0:
		return failure("missing: %s", strings.Join(missing, ", ")).with(have).
			by("", "run the container with --privileged, or with --cap-add NET_ADMIN --cap-add SYS_ADMIN")
	case len(missing) > 0:
		return failure("missing: %s", strings.Join(missing, ", ")).with(have).
			by("sudo kstatd", "run it as root; unshare -Urnm kstatd tries it where it cannot touch the host")
	case !v.self.has(unix.CAP_SETPCAP):
		return warning("CAP_SETPCAP is missing: kstatd runs as one process, and a crash ends it").with(have).
			by("", "give it CAP_SETPCAP, too")
	}
	return fine("all that kstatd needs").with(have)
}

func lookAtConfinement(v *visit) finding {
	var found []string
	if c := container(); c != "" {
		found = append(found, c)
	}
	if v.self.seccomp == "2" {
		found = append(found, "a seccomp filter")
	}
	if v.self.noNewPrivs {
		found = append(found, "no_new_privs")
	}
	if profile := content("/proc/self/attr/current"); profile != "" && profile != "unconfined" && !strings.HasPrefix(profile, "kernel") {
		found = append(found, "security profile "+profile)
	}
	switch {
	case len(found) == 0:
		return fine("none seen")
	case v.self.noNewPrivs && v.self.uid != 0:
		return warning("%s: sudo gives no rights here", strings.Join(found, ", ")).
			by("", "log in anew, or leave what set no_new_privs (setpriv, a container, a unit's NoNewPrivileges)")
	}
	return fine("%s", strings.Join(found, ", "))
}

// container says which kind of container this is, as far as it shows.
func container() string {
	if _, err := os.Stat("/run/.containerenv"); err == nil {
		return "a container (podman)"
	}
	if _, err := os.Stat("/.dockerenv"); err == nil {
		return "a container (docker)"
	}
	if name := os.Getenv("container"); name != "" {
		return "a container (" + name + ")"
	}
	for _, line := range lines("/proc/1/cgroup") {
		for _, kind := range []string{"docker", "kubepods", "libpod", "lxc", "containerd"} {
			if strings.Contains(line, kind) {
				return "a container (" + kind + ")"
			}
		}
	}
	return ""
}
