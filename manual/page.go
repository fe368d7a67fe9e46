package manual

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Edition is when a page was made, and of what.
type Edition struct {
	Version string
	Date    time.Time
}

// NewEdition returns that of a version and a day: SOURCE_DATE_EPOCH, seconds
// since 1970 as reproducible builds have them, or today if that is empty.
func NewEdition(version, epoch string) (Edition, error) {
	if epoch == "" {
		return Edition{version, time.Now()}, nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return Edition{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q: it has to be a number of seconds, or unset", epoch)
	}
	return Edition{version, time.Unix(seconds, 0).UTC()}, nil
}

// A Page is a page of the manual.
type Page struct {
	Name string // with its section: kstat-run.1
	body func(r *roff)
}

// Pages returns the page of a program and those of its commands.
func (p *Program) Pages() []Page {
	var pages []Page
	if p.Section > 0 {
		name := fmt.Sprintf("%s.%d", strings.ReplaceAll(p.Name, " ", "-"), p.Section)
		pages = append(pages, Page{name, p.page})
	}
	for _, c := range p.Commands {
		pages = append(pages, c.Pages()...)
	}
	return pages
}

// Names returns those of pages.
func Names(pages []Page) []string {
	names := make([]string, len(pages))
	for i, page := range pages {
		names[i] = page.Name
	}
	return names
}

// Find returns the page of a name, with or without its section; of a command,
// the command's is enough.
func Find(pages []Page, name string) (Page, error) {
	for _, page := range pages {
		plain, _, _ := strings.Cut(page.Name, ".")
		_, command, _ := strings.Cut(plain, "-")
		if slices.Contains([]string{page.Name, plain, command}, name) {
			return page, nil
		}
	}
	return Page{}, fmt.Errorf("no page %q: take one of %s", name, strings.Join(Names(pages), ", "))
}

// Write writes the page in man(7), for man, mandoc and groff.
func (p Page) Write(w io.Writer, e Edition) error {
	r := &roff{w: bufio.NewWriter(w)}
	name, section, _ := strings.Cut(p.Name, ".")
	r.macro(`\"`, "Made from the program's own flags; do not edit.")
	r.macro("TH", strings.ToUpper(literal(name)), section, e.Date.UTC().Format(time.DateOnly), quote("kstat "+e.Version), quote(volume(section)))
	p.body(r)
	return r.w.Flush()
}

// volume returns what a section is called.
func volume(section string) string {
	switch section {
	case "1":
		return "User Commands"
	case "5":
		return "File Formats"
	case "8":
		return "System Administration"
	}
	return ""
}

func (p *Program) page(r *roff) {
	d := detailsOf(p.Name)
	dashed := strings.ReplaceAll(p.Name, " ", "-")
	r.head("NAME")
	r.line(literal(dashed) + ` \- ` + escape(p.About)) // one line, for whatis

	r.head("SYNOPSIS")
	r.macro("SY", quote(p.Name))
	rest, flags := strings.CutPrefix(p.Synopsis, "[FLAG]…")
	options := p.options()
	if flags {
		for _, o := range options {
			r.macro("OP", literal(o.name), escape(o.argument))
		}
	}
	if rest = strings.TrimSpace(rest); rest != "" {
		r.text(emphasize(literal(rest), func(word string) bool { return len(word) > 1 && word == strings.ToUpper(word) }))
	}
	r.macro("YS")

	r.head("DESCRIPTION")
	first := sentence(p.About)
	if d.help != "" {
		first = d.help
	}
	r.paragraphs(append([]string{first}, d.text...))
	if len(p.Commands) > 0 {
		r.head("COMMANDS")
		for _, c := range p.Commands {
			about := sentence(c.About)
			if c.Section > 0 {
				about += fmt.Sprintf(" See %s(%d).", strings.ReplaceAll(c.Name, " ", "-"), c.Section)
			}
			r.item(bold(c.word()), markup(about))
		}
	}
	if len(options) > 0 {
		r.head("OPTIONS")
		for _, o := range options {
			name, usage := bold(o.name), escape(sentence(o.usage))
			if o.argument != "" {
				name += " " + italic(escape(o.argument))
				usage = emphasize(usage, func(word string) bool { return word == o.argument })
			}
			r.item(name, usage)
		}
	}
	for _, s := range d.sections {
		r.section(s)
	}
	r.rest(d)
}

// treeName is the page of the tree.
const treeName = "kstat.5"

// A File is a file of the tree.
type File struct {
	Path  string // below the mount point
	Mode  fs.FileMode
	About string // what it is, in lower case
}

// Tree returns the page of the files that the daemon shows.
func Tree(files []File) Page {
	return Page{treeName, func(r *roff) {
		d := detailsOf(treeName)
		r.head("NAME")
		r.line(`kstat \- the tree of files that kstatd shows`)
		r.head("DESCRIPTION")
		r.paragraphs(d.text)
		r.head("FILES")
		for _, f := range files {
			r.item(bold(f.Path)+fmt.Sprintf(" (%04o)", f.Mode), markup(sentence(f.About)))
		}
		for _, s := range d.sections {
			r.section(s)
		}
		r.rest(d)
	}}
}

// roff writes a page. Errors are kept by the writer, until Flush.
type roff struct{ w *bufio.Writer }

func (r *roff) macro(name string, arguments ...string) {
	fmt.Fprintln(r.w, strings.TrimSpace("."+name+" "+strings.Join(arguments, " ")))
}

// line writes a line that is no macro.
func (r *roff) line(text string) {
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	fmt.Fprintln(r.w, text)
}

func (r *roff) head(title string) { r.macro("SH", quote(title)) }

// text writes what is escaped already. A sentence begins a line.
func (r *roff) text(text string) {
	var sentence []string
	words := strings.Fields(text)
	for i, word := range words {
		sentence = append(sentence, word)
		ends := strings.HasSuffix(word, ".") || strings.HasSuffix(word, ".)") || strings.HasSuffix(word, "?") || strings.HasSuffix(word, "!")
		if i == len(words)-1 || ends && (words[i+1][0] == '\\' || unicode.IsUpper(rune(words[i+1][0]))) {
			for _, line := range strings.Split(wrap(strings.Join(sentence, " "), 78), "\n") {
				r.line(line)
			}
			sentence = nil
		}
	}
}

func (r *roff) paragraphs(texts []string) {
	for i, text := range texts {
		if i > 0 {
			r.macro("PP")
		}
		r.text(markup(text))
	}
}

// item writes what is escaped already.
func (r *roff) item(name, text string) {
	r.macro("TP")
	r.line(name)
	r.text(text)
}

func (r *roff) section(s section) {
	if len(s.text)+len(s.items) == 0 {
		return
	}
	r.head(s.title)
	r.paragraphs(s.text)
	for _, it := range s.items {
		r.item(bold(it.name), markup(it.text))
	}
}

// rest writes what pages end with.
func (r *roff) rest(d details) {
	r.section(section{title: "EXIT STATUS", items: d.exits})
	r.section(section{title: "ENVIRONMENT", items: d.environ})
	r.section(section{title: "FILES", items: d.files})
	if len(d.examples) > 0 {
		r.head("EXAMPLES")
		for i, e := range d.examples {
			if i > 0 {
				r.macro("PP")
			}
			r.text(markup(e.text))
			r.macro("PP")
			r.macro("RS", "4")
			r.macro("EX")
			r.line(literal(e.name))
			r.macro("EE")
			r.macro("RE")
		}
	}
	r.head("SEE ALSO")
	see := slices.SortedFunc(slices.Values(d.see), func(a, b string) int {
		section := func(s string) byte { return s[len(s)-2] }
		return cmp.Or(cmp.Compare(section(a), section(b)), strings.Compare(a, b))
	})
	for i, page := range see {
		name, section, _ := strings.Cut(page, "(")
		if i < len(see)-1 {
			section += ","
		}
		r.macro("BR", literal(name), "("+section)
	}
}

// emphasize makes words of letters italic.
func emphasize(text string, which func(word string) bool) string {
	var b strings.Builder
	for text != "" {
		n := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
		switch {
		case n < 0:
			n = len(text)
		case n == 0:
			n = 1
		}
		if word := text[:n]; which(word) {
			b.WriteString(italic(word))
		} else {
			b.WriteString(word)
		}
		text = text[n:]
	}
	return b.String()
}

// italic takes what is escaped already.
func italic(text string) string { return `\fI` + text + `\fR` }

func bold(text string) string { return `\fB` + literal(text) + `\fR` }

// escape returns a text as roff wants it, to be read.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '…':
			b.WriteString("...")
		case r < 0x80:
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		}
	}
	return b.String()
}

// literal returns a text as roff wants it, to be typed: a hyphen is a minus, and
// quotes are straight.
func literal(text string) string {
	return strings.NewReplacer("-", `\-`, "'", `\(aq`, `"`, `\(dq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(escape(text))
}

// markup escapes a text in which what is in backquotes is literal.
func markup(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString(bold(part))
		} else {
			b.WriteString(escape(part))
		}
	}
	return b.String()
}

// quote returns a macro's argument that may have blanks.
func quote(text string) string {
	if strings.Contains(text, " ") {
		return `"` + text + `"`
	}
	return text
}
