// Package tty says what text is shown on: whether that is a terminal, and
// what the environment says it can show.
package tty

import (
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// Is reports whether f is a terminal, of any kind.
func Is(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Steered reports whether f is a terminal that obeys escape sequences, as far
// as TERM says.
func Steered(f *os.File) bool {
	term := os.Getenv("TERM")
	return term != "" && term != "dumb" && Is(f)
}

// Colored reports whether colours are to be written to f: it obeys escape
// sequences, and NO_COLOR does not say anything (no-color.org).
func Colored(f *os.File) bool { return os.Getenv("NO_COLOR") == "" && Steered(f) }

// UTF8 reports whether the locale of an environment is one of UTF-8. LC_ALL,
// LC_CTYPE and LANG say it, the first that is not empty (POSIX, XBD 8.2). Its
// form is language[_territory][.codeset][@modifier], and a codeset is the same
// in any case and with or without dashes (glibc, _nl_normalize_codeset). macOS
// sends LC_CTYPE=UTF-8 along with ssh: a codeset alone will do.
func UTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := getenv(name); locale != "" {
			codeset, _, _ := strings.Cut(locale, "@")
			if _, behind, ok := strings.Cut(codeset, "."); ok {
				codeset = behind
			}
			return strings.Map(normal, codeset) == "utf8"
		}
	}
	return false
}

// normal maps a character of a codeset's name to that of its normal form.
func normal(r rune) rune {
	if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
		return -1
	}
	return unicode.ToLower(r)
}
