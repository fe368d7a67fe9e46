package kmod

import (
	"fmt"
	"strings"
)

// grammar is what getopt_long(3) is told. short is as there: a letter with a
// colon takes an argument, one with two may have one behind it, and a + at the
// start ends the options at the first operand.
type grammar struct {
	short string
	long  []longOption
}

type longOption struct {
	name string
	arg  argument
	as   string // what it is called in commandLine: the short option, if any
}

// argument says whether an option has one.
type argument int

const (
	no argument = iota
	required
	optional
)

type commandLine struct {
	options  []option
	words    []string // the options as they came
	operands []string
	ended    bool // there was a --
}

type option struct{ name, value string }

// parse splits up the arguments. The error is in glibc's words; the options
// before the bad one are returned with it.
func (g grammar) parse(args []string) (c commandLine, err error) {
	for len(args) > 0 && err == nil {
		word, rest := args[0], args[1:]
		switch {
		case word == "--":
			c.ended = true
			c.operands = append(c.operands, rest...)
			return c, nil
		case strings.HasPrefix(word, "--"):
			rest, err = g.parseLong(&c, word, rest)
		case len(word) > 1 && word[0] == '-':
			rest, err = g.parseShort(&c, word[1:], rest)
		case strings.HasPrefix(g.short, "+"):
			c.operands = args
			return c, nil
		default:
			c.operands = append(c.operands, word)
			args = rest
			continue
		}
		c.words = append(c.words, args[:len(args)-len(rest)]...)
		args = rest
	}
	return c, err
}

// parseLong takes --word, and what it needs from the arguments behind it. It
// returns the others.
func (g grammar) parseLong(c *commandLine, word string, rest []string) ([]string, error) {
	name, value, given := strings.Cut(word[2:], "=")
	o, err := g.find(name, word)
	switch {
	case err != nil:
		return rest, err
	case given && o.arg == no:
		return rest, fmt.Errorf("option '--%s' doesn't allow an argument", o.name)
	case !given && o.arg == required:
		if len(rest) == 0 {
			return rest, fmt.Errorf("option '--%s' requires an argument", o.name)
		}
		value, rest = rest[0], rest[1:]
	}
	c.options = append(c.options, option{o.as, value})
	return rest, nil
}

// find returns the long option of that name, or the one of which it is the
// beginning. Several that mean the same are one.
func (g grammar) find(name, word string) (longOption, error) {
	var found []longOption
	for _, o := range g.long {
		switch {
		case o.name == name:
			return o, nil
		case strings.HasPrefix(o.name, name):
			found = append(found, o)
		}
	}
	if len(found) == 0 {
		return longOption{}, fmt.Errorf("unrecognized option '%s'", word)
	}
	ambiguous, names := false, ""
	for _, o := range found {
		ambiguous = ambiguous || o.arg != found[0].arg || o.as != found[0].as
		names += " '--" + o.name + "'"
	}
	if ambiguous {
		return longOption{}, fmt.Errorf("option '%s' is ambiguous; possibilities:%s", word, names)
	}
	return found[0], nil
}

// parseShort takes the letters behind a -, and an argument if the last of them
// needs one.
func (g grammar) parseShort(c *commandLine, letters string, rest []string) ([]string, error) {
	for i := range len(letters) {
		letter := letters[i : i+1]
		at := strings.Index(g.short, letter)
		if at < 0 || strings.Contains("+:", letter) {
			return rest, fmt.Errorf("invalid option -- '%s'", letter)
		}
		value := letters[i+1:]
		switch after := g.short[at+1:]; {
		case strings.HasPrefix(after, "::"):
		case !strings.HasPrefix(after, ":"):
			c.options = append(c.options, option{letter, ""})
			continue
		case value == "" && len(rest) == 0:
			return rest, fmt.Errorf("option requires an argument -- '%s'", letter)
		case value == "":
			value, rest = rest[0], rest[1:]
		}
		c.options = append(c.options, option{letter, value})
		return rest, nil
	}
	return rest, nil
}

// longName returns the first long form of a short option.
func (g grammar) longName(short string) string {
	for _, o := range g.long {
		if o.as == short {
			return o.name
		}
	}
	return ""
}
