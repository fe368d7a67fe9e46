package fs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// pageSize is how much sysfs passes to an attribute's store function
// (kernfs_fop_write_iter), and the most that a file of ours takes.
const pageSize = 4096

// parseCounter reads what was written to counter, as a procfs handler does
// with strim() and kstrtouint(text, 10): EINVAL for what is not a number and
// for 0, ERANGE for one of more than 32 bits.
func parseCounter(text []byte) (uint32, error) {
	if len(text) > pageSize {
		return 0, unix.EINVAL
	}
	value, err := parseUint(trimSpace(cString(text)), 10)
	if err == nil && value == 0 {
		err = unix.EINVAL
	}
	return value, err
}

// ParseParameter reads the value of a module parameter of type uint, as insmod
// passes it: kstrtouint(text, 0), which unlike a write to counter takes a
// hexadecimal or octal number, and no blanks. EINVAL and ERANGE are as there.
func ParseParameter(text string) (uint32, error) { return parseUint([]byte(text), 0) }

// parseSwitch reads what was written to start or reset, as a module parameter
// of type int does with kstrtoint(text, 0), and takes 0 and 1 only. sysfs
// hands on the first page of a longer text; that one is refused whatever the
// page holds.
func parseSwitch(text []byte) (bool, error) {
	value, err := parseInt(cString(text[:min(len(text), pageSize)]))
	switch {
	case err != nil:
		return false, err
	case len(text) > pageSize, value != 0 && value != 1:
		return false, unix.EINVAL
	}
	return value == 1, nil
}

// cString returns text up to its first NUL, where a C string ends.
func cString(text []byte) []byte {
	text, _, _ = bytes.Cut(text, []byte{0})
	return text
}

// trimSpace is strim() of lib/string_helpers.c: it takes off what the kernel's
// isspace() holds for white space, the no-break space of Latin-1 included.
func trimSpace(text []byte) []byte {
	for len(text) > 0 && isSpace(text[0]) {
		text = text[1:]
	}
	for len(text) > 0 && isSpace(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}

func isSpace(c byte) bool {
	return c == ' ' || '\t' <= c && c <= '\r' || c == 0xa0
}

// parseInt is kstrtoint(text, 0) of lib/kstrtox.c.
func parseInt(text []byte) (int32, error) {
	digits, negative := bytes.CutPrefix(text, []byte("-"))
	var magnitude uint64
	var err error
	if negative {
		magnitude, err = parseDigits(digits, 0)
	} else {
		magnitude, err = parseUnsigned(digits, 0)
	}
	switch {
	case err != nil:
		return 0, err
	case negative && magnitude > 1<<31, !negative && magnitude > 1<<31-1:
		return 0, unix.ERANGE
	case negative:
		return int32(-int64(magnitude)), nil
	}
	return int32(magnitude), nil
}

// parseUint is kstrtouint() of lib/kstrtox.c.
func parseUint(text []byte, base uint64) (uint32, error) {
	value, err := parseUnsigned(text, base)
	switch {
	case err != nil:
		return 0, err
	case value > 1<<32-1:
		return 0, unix.ERANGE
	}
	return uint32(value), nil
}

// parseUnsigned is kstrtoull() of lib/kstrtox.c.
func parseUnsigned(text []byte, base uint64) (uint64, error) {
	return parseDigits(bytes.TrimPrefix(text, []byte("+")), base)
}

// parseDigits is _kstrtoull() of lib/kstrtox.c: digits, then at most one
// newline. Base 0 means 16 behind 0x, 8 behind another 0, else 10. Digits that
// need more than 64 bits are ERANGE, whatever follows them.
func parseDigits(text []byte, base uint64) (uint64, error) {
	if base == 0 {
		base, text = radix(text)
	}
	var value uint64
	overflow := false
	n := 0
	for ; n < len(text); n++ {
		digit := digitOf(text[n])
		if digit >= base {
			break
		}
		if value > (1<<64-1-digit)/base {
			overflow = true
		}
		value = value*base + digit
	}
	switch rest := text[n:]; {
	case overflow:
		return 0, unix.ERANGE
	case n == 0, len(rest) > 0 && string(rest) != "\n":
		return 0, unix.EINVAL
	}
	return value, nil
}

// radix is _parse_integer_fixup_radix() of lib/kstrtox.c for base 0.
func radix(text []byte) (base uint64, digits []byte) {
	switch {
	case len(text) > 2 && text[0] == '0' && text[1]|0x20 == 'x' && digitOf(text[2]) < 16:
		return 16, text[2:]
	case len(text) > 0 && text[0] == '0':
		return 8, text
	}
	return 10, text
}

// digitOf returns the value of a digit, or 255.
func digitOf(c byte) uint64 {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'z':
		return uint64(c|0x20-'a') + 10
	}
	return 255
}
