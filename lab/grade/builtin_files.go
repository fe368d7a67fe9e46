package grade

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"kstat/lab/shell"
)

// The experiments of the sections "procfs" and "sysfs" that are not about what
// may be written (see rows).

// justNumber matches what a file is to hold.
var justNumber = regexp.MustCompile(`^(0|[1-9][0-9]*)\n?$`)

// numberAndNewline looks at how a value is shown.
func (e *attempt) numberAndNewline(paths ...string) {
	for _, path := range paths {
		text := e.text(path)
		if !justNumber.MatchString(text) {
			e.fail(e.name(path)+" holds one number and a newline, and nothing else", quote(text))
		}
		if !strings.HasSuffix(text, "\n") {
			e.beyond(func() { e.fail(e.name(path)+" ends with a newline", quote(text)) })
		}
	}
}

func (e *attempt) noutIsReadOnly() {
	e.set(e.Counter, 1)
	e.set(e.Start, 1)
	e.tcp(12)
	e.mark()
	err := e.write(e.Nout, "5\n")
	e.expect(0, "it is not for writing")
	switch {
	case err == nil:
		e.beyond(func() { e.fail("the write is refused with "+errorName(unix.EACCES), "it was accepted") })
	case err != unix.EACCES:
		e.beyond(func() {
			e.fail("the write is refused with "+errorName(unix.EACCES), "it was refused with "+errorName(err))
		})
	}
}

// readingInParts reads a byte at a time, while nout moves.
func (e *attempt) readingInParts() {
	e.set(e.Counter, 1)
	e.set(e.Start, 1)
	e.tcp(12) // two digits
	e.beyond(func() {
		whole := e.text(e.Nout)
		file, err := await(e, "opening nout", func() (*os.File, error) { return os.Open(e.Nout) })
		if err != nil {
			e.fail("nout can be opened", errorName(err))
		}
		defer file.Close()
		path := shell.Quote(e.Nout)

		e.step("opened nout, and read a byte", "exec 3< "+path+"; head -c 1 <&3")
		first := e.read(file, 1)
		e.tcp(2)
		e.step("read the rest, a byte at a time", "cat <&3; exec 3<&-")
		if parts := first + e.read(file, maxText); parts != whole {
			e.fail("the parts are those of the value at the first read, "+quote(whole), quote(parts))
		}

		now := e.text(e.Nout)
		e.step("went back to its beginning, and read it again",
			fmt.Sprintf(`python3 -c 'f = open("%s"); f.read(); input("send packets, then Enter"); f.seek(0); print(f.read())'`, e.Nout))
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			e.fail("lseek(2) to 0 succeeds", errorName(err))
		}
		if again := e.read(file, maxText); again != now {
			e.fail("the value of now, "+quote(now), quote(again))
		}
	})
}

// read reads a byte at a time, until there is no more, or n of them.
func (e *attempt) read(file *os.File, n int) string {
	text, err := await(e, "reading nout", func() (text []byte, err error) {
		for b := make([]byte, 1); len(text) < n; text = append(text, b[0]) {
			if _, err := file.Read(b); err == io.EOF {
				return text, nil
			} else if err != nil {
				return nil, err
			}
		}
		if n == maxText {
			return nil, errEndless
		}
		return text, nil
	})
	if err != nil {
		e.fail("every part can be read", errorName(err))
	}
	return string(text)
}

func (e *attempt) procfsModes() {
	e.mode(e.Nout, 0o444, 0)
	e.mode(e.Counter, 0o644, 0)
	e.ordinaryUser(e.Counter, "5")
}

func (e *attempt) sysfsModes() {
	e.mode(e.Start, 0o644, 4096)
	e.ordinaryUser(e.Start, "1")
}

// mode looks at what stat shows.
func (e *attempt) mode(path string, mode uint32, size int64) {
	stat, err := await(e, "stat of "+e.name(path), func() (s unix.Stat_t, err error) { return s, unix.Stat(path, &s) })
	e.step("looked at "+e.name(path), "stat -c '%A %U %G %s' "+shell.Quote(path))
	if err != nil {
		e.fail(e.name(path)+" is there", errorName(err))
	}
	describe := func(mode, uid, gid uint32, size int64) string {
		return fmt.Sprintf("mode %s, user %d, group %d, size %d", os.FileMode(mode&0o777), uid, gid, size)
	}
	want, got := describe(mode, 0, 0, size), describe(stat.Mode, stat.Uid, stat.Gid, stat.Size)
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		e.fail(e.name(path)+" is a regular file", "it is not")
	}
	if got != want {
		e.beyond(func() { e.fail(e.name(path)+" has "+want, got) })
	}
}

// nobody is the user, and the group, that owns nothing.
const nobody = 65534

// ordinaryUser tries to read and to write as somebody else than root, if we can
// become that.
func (e *attempt) ordinaryUser(path, value string) {
	before := e.value(path)
	as := func(line string) int {
		command := &Command{Run: line, user: nobody}
		typed := fmt.Sprintf("setpriv --reuid %d --regid %[1]d --clear-groups sh -c %s", nobody, shell.Quote(line))
		e.step("as an ordinary user, ran "+line, typed)
		status, err := command.run(e.ctx, e.Bench, io.Discard, io.Discard)
		switch {
		case e.ctx.Err() != nil:
			e.fail("it ends in time", line+" has not come to an end")
		case err != nil:
			return -1
		}
		return status
	}
	switch as("cat " + shell.Quote(path)) {
	case 0:
	case -1:
		e.note("that an ordinary user cannot write was not tried: that needs root, who can become another user")
		return
	default:
		e.beyond(func() { e.fail("everybody can read it", "cat failed") })
	}
	status := as("echo " + value + " > " + shell.Quote(path))
	after := e.value(path)
	if status == 0 || after != before {
		e.beyond(func() {
			e.fail("the write is refused: Permission denied", fmt.Sprintf("exit status %d, and %s reads %s, after %s", status, e.name(path), after, before))
		})
		if !e.beyond(func() { e.is(path, before, "") }) {
			e.anew()
		}
	}
}

// tool is a way to write a file.
type tool struct {
	line   string // $F is the file
	want   string // what it holds then; "" means what it held before
	stated bool   // the assignment has it so, too
}

var counterTools = []tool{
	{"echo 11 > $F", "11", true},
	{"echo 12 >> $F", "12", false},
	{"printf 13 > $F", "13", true},
	{"echo 14 | tee $F", "14", true},
	{"echo 15 | tee -a $F", "15", false},
	{"echo 16 | dd of=$F status=none", "16", true},
	{"printf 17 | dd of=$F conv=notrunc status=none", "17", false},
	{"t=$(mktemp); echo 18 > $t; cp $t $F; s=$?; rm $t; exit $s", "18", false},
	{"exec 3> $F; echo 19 >&3; echo 20 >&3", "20", false},
	{": > $F", "", true},
	{"truncate -s 0 $F", "", false},
}

var startTools = []tool{
	{"echo 1 > $F", "1", true},
	{"echo 1 > $F", "1", true}, // that it has already
	{"echo 0 | tee $F", "0", true},
	{"echo 0 >> $F", "0", true},
	{"printf 1 > $F", "1", true},
	{"truncate -s 0 $F", "", false},
	{"echo 0 | dd of=$F status=none", "0", true},
	{"exec 3> $F; echo 1 >&3; echo 0 >&3", "0", false},
	{": > $F", "", true},
}

// tools writes with the tools of a shell.
func (e *attempt) tools(path string, tools []tool) {
	for _, t := range tools {
		e.again()
		want := cmp.Or(t.want, e.value(path))
		try := func() {
			status, output := e.shell(strings.ReplaceAll(t.line, "$F", shell.Quote(path)))
			got := e.value(path)
			if status != 0 || got != want {
				e.fail(fmt.Sprintf("exit status 0, and %s reads %s", e.name(path), want),
					fmt.Sprintf("exit status %d, and %s reads %s\n%s", status, e.name(path), got, output))
			}
		}
		if t.stated {
			try()
		} else {
			e.beyond(try)
		}
	}
}

// shell runs a command.
func (e *attempt) shell(line string) (status int, output string) {
	e.step("ran "+line, line)
	var log tail
	status, err := (&Command{Run: line}).run(e.ctx, e.Bench, &log, &log)
	switch {
	case e.ctx.Err() != nil:
		e.fail("it ends in time", line+" has not come to an end")
	case err != nil:
		e.fail("a shell can be started", err.Error())
	}
	return status, strings.TrimSpace(log.String())
}

// must runs a command that has to succeed.
func (e *attempt) must(line string) {
	if status, output := e.shell(line); status != 0 {
		e.fail("exit status 0", fmt.Sprintf("exit status %d\n%s", status, output))
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
