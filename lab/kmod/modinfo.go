package kmod

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

var modinfoOptions = grammar{"adlpn0mF:k:b:Vh", []longOption{
	{"author", no, "a"},
	{"description", no, "d"},
	{"license", no, "l"},
	{"parameters", no, "p"},
	{"filename", no, "n"},
	{"null", no, "0"},
	{"modname", no, "m"},
	{"field", required, "F"},
	{"set-version", required, "k"},
	{"basedir", required, "b"},
	{"version", no, "V"},
	{"help", no, "h"},
}}

// info is a call of modinfo.
type info struct {
	*tool
	field  string // the only one to print, or ""
	end    string // of a line
	byName bool   // no argument is a file's name
	dir    string // of the modules
}

func (t *tool) modinfo() int {
	i := info{tool: t, end: "\n"}
	var base, release string
	c, err := modinfoOptions.parse(t.args)
	for _, o := range c.options {
		switch o.name {
		case "a":
			i.field = "author"
		case "d":
			i.field = "description"
		case "l":
			i.field = "license"
		case "p":
			i.field = "parm"
		case "n":
			i.field = "filename"
		case "0":
			i.end = "\x00"
		case "m":
			i.byName = true
		case "F":
			i.field = o.value
		case "k":
			release = o.value
		case "b":
			base = o.value
		case "h":
			return t.help("[options] modulename|filename [args]")
		case "V":
			return t.version()
		}
	}
	switch {
	case err != nil:
		return t.misused(err)
	case len(c.operands) == 0:
		t.log(failure, "missing module or filename.")
		return 1
	}
	i.dir = modulesDir(base, release)
	return t.each(c, i.isMine, i.show)
}

// isMine reports whether the argument is kstat, by name or as a file. What is
// packed in a way that Go's library cannot read is left to the real tool.
func (i *info) isMine(arg string) bool {
	if arg == module || arg == i.dir+installedAs {
		return true
	}
	return i.isFile(arg) && isKstat(arg) && !strings.HasSuffix(arg, ".xz") && !strings.HasSuffix(arg, ".zst")
}

func (i *info) isFile(arg string) bool {
	stat, err := os.Stat(arg)
	return !i.byName && err == nil && stat.Mode().IsRegular() && isModuleFile(arg)
}

// show prints what modinfo has to say of one argument.
func (i *info) show(arg string) bool {
	path, fields, err := i.dir+installedAs, []field(nil), error(nil)
	switch {
	case i.isFile(arg):
		if path = arg; !filepath.IsAbs(arg) {
			wd, _ := os.Getwd()
			path = wd + "/" + arg // kmod leaves the dots in it, too
		}
		fields, err = readModinfo(arg)
	case arg == module, arg == path:
		fields, err = parseModinfo(bytes.NewReader(Object()))
	case i.byName:
		i.log(failure, "Module name %s not found.", arg)
		return false
	default:
		i.log(failure, "Module %s not found.", arg)
		return false
	}

	switch i.field {
	case "filename":
		fmt.Fprint(i.out, path, i.end)
		return true
	case "":
		fmt.Fprintf(i.out, "%-16s%s%s", "filename:", path, i.end)
	}
	if err != nil {
		i.log(failure, "could not get modinfo from '%s': %s", moduleName(filepath.Base(path)), strerror(err))
		return false
	}
	i.print(fields)
	return true
}

// print prints the fields as they come, and then the parameters, last first.
func (i *info) print(fields []field) {
	var params []param
	for _, f := range fields {
		switch {
		case (f.key == "parm" || f.key == "parmtype") && (i.field == "" || i.field == "parm"):
			params = i.collect(params, f)
		case i.field == f.key:
			fmt.Fprint(i.out, f.value, i.end)
		case i.field != "":
		case i.end == "\x00":
			fmt.Fprint(i.out, f.key, "=", f.value, i.end)
		default:
			// Where the key is too long, kmod's width is negative.
			fmt.Fprintf(i.out, "%s:%*s%s%s", f.key, max(15-len(f.key), len(f.key)-15), "", f.value, i.end)
		}
	}
	slices.Reverse(params)
	for _, p := range params {
		fmt.Fprint(i.out, p.text(i.field == ""), i.end)
	}
}

// param is a parameter of the module: what parm says of it, and parmtype.
type param struct {
	name, description, kind string
	described, typed        bool
}

// collect adds what a parm or parmtype field says.
func (i *info) collect(params []param, f field) []param {
	name, text, ok := strings.Cut(f.value, ":")
	if !ok {
		i.log(failure, "Found invalid \"%s=%s\": missing ':'", f.key, f.value)
		return params
	}
	at := slices.IndexFunc(params, func(p param) bool { return p.name == name })
	if at < 0 {
		at = len(params)
		params = append(params, param{name: name})
	}
	if p := &params[at]; f.key == "parm" {
		p.description, p.described = text, true
	} else {
		p.kind, p.typed = text, true
	}
	return params
}

// text is how modinfo shows the parameter, among all fields or alone.
func (p param) text(labelled bool) string {
	label := ""
	if labelled {
		label = fmt.Sprintf("%-16s", "parm:")
	}
	switch {
	case !p.described && labelled:
		return label + p.name + ":" + p.kind
	case !p.described:
		return p.name + ": (" + p.kind + ")"
	case p.typed:
		return label + p.name + ":" + p.description + " (" + p.kind + ")"
	}
	return label + p.name + ":" + p.description
}

// field is a string of a .modinfo section: key=value.
type field struct{ key, value string }

// readModinfo reads the .modinfo section of a kernel object, which may be
// gzipped. The errors are those with which kmod fails.
func readModinfo(path string) ([]field, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	magic := make([]byte, 7) // as much as kmod wants to see
	if _, err := f.ReadAt(magic, 0); errors.Is(err, io.EOF) {
		return nil, syscall.EINVAL
	} else if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(magic, []byte{0x1f, 0x8b}) {
		return parseModinfo(f)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, syscall.EINVAL
	}
	unpacked, err := io.ReadAll(z)
	if err != nil {
		return nil, syscall.EINVAL
	}
	return parseModinfo(bytes.NewReader(unpacked))
}

func parseModinfo(object io.ReaderAt) ([]field, error) {
	file, err := elf.NewFile(object)
	if err != nil {
		return nil, syscall.ENOEXEC
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, syscall.ENOENT
	}
	data, err := section.Data()
	if err != nil {
		return nil, syscall.ENOEXEC
	}
	var fields []field
	for text := range strings.SplitSeq(string(data), "\x00") {
		if text == "" {
			continue
		}
		key, value, _ := strings.Cut(text, "=")
		fields = append(fields, field{key, value})
	}
	return fields, nil
}
