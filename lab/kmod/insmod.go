package kmod

import (
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
)

// kmod 30 has no -v and no long forms of -f and -s; kmod 34 has no -p.
var insmodOptions = grammar{"psfvVh", []longOption{
	{"force", no, "f"},
	{"syslog", no, "s"},
	{"verbose", no, "v"},
	{"version", no, "V"},
	{"help", no, "h"},
}}

func (t *tool) insmod() int {
	c, err := insmodOptions.parse(t.args)
	for _, o := range c.options {
		switch o.name {
		case "h":
			return t.help("[options] filename [args]")
		case "V":
			return t.version()
		}
		// The rest is about a module's checks, or ignored by kmod 30.
	}
	switch {
	case err != nil:
		return t.misused(err)
	case len(c.operands) == 0:
		t.log(failure, "missing filename.")
		return 1
	}

	path := c.operands[0]
	if path == "-" {
		t.log(failure, "this tool does not support loading from stdin!")
		return 1
	}
	params := strings.Join(c.operands[1:], " ")
	_, missing := os.Stat(path)
	switch {
	case path == modulesDir("", "")+installedAs: // there need not be a file
		err = t.kernel.Insert(params)
	case missing != nil:
		t.log(failure, "could not load module %s: %s", path, strerror(missing))
		return 1
	case isKstat(path):
		if err = readable(path); err == nil {
			err = t.kernel.Insert(params)
		}
	default:
		if status, ok := t.pass(); ok {
			return status
		}
		err = syscall.EPERM
	}
	if err != nil {
		t.log(failure, "could not insert module %s: %s", path, insertError(err))
		return 1
	}
	return 0
}

// readable returns why the file cannot be read, which insmod, not the kernel,
// has to.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Read(make([]byte, 1)); err == io.EOF {
		return nil
	}
	return err
}

// insertError is strerror for finit_module(2), where some errors mean more.
func insertError(err error) string {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return "Invalid module format"
	case errors.Is(err, syscall.ENOENT):
		return "Unknown symbol in module"
	case errors.Is(err, syscall.ESRCH):
		return "Module has wrong symbol version"
	case errors.Is(err, syscall.EINVAL):
		return "Invalid parameters"
	}
	return strerror(err)
}
