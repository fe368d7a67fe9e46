package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLogger returns a logger that writes text to lines, on stderr. If that is the journal, each line begins with its level as sd-daemon(3) has it,
// and has no time, which the journal adds.
func newLogger(to *lines) *slog.Logger {
	if toJournal, _ := journal.StderrIsJournalStream(); !toJournal {
		return slog.New(slog.NewTextHandler(to, nil))
	}
	lines := &journalLines{out: to}
	text := slog.NewTextHandler(lines, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return slog.New(&journalHandler{Handler: text, lines: lines})
}

// journalHandler is a handler whose lines begin with a level.
type journalHandler struct {
	slog.Handler
	lines *journalLines
}

// Handle writes one line.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.lines.mu.Lock()
	defer h.lines.mu.Unlock()
	h.lines.prefix = prefix(r.Level)
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps the levels.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.Handler.WithAttrs(attrs), h.lines}
}

// WithGroup keeps the levels.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.Handler.WithGroup(name), h.lines}
}

// prefix is SD_ERR, SD_WARNING, SD_INFO or SD_DEBUG of sd-daemon(3).
func prefix(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<3>"
	case level >= slog.LevelWarn:
		return "<4>"
	case level >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

// journalLines writes each line with a prefix, in one write.
type journalLines struct {
	mu     sync.Mutex // held by Handle
	prefix string
	out    io.Writer
}

func (l *journalLines) Write(line []byte) (int, error) {
	_, err := l.out.Write(bytes.Join([][]byte{[]byte(l.prefix), line}, nil))
	return len(line), err
}

// lines writes to a file that somebody may have stopped reading without having
// closed it: a log must not hold up who writes it. Lines that find no room are
// dropped, and the next one is told after how many.
type lines struct {
	queue   chan []byte // nil asks for written
	dropped atomic.Uint64
	written chan struct{}
}

// keptLines is how many lines wait for their reader.
const keptLines = 256

// newLines starts to write to out.
func newLines(out io.Writer) *lines {
	l := &lines{queue: make(chan []byte, keptLines), written: make(chan struct{}, 1)}
	go func() {
		for line := range l.queue {
			if n := l.dropped.Swap(0); n > 0 {
				fmt.Fprintf(out, "%d lines were lost here\n", n)
			}
			if line == nil {
				l.written <- struct{}{}
				continue
			}
			_, _ = out.Write(line) // there is nobody to tell
		}
	}()
	return l
}

// Write takes one line.
func (l *lines) Write(line []byte) (int, error) {
	select {
	case l.queue <- bytes.Clone(line):
	default:
		l.dropped.Add(1)
	}
	return len(line), nil
}

// flush waits for what has been taken to be written, but not for long.
func (l *lines) flush() {
	limit := time.After(time.Second)
	select {
	case l.queue <- nil:
	case <-limit:
		return
	}
	select {
	case <-l.written:
	case <-limit:
	}
}
