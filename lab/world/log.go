package world

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// entry is a line of the module's in the kernel's log.
type entry struct {
	Since time.Duration // since boot, as printk has it
	Level int           // 0 emerg to 7 debug
	Text  string
}

// kernelLog is what the module would have told printk. It is a slog.Handler.
type kernelLog struct {
	mu      sync.Mutex
	entries []entry
	cleared time.Duration // what is older is not to be shown, the host's neither
}

const keptEntries = 4096

func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// Enabled leaves debugging out.
func (*kernelLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle adds a line.
func (l *kernelLog) Handle(_ context.Context, r slog.Record) error {
	e := entry{Since: sinceBoot(), Level: 6}
	switch {
	case r.Level >= slog.LevelError:
		e.Level = 3
	case r.Level >= slog.LevelWarn:
		e.Level = 4
	}
	var b strings.Builder
	b.WriteString("kstat: " + r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	e.Text = strings.ReplaceAll(b.String(), "\n", "; ")

	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == keptEntries {
		l.entries = append(l.entries[:0], l.entries[1:]...)
	}
	l.entries = append(l.entries, e)
	return nil
}

// WithAttrs and WithGroup are not used by fs and hook.
func (l *kernelLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *kernelLog) WithGroup(string) slog.Handler      { return l }

// clear forgets all lines up to now.
func (l *kernelLog) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.cleared = nil, sinceBoot()
}

func (l *kernelLog) snapshot() ([]entry, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]entry(nil), l.entries...), l.cleared
}

// text returns all lines, for a person.
func (l *kernelLog) text() string {
	entries, _ := l.snapshot()
	var lines []string
	for _, e := range entries {
		lines = append(lines, e.Text)
	}
	return strings.Join(lines, "\n")
}
