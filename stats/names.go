package stats

import (
	"bufio"
	_ "embed"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
)

// builtin is a list of protocol names in the form of /etc/protocols, for hosts
// that have no such file.
//
//go:embed protocols
var builtin string

// Names are the names of protocols.
type Names struct {
	byNumber [256]string // "" where there is none
}

// BuiltinNames returns the names that this package was built with.
func BuiltinNames() *Names {
	n, err := ParseNames(strings.NewReader(builtin))
	if err != nil {
		panic("stats: built-in protocol names: " + err.Error())
	}
	return n
}

// HostNames returns the names that the host gives protocols in /etc/protocols;
// the built-in ones if there is no such file, and with an error if it cannot be
// read.
func HostNames() (*Names, error) {
	f, err := os.Open("/etc/protocols")
	if errors.Is(err, os.ErrNotExist) {
		return BuiltinNames(), nil
	}
	if err != nil {
		return BuiltinNames(), err
	}
	defer f.Close()
	names, err := ParseNames(f)
	if err != nil {
		return BuiltinNames(), err
	}
	return names, nil
}

// ParseNames reads names in the form of protocols(5): name, number, aliases,
// and comments behind a #. As getprotobynumber(3) does, it takes the first
// name of a number; a line that does not fit, a name that cannot be a file's,
// and a name that is taken are passed over. The error is the reader's.
func ParseNames(r io.Reader) (*Names, error) {
	n := new(Names)
	taken := make(map[string]bool)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 || !fileName(fields[0]) {
			continue
		}
		number, err := strconv.ParseUint(fields[1], 10, 8)
		if err != nil || n.byNumber[number] != "" || taken[fields[0]] {
			continue
		}
		n.byNumber[number] = fields[0]
		taken[fields[0]] = true
	}
	return n, lines.Err()
}

// fileName reports whether name may name a protocol's folder: short, no path,
// and neither a number nor "other", which mean something else there.
func fileName(name string) bool {
	if len(name) > 64 || strings.ContainsRune(name, '/') || name == otherName {
		return false
	}
	return strings.Trim(name, "0123456789.") != ""
}

const otherName = "other"

// Name returns the name of p: that of /etc/protocols, else its number in
// decimal; "other" for [Other].
func (n *Names) Name(p Protocol) string {
	switch {
	case p >= Other:
		return otherName
	case n.byNumber[p] != "":
		return n.byNumber[p]
	}
	return strconv.Itoa(int(p))
}
