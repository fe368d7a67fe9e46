package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"kstat/hook"
)

// usualPort is where kstatd serves its metrics, if it is told to at all.
const usualPort = 9469

func lookAtPort(v *visit) finding {
	port := v.Port
	if port == 0 {
		port = usualPort
	}
	who, taken := listener(port)
	switch {
	case !taken:
		return fine("%d: free", port)
	case strings.Contains(who, "(kstatd"):
		return fine("%d: kstatd's, %s", port, who)
	case v.activates(port):
		return fine("%d: systemd's, for kstatd.socket", port)
	}
	f := failure("%d: taken by %s", port, who)
	for other := port + 1; other != 0; other++ {
		if _, taken := listener(other); !taken {
			return f.by(fmt.Sprintf("%s --listen 127.0.0.1:%d", v.sudo("kstatd"), other), "take another port")
		}
	}
	return f
}

// activates reports whether systemd listens there for kstatd.
func (v *visit) activates(port uint16) bool {
	if !hasSystemd() {
		return false
	}
	text, _ := exec.CommandContext(v.ctx, "systemctl", "show", "kstatd.socket", "--property=ActiveState,Listen").Output()
	return strings.Contains(string(text), "ActiveState=active\n") && strings.Contains(string(text), fmt.Sprintf(":%d (Stream)", port))
}

func hasSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// listener says who listens at a TCP port so that 127.0.0.1 cannot be had there.
func listener(port uint16) (who string, taken bool) {
	return hook.TCPHolder(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
}

// hiding are the directives of a unit that give it a mount namespace, with the
// values that do not.
var hiding = [...]struct{ name, harmless string }{
	{"PrivateTmp", "no"}, {"PrivateDevices", "no"}, {"PrivateMounts", "no"}, {"PrivateNetwork", "no"}, {"PrivateUsers", "no"}, {"PrivateIPC", "no"},
	{"ProtectSystem", "no"}, {"ProtectHome", "no"}, {"ProtectKernelTunables", "no"}, {"ProtectKernelModules", "no"},
	{"ProtectKernelLogs", "no"}, {"ProtectControlGroups", "no"}, {"ProtectProc", "default"}, {"ProcSubset", "all"},
	{"ReadWritePaths", ""}, {"ReadOnlyPaths", ""}, {"InaccessiblePaths", ""}, {"ExecPaths", ""}, {"NoExecPaths", ""},
	{"BindPaths", ""}, {"BindReadOnlyPaths", ""}, {"TemporaryFileSystem", ""}, {"RootDirectory", ""}, {"RootImage", ""},
}

// lookAtUnit looks whether systemd's unit for kstatd would hide the tree.
func lookAtUnit(v *visit) finding {
	const unit = "kstatd.service"
	if !hasSystemd() {
		return skipped("systemd does not run here")
	}
	names := []string{"LoadState", "ActiveState"}
	for _, h := range hiding {
		names = append(names, h.name)
	}
	text, err := exec.CommandContext(v.ctx, "systemctl", "show", unit, "--property="+strings.Join(names, ",")).Output()
	if err != nil {
		return skipped("systemctl show %s: %v", unit, err)
	}
	set := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			set[name] = value
		}
	}
	if set["LoadState"] != "loaded" {
		return skipped("there is no %s; deploy/README.md has one", unit)
	}
	var bad []string
	for _, h := range hiding {
		if value := set[h.name]; value != "" && value != h.harmless {
			bad = append(bad, h.name+"="+value)
		}
	}
	slices.Sort(bad)
	if len(bad) > 0 {
		var unset []string
		for _, b := range bad {
			name, _, _ := strings.Cut(b, "=")
			for _, h := range hiding {
				if h.name == name {
					unset = append(unset, name+"="+h.harmless)
				}
			}
		}
		return failure("%s would hide the tree from everybody else: %s", unit, strings.Join(bad, ", ")).
			by(v.sudo("systemctl edit "+unit), "say there, below [Service]: %s", strings.Join(unset, " "))
	}
	return fine("%s is %s, and hides nothing", unit, set["ActiveState"])
}
