package kmod

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kstat/lab/sandbox"
)

// messages are a log with all that dmesg treats in some way of its own.
var messages = []Message{
	{1 * time.Microsecond, 0, 5, "Linux version 6.18.0"},
	{1*time.Second + 1*time.Microsecond, 0, 6, "kstat: loading out-of-tree module: taints"},
	{12*time.Second + 5*time.Microsecond, 0, 4, "two\nlines: here"},
	{13500 * time.Millisecond, 1, 3, "user: caf\u00e9 \x01 \"q\"\\ tab\there \xff"},
	{13501 * time.Millisecond, 3, 2, "daemon: no colon after:this"},
	{80 * time.Second, 0, 6, "app[12]: segfault at 0 ip"},
	{80*time.Second + 200*time.Millisecond, 0, 1, "alert: "},
	{123456*time.Second + 789*time.Microsecond, 0, 7, "kstat: stopped"},
	{123456*time.Second + 789*time.Microsecond, 11, 0, "::"},
}

// dmesgCalls are options, and what they make of the messages. Where nothing is
// said of the output, the real dmesg says it, or nobody can: it tells times.
var dmesgCalls = []struct {
	options string
	status  int
	out     string
	err     string
	asked   string
	ours    bool // not to be compared: dmesg -F would not do it
}{
	{options: "", out: "" +
		"[    0.000001] Linux version 6.18.0\n" +
		"[    1.000001] kstat: loading out-of-tree module: taints\n" +
		"[   12.000005] two\n" +
		"               lines: here\n" +
		"[   13.500000] user: caf\u00e9 \\x01 \"q\"\\ tab\there \\xff\n" +
		"[   13.501000] daemon: no colon after:this\n" +
		"[   80.000000] app[12]: segfault at 0 ip\n" +
		"[   80.200000] alert: \n" +
		"[123456.000789] kstat: stopped\n" +
		"[123456.000789] ::\n"},
	{options: "-x -l warn,info", out: "" +
		"kern  :info  : [    1.000001] kstat: loading out-of-tree module: taints\n" +
		"kern  :warn  : [   12.000005] two\n" +
		"                              lines: here\n" +
		"kern  :info  : [   80.000000] app[12]: segfault at 0 ip\n"},
	{options: "-t -l 4", out: "two\nlines: here\n"},
	{options: "--notime --userspace --level=ERR", out: "user: caf\u00e9 \\x01 \"q\"\\ tab\there \\xff\n"},
	{options: "-l err,warn,", status: 1, err: "dmesg: unknown level 'warn,'\n"},
	{options: "-l err,er", status: 1, err: "dmesg: unknown level 'er'\n"},
	{options: "-d -k", out: "" +
		"[    0.000001 <    0.000000>] Linux version 6.18.0\n" +
		"[    1.000001 <    1.000000>] kstat: loading out-of-tree module: taints\n" +
		"[   12.000005 <   11.000004>] two\n" +
		"                              lines: here\n" +
		"[   80.000000 <   67.999995>] app[12]: segfault at 0 ip\n" +
		"[   80.200000 <    0.200000>] alert: \n" +
		"[123456.000789 <123375.800789>] kstat: stopped\n"},
	{options: "-t -d -u", out: "" +
		"[<    0.000000>] user: caf\u00e9 \\x01 \"q\"\\ tab\there \\xff\n" +
		"[<    0.001000>] daemon: no colon after:this\n" +
		"[<123442.499789>] ::\n"},
	{options: "--time-format delta -l debug,0", out: "[<    0.000000>] kstat: stopped\n[<    0.000000>] ::\n"},
	{options: "-f daemon,1 --color=always", out: "" +
		"\033[32m[   13.500000] \033[0m\033[33muser: \033[0m\033[31mcaf\u00e9 \\x01 \"q\"\\ tab\there \\xff\033[0m\n" +
		"\033[32m[   13.501000] \033[0m\033[33mdaemon: \033[0m\033[1m\033[31mno colon after:this\033[0m\n"},
	{options: "-Lalways -l 4,1,6"},
	{options: "-L=always -x -t"},
	{options: "--color=always -H"},
	{options: "--noescape -L=never"},
	{options: "-T"},
	{options: "--ctime --show-delta"},
	{options: "-e"},
	{options: "-H -P"},
	{options: "--time-format iso -x"},
	{options: "--time-format=iso -d"},
	{options: "--time-format=reltime -d"},
	{options: "--since 2001-01-01 -u"},
	{options: "--since tomorrow"},
	{options: "--until yesterday"},
	{options: "-S -t -l debug", ours: true, out: "kstat: stopped\n"},
	{options: "-l emerg -l alert -s 4096"},
	{options: "-r", ours: true, out: "" +
		"<5>[    0.000001] Linux version 6.18.0\n" +
		"<6>[    1.000001] kstat: loading out-of-tree module: taints\n" +
		"<4>[   12.000005] two\n" +
		"                  lines: here\n" +
		"<11>[   13.500000] user: caf\u00e9 \\x01 \"q\"\\ tab\there \\xff\n" +
		"<26>[   13.501000] daemon: no colon after:this\n" +
		"<6>[   80.000000] app[12]: segfault at 0 ip\n" +
		"<1>[   80.200000] alert: \n" +
		"<7>[123456.000789] kstat: stopped\n" +
		"<88>[123456.000789] ::\n"},
	{options: "-p -l warn -x", ours: true, out: "kern  :warn  : [   12.000005] two\nkern  :warn  : [   12.000005] lines: here\n"},
	{options: "-J -l warn,err", ours: true, out: `{
   "dmesg": [
      {
         "pri": 4,
         "time":    12.000005,
         "msg": "two\nlines: here"
      },{
         "pri": 11,
         "time":    13.500000,
         "msg": "user: café \u0001 \"q\"\\ tab\there ` + "\xff" + `"
      }
   ]
}
`},
	{options: "--json -x -l debug -T -p", ours: true, out: `{
   "dmesg": [
      {
         "fac": "kern",
         "pri": "debug",
         "time": 123456.000789,
         "msg": "kstat: stopped"
      }
   ]
}
`},
	{options: "-J -f lpr"},
	{options: "-c -l 7", ours: true, out: "[123456.000789] kstat: stopped\n", asked: "messages clear"},
	{options: "--read-clear -t -l 7", ours: true, out: "kstat: stopped\n", asked: "messages clear"},
	{options: "-C", ours: true, asked: "clear"},
	{options: "--clear", ours: true, asked: "clear"},
	{options: "-n 1", ours: true, asked: "none"},
	{options: "-n debug", ours: true, asked: "none"},
	{options: "-D", ours: true, asked: "none"},
	{options: "--console-on", ours: true, asked: "none"},
	{options: "-n 9", status: 1, err: "dmesg: unknown level '9'\n"},
	{options: "-n 0", status: 1, err: "dmesg: unknown level '0'\n"},
	{options: "-l foo", status: 1, err: "dmesg: unknown level 'foo'\n"},
	{options: "-l warn,foo,err", status: 1, err: "dmesg: unknown level 'foo,err'\n"},
	{options: "-l 8", status: 1, err: "dmesg: unknown level '8'\n"},
	{options: "-f 12", status: 1, err: "dmesg: unknown facility '12'\n"},
	{options: "-s many", status: 1, err: "dmesg: invalid buffer size argument: 'many'\n"},
	{options: "--color=blue", status: 1, err: "dmesg: unsupported color mode: 'blue'\n"},
	{options: "--time-format sundial", status: 1, err: "dmesg: unknown time format: sundial\n"},
	{options: "--since never", status: 1, err: "dmesg: invalid time value \"never\"\n"},
	{options: "-r -t", status: 1, err: "dmesg: mutually exclusive arguments: --raw --notime\n"},
	{options: "-C -c", status: 1, err: "dmesg: mutually exclusive arguments: --clear --console-off --console-on --read-clear --console-level --raw\n"},
	{options: "-w -S", status: 1, err: "dmesg: mutually exclusive arguments: --syslog --follow\n"},
	{options: "foo", status: 1, err: "dmesg: bad usage\nTry 'dmesg --help' for more information.\n"},
	{options: "-q", status: 1, err: "dmesg: invalid option -- 'q'\nTry 'dmesg --help' for more information.\n"},
	{options: "-F log -x", ours: true, status: 1, err: "dmesg: -F needs the dmesg of this machine, and it has none\n"},
}

func TestDmesg(t *testing.T) {
	for _, tt := range dmesgCalls {
		if tt.out == "" && tt.err == "" && tt.asked == "" {
			continue
		}
		t.Run(tt.options, func(t *testing.T) {
			f := &fake{logs: [][]Message{messages}}
			want := outcome{tt.status, tt.out, tt.err}
			if got := f.run("dmesg", strings.Fields(tt.options)...); got != want {
				t.Errorf("got %v\nwant %v", got, want)
			}
			asked := tt.asked
			switch {
			case asked == "none" || tt.status != 0:
				asked = ""
			case asked == "":
				asked = "messages"
			}
			if calls := strings.Join(f.calls, " "); calls != asked {
				t.Errorf("the kernel was asked for %q, want %q", calls, asked)
			}
		})
	}
}

// TestWordsOfDmesg holds it against the real dmesg, which reads the same
// messages from a file.
func TestWordsOfDmesg(t *testing.T) {
	real := needReal(t, "dmesg")
	log := filepath.Join(t.TempDir(), "log")
	var text bytes.Buffer
	for _, m := range messages {
		fmt.Fprintf(&text, "<%d>[%5d.%06d] %s\n", m.Facility<<3|m.Level, m.Time/time.Second, m.Time%time.Second/time.Microsecond, m.Text)
	}
	if err := os.WriteFile(log, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range dmesgCalls {
		if tt.ours {
			continue
		}
		t.Run(tt.options, func(t *testing.T) {
			var got, want outcome
			// Each reckons by itself when the machine booted, to the second,
			// and rarely they differ.
			for range 10 {
				options := strings.Fields(tt.options)
				got = (&fake{logs: [][]Message{messages}}).run("dmesg", options...)
				cmd := sandbox.Command(real, append([]string{"-F", log}, options...)...)
				cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
				cmd.Args[0] = "dmesg"
				if want = result(t, cmd); got == want {
					return
				}
			}
			t.Errorf("got %v\nthe real dmesg: %v", got, want)
		})
	}
}

// A follower sees each message once, wherever in the log it comes up, and
// whatever is cleared meanwhile.
func TestDmesgFollow(t *testing.T) {
	host := Message{10 * time.Second, 0, 6, "host: one"}
	same := Message{11 * time.Second, 0, 6, "kstat: twice"}
	late := Message{9 * time.Second, 0, 6, "host: by a slow clock"}
	last := Message{12 * time.Second, 0, 6, "kstat: after the clearing"}
	logs := [][]Message{{host, same}, {host, same, same}, {late, host, same, same}, {}, {last}, {last}}
	const (
		old   = "[   10.000000] host: one\n[   11.000000] kstat: twice\n"
		fresh = "[   11.000000] kstat: twice\n[    9.000000] host: by a slow clock\n[   12.000000] kstat: after the clearing\n"
		ended = "dmesg: read kernel buffer failed: Operation not permitted\n"
	)
	for option, out := range map[string]string{"-w": old + fresh, "--follow": old + fresh, "-W": fresh, "--follow-new": fresh} {
		t.Run(option, func(t *testing.T) {
			t.Parallel() // it waits
			f := &fake{logs: slices.Clone(logs)}
			if got, want := f.run("dmesg", option), (outcome{1, out, ended}); got != want {
				t.Errorf("got %v\nwant %v", got, want)
			}
		})
	}
}

func TestDmesgErrors(t *testing.T) {
	f := &fake{errno: syscall.EPERM}
	if got, want := f.run("dmesg"), (outcome{1, "", "dmesg: read kernel buffer failed: Operation not permitted\n"}); got != want {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if got, want := f.run("dmesg", "-C"), (outcome{1, "", "dmesg: clear kernel buffer failed: Operation not permitted\n"}); got != want {
		t.Errorf("got %v\nwant %v", got, want)
	}
	f = &fake{}
	if got := f.run("dmesg", "-c"); got.status != 1 || len(f.calls) != 0 {
		t.Errorf("dmesg -c cleared what it could not read: %v, asked %q", got, f.calls)
	}
}

// Nobody follows for a reader who has gone.
func TestDmesgReaderGone(t *testing.T) {
	f := &fake{logs: [][]Message{messages, messages}}
	gone := &tool{argv0: "dmesg", name: "dmesg", args: []string{"-w"}, kernel: f, out: bufio.NewWriter(brokenPipe{}), err: os.Stderr}
	if status := gone.run(); status != 0 || len(f.calls) != 1 {
		t.Errorf("status %d after %q", status, f.calls)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 3, 1, 9, 30, 15, 999, zone)
	at := func(month time.Month, day, hour, minute, second int) time.Time {
		return time.Date(2026, month, day, hour, minute, second, 0, zone)
	}
	for text, want := range map[string]time.Time{
		"now":                 at(3, 1, 9, 30, 15),
		"today":               at(3, 1, 0, 0, 0),
		"yesterday":           at(2, 28, 0, 0, 0),
		"tomorrow":            at(3, 2, 0, 0, 0),
		"+5min":               at(3, 1, 9, 35, 15),
		"-90":                 at(3, 1, 9, 28, 45),
		"-1h 30 minutes":      at(3, 1, 8, 0, 15),
		"1.5 hours ago":       at(3, 1, 8, 0, 15),
		"2 days ago":          at(2, 27, 9, 30, 15),
		"2026-02-03 04:05:06": at(2, 3, 4, 5, 6),
		"2026-02-03T04:05:06": at(2, 3, 4, 5, 6),
		"2026-02-03 04:05":    at(2, 3, 4, 5, 0),
		"2026-02-03":          at(2, 3, 0, 0, 0),
		"04:05:06":            at(3, 1, 4, 5, 6),
		"04:05":               at(3, 1, 4, 5, 0),
	} {
		if got, err := parseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "never", "+", "-", "+5 parsecs", "+-5", "+5..", " ago", "2026-02-30", "25:00", "2026-02-03 04:05:06Z"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
	if _, err := parseSpan("9"); errors.Is(err, errTime) {
		t.Error("a number is a number of seconds")
	}
}
