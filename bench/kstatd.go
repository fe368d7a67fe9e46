package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// daemon is a running kstatd that counts.
type daemon struct {
	*process
	tree string
	// ready is the time from the start of the process until nout could be read.
	ready time.Duration
}

// missingKstatd says why there is nothing to measure, or nil.
func (l *lab) missingKstatd() error {
	if _, err := os.Stat(l.kstatd); err != nil {
		return fmt.Errorf("no daemon: %w", err)
	}
	return nil
}

// startKstatd starts the daemon on a mount point of its own and waits for READY=1 (sd_notify) and a readable tree.
func (l *lab) startKstatd(ctx context.Context, engine string, more ...string) (*daemon, error) {
	if err := l.missingKstatd(); err != nil {
		return nil, err
	}
	base, err := os.MkdirTemp(l.dir, "kstatd-")
	if err != nil {
		return nil, err
	}
	d := &daemon{tree: filepath.Join(base, "mnt")}
	if err := os.Mkdir(d.tree, 0o755); err != nil {
		return nil, err
	}
	notify := &net.UnixAddr{Name: filepath.Join(base, "notify"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", notify)
	if err != nil {
		return nil, fmt.Errorf("listen for readiness: %w", err)
	}
	defer conn.Close()

	began := time.Now()
	args := append([]string{
		"--mount", d.tree, "--engine", engine, "--queue", strconv.Itoa(queueNumber), "--queue-len", strconv.Itoa(l.queueLen),
		"--counter", strconv.Itoa(l.counter), "--start",
	}, more...)
	d.process, err = start(ctx, l.consumerCPU, []string{"NOTIFY_SOCKET=" + notify.Name}, l.kstatd, args...)
	if err != nil {
		return nil, err
	}
	if err := d.awaitReady(conn); err != nil {
		return nil, errors.Join(err, d.process.stop())
	}
	d.ready = time.Since(began)
	return d, nil
}

// counting refuses a tree that cannot be read or does not count yet.
func (d *daemon) counting() error {
	if _, err := d.number("nout"); err != nil {
		return err
	}
	v, err := d.number("start")
	if err != nil {
		return err
	}
	if v != 1 {
		return fmt.Errorf("start is %d, want 1", v)
	}
	return nil
}

// awaitReady prefers the notification, and looks at the tree now and then for a daemon that sends none.
func (d *daemon) awaitReady(conn *net.UnixConn) error {
	buf := make([]byte, 4096)
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		select {
		case <-d.ended:
			return fmt.Errorf("kstatd ended: %w", d.failure())
		default:
		}
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		notified := err == nil && bytes.Contains(buf[:n], []byte("READY=1"))
		if err == nil && !notified {
			continue // STATUS= or WATCHDOG=
		}
		err = d.counting()
		if err == nil {
			return nil
		}
		if notified {
			return fmt.Errorf("kstatd said READY=1, and: %w", err)
		}
	}
	return fmt.Errorf("kstatd: not ready after %v", patience)
}

func (d *daemon) file(name string) string { return filepath.Join(d.tree, name) }

// number reads a file that holds one.
func (d *daemon) number(name string) (uint64, error) {
	text, err := os.ReadFile(d.file(name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// tally reads the live total, published and pending together.
func (d *daemon) tally() (tally, error) {
	counted, err := d.live()
	if err != nil {
		return tally{}, err
	}
	uncounted, err := d.number("uncounted")
	return tally{counted, uncounted}, err
}

func (d *daemon) live() (uint64, error) {
	if text, err := os.ReadFile(d.file("stats.json")); err == nil {
		if n, ok := livePackets(text); ok {
			return n, nil
		}
	}
	// Publishing every packet makes the published figures the live ones.
	if err := os.WriteFile(d.file("counter"), []byte("1\n"), 0o644); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(d.file("protocols"))
	if err != nil {
		return 0, err
	}
	return sumPackets(string(text))
}

// livePackets finds {"live": {"packets": N}} in stats.json.
func livePackets(text []byte) (uint64, bool) {
	var stats struct {
		Live struct {
			Packets *uint64 `json:"packets"`
		} `json:"live"`
	}
	if err := json.Unmarshal(text, &stats); err != nil || stats.Live.Packets == nil {
		return 0, false
	}
	return *stats.Live.Packets, true
}

// sumPackets adds the packets of all lines of protocols: name number family packets bytes.
func sumPackets(text string) (uint64, error) {
	var sum uint64
	for l := range strings.Lines(text) {
		fields := strings.Fields(l)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 5 {
			return 0, fmt.Errorf("protocols: %q has %d fields, want 5", l, len(fields))
		}
		n, err := strconv.ParseUint(fields[3], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("protocols: %q: %w", l, err)
		}
		sum += n
	}
	return sum, nil
}
