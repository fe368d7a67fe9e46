package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLogger returns a logger that writes text to stderr. If that is the
// journal, each line begins with its level as sd-daemon(3) has it, and has no
// time, which the journal adds.
func newLogger(stderr *os.File) *slog.Logger {
	if toJournal, _ := journal.StderrIsJournalStream(); !toJournal {
		return slog.New(slog.NewTextHandler(stderr, nil))
	}
	lines := &journalLines{out: stderr}
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
	out    *os.File
}

func (l *journalLines) Write(line []byte) (int, error) {
	_, err := l.out.Write(bytes.Join([][]byte{[]byte(l.prefix), line}, nil))
	return len(line), err
}
