package manual

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is a program with a command that has a flag of every kind.
func sample() *Program {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	oneOf := func(words ...string) func(string) error {
		return func(s string) error {
			if !slices.Contains(words, s) {
				return fmt.Errorf("no kind %q: take %s", s, strings.Join(words, " or "))
			}
			return nil
		}
	}
	flags.Func("kind", "serve `KIND`: tcp or udp-lite", oneOf("tcp", "udp-lite"))
	flags.Func("count", "as many as `N`", func(s string) error {
		if s != "1" && s != "2" {
			return errors.New("take a number from 1 to 2")
		}
		return nil
	})
	flags.String("o", "", "write to `FILE`")
	flags.String("root", "", "serve `DIR`")
	flags.String("title", "it's a \\ [title]: \"x\"", "call it `TITLE`")
	flags.Duration("limit", time.Minute, "end after that")
	flags.Bool("loud", false, "say what is done")
	return &Program{Name: "tool", Section: 1, Synopsis: "COMMAND …", About: "do something", Commands: []*Program{
		{Name: "tool serve", Section: 1, Synopsis: "[FLAG]… [--] COMMAND [ARG]…", About: "serve. Well", Flags: flags},
		{Name: "tool version", About: "say the version"},
	}}
}

func TestOptions(t *testing.T) {
	var got []string
	for _, o := range sample().Commands[0].options() {
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%v", o.name, o.argument, o.usage, bashKind(o.value), o.words))
	}
	want := []string{
		"--count|N|as many as N|free|[]",
		"--kind|KIND|serve KIND: tcp or udp-lite|words|[tcp udp-lite]",
		"--limit|duration|end after that (default 1m0s)|free|[]",
		"--loud||say what is done|free|[]",
		"-o|FILE|write to FILE|files|[]",
		"--root|DIR|serve DIR|directory|[]",
		`--title|TITLE|call it TITLE (default it's a \ [title]: "x")|free|[]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestHelp(t *testing.T) {
	p := sample()
	if got, want := p.Help(), `usage: tool COMMAND …

  serve    serve. Well
  version  say the version

tool COMMAND --help lists a command's flags.
`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := p.Commands[0].Help(), `usage: tool serve [FLAG]… [--] COMMAND [ARG]…

Serve. Well.

  --count N         as many as N
  --kind KIND       serve KIND: tcp or udp-lite
  --limit duration  end after that (default 1m0s)
  --loud            say what is done
  -o FILE           write to FILE
  --root DIR        serve DIR
  --title TITLE     call it TITLE (default it's a \ [title]: "x")
`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestPage: a command that nothing is written of has a page all the same.
func TestPage(t *testing.T) {
	pages := sample().Pages()
	if got := strings.Join(Names(pages), " "); got != "tool.1 tool-serve.1" {
		t.Errorf("pages: %s", got)
	}
	for _, name := range []string{"serve", "tool-serve", "tool-serve.1"} {
		if page, err := Find(pages, name); err != nil || page.Name != "tool-serve.1" {
			t.Errorf("%s: %s, %v", name, page.Name, err)
		}
	}
	if _, err := Find(pages, "version"); err == nil || err.Error() != `no page "version": take one of tool.1, tool-serve.1` {
		t.Errorf("version: %v", err)
	}
	edition, err := NewEdition("v1", "86400")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := pages[1].Write(&b, edition); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`.TH TOOL\-SERVE 1 1970-01-02 "kstat v1" "User Commands"`,
		`tool\-serve \- serve. Well`,
		`.SY "tool serve"`,
		`.OP \-\-kind KIND`,
		`.OP \-\-loud`,
		`[\-\-] \fICOMMAND\fR [\fIARG\fR]...`,
		`\fB\-\-title\fR \fITITLE\fR`,
		`Call it \fITITLE\fR (default it's a \e [title]: "x").`,
	} {
		if !strings.Contains(b.String(), "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, b.String())
		}
	}
}

func TestEdition(t *testing.T) {
	for _, epoch := range []string{"yesterday", "-1", "1.5", "99999999999999999999"} {
		if _, err := NewEdition("v1", epoch); err == nil || !strings.HasPrefix(err.Error(), "SOURCE_DATE_EPOCH is \""+epoch+"\": ") {
			t.Errorf("%s: %v", epoch, err)
		}
	}
	if e, err := NewEdition("v1", ""); err != nil || time.Since(e.Date) > time.Hour {
		t.Errorf("without: %v, %v", e.Date, err)
	}
}

// TestLines: no text is taken for a macro, whatever it begins with.
func TestLines(t *testing.T) {
	var b bytes.Buffer
	page := Tree([]File{{Path: ".hidden", Mode: 0o444, About: "'quoted' and ` .dotted `, " + strings.Repeat("wörd ", 20) + `.\" end`}})
	if err := page.Write(&b, Edition{}); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		name, _, _ := strings.Cut(line, " ")
		if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !slices.Contains([]string{`.\"`, ".TH", ".SH", ".PP", ".TP", ".RS", ".EX", ".EE", ".RE", ".BR"}, name) {
			t.Errorf("taken for a macro: %s", line)
		}
		for _, r := range line {
			if r > 0x7e {
				t.Errorf("not ASCII: %s", line)
			}
		}
	}
}

func TestCompletionRefusal(t *testing.T) {
	if _, err := sample().Completion("tcsh"); err == nil || err.Error() != `no shell "tcsh": take one of bash, zsh, fish` {
		t.Error(err)
	}
}
