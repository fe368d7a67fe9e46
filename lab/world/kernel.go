package world

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/kmod"
)

// Kernel is the world's kernel, for the tools that run inside.
type Kernel struct{}

var _ kmod.Kernel = Kernel{}

// Insert loads the module.
func (Kernel) Insert(params string) error {
	_, err := ask(request{Insert: &params})
	return err
}

// Delete unloads the module.
func (Kernel) Delete() error {
	_, err := ask(request{Delete: true})
	return err
}

// Clear makes Messages leave out what there is by now.
func (Kernel) Clear() error {
	_, err := ask(request{Clear: true})
	return err
}

// Messages returns the module's lines among those of the host's kernel, if this
// process may read them.
func (Kernel) Messages() ([]kmod.Message, error) {
	r, err := ask(request{})
	if err != nil {
		return nil, err
	}
	var all []kmod.Message
	for _, m := range hostMessages() {
		if m.Time > r.Cleared {
			all = append(all, m)
		}
	}
	for _, e := range r.Entries {
		all = append(all, kmod.Message{Time: e.Since.Truncate(time.Microsecond), Level: e.Level, Text: e.Text})
	}
	slices.SortStableFunc(all, func(a, b kmod.Message) int { return cmp.Compare(a.Time, b.Time) })
	return all, nil
}

// Real returns the path of the host's own program for a tool, "" if it has none.
func (Kernel) Real(tool string) string {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return ""
	}
	names := []string{tool}
	if tool != "dmesg" && tool != "sudo" {
		names = append(names, "kmod") // which goes by the name it is called by
	}
	for _, name := range names {
		path := filepath.Join(toolsDir, name)
		info, err := os.Stat(path)
		// A world around this one has put this program there.
		if err == nil && info.Mode()&0o111 != 0 && !os.SameFile(info, self) {
			return path
		}
	}
	return ""
}

// Inside reports whether this process is in a world.
func Inside() bool {
	_, err := os.Stat(controlPath)
	return err == nil
}

// ask tells init what is wanted.
func ask(wanted request) (r reply, err error) {
	text, err := json.Marshal(wanted)
	if err != nil {
		return r, err
	}
	f, err := os.OpenFile(controlPath, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return r, errors.New("this is kstat's, and works inside kstat run only")
	}
	if err != nil {
		return r, err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return r, err
	}
	answer := io.NewSectionReader(f, 0, 1<<30)
	if err := json.NewDecoder(answer).Decode(&r); err != nil {
		return r, fmt.Errorf("%s: %w", controlPath, err)
	}
	if r.Errno != 0 {
		return r, r.Errno
	}
	return r, nil
}

// hostMessages reads the kernel's log, as far as it may
// (Documentation/ABI/testing/dev-kmsg).
func hostMessages() []kmod.Message {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var all []kmod.Message
	record := make([]byte, 16<<10)
	for {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EPIPE): // it was overwritten while we read: the next is there
		case err != nil:
			return all
		default:
			if m, ok := parseRecord(string(record[:n])); ok {
				all = append(all, m)
			}
		}
	}
}

// parseRecord reads "priority,sequence,microseconds,flags[,…];text", and lines
// of a dictionary, which are indented.
func parseRecord(record string) (m kmod.Message, ok bool) {
	prefix, text, ok := strings.Cut(record, ";")
	fields := strings.Split(prefix, ",")
	if !ok || len(fields) < 3 {
		return m, false
	}
	priority, err1 := strconv.Atoi(fields[0])
	micros, err2 := strconv.ParseInt(fields[2], 10, 64)
	if err1 != nil || err2 != nil {
		return m, false
	}
	text, _, _ = strings.Cut(text, "\n")
	return kmod.Message{
		Time:     time.Duration(micros) * time.Microsecond,
		Facility: priority >> 3,
		Level:    priority & 7,
		Text:     unescapeRecord(text),
	}, true
}

// unescapeRecord undoes \xNN.
func unescapeRecord(text string) string {
	if !strings.Contains(text, `\x`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if strings.HasPrefix(text[i:], `\x`) && i+4 <= len(text) {
			if c, err := strconv.ParseUint(text[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
