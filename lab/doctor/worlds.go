package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kstat/hook"
	"kstat/lab/traffic"
	"kstat/lab/world"
)

// worldNamespaces are those that a world is made of.
const worldNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET

// knob is a setting of the kernel's that forbids user namespaces.
type knob struct{ path, bad, name, good string }

func knobs() []knob {
	return []knob{
		{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces", "10000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone", "1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns", "0"},
	}
}

// permit says how to mend what a user namespace does not permit.
func (v *visit) permit(f finding) finding {
	for _, k := range knobs() {
		if content(k.path) == k.bad {
			return f.by(fmt.Sprintf("%s %s=%s", v.sudo("sysctl -w"), k.name, k.good), "permit user namespaces, or run it as root")
		}
	}
	if v.self.uid != 0 {
		return f.by("sudo kstat doctor", "ask as root")
	}
	return f
}

// refused explains why a process could not have namespaces of its own.
func (v *visit) refused(err error) finding {
	for _, k := range knobs() {
		if content(k.path) == k.bad {
			return v.permit(failure("new namespaces are refused: %s is %s", k.name, k.bad))
		}
	}
	f := failure("new namespaces are refused: %v", errors.Unwrap(err))
	switch {
	case container() != "":
		return f.by("", "run the container with --privileged")
	case v.self.seccomp == "2":
		return f.by("", "leave what has set the seccomp filter (a container, a unit's SystemCallFilter or RestrictNamespaces)")
	case v.self.uid != 0:
		return f.by("sudo kstat doctor", "run it as root")
	}
	return f
}

// probeRights uses rights that a user namespace should give: AppArmor can make
// ones that give none.
func probeRights(string) (answer, error) {
	err := privateMounts()
	if errors.Is(err, unix.EINVAL) { // a chroot, which is looked at elsewhere
		err = nil
	}
	return answer{}, errors.Join(err, world.LoopbackUp())
}

func lookAtNamespaces(v *visit) finding {
	_, err := v.start("rights", "", worldNamespaces|unix.CLONE_NEWUSER)
	var details []string
	for _, k := range knobs() {
		if value := content(k.path); value != "" {
			details = append(details, k.name+" is "+value)
		}
	}
	var f finding
	switch {
	case errors.Is(err, errHung):
		f = v.noAnswer()
	case err == nil:
		f = fine("can be made")
	case isRefused(err):
		f = v.refused(err)
	default:
		f = v.permit(failure("can be made, but give no rights: %v", err))
	}
	if v.self.uid == 0 {
		f.features = []Feature{} // root does without
		if f.status == Fail {
			f.status = Warn
			f.found += "; root does without"
		}
	}
	return f.with(details...)
}

func lookAtRoot(v *visit) finding {
	if v.mountsE == nil && !slices.ContainsFunc(v.mounted, func(m mounted) bool { return m.dir == "/" }) {
		return failure("it is no mount point, as in a chroot: mounts could not be kept from the host").
			by("", "mount --bind DIR DIR before chroot DIR")
	}
	return fine("a mount point")
}

func lookAtProc(v *visit) finding {
	var over []string
	for _, m := range v.mounted {
		if rest, ok := strings.CutPrefix(m.dir, "/proc/"); ok && rest != "sys/fs/binfmt_misc" && !strings.HasPrefix(rest, ".kstat") {
			over = append(over, m.dir)
		}
	}
	switch {
	case len(over) == 0:
		return fine("nothing is mounted over it")
	case world.Inside():
		return fine("a world's")
	}
	f := warning("%s mounted over, as containers do; then a user namespace may get no /proc of its own", count(len(over), "place is", "places are")).with(over...)
	return f.by("", "if a world cannot be entered, run the container with --privileged")
}

func count(n int, singular, plural string) string {
	if n == 1 {
		return "1 " + singular
	}
	return fmt.Sprintf("%d %s", n, plural)
}

func lookAtTools(*visit) finding {
	var missing []string
	for _, name := range []string{"sudo", "insmod", "modprobe", "dmesg"} {
		if !hasTool(name) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return fine("sudo, kmod and dmesg are there; in a world they are kstat's own")
	}
	return fine("%s not installed; in a world they are there", strings.Join(missing, ", "))
}

func hasTool(name string) bool {
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

func lookAtModule(v *visit) finding {
	_, err := os.Stat("/proc/kstat")
	switch {
	case world.Inside():
		return fine("this is inside a world of kstat run: the host's figures are not seen from here")
	case err == nil:
		return warning("a real module kstat is loaded: it counts beside kstatd, and kstat run hides it").
			by(v.sudo("rmmod kstat"), "unload it, unless it is what you want to grade")
	}
	return fine("not loaded")
}

// tryWorld runs a command in a world, which counts two packets there.
func tryWorld(v *visit) finding {
	f := v.enterWorld()
	if v.self.uid != 0 {
		f.features = []Feature{Run}
	}
	return f
}

func (v *visit) enterWorld() finding {
	a, err := v.start("world", "", 0)
	switch {
	case errors.Is(err, errHung):
		return v.noAnswer()
	case err != nil:
		return v.noWorld(err)
	case a.Text != "2\n":
		return failure("two TCP packets were sent, and nout reads %q", a.Text)
	}
	return fine("two TCP packets were sent in there, and nout said 2")
}

// noWorld says how to mend what the world package has told, which knows its
// cures itself.
func (v *visit) noWorld(err error) finding {
	f := failure("%v", err)
	text := err.Error()
	for _, k := range knobs() {
		denied := strings.Contains(text, "new namespaces are refused") || strings.Contains(text, unix.EPERM.Error())
		if denied && content(k.path) == k.bad {
			return v.permit(f)
		}
	}
	switch {
	case strings.Contains(text, device) && errors.Is(deviceError(), unix.EACCES):
		return f.by(v.sudo("chmod 666 /dev/fuse"), "open it to users, or run kstat run as root")
	case v.self.uid != 0:
		return f.by("sudo kstat run -- bash", "run it as root")
	}
	return f
}

// tryWorldAsRoot says that it cannot be told, unless [tryWorld] has tried just
// that.
func tryWorldAsRoot(v *visit) []finding {
	if v.self.uid == 0 {
		return nil
	}
	return []finding{skipped("not tried: this is not root").by("sudo kstat doctor run", "ask as root")}
}

// probeWorld runs this program in a world.
func probeWorld(string) (a answer, err error) {
	c := world.Default()
	c.Point = hook.Postrouting
	c.Loaded, c.Params = true, "start=1 counter=1"
	c.Command = []string{world.Self, insideWord}
	r, w, err := os.Pipe()
	if err != nil {
		return a, err
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w // the command's
	status, refused := world.Run(c)
	os.Stdout = stdout
	w.Close()
	if refused != nil {
		return a, refused
	}
	text := make([]byte, 4096)
	n, _ := r.Read(text)
	a.Text = string(text[:n])
	if status != 0 {
		return a, fmt.Errorf("the command in the world ended with status %d: %s", status, strings.TrimSpace(a.Text))
	}
	return a, nil
}

// runInside is the command in the world. It never returns.
func runInside() {
	closed, err := traffic.ClosedPort(netip.MustParseAddr("127.0.0.1"))
	if err == nil {
		err = traffic.TCPConnect(closed, 1)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile("/proc/kstat/nout")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Print(string(text))
	os.Exit(0)
}
