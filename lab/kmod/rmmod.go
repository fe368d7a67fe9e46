package kmod

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

var rmmodOptions = grammar{"fsvVwh", []longOption{
	{"force", no, "f"},
	{"syslog", no, "s"},
	{"verbose", no, "v"},
	{"version", no, "V"},
	{"help", no, "h"},
}}

func (t *tool) rmmod() int {
	t.most = failure
	force := false
	c, err := rmmodOptions.parse(t.args)
	for _, o := range c.options {
		switch o.name {
		case "f":
			force = true
		case "v":
			t.most++
		case "w": // kmod 30 has it, and does not know it
			t.log(failure, "unexpected getopt_long() value 'w'.")
			return 1
		case "h":
			return t.help("[options] modulename ...")
		case "V":
			return t.version()
		}
	}
	switch {
	case err != nil:
		return t.misused(err)
	case len(c.operands) == 0:
		t.log(failure, "missing module name.")
		return 1
	}

	isMine := func(arg string) bool { return removedName(arg) == module }
	return t.each(c, isMine, func(arg string) bool { return t.unload(arg, force) })
}

// removedName is the module that rmmod takes an argument for. If there is no
// such file, it takes it for a name, in which a slash means nothing.
func removedName(arg string) string {
	if _, err := os.Stat(arg); err == nil {
		arg = filepath.Base(arg)
	}
	return moduleName(arg)
}

func (t *tool) unload(arg string, force bool) bool {
	name := removedName(arg)
	if !force && !t.removable(name) {
		return false
	}
	err := t.delete(name)
	if err != nil {
		t.log(failure, "could not remove module %s: %s", arg, strerror(err))
	}
	return err == nil
}

// removable reports whether nothing speaks against removing the module, and
// else says what does.
func (t *tool) removable(name string) bool {
	if !t.loaded(name) {
		t.log(failure, "Module %s is not currently loaded", name)
		return false
	}
	if holders := t.holders(name); len(holders) > 0 {
		t.log(failure, "Module %s is in use by: %s", name, strings.Join(holders, " "))
		return false
	}
	users, err := t.attribute(name, "refcnt")
	switch {
	case users > 0:
		t.log(failure, "Module %s is in use", name)
	case errors.Is(err, fs.ErrNotExist): // CONFIG_MODULE_UNLOAD is off
		t.log(failure, "Module unloading is not supported")
	}
	return users == 0 && err == nil
}

// delete is delete_module(2), which a foreign module is safe from.
func (t *tool) delete(name string) error {
	var err error = syscall.EPERM
	if name == module {
		err = t.kernel.Delete()
	}
	if err != nil {
		t.log(failure, "could not remove '%s': %s", name, strerror(err))
	}
	return err
}
