package kmod

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// lsmod lists the modules of /proc/modules, with their figures from sysfs.
// kmod list is the same, so how it was called is an argument.
func (t *tool) lsmod(argv0 string, args []string) int {
	if len(args) > 0 {
		fmt.Fprintf(t.err, "Usage: %s\n", argv0)
		return 1
	}
	list, err := os.ReadFile(filepath.Join(t.root, "proc/modules"))
	if err != nil {
		fmt.Fprintf(t.err, "Error: could not get list of modules: %s\n", strerror(err))
		return 1
	}
	fmt.Fprintln(t.out, "Module                  Size  Used by")
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(line, " ")
		size := negative(t.attribute(name, "coresize"))
		users := negative(t.attribute(name, "refcnt"))
		fmt.Fprintf(t.out, "%-19s %8d  %d", name, size, users)
		if holders := t.holders(name); len(holders) > 0 {
			fmt.Fprintf(t.out, " %s", strings.Join(holders, ","))
		}
		fmt.Fprintln(t.out)
	}
	return 0
}

var kmodOptions = grammar{"+hV", []longOption{
	{"help", no, "h"},
	{"version", no, "V"},
}}

// kmod has one command that is about kstat: list. It has no kmod insmod.
func (t *tool) kmod() int {
	c, err := kmodOptions.parse(t.args)
	for _, o := range c.options {
		switch o.name {
		case "h":
			return t.help(kmodUsage)
		case "V":
			return t.version()
		}
	}
	switch {
	case err != nil:
		return t.misused(err)
	case len(c.operands) > 0 && c.operands[0] == "list":
		return t.lsmod("list", c.operands[1:])
	case len(c.operands) > 0 && c.operands[0] == "help":
		return t.help(kmodUsage)
	}
	if status, ok := t.pass(); ok {
		return status
	}
	if len(c.operands) == 0 {
		fmt.Fprintln(t.err, "missing command")
	} else {
		fmt.Fprintf(t.err, "invalid command '%s'\n", c.operands[0])
	}
	t.help(kmodUsage)
	return 1
}

const kmodUsage = "[options] command [command_options]; the commands are help, list and static-nodes"
