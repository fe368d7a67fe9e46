package tree

import (
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseStats(t *testing.T) {
	d, err := parseStats([]byte(`{"schema": 1, "nout": 18446744073709551615, "start": 1, "news": {"from": "the future"},
		"gaps": [{"since": "2026-11-20T05:45:56.903Z", "seconds": 1.5, "open": true}],
		"protocols": [{"name": "other", "number": null, "family": "ipv6", "total": {"packets": 7, "bytes": 8}}]}`))
	must(t, err)
	if p := d.Protocols[0]; d.NOut != 1<<64-1 || d.Start != 1 || p.Number != nil || p.Family != "ipv6" || p.Total.Bytes != 8 || !d.Gaps[0].Open {
		t.Errorf("%+v", d)
	}
	for text, want := range map[string]string{
		`{"schema": 2, "version": "v9.1"}`: `stats.json has schema 2, and this kstat knows 1: take the kstat that came with that kstatd (version "v9.1")`,
		`{}`:                               `stats.json has schema 0, `,
		``:                                 `read stats.json: unexpected end of JSON input`,
		`{"schema": 1, "nout": -1}`:        `read stats.json: json: cannot unmarshal number -1 `,
		`{"schema": 2, "nout": "not a number here"}`: `stats.json has schema 2, `,
	} {
		if _, err := parseStats([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestParsePublication(t *testing.T) {
	for line, want := range map[string]Publication{
		"123 1230 4567 1795164128542444382\n":        {Number: 123, NOut: 1230, Total: 4567, Time: time.Unix(1795164128, 542444382)},
		"1 0 18446744073709551615 1 new columns 2\n": {Number: 1, Total: 1<<64 - 1, Time: time.Unix(0, 1)},
		"missed 3\n": {Missed: 3},
	} {
		if got, err := parsePublication(line); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", line, got, err, want)
		}
	}
	for _, line := range []string{"\n", "missed \n", "missed 0\n", "missed x\n", "1 2 3\n", "1 2 3 x\n", "-1 2 3 4\n"} {
		if got, err := parsePublication(line); err == nil || got != (Publication{}) {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
}

// What is on disk is no daemon's, but a file is a file.
func TestFiles(t *testing.T) {
	dir := Tree{t.TempDir()}
	for _, f := range []func() error{
		func() error { _, err := dir.Stats(); return err },
		func() error { _, err := dir.Watch(); return err },
		func() error { return dir.Write("start", "1") },
	} {
		if err := f(); !errors.Is(err, ErrAbsent) || err.Error() != "no kstatd is mounted on "+dir.Dir()+": start one there, or name another directory by --mount" {
			t.Error(err)
		}
	}
	must(t, os.WriteFile(dir.Path("start"), []byte("0"), 0o600), dir.Write("start", "1"))
	if text, err := os.ReadFile(dir.Path("start")); err != nil || string(text) != "1" {
		t.Errorf("%q, %v", text, err)
	}
	must(t, os.WriteFile(dir.Path("watch"), []byte("missed 2\n7 8 9 10\n"), 0o600))
	w, err := dir.Watch()
	must(t, err)
	defer w.Close()
	for _, want := range []Publication{{Missed: 2}, {Number: 7, NOut: 8, Total: 9, Time: time.Unix(0, 10)}} {
		if p, err := w.Next(); err != nil || p != want {
			t.Errorf("%+v, %v, want %+v", p, err, want)
		}
	}
	if _, err := w.Next(); err != io.EOF {
		t.Error("at the end:", err)
	}
}

// Each errno is one line, and can be told by programs, too.
func TestExplain(t *testing.T) {
	dir := Tree{"/run/kstat"}
	for _, errno := range []syscall.Errno{
		syscall.ENOENT, syscall.ENOTDIR, syscall.ENOTCONN, syscall.ECONNABORTED, syscall.EACCES, syscall.EPERM, syscall.EBUSY,
		syscall.EOPNOTSUPP, syscall.ENODEV, syscall.EINVAL, syscall.ERANGE, syscall.EIO, syscall.ENFILE,
	} {
		err := dir.explain(&os.PathError{Op: "write", Path: "/run/kstat/start", Err: errno})
		absent, dead := errno == syscall.ENOENT || errno == syscall.ENOTDIR, errno == syscall.ENOTCONN || errno == syscall.ECONNABORTED
		if errors.Is(err, ErrAbsent) != absent || errors.Is(err, ErrDead) != dead || !absent && !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
		if text := err.Error(); strings.Contains(text, "\n") || !absent && !dead && !strings.HasPrefix(text, "start: "+errno.Error()) {
			t.Error(text)
		}
	}
}
