package grade

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// row is a row of the contract's table of what may be written.
type row struct {
	text   string
	before uint64     // what the file held
	want   string     // what it holds then
	errno  unix.Errno // or what the write fails with; the file stays as it was
	stated bool       // the assignment has it so, too, but for the errno
}

// takes are rows that are accepted.
func takes(want string, stated bool, texts ...string) []row {
	rows := make([]row, len(texts))
	for i, text := range texts {
		rows[i] = row{text: text, want: want, stated: stated}
	}
	return rows
}

// refuses are rows that are not.
func refuses(errno unix.Errno, stated bool, texts ...string) []row {
	rows := make([]row, len(texts))
	for i, text := range texts {
		rows[i] = row{text: text, errno: errno, stated: stated}
	}
	return rows
}

// from makes before what the file held.
func from(before uint64, rows []row) []row {
	for i := range rows {
		rows[i].before = before
	}
	return rows
}

// long is a number of 5,000 digits.
var long = strings.Repeat("1", 5000)

var counterTakes = from(5, concat(
	takes("10", true, "10", "10\n"),
	takes("1", true, "1", "1\n"),
	takes("100", true, "100\n"),
	takes("10", false, "+10", "010", "0010", " 10 ", "\t10\r\n", "10\n\n", "10\x00junk"),
	takes("1", false, "+1", "01"),
	takes("8", false, "08"),
	takes("2147483648", false, "2147483648"),
	takes("4294967295", false, "4294967295"),
	takes("5", false, ""),
))

var counterRefuses = from(5, concat(
	refuses(unix.EINVAL, true, "0", "-1", "abc", "yes", "10abc", "1.5"),
	refuses(unix.EINVAL, false, "-0", "0x1", "0X1", "0x10", "--1", "1e3", "0b1", "0o7", "1_000", "10 20", "10\n20", "\n", "\xff",
		long, "10"+strings.Repeat(" ", 4096)),
	refuses(unix.ERANGE, false, "4294967296", "99999999999999999999"),
))

var startTakes = concat(
	takes("1", true, "1", "1\n"),
	takes("1", false, "+1", "01", "0x1", "0X1", "1\x00junk"),
	from(1, takes("0", true, "0", "0\n")),
	from(1, takes("0", false, "-0")),
	takes("0", false, ""),
	from(1, takes("1", true, "1")),
)

var startRefuses = concat(
	refuses(unix.EINVAL, true, "abc"),
	from(1, refuses(unix.EINVAL, true, "abc")),
	refuses(unix.EINVAL, false, "2", "10", "10\n", "+10", "010", "0010", "08", " 1", "1 ", " 10 ", "\t10\r\n", "10\n\n",
		"-1", "0x10", "--1", "1.5", "1e3", "0b1", "0o7", "1_000", "10abc", "10 20", "10\n20", "yes", "\n", "\xff", "10\x00junk"),
	refuses(unix.ERANGE, false, "2147483648", "4294967295", "4294967296", "99999999999999999999", long),
)

func concat(lists ...[]row) (all []row) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// rows writes each row, and looks at what the file holds then.
func (e *attempt) rows(path string, rows []row) {
	for _, r := range rows {
		if r.stated {
			e.row(path, r)
		} else {
			e.beyond(func() { e.row(path, r) })
		}
	}
}

func (e *attempt) row(path string, r row) {
	e.again()
	e.set(path, r.before)
	old := fmt.Sprint(r.before)
	err := e.write(path, r.text)
	got := e.value(path)
	reads := func(value string) string { return ", and " + e.name(path) + " reads " + value }
	seen := "it is accepted" + reads(got)
	if err != nil {
		seen = "it is refused with " + errorName(err) + reads(got)
	}
	switch {
	case r.errno == 0:
		if err != nil || got != r.want {
			e.fail(quote(r.text)+" is accepted"+reads(r.want), seen)
		}
	case e.Profile == Coursework && (err == nil || got != old):
		e.fail(quote(r.text)+" is refused"+reads(old), seen)
	case err != r.errno || got != old:
		e.beyond(func() { e.fail(quote(r.text)+" is refused with "+errorName(r.errno)+reads(old), seen) })
	}
}
