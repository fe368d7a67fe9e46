package fs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/stats"
)

// TestContractTree: names, modes, sizes and owner as the contract lists them.
func TestContractTree(t *testing.T) {
	s := serve(t)
	for name, want := range map[string]struct {
		mode os.FileMode
		size int64
		text string
	}{
		"nout":       {0o444, 0, "0\n"},
		"counter":    {0o644, 0, "10\n"},
		"start":      {0o644, 4096, "0\n"},
		"reset":      {0o200, 0, ""},
		"pending":    {0o444, 0, "0\n"},
		"uncounted":  {0o444, 0, "3\n"},
		"hook":       {0o444, 0, "postrouting\n"},
		"engine":     {0o444, 0, "pretender\n"},
		"protocols":  {0o444, 0, "#name            number family      packets           bytes\n"},
		"stats.json": {0o444, 0, "{"},
		"watch":      {0o444, 0, ""},

		"trace_pipe":   {0o400, 0, ""},
		"trace.pcapng": {0o400, 0, ""},

		"proto":     {os.ModeDir | 0o555, 0, ""},
		"proto/tcp": {os.ModeDir | 0o555, 0, ""},

		"proto/tcp/packets":     {0o444, 0, "0\n"},
		"proto/ipv6-icmp/bytes": {0o444, 0, "0\n"},
		"proto/253/packets":     {0o444, 0, "0\n"},
		"proto/other/bytes":     {0o444, 0, "0\n"},
	} {
		info, err := os.Stat(s.path(name))
		must(t, err)
		if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s: owner %d:%d, want root", name, st.Uid, st.Gid)
		}
		if info.Mode() != want.mode || info.Size() != want.size {
			t.Errorf("%s: mode %v, size %d; want %v, %d", name, info.Mode(), info.Size(), want.mode, want.size)
		}
		if want.mode.IsRegular() && want.mode&0o400 != 0 && name != "watch" && !strings.HasPrefix(name, "trace") {
			if got := s.read(name); !strings.HasPrefix(got, want.text) || want.text != "{" && got != want.text {
				t.Errorf("%s: got %q, want %q", name, got, want.text)
			}
		}
	}
	entries, err := os.ReadDir(s.dir)
	must(t, err)
	if len(entries) != 14 {
		t.Errorf("%d entries, want the contract's 14: %v", len(entries), entries)
	}
}

// TestStatfs: the file system says of itself what procfs says.
func TestStatfs(t *testing.T) {
	s := serve(t)
	for _, name := range []string{"", "nout", "proto/tcp", "proto/tcp/bytes"} {
		var st unix.Statfs_t
		must(t, unix.Statfs(s.path(name), &st))
		if st.Bsize != pageSize || st.Frsize != pageSize || st.Namelen != unix.NAME_MAX || st.Blocks != 0 || st.Files != 0 {
			t.Errorf("%q: %+v", name, st)
		}
	}
}

// TestWritingTable is the contract's table, on the files: what write(2)
// returns, and what the file reads afterwards.
func TestWritingTable(t *testing.T) {
	s := serve(t)
	for _, row := range writingTable {
		for _, file := range []struct {
			name   string
			before string
			value  int64
			errno  error
		}{
			{"counter", "77\n", row.counter, row.cErrno},
			{"start", "1\n", row.start, row.sErrno},
			{"start", "0\n", row.start, row.sErrno},
		} {
			_, err := s.write(file.name, file.before)
			must(t, err)
			name := fmt.Sprintf("%s, %q, over %q", file.name, row.text[:min(len(row.text), 30)], file.before)
			n, err := s.write(file.name, row.text)
			want := file.before
			if file.errno == nil {
				want = strconv.FormatInt(file.value, 10) + "\n"
				if n != len(row.text) || err != nil {
					t.Errorf("%s: write returned %d, %v; want %d", name, n, err, len(row.text))
				}
			} else if !errors.Is(err, file.errno) {
				t.Errorf("%s: write returned %d, %v; want %v", name, n, err, file.errno)
			}
			if got := s.read(file.name); got != want {
				t.Errorf("%s: reads %q afterwards, want %q", name, got, want)
			}
		}
	}
	for _, name := range []string{"counter", "start"} {
		before := s.read(name)
		if n, err := s.write(name, ""); n != 0 || err != nil {
			t.Errorf("%s: a write of nothing returned %d, %v", name, n, err)
		}
		s.expect(name, before)
	}
}

func TestReset(t *testing.T) {
	s := serve(t)
	s.tell("add 6 0 25 40")
	s.expect("nout", "20\n")
	for _, text := range []string{"0", "2", "", "x", " 1"} {
		if _, err := s.write("reset", text); text != "" && !errors.Is(err, unix.EINVAL) {
			t.Errorf("reset %q: got %v, want EINVAL", text, err)
		}
	}
	s.expect("nout", "20\n")
	s.expect("pending", "5\n")
	if _, err := s.write("reset", "1\n"); err != nil {
		t.Fatal(err)
	}
	s.expect("nout", "0\n")
	s.expect("pending", "0\n")
	s.expect("proto/tcp/packets", "0\n")
	s.tell("add 6 0 10 40")
	s.expect("nout", "10\n")
}

func TestFigures(t *testing.T) {
	s := serve(t)
	s.tell("add 6 0 5 40")
	s.tell("add 6 1 3 60")
	s.tell("add 17 0 1 100")
	s.tell("add 253 1 1 1000")
	s.tell("add 256 1 7 48") // other, not published yet
	s.expect("nout", "8\n")
	s.expect("pending", "7\n")
	s.expect("proto/tcp/packets", "8\n")
	s.expect("proto/tcp/bytes", "380\n")
	s.expect("proto/253/bytes", "1000\n")
	s.expect("proto/other/packets", "0\n")
	list := func() (names []string) {
		entries, err := os.ReadDir(s.path("proto"))
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got := strings.Join(list(), " "); got != "253 tcp udp" {
		t.Errorf("proto lists %q", got)
	}
	must(t, second(s.write("counter", "7")))
	s.expect("pending", "0\n")
	if got := strings.Join(list(), " "); got != "253 other tcp udp" {
		t.Errorf("proto lists %q", got)
	}
	s.expect("protocols", `#name            number family      packets           bytes
tcp                   6 ipv4              5             200
tcp                   6 ipv6              3             180
udp                  17 ipv4              1             100
253                 253 ipv6              1            1000
other                 - ipv6              7             336
`)
	var d Document
	decoder := json.NewDecoder(strings.NewReader(s.read("stats.json")))
	decoder.DisallowUnknownFields()
	must(t, decoder.Decode(&d))
	if d.Schema != 1 || d.NOut != 8 || d.Counter != 7 || d.Start != 0 || d.Pending != 0 || d.Uncounted != 3 ||
		d.Hook != "postrouting" || d.Engine != "pretender" || d.PID != s.cmd.Process.Pid || d.Version != "test" ||
		d.Publications != 2 || d.Restarts != 1 || d.Repairs != 2 || d.Flushes != 3 || len(d.Gaps) != 1 || d.Gaps[0].Seconds != 0.5 || d.Published != (Figures{17, 1816}) || d.Live != d.Published || len(d.Protocols) != 5 {
		t.Errorf("stats.json: %+v", d)
	}
	if tcp, other := d.Protocols[0], d.Protocols[4]; tcp.Name != "tcp" || *tcp.Number != 6 || tcp.Family != "ipv4" ||
		tcp.Total != (Figures{5, 200}) || other.Number != nil || other.Name != "other" {
		t.Errorf("stats.json: protocols %+v", d.Protocols)
	}
}

func second(_ int, err error) error { return err }

// TestReading: the text is fixed at the first read, parts of it join, and
// going back to the beginning takes a new one.
func TestReading(t *testing.T) {
	s := serve(t)
	s.tell("add 6 0 1230 40")
	f, err := os.Open(s.path("nout"))
	must(t, err)
	defer f.Close()
	s.tell("add 6 0 10 40") // between open and read: still seen
	part := make([]byte, 2)
	_, err = io.ReadFull(f, part)
	must(t, err)
	s.tell("add 6 0 9000 40")
	rest, err := io.ReadAll(f)
	must(t, err)
	if got := string(part) + string(rest); got != "1240\n" {
		t.Errorf("two reads of parts: got %q, want 1240", got)
	}
	if n, err := f.Read(part); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	_, err = f.Seek(0, io.SeekStart)
	must(t, err)
	again, err := io.ReadAll(f)
	must(t, err)
	if string(again) != "10240\n" {
		t.Errorf("after a seek to 0: got %q, want 10240", again)
	}
	middle := make([]byte, 10)
	if n, err := f.ReadAt(middle, 3); string(middle[:n]) != "40\n" || err != io.EOF {
		t.Errorf("pread at 3: got %q, %v", middle[:n], err)
	}
	for range 3 { // byte by byte
		_, err = f.Seek(0, io.SeekStart)
		must(t, err)
		var text []byte
		for one := make([]byte, 1); ; {
			n, err := f.Read(one)
			text = append(text, one[:n]...)
			if err == io.EOF {
				break
			}
			must(t, err)
			s.tell("add 6 0 1 40")
		}
		if _, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64); err != nil || !bytes.HasSuffix(text, []byte("\n")) {
			t.Errorf("read byte by byte: %q", text)
		}
	}
}

// TestShell: what people type works.
func TestShell(t *testing.T) {
	s := serve(t)
	for _, test := range []struct{ script, file, want string }{
		{"echo 11 > counter", "counter", "11\n"},
		{"echo 12 >> counter", "counter", "12\n"},
		{"printf 13 > counter", "counter", "13\n"},
		{"echo 14 | tee counter > /dev/null", "counter", "14\n"},
		{"echo 15 > $TMP/n && cp $TMP/n counter", "counter", "15\n"},
		{"echo 16 > $TMP/n && dd if=$TMP/n of=counter 2>/dev/null", "counter", "16\n"},
		{"echo 17 | dd of=counter bs=1M conv=fsync 2>/dev/null", "counter", "17\n"},
		{"(echo 18; echo 19) > counter", "counter", "19\n"},
		{"exec 3> counter; echo 20 >&3; echo 21 >&3", "counter", "21\n"},
		{"truncate -s 0 counter", "counter", "21\n"},
		{": > counter", "counter", "21\n"},
		{"touch counter", "counter", "21\n"},
		{"cat counter > $TMP/n && cp $TMP/n counter", "counter", "21\n"},
		{"echo 0 > counter 2>/dev/null || echo 22 > counter", "counter", "22\n"},
		{"head -c 1 counter > $TMP/n; tail -n 1 counter >> $TMP/n; cat $TMP/n > /dev/null", "counter", "22\n"},
		{"echo 1 > start", "start", "1\n"},
		{"echo 0 > start", "start", "0\n"},
		{"[ $(cat nout) -eq 0 ] && grep -q 22 counter && wc -l < nout | grep -qw 1 && echo 23 > counter", "counter", "23\n"},
		{"cp nout $TMP/copy && cmp nout $TMP/copy && echo 24 > counter", "counter", "24\n"},
	} {
		cmd := sandbox.Command("sh", "-c", test.script)
		cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "TMP="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v %s", test.script, err, out)
		}
		s.expect(test.file, test.want)
	}
}

// TestForbidden: what the contract refuses, it refuses to root, too.
func TestForbidden(t *testing.T) {
	s := serve(t)
	open := func(flags int, names ...string) func() error {
		return func() error {
			for _, name := range names {
				f, err := os.OpenFile(s.path(name), flags, 0o600)
				if err != nil {
					return err
				}
				f.Close()
			}
			return nil
		}
	}
	for name, test := range map[string]struct {
		try  func() error
		want error
	}{
		"write nout":           {open(os.O_WRONLY, "nout"), unix.EACCES},
		"write nout and read":  {open(os.O_RDWR, "nout"), unix.EACCES},
		"append to nout":       {open(os.O_WRONLY|os.O_APPEND, "nout"), unix.EACCES},
		"truncate nout":        {func() error { return os.Truncate(s.path("nout"), 0) }, unix.EACCES},
		"echo over nout":       {open(os.O_WRONLY|os.O_CREATE|os.O_TRUNC, "nout"), unix.EACCES},
		"read reset":           {open(os.O_RDONLY, "reset"), unix.EACCES},
		"create":               {open(os.O_WRONLY|os.O_CREATE, "new"), unix.EPERM},
		"create in proto":      {open(os.O_WRONLY|os.O_CREATE, "proto/new"), unix.EPERM},
		"open what is not":     {open(os.O_RDONLY, "new"), unix.ENOENT},
		"mkdir":                {func() error { return os.Mkdir(s.path("new"), 0o755) }, unix.EPERM},
		"remove":               {func() error { return unix.Unlink(s.path("nout")) }, unix.EPERM},
		"rmdir":                {func() error { return unix.Rmdir(s.path("proto")) }, unix.EPERM},
		"rename":               {func() error { return os.Rename(s.path("nout"), s.path("new")) }, unix.EPERM},
		"link":                 {func() error { return os.Link(s.path("nout"), s.path("new")) }, unix.EPERM},
		"symlink":              {func() error { return os.Symlink("nout", s.path("new")) }, unix.EPERM},
		"mkfifo":               {func() error { return unix.Mkfifo(s.path("new"), 0o600) }, unix.EPERM},
		"chmod":                {func() error { return os.Chmod(s.path("nout"), 0o666) }, unix.EPERM},
		"chown":                {func() error { return os.Chown(s.path("nout"), 0, 0) }, unix.EPERM},
		"chmod the top":        {func() error { return os.Chmod(s.dir, 0o777) }, unix.EPERM},
		"counter read + write": {open(os.O_RDWR, "counter", "start"), nil},
	} {
		if err := test.try(); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	s.expect("counter", "10\n")
}

// TestOtherUsers: anybody may read, and only root may write.
func TestOtherUsers(t *testing.T) {
	sandbox.Need(t, sandbox.Root)
	s := serve(t)
	as := func(script string) string {
		cmd := sandbox.AsUser(sandbox.Command("sh", "-c", script), 65534)
		cmd.Dir = s.dir
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if got := as("cat nout counter start proto/tcp/packets"); got != "0\n10\n0\n0\n" {
		t.Errorf("reading as nobody: %q", got)
	}
	for _, file := range []string{"trace_pipe", "trace.pcapng"} {
		if got := as("cat " + file); !strings.Contains(got, "Permission denied") {
			t.Errorf("nobody reads %s: %q", file, got)
		}
	}
	for _, file := range []string{"counter", "start", "reset", "nout"} {
		if got := as("echo 1 > " + file); !strings.Contains(got, "Permission denied") {
			t.Errorf("nobody writes %s: %q", file, got)
		}
	}
	s.expect("counter", "10\n")
	s.expect("start", "0\n")
}

// TestTrace: what a tracer gives comes through buffers of any size, and its
// errors become errnos.
func TestTrace(t *testing.T) {
	s := serve(t)
	f, err := os.Open(s.path("trace_pipe"))
	must(t, err)
	got := make([]byte, 8*5)
	_, err = io.ReadFull(f, got[:10]) // a line and a half
	must(t, err)
	for at := 10; at < len(got); at++ {
		n, err := sandbox.Uninterrupted(func() (int, error) { return unix.Pread(int(f.Fd()), got[at:at+1], int64(99-at)) })
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := "line 1 line 2 line 3 line 4 line 5 line"; strings.ReplaceAll(string(got), "\n", " ")[:len(want)] != want {
		t.Errorf("got %q", got)
	}
	second, err := os.Open(s.path("trace_pipe"))
	must(t, err)
	if third, err := os.Open(s.path("trace_pipe")); !errors.Is(err, unix.ENFILE) {
		t.Errorf("one too many: got %v, %v", third, err)
	}
	must(t, f.Close(), second.Close())
	if f, err := os.Open(s.path("trace.pcapng")); !errors.Is(err, unix.EBADE) {
		t.Errorf("refused: got %v, %v", f, err)
	}
	if f, err := os.OpenFile(s.path("trace_pipe"), os.O_WRONLY, 0); !errors.Is(err, unix.EACCES) {
		t.Errorf("writing: got %v, %v", f, err)
	}
	s.tell("idle")
}

// TestNoTracer: a tree without a tracer has no files that show packets.
func TestNoTracer(t *testing.T) {
	r := (&Tree{Table: stats.NewTable(), Names: stats.BuiltinNames()}).Root().(*root)
	for _, tracer := range []Tracer{nil, new(poet)} {
		r.tree.Tracer = tracer
		var names []string
		for _, f := range r.files() {
			names = append(names, f.name)
		}
		if got := slices.Contains(names, "trace_pipe") && slices.Contains(names, "trace.pcapng"); got != (tracer != nil) || !slices.Contains(names, "nout") {
			t.Errorf("with tracer %v: %v", tracer, names)
		}
	}
}

// TestStartRefused: the writer gets the engine's errno, start stays 0, and
// works once the cause is gone.
func TestStartRefused(t *testing.T) {
	s := serve(t)
	for _, errno := range []unix.Errno{unix.EBUSY, unix.EPERM, unix.EOPNOTSUPP} {
		s.tell("refuse %d", int(errno))
		if _, err := s.write("start", "1"); !errors.Is(err, errno) {
			t.Errorf("got %v, want %v", err, errno)
		}
		s.expect("start", "0\n")
	}
	s.tell("refuse 0")
	must(t, second(s.write("start", "1")))
	s.expect("start", "1\n")
}

// TestReadersAndWriters: 64 write and 64 read at once. Every text that is read
// is well formed, and nout never goes back.
func TestReadersAndWriters(t *testing.T) {
	s := serve(t)
	const each, rounds = 64, 15
	var writing, reading sync.WaitGroup
	var done atomic.Bool
	for w := range each {
		writing.Go(func() {
			for round := range rounds {
				text := strconv.Itoa(1 + (w+round)%9)
				if n, err := s.write("counter", text); n != len(text) || err != nil {
					t.Errorf("write counter: %d, %v", n, err)
				}
				if _, err := s.write("counter", "nonsense"); !errors.Is(err, unix.EINVAL) {
					t.Errorf("write nonsense: %v", err)
				}
				if _, err := s.write("start", strconv.Itoa(round%2)); err != nil {
					t.Errorf("write start: %v", err)
				}
			}
		})
	}
	number := func(name string, low, high uint64) (uint64, error) {
		text, err := os.ReadFile(s.path(name))
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 64)
		if err != nil || n < low || n > high || text[len(text)-1] != '\n' {
			return 0, fmt.Errorf("%s: not well formed: %q", name, text)
		}
		return n, nil
	}
	for range each {
		reading.Go(func() {
			var last uint64
			for !done.Load() {
				n, err := number("nout", last, 1<<40)
				if err != nil {
					t.Error(err)
					return
				}
				last = n
				if _, err := number("counter", 1, 10); err != nil {
					t.Error(err)
				}
				if _, err := number("start", 0, 1); err != nil {
					t.Error(err)
				}
				var d Document
				text, err := os.ReadFile(s.path("stats.json"))
				if err == nil {
					err = json.Unmarshal(text, &d)
				}
				if err != nil || d.Live.Packets-d.Published.Packets != d.Pending {
					t.Errorf("stats.json: %v, live %d, published %d, pending %d", err, d.Live.Packets, d.Published.Packets, d.Pending)
				}
			}
		})
	}
	for range 200 {
		s.tell("add 6 0 37 40")
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	must(t, second(s.write("counter", "1")))
	s.expect("nout", "7400\n")
}
