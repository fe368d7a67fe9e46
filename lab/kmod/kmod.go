package kmod

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// module is the module that is not one.
const module = "kstat"

// Kernel answers the system calls that the tools would make. Of an error that
// wraps a [syscall.Errno] they say what strerror(3) says of that, and nothing
// more: the cause belongs in the log. Any other error they quote.
type Kernel interface {
	// Insert is finit_module(2). It wraps EEXIST if the module is loaded, and
	// EINVAL if a parameter has a value that it refuses.
	Insert(params string) error

	// Delete is delete_module(2) with O_NONBLOCK. It wraps ENOENT if the module
	// is not loaded.
	Delete() error

	// Messages returns what is in the kernel log, oldest first, without what
	// was there before the last Clear.
	Messages() ([]Message, error)

	// Clear empties the log, for this world only.
	Clear() error

	// Real returns the path of the host's own tool of that name, "" if there
	// is none. It must not lead back to Main.
	Real(tool string) string
}

// Message is an entry of the kernel log. Two that are equal are the same entry.
type Message struct {
	Time     time.Duration // since boot; microseconds are shown
	Facility int           // as in syslog(3), but not shifted: 0 is kern, 1 is user
	Level    int           // 0 is emerg, 7 is debug
	Text     string        // one or more lines, without the last newline, not escaped
}

// Tools returns the names that [Main] answers to.
func Tools() []string {
	return []string{"depmod", "dmesg", "insmod", "kmod", "lsmod", "modinfo", "modprobe", "rmmod", "sudo"}
}

// Main does what the tool does with these arguments, and returns its exit
// status. argv0 is how it was called; its base name says which tool it is.
// Where the host's own tool is to do the work, or a command is run by sudo,
// Main does not return.
func Main(argv0 string, args []string, k Kernel) int {
	t := &tool{
		argv0:  argv0,
		name:   filepath.Base(argv0),
		args:   args,
		kernel: k,
		root:   "/",
		stdout: os.Stdout,
		out:    bufio.NewWriter(os.Stdout),
		err:    os.Stderr,
		most:   warning,
	}
	status := t.run()
	if err := t.out.Flush(); err != nil {
		fmt.Fprintf(t.err, "%s: write error: %s\n", t.name, strerror(err))
		return max(status, 1)
	}
	return status
}

// tool is one call of one tool.
type tool struct {
	argv0, name string // getopt(3) says the one, error messages say the other
	args        []string
	kernel      Kernel
	root        string // the directory of proc and sys
	stdout      io.Writer
	out         *bufio.Writer // of stdout
	err         io.Writer

	most priority // messages of less importance are not shown
}

func (t *tool) run() int {
	switch t.name {
	case "depmod":
		return t.depmod()
	case "dmesg":
		return t.dmesg()
	case "insmod":
		return t.insmod()
	case "kmod":
		return t.kmod()
	case "lsmod":
		return t.lsmod(t.argv0, t.args)
	case "modinfo":
		return t.modinfo()
	case "modprobe":
		return t.modprobe()
	case "rmmod":
		return t.rmmod()
	case "sudo":
		return t.sudo()
	}
	fmt.Fprintf(t.err, "%s: not a tool that kstat stands in for; those are %s\n", t.name, strings.Join(Tools(), ", "))
	return 1
}

// priority is that of a message, as in syslog(3): the less, the more important.
type priority int

const (
	silence priority = iota
	_
	fatal
	failure
	warning
)

// log says something as kmod does: insmod: ERROR: what. With -s kmod says it to
// syslog. That is the host's, and no business of a world's, so -s is ignored.
func (t *tool) log(p priority, format string, a ...any) {
	if p <= t.most {
		fmt.Fprintf(t.err, "%s: %s: %s\n", t.name, priorityNames[p], fmt.Sprintf(format, a...))
	}
}

var priorityNames = map[priority]string{fatal: "FATAL", failure: "ERROR", warning: "WARNING"}

// misused says what getopt(3) would say.
func (t *tool) misused(err error) int {
	fmt.Fprintf(t.err, "%s: %v\n", t.argv0, err)
	return 1
}

// pass becomes the host's own tool, with the arguments as they came. It
// returns false if there is none; if there is, but does not run, it returns
// an exit status.
func (t *tool) pass() (status int, ok bool) {
	real := t.kernel.Real(t.name)
	if real == "" {
		return 0, false
	}
	t.out.Flush()
	err := syscall.Exec(real, append([]string{t.argv0}, t.args...), os.Environ())
	t.log(failure, "could not run %s: %s", real, strerror(err))
	return 1, true
}

// mustPass is pass for what only the host's own tool can do.
func (t *tool) mustPass(what string) int {
	if status, ok := t.pass(); ok {
		return status
	}
	fmt.Fprintf(t.err, "%s: %s needs the %s of this machine, and it has none\n", t.name, what, t.name)
	return 1
}

// passPart runs the host's own tool with part of the arguments, and returns
// its exit status, or false if there is none.
func (t *tool) passPart(args ...string) (status int, ok bool) {
	real := t.kernel.Real(t.name)
	if real == "" {
		return 0, false
	}
	t.out.Flush()
	cmd := exec.Command(real, args...)
	cmd.Args[0] = t.argv0
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, t.stdout, t.err
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.log(failure, "could not run %s: %s", real, strerror(err))
		return 1, true
	}
	if status = cmd.ProcessState.ExitCode(); status < 0 {
		status = 1 // killed
	}
	return status, true
}

// each does the work of a tool for each operand: one for kstat's and, where the
// host has no such tool, for the others'. It returns the exit status.
func (t *tool) each(c commandLine, isMine, one func(arg string) bool) int {
	if !slices.ContainsFunc(c.operands, isMine) {
		if status, ok := t.pass(); ok {
			return status
		}
	}
	status := 0
	for _, arg := range c.operands {
		if !isMine(arg) {
			if s, ok := t.passPart(append(c.words, "--", arg)...); ok {
				status = max(status, s)
				continue
			}
		}
		if !one(arg) {
			status = 1
		}
	}
	return status
}

// help has the real tool explain itself. Without one there is the usage line.
func (t *tool) help(usage string) int {
	if status, ok := t.pass(); ok {
		return status
	}
	fmt.Fprintf(t.out, "Usage: %s %s\n", t.name, usage)
	return 0
}

func (t *tool) version() int {
	if status, ok := t.pass(); ok {
		return status
	}
	fmt.Fprintf(t.out, "kmod version 30\n(as kstat stands in for it)\n")
	return 0
}

// strerror is strerror(3) for what an error wraps.
func strerror(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	// Go's table has glibc's words with a small first letter.
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

// moduleName returns the name that kmod derives from a path or a name.
func moduleName(s string) string {
	s, _, _ = strings.Cut(s, ".")
	return strings.ReplaceAll(s, "-", "_")
}

// isModuleFile reports whether kmod would take the path for a module's. kmod
// goes by the compressions it was built with, here it is all of them.
func isModuleFile(path string) bool {
	return slices.ContainsFunc([]string{".ko", ".ko.gz", ".ko.xz", ".ko.zst"}, func(suffix string) bool {
		return len(path) > len(suffix) && strings.HasSuffix(path, suffix)
	})
}

// isKstat reports whether the file at path is the module.
func isKstat(path string) bool {
	if base := filepath.Base(path); isModuleFile(base) && moduleName(base) == module {
		return true
	}
	if stat, err := os.Stat(path); err != nil || !stat.Mode().IsRegular() {
		return false // to open a FIFO would be to wait for its writer
	}
	fields, err := readModinfo(path)
	return err == nil && slices.Contains(fields, field{"name", module})
}

// modulesDir is the directory of the modules of a kernel, of the one that runs
// if release is "", below a directory that is "" for /.
func modulesDir(base, release string) string {
	if release == "" {
		release = kernelRelease()
	}
	return base + "/lib/modules/" + release
}

// installedAs is where, below a kernel's modules, kstat is said to be.
const installedAs = "/extra/kstat.ko"

// kernelRelease is uname -r.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown" // it fails only for a bad address
	}
	return unix.ByteSliceToString(u.Release[:])
}
