package grade

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 10, []string{""}},
		{"one two", 10, []string{"one two"}},
		{"one two three", 10, []string{"one two", "three"}},
		{"0123456789 1", 10, []string{"0123456789", "1"}},
		{"01234567890123", 10, []string{"0123456789", "0123"}},
		{"one\n\ntwo", 10, []string{"one", "", "two"}},
		{"  indented text", 10, []string{"  indented", "text"}},
		{"    0123456789", 10, []string{"    012345", "6789"}},
		{"日本語日本語", 10, []string{"日本語日本", "語"}},
		{strings.Repeat("e\u0301", 11), 10, []string{strings.Repeat("e\u0301", 10), "e\u0301"}},
		{"語", 1, []string{"語"}},
	} {
		if got := wrap(test.text, test.width); !slices.Equal(got, test.want) {
			t.Errorf("wrap(%q, %d) = %q, want %q", test.text, test.width, got, test.want)
		}
	}
}

func TestVisible(t *testing.T) {
	for text, want := range map[string]string{
		"plain\n":                "plain\n",
		"a\tb\n\tc":              "a       b\n        c",
		"\x1b[2J\a\x00\x7f":      `\x1b[2J\a\x00\x7f`,
		"dos\r\n, and \r":        "dos\n, and \\r",
		"\xff and \xe6\x97":      `\xff and \xe6\x97`,
		"\u009b31m \u202e\ufeff": `\u009b31m \u202e\ufeff`,
		"日本語 é � 'x' \"y\" \\n":  "日本語 é � 'x' \"y\" \\n",
	} {
		if got := visible(text); got != want {
			t.Errorf("visible(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for seconds, want := range map[Seconds]string{0: "0s", 0.0126: "13ms", 1.04: "1s", 12.345: "12.3s", 83.4: "1m23s"} {
		if got := seconds.duration(); got != want {
			t.Errorf("%v: %s, want %s", seconds, got, want)
		}
	}
}

// terminal returns both ends of a new pseudoterminal of that many columns.
func terminal(t *testing.T, columns uint16) (window, programs *os.File) {
	t.Helper()
	window, programs = sandbox.Terminal(t)
	resize(t, programs, columns)
	return window, programs
}

func resize(t *testing.T, f *os.File, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func TestScreenOf(t *testing.T) {
	_, tty := terminal(t, 132)
	for _, test := range []struct {
		term, noColor string
		want          Screen
	}{
		{"xterm-256color", "", Screen{Columns: 132, Color: true, Erase: true}},
		{"xterm-256color", "1", Screen{Columns: 132, Erase: true}},
		{"dumb", "", Screen{Columns: 132}},
		{"", "", Screen{Columns: 132}},
	} {
		t.Setenv("TERM", test.term)
		t.Setenv("NO_COLOR", test.noColor)
		if got := ScreenOf(tty); got != test.want {
			t.Errorf("TERM=%s NO_COLOR=%s: %+v, want %+v", test.term, test.noColor, got, test.want)
		}
	}

	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	file, err := os.Create(filepath.Join(t.TempDir(), "report"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got := ScreenOf(file); got != (Screen{}) {
		t.Errorf("a file: %+v, want the zero value", got)
	}
}

// TestProgress looks at what a terminal gets while a rubric runs.
func TestProgress(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	master, tty := terminal(t, 40)
	items := []Item{
		{ID: "one", Title: "the first"},
		{ID: "two", Title: "publication at exactly N packets, changed live"},
		{ID: "three"},
	}
	p := NewProgress(tty, len(items))
	p.Each(0, &items[0], nil)
	p.Each(0, &items[0], &Result{Outcome: Passed})
	p.Each(1, &items[1], nil)
	p.Each(1, &items[1], &Result{Outcome: Failed})
	resize(t, tty, 200)
	p.Each(1, &items[1], nil)
	p.Each(2, &items[2], nil)
	p.Done()

	const want = "\r\x1b[K[1/3] the first …" +
		"\r\x1b[K[2/3] publication at exactly N packet …" +
		"\r\x1b[K[2/3] 1 failed, publication at exactly N packets, changed live …" +
		"\r\x1b[K[3/3] 1 failed, three …" +
		"\r\x1b[K"
	if got := receive(t, master, len(want)); got != want {
		t.Errorf("the terminal got %q, want %q", got, want)
	}
	for line := range strings.SplitSeq(want, "\r\x1b[K") {
		if strings.HasPrefix(line, "[2/3] p") && columns(line) != 39 {
			t.Errorf("%q is %d columns wide on a terminal of 40", line, columns(line))
		}
	}
}

// receive reads that many bytes, and what has come with them.
func receive(t *testing.T, f *os.File, n int) string {
	t.Helper()
	var got bytes.Buffer
	deadline := time.Now().Add(5 * time.Second)
	buf := make([]byte, 4096)
	for got.Len() < n {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || ready == 0 {
			t.Fatalf("%d bytes came, want %d: %q, %v", got.Len(), n, got.String(), err)
		}
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(buf[:n])
	}
	return got.String()
}

func TestProgressElsewhere(t *testing.T) {
	t.Setenv("TERM", "xterm")
	path := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := NewProgress(file, 1)
	p.Each(0, &Item{ID: "one"}, nil)
	p.Each(0, &Item{ID: "one"}, &Result{Outcome: Failed})
	p.Done()
	if got, err := os.ReadFile(path); err != nil || len(got) != 0 {
		t.Errorf("a file got %q, %v; want nothing", got, err)
	}
}
