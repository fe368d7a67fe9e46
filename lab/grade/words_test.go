package grade

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTypedWrite: what is typed writes those bytes, in any shell.
func TestTypedWrite(t *testing.T) {
	need(t, "dd", "python3")
	path := filepath.Join(t.TempDir(), "a file's name")
	for _, shell := range []string{"sh", "bash"} {
		for _, rows := range [][]row{counterTakes, counterRefuses, startTakes, startRefuses, {{text: "-n\n"}, {text: "%d'\\"}}} {
			for _, r := range rows {
				must(t, os.WriteFile(path, nil, 0o600))
				typed := typedWrite(path, r.text)
				output, err := exec.Command(shell, "-c", typed).CombinedOutput()
				got, readErr := os.ReadFile(path)
				must(t, readErr)
				if err != nil || string(got) != r.text {
					t.Errorf("%s: %s writes %s, want %s: %v %s", shell, typed, quote(got), quote(r.text), err, output)
				}
			}
		}
	}
}

func TestTyped(t *testing.T) {
	local := netip.IPv6Loopback()
	for want, got := range map[string]string{
		"one_tcp ::1   # 1 TCP packet": typedTCP(local, 1),
		"for i in {1..2}; do : < /dev/tcp/::1/1; done 2> /dev/null   # 4 TCP packets":              typedTCP(local, 4),
		"for i in {1..2}; do : < /dev/tcp/::1/1; done 2> /dev/null; one_tcp ::1   # 5 TCP packets": typedTCP(local, 5),
		"some_udp ::1 3   # 3 UDP packets":                                                         typedUDP(local, 3),
		"ping -q -c 2 ::1   # 2 requests, 2 replies":                                               typedPing(local, 2),
		resetBody + "one_tcp ::1":                                                                  script([]string{"one_tcp ::1"}),
		"cat nout\necho 1":                                                                         script([]string{"cat nout", "echo 1"}),
	} {
		if got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}
