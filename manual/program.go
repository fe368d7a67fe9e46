package manual

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Program is a program, or a command of one.
type Program struct {
	Name     string        // as it is called: "kstatd", "kstat run"
	Section  int           // of the manual; 0: it has no page
	Synopsis string        // what follows the name: "[FLAG]… [--] COMMAND [ARG]…"
	About    string        // what it does, as an imperative without a full stop
	Flags    *flag.FlagSet // not parsed, and for this alone: values are tried on it. Nil: it has none
	Commands []*Program    // the first argument is the last word of the name of one of them
	Words    []string      // what an argument may be, for completion
}

// word is what the command is called behind its program.
func (p *Program) word() string { return p.Name[strings.LastIndex(p.Name, " ")+1:] }

// A value is what an argument is completed with.
type value int

const (
	free      value = iota // anything
	words                  // one of some words
	files                  // the name of a file
	directory              // the name of a directory
	command                // the name of a program
)

// An option is a flag, as it is typed and told of.
type option struct {
	name     string // with its dashes
	argument string // name of its value; empty: it takes none
	usage    string // ends with its default, if that says something
	value    value
	words    []string
}

// options returns the flags, sorted by name.
func (p *Program) options() (all []option) {
	if p.Flags == nil {
		return nil
	}
	p.Flags.VisitAll(func(f *flag.Flag) {
		o := option{name: "--" + f.Name}
		if utf8.RuneCountInString(f.Name) == 1 {
			o.name = "-" + f.Name
		}
		o.argument, o.usage = flag.UnquoteUsage(f)
		if o.argument != "" {
			o.value = valueOf(o.argument)
		}
		if o.argument != "" && !strings.Contains(o.usage, "(default ") && !slices.Contains([]string{"", "0", "0s", "false"}, f.DefValue) {
			o.usage += " (default " + f.DefValue + ")"
		}
		if o.argument != "" && o.value == free {
			if o.words = accepted(f.Value); len(o.words) > 0 {
				o.value = words
			}
		}
		all = append(all, o)
	})
	return all
}

// valueOf returns what the name of an argument says of it.
func valueOf(argument string) value {
	switch argument {
	case "FILE", "PATH":
		return files
	case "DIR":
		return directory
	case "COMMAND":
		return command
	}
	return free
}

// nonsense is what no flag takes that takes one of some words.
const nonsense = "?"

// accepted returns the words that a flag's refusal names, and takes. Setting a
// flag must have no effect beside its value.
func accepted(v flag.Value) (taken []string) {
	refusal := v.Set(nonsense)
	if refusal == nil {
		return nil
	}
	notInWord := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r)
	}
	for _, word := range strings.FieldsFunc(refusal.Error(), notInWord) {
		word = strings.Trim(word, ".-")
		if word == "" || unicode.IsDigit(rune(word[0])) || slices.Contains(taken, word) {
			continue
		}
		if v.Set(word) == nil {
			taken = append(taken, word)
		}
	}
	return taken
}

// operand returns how the arguments that are no flags are completed. A command
// is followed by arguments of its own.
func (p *Program) operand() value {
	if len(p.Words) > 0 {
		return words
	}
	for _, name := range strings.FieldsFunc(p.Synopsis, func(r rune) bool { return !unicode.IsLetter(r) && r != '-' && r != '>' }) {
		if name == ">" {
			break
		}
		if v := valueOf(name); v != free {
			return v
		}
	}
	return free
}

// Help returns the text of --help.
func (p *Program) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s %s\n\n", p.Name, p.Synopsis)
	if d := detailsOf(p.Name); len(p.Commands) == 0 && p.Section > 0 {
		if len(d.help) > 0 {
			fmt.Fprintf(&b, "%s\n\n", wrap(d.help, 78))
		} else {
			fmt.Fprintf(&b, "%s.\n\n", capital(p.About))
		}
	}
	var rows [][2]string
	for _, c := range p.Commands {
		rows = append(rows, [2]string{c.word(), c.About})
	}
	for _, o := range p.options() {
		rows = append(rows, [2]string{strings.TrimSpace(o.name + " " + o.argument), o.usage})
	}
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	for _, row := range rows {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, row[0], row[1])
	}
	if len(p.Commands) > 0 {
		fmt.Fprintf(&b, "\n%s COMMAND --help lists a command's flags.\n", p.Name)
	}
	if d := detailsOf(p.Name); d.then != "" {
		fmt.Fprintf(&b, "\n%s\n", d.then)
	}
	return b.String()
}

// capital returns the text with a capital letter.
func capital(text string) string {
	r, n := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(r)) + text[n:]
}

// sentence returns the text with a capital letter and a full stop.
func sentence(text string) string {
	if text == "" || strings.ContainsAny(text[len(text)-1:], ".?!") {
		return capital(text)
	}
	return capital(text) + "."
}

// wrap breaks a text into lines of at most width characters.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}
