package tty

import (
	"os"
	"path/filepath"
	"testing"

	"kstat/lab/sandbox"
)

func TestUTF8(t *testing.T) {
	type env = map[string]string
	for _, c := range []struct {
		env  env
		want bool
	}{
		{nil, false},
		{env{"LANG": "C"}, false},
		{env{"LANG": "POSIX"}, false},
		{env{"LANG": "C.UTF-8"}, true},
		{env{"LANG": "C.utf8"}, true},
		{env{"LANG": "en_US.UTF8"}, true},
		{env{"LANG": "en_US.Utf-8"}, true},
		{env{"LANG": "de_DE.UTF-8@euro"}, true},
		{env{"LANG": "de_DE@euro"}, false},
		{env{"LANG": "de_DE.ISO-8859-15@euro"}, false},
		{env{"LANG": "de_DE.ISO-8859-1@utf8"}, false},
		{env{"LANG": "ja_JP.eucJP"}, false},
		{env{"LANG": "xx.UTF-16"}, false},
		{env{"LANG": "xx.noutf8"}, false},
		{env{"LC_CTYPE": "UTF-8"}, true},
		{env{"LANG": "utf8_XX.ISO-8859-1"}, false},
		{env{"LANG": "C.UTF-8", "LC_ALL": "C"}, false},
		{env{"LANG": "C.UTF-8", "LC_CTYPE": "C"}, false},
		{env{"LANG": "C", "LC_CTYPE": "C.UTF-8"}, true},
		{env{"LC_ALL": "C.UTF-8", "LC_CTYPE": "C", "LANG": "C"}, true},
		{env{"LC_ALL": "", "LC_CTYPE": "", "LANG": "C.UTF-8"}, true},
		{env{"LC_MESSAGES": "C.UTF-8"}, false},
	} {
		if got := UTF8(func(name string) string { return c.env[name] }); got != c.want {
			t.Errorf("%v: %v", c.env, got)
		}
	}
}

func TestFiles(t *testing.T) {
	plain, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, too
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, terminal := sandbox.Terminal(t)
	for _, c := range []struct {
		file                 *os.File
		term, noColor        string
		is, steered, colored bool
	}{
		{file: plain, term: "xterm"},
		{file: null, term: "xterm"},
		{file: terminal, term: "xterm", is: true, steered: true, colored: true},
		{file: terminal, term: "xterm", noColor: "0", is: true, steered: true},
		{file: terminal, term: "dumb", is: true},
		{file: terminal, term: "", is: true},
	} {
		t.Setenv("TERM", c.term)
		t.Setenv("NO_COLOR", c.noColor)
		if is, steered, colored := Is(c.file), Steered(c.file), Colored(c.file); is != c.is || steered != c.steered || colored != c.colored {
			t.Errorf("%s, TERM=%q NO_COLOR=%q: %v %v %v", c.file.Name(), c.term, c.noColor, is, steered, colored)
		}
	}
}
