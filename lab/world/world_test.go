package world

import (
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
	"kstat/lab/kmod"
	"kstat/lab/sandbox"
	"kstat/stats"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

func TestParseRecord(t *testing.T) {
	for record, want := range map[string]kmod.Message{
		"6,339,5140900,-;NET: Registered":                      {Time: 5140900 * time.Microsecond, Level: 6, Text: "NET: Registered"},
		"30,340,5690716,-,caller=T1;udevd[80]: a;b\n SUBSYS=x": {Time: 5690716 * time.Microsecond, Facility: 3, Level: 6, Text: "udevd[80]: a;b"},
		`4,1,0,-;tab\x09 and \x5c, \x, \xzz`:                   {Level: 4, Text: "tab\t and \\, \\x, \\xzz"},
		"3,1,7,-;":                                             {Time: 7 * time.Microsecond, Level: 3},
	} {
		if got, ok := parseRecord(record); !ok || got != want {
			t.Errorf("%q: %+v, %v, want %+v", record, got, ok, want)
		}
	}
	for _, record := range []string{"", ";", "6,1;text", "x,1,2,-;text", "6,1,x,-;text", "6,1,2,-"} {
		if got, ok := parseRecord(record); ok {
			t.Errorf("%q: %+v, want none", record, got)
		}
	}
}

func TestMountsBelow(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	base := t.TempDir()
	dirs := []string{base + "/a b", base + "/a b/inner", base + `/back\slash`}
	for _, dir := range dirs {
		if err := errors.Join(unix.Mkdir(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "")); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
	}
	got, err := mountsBelow(base)
	if want := []string{dirs[0], dirs[2]}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// The kernel's rules for a module's parameters (kernel/params.c).
func TestSetParameters(t *testing.T) {
	for _, c := range []struct {
		params  string
		counter uint32
		err     error
		log     string
	}{
		{"", 10, nil, ""},
		{"counter=5", 5, nil, ""},
		{`counter="7"`, 7, nil, ""},
		{"counter=0x10", 16, nil, ""}, // a parameter takes these, and the file does not
		{"counter=010", 8, nil, ""},
		{`counter=" 5"`, 10, unix.EINVAL, "kstat: ` 5' invalid for parameter `counter'"}, // and the other way round
		{"counter=0x100000000", 10, unix.ERANGE, "kstat: `0x100000000' invalid for parameter `counter'"},
		{"counter", 10, unix.EINVAL, "kstat: `' invalid for parameter `counter'"},
		{"counter=0", 10, unix.EINVAL, "kstat: `0' invalid for parameter `counter'"},
		{"counter=4294967296", 10, unix.ERANGE, "kstat: `4294967296' invalid for parameter `counter'"},
		{"start=2", 10, unix.EINVAL, "kstat: `2' invalid for parameter `start'"},
		{"start=0 counter=3", 3, nil, ""},
		{"colour=red counter=3", 3, nil, "kstat: unknown parameter 'colour' ignored"},
	} {
		table := stats.NewTable()
		log := new(kernelLog)
		engine, err := hook.New(hook.Config{Point: hook.Postrouting}, table)
		if err != nil {
			t.Fatal(err)
		}
		files, err := moduleFiles("", &fs.Tree{Table: table, Engine: engine, Log: slog.New(log)})
		if err != nil {
			t.Fatal(err)
		}
		err = setParameters(c.params, files, slog.New(log))
		if !errors.Is(err, c.err) || table.Counter() != c.counter || log.text() != c.log {
			t.Errorf("%q: error %v, counter %d, log %q; want %v, %d, %q", c.params, err, table.Counter(), log.text(), c.err, c.counter, c.log)
		}
	}
}

func TestKernelLog(t *testing.T) {
	l := new(kernelLog)
	log := slog.New(l)
	for n := range keptEntries + 3 {
		log.Info(strconv.Itoa(n))
	}
	entries, _ := l.snapshot()
	if len(entries) != keptEntries || entries[0].Text != "kstat: 3" || entries[0].Level != 6 {
		t.Errorf("%d entries, the first %+v", len(entries), entries[0])
	}
	l.clear()
	log.Error("bad\nthing", "err", unix.EBUSY)
	entries, cleared := l.snapshot()
	if len(entries) != 1 || entries[0].Text != "kstat: bad; thing err=device or resource busy" || entries[0].Level != 3 || entries[0].Since < cleared {
		t.Errorf("after clear at %v: %+v", cleared, entries)
	}
	if strings.Contains(l.text(), "\n") {
		t.Errorf("%q", l.text())
	}
}
