package fs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a line of /proc/self/mountinfo, as far as it matters here.
type Mount struct {
	device string // major:minor, of the mounted file system
	Dir    string // where it is mounted
	FSType string
}

// topMount returns what is mounted on dir, the uppermost if several are, or
// nil.
func topMount(dir string) (*Mount, error) {
	entries, err := Mounts()
	if err != nil { // a shortage may pass, and a mount that is not looked for would stay
		entries, err = Mounts()
	}
	if err != nil {
		return nil, fmt.Errorf("look for mounts: %w", err)
	}
	var top *Mount
	for i := range entries {
		if entries[i].Dir == dir {
			top = &entries[i]
		}
	}
	return top, nil
}

// Mounts lists all mounts of this process's namespace, in the order in which
// they were made.
func Mounts() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

// parseMountinfo reads the form of proc_pid_mountinfo(5):
//
//	36 35 98:0 /root /mount\040point rw,noatime shared:1 - ext3 /dev/root rw
func parseMountinfo(r io.Reader) (entries []Mount, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(left)
		fstype, _, _ := strings.Cut(right, " ")
		if !ok || len(fields) < 5 {
			continue
		}
		entries = append(entries, Mount{device: fields[2], Dir: unescape(fields[4]), FSType: fstype})
	}
	return entries, lines.Err()
}

// unescape replaces \040 and its like, which stand for white space and
// backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// lockHolder says who has the flock(2) on f: "pid 12 (name)", as far as
// /proc/locks tells.
func lockHolder(f *os.File) string {
	pid := lockingProcess(f)
	if pid == 0 {
		return "whose process cannot be seen from here"
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return fmt.Sprintf("pid %d (%s)", pid, strings.TrimSpace(string(name)))
}

// lockingProcess returns the process that has the flock(2) on f, or 0 if none
// can be seen to have it.
func lockingProcess(f *os.File) int {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	// Some file systems (Btrfs) show another device here than stat does.
	place := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	if !strings.Contains(string(locks), " "+place+" ") {
		place = strconv.FormatUint(st.Ino, 10)
	}
	for l := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 708 fe:00:1234 0 EOF
		fields := strings.Fields(l)
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(":"+fields[5], ":"+place) {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}
