package kmod

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

var modprobeOptions = grammar{"arw:RibfDcnC:d:S:sqvVh", []longOption{
	{"all", no, "a"},
	{"remove", no, "r"},
	{"remove-dependencies", no, "remove-holders"},
	{"remove-holders", no, "remove-holders"},
	{"wait", required, "w"},
	{"resolve-alias", no, "R"},
	{"first-time", no, "first-time"},
	{"ignore-install", no, "i"},
	{"ignore-remove", no, "i"},
	{"use-blacklist", no, "b"},
	{"force", no, "f"},
	{"force-modversion", no, "force-modversion"},
	{"force-vermagic", no, "force-vermagic"},
	{"show-depends", no, "D"},
	{"showconfig", no, "c"},
	{"show-config", no, "c"},
	{"show-modversions", no, "show-modversions"},
	{"dump-modversions", no, "show-modversions"},
	{"show-exports", no, "show-exports"},
	{"dry-run", no, "n"},
	{"show", no, "n"},
	{"config", required, "C"},
	{"dirname", required, "d"},
	{"set-version", required, "S"},
	{"syslog", no, "s"},
	{"quiet", no, "q"},
	{"verbose", no, "v"},
	{"version", no, "V"},
	{"help", no, "h"},
}}

// probe is a call of modprobe.
type probe struct {
	*tool
	dir string // of the modules

	all, remove          bool
	lookup, dryRun, show bool
	firstTime            bool
	evenIfThere          bool // --show-depends: do not ask whether it is loaded
	patient              bool // -w: let the kernel say whether it is in use

	over bool // FATAL has been said, behind which kmod exits
}

func (t *tool) modprobe() int {
	// As kmod does, but for quotes.
	c, err := modprobeOptions.parse(append(strings.Fields(os.Getenv("MODPROBE_OPTIONS")), t.args...))
	p := probe{tool: t}
	var base, release string
	query := false
	for _, o := range c.options {
		switch o.name {
		case "a":
			p.all = true
		case "r":
			p.remove = true
		case "w":
			if _, err := strconv.ParseUint(o.value, 0, 64); err != nil {
				t.log(failure, "unexpected wait value '%s'.", o.value)
				return 1
			}
			p.patient = true
		case "R":
			p.lookup = true
		case "first-time":
			p.firstTime = true
		case "D":
			p.evenIfThere, p.dryRun, p.show = true, true, true
		case "n":
			p.dryRun = true
		case "c", "show-modversions", "show-exports":
			query = true
		case "d":
			base = o.value
		case "S":
			release = o.value
		case "q":
			t.most = silence
		case "v":
			t.most++
		case "V":
			return t.version()
		case "h":
			return t.help("[-r] [-a] [options] modulename [args]")
		}
	}
	switch {
	case err != nil:
		return t.misused(err)
	case query:
		return t.mustPass("this query")
	case len(c.operands) == 0:
		t.log(failure, "missing parameters. See -h.")
		return 1
	}
	p.dir = modulesDir(base, release)
	p.show = p.show || t.most > warning

	names, params := c.operands[:1], moduleParams(c.operands[1:])
	if p.all || p.remove {
		names, params = c.operands, ""
	}
	// A path to kstat must not reach a modprobe that takes paths, as those
	// since kmod 31 do: it would load the real thing.
	if !slices.ContainsFunc(names, func(name string) bool { return name == module || isKstat(name) }) {
		if status, ok := t.pass(); ok {
			return status
		}
	}
	status := 0
	for _, name := range names {
		if p.over {
			break
		}
		if !p.one(name, params, c.words) {
			status = 1
		}
	}
	return status
}

// one loads or removes one of the modules, and reports whether that went well.
func (p *probe) one(name, params string, words []string) bool {
	if name != module && !isKstat(name) {
		os.Unsetenv("MODPROBE_OPTIONS") // they are among the words
		if status, ok := p.passPart(append(words, "--", name)...); ok {
			p.over = status != 0 && !p.all // most of its errors are fatal
			return status == 0
		}
	}
	var err error
	switch {
	case name != module && p.remove:
		p.complain("Module %s not found.", name)
		return false
	case name != module:
		p.complain("Module %s not found in directory %s", name, p.dir)
		return false
	case p.remove:
		return p.unload()
	case p.lookup:
		fmt.Fprintln(p.out, module)
	default:
		err = p.load(params)
	}
	switch {
	case errors.Is(err, syscall.EEXIST):
		p.log(failure, "could not insert '%s': Module already in kernel", module)
	case errors.Is(err, syscall.ENOENT):
		p.log(failure, "could not insert '%s': Unknown symbol in module, or unknown parameter (see dmesg)", module)
	case err != nil:
		p.log(failure, "could not insert '%s': %s", module, strerror(err))
	}
	return err == nil
}

// load returns EEXIST only if this is to be the first time.
func (p *probe) load(params string) error {
	if !p.evenIfThere && p.loaded(module) {
		if p.firstTime {
			return syscall.EEXIST
		}
		return nil
	}
	if p.show {
		fmt.Fprintf(p.out, "insmod %s%s %s\n", p.dir, installedAs, params)
		p.out.Flush()
	}
	if p.dryRun {
		return nil
	}
	err := p.kernel.Insert(params)
	if errors.Is(err, syscall.EEXIST) && !p.firstTime {
		return nil // somebody else has done it meanwhile
	}
	return err
}

func (p *probe) unload() bool {
	if !p.evenIfThere {
		if !p.loaded(module) {
			if p.firstTime {
				p.complain("Module %s is not in kernel.", module)
			}
			return !p.firstTime
		}
		if users, _ := p.attribute(module, "refcnt"); users > 0 && !p.patient {
			p.complain("Module %s is in use.", module)
			return false
		}
	}
	if p.show {
		fmt.Fprintf(p.out, "rmmod %s\n", module)
		p.out.Flush()
	}
	return p.dryRun || p.delete(module) == nil
}

// complain says what ends modprobe, unless it is to do all that it can.
func (p *probe) complain(format string, a ...any) {
	if p.all {
		p.log(warning, format, a...)
		return
	}
	p.log(fatal, format, a...)
	p.over = fatal <= p.most
}

// moduleParams joins parameters, and quotes the values with spaces.
func moduleParams(args []string) string {
	args = slices.Clone(args)
	for i, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		if strings.Contains(value, " ") && !strings.ContainsAny(value[:1], `"'`) {
			args[i] = key + `="` + value + `"`
		}
	}
	return strings.Join(args, " ")
}
