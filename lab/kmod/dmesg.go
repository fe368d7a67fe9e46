package kmod

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"kstat/view/tty"
)

var dmesgOptions = grammar{"CcDdEeF:f:HhJkL::l:n:iPprSs:TtuVWwx", []longOption{
	{"buffer-size", required, "s"},
	{"clear", no, "C"},
	{"color", optional, "L"},
	{"console-level", required, "n"},
	{"console-off", no, "D"},
	{"console-on", no, "E"},
	{"decode", no, "x"},
	{"file", required, "F"},
	{"facility", required, "f"},
	{"follow", no, "w"},
	{"follow-new", no, "W"},
	{"human", no, "H"},
	{"help", no, "h"},
	{"json", no, "J"},
	{"kernel", no, "k"},
	{"level", required, "l"},
	{"since", required, "since"},
	{"syslog", no, "S"},
	{"raw", no, "r"},
	{"read-clear", no, "c"},
	{"reltime", no, "e"},
	{"show-delta", no, "d"},
	{"ctime", no, "T"},
	{"noescape", no, "noescape"},
	{"notime", no, "t"},
	{"nopager", no, "P"},
	{"until", required, "until"},
	{"userspace", no, "u"},
	{"version", no, "V"},
	{"time-format", required, "time-format"},
	{"force-prefix", no, "p"},
}}

// exclusive are the options of which only one of a row may be given.
var exclusive = [][]string{
	{"C", "D", "E", "c", "n", "r"},
	{"H", "r"},
	{"L", "r"},
	{"S", "w"},
	{"T", "r"},
	{"d", "r"},
	{"e", "r"},
	{"r", "x"},
	{"r", "t"},
}

var (
	levels     = []string{"emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"}
	facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"}
)

// pollInterval is how often dmesg -w asks for new messages.
const pollInterval = 100 * time.Millisecond

// dmesg is a call of dmesg.
type dmesg struct {
	*tool
	printer
	read, clear     bool
	file            bool // to be read in the place of the log
	follow, onlyNew bool
	color           string // always, never or auto
}

// dmesg shows the log, or clears it. Nothing that would change the host's log or
// console is passed on to the host's dmesg, so neither are options that are not
// known here.
func (t *tool) dmesg() int {
	c, err := dmesgOptions.parse(t.args)
	if err != nil {
		t.misused(err)
		return t.tryHelp()
	}
	d := dmesg{tool: t, printer: printer{out: t.out, format: seconds}, read: true, color: "auto"}
	for n, o := range c.options {
		err := conflict(c.options[:n+1])
		if err == nil {
			err = d.set(o)
		}
		if err != nil {
			return t.dies(err)
		}
		switch o.name {
		case "h":
			return t.help("[options]")
		case "V":
			if status, ok := t.pass(); ok {
				return status
			}
			fmt.Fprintln(t.out, "dmesg from util-linux 2.38.1\n(as kstat stands in for it)")
			return 0
		}
	}
	if len(c.operands) > 0 {
		t.dies(errors.New("bad usage"))
		return t.tryHelp()
	}
	if d.file && (d.clear || !d.read) {
		return t.dies(errors.New("--file shows a file, and goes with none of --clear, --console-off, --console-on, --console-level, --read-clear here"))
	}
	if d.file {
		return t.mustPass("-F")
	}
	if d.delta && d.format == iso {
		fmt.Fprintf(t.err, "%s: --show-delta is ignored when used together with iso8601 time format\n", t.name)
	}
	d.prepare(d.color == "always" || d.color == "auto" && tty.Steered(os.Stdout))

	if d.read {
		if err := d.show(); err != nil {
			return t.dies(fmt.Errorf("read kernel buffer failed: %s", strerror(err)))
		}
	}
	if d.clear {
		if err := t.kernel.Clear(); err != nil {
			return t.dies(fmt.Errorf("clear kernel buffer failed: %s", strerror(err)))
		}
	}
	return 0
}

// set does what an option says. The console, which -n, -D and -E are about, is
// the host's and left alone; there is no pager for -H, so none to do without.
func (d *dmesg) set(o option) (err error) {
	switch o.name {
	case "C":
		d.clear, d.read = true, false
	case "c":
		d.clear = true
	case "D", "E":
		d.read = false
	case "n":
		d.read = false
		_, err = parseName("level", o.value, levels, 1)
	case "d":
		d.delta = true
	case "e":
		d.format = relative
	case "H":
		d.format, d.color = relative, "auto"
	case "F":
		d.file = true
	case "f":
		err = d.facilities.add("facility", o.value, facilities)
	case "J":
		d.json = true
	case "k":
		d.facilities |= kern
	case "L":
		d.color, err = parseColor(o.value)
	case "l":
		err = d.levels.add("level", o.value, levels)
	case "p":
		d.everyLine = true
	case "r":
		d.raw = true
	case "s":
		if _, err := strconv.ParseUint(o.value, 10, 32); err != nil {
			return fmt.Errorf("invalid buffer size argument: '%s'", o.value)
		}
	case "T":
		d.format = calendar
	case "t":
		d.format = untimed
	case "u":
		d.facilities |= ^kern
	case "W":
		d.follow, d.onlyNew = true, true
	case "w":
		d.follow = true
	case "x":
		d.decode = true
	case "time-format":
		d.format, err = parseFormat(o.value)
	case "noescape":
		d.verbatim = true
	case "since":
		d.since, err = parseTime(o.value, time.Now())
	case "until":
		d.until, err = parseTime(o.value, time.Now())
	}
	return err
}

// dies says what err(3) would.
func (t *tool) dies(err error) int {
	fmt.Fprintf(t.err, "%s: %v\n", t.name, err)
	return 1
}

func (t *tool) tryHelp() int {
	fmt.Fprintf(t.err, "Try '%s --help' for more information.\n", t.name)
	return 1
}

// conflict says what forbids the last option after those before it.
func conflict(given []option) error {
	last := given[len(given)-1].name
	for _, row := range exclusive {
		if !slices.Contains(row, last) {
			continue
		}
		for _, o := range given {
			if o.name != last && slices.Contains(row, o.name) {
				names := ""
				for _, short := range row {
					names += " --" + dmesgOptions.longName(short)
				}
				return errors.New("mutually exclusive arguments:" + names)
			}
		}
	}
	return nil
}

// show prints the messages and, if it is to follow, those to come, until an
// error ends it. It tells old from new by the messages themselves: the host's
// and the module's may come in any order, and all may be cleared.
func (d *dmesg) show() error {
	var seen map[Message]int
	for {
		messages, err := d.kernel.Messages()
		if err != nil {
			return err
		}
		now := make(map[Message]int, len(messages))
		for _, m := range messages {
			now[m]++
			if now[m] > seen[m] && (seen != nil || !d.onlyNew) {
				d.print(m)
			}
		}
		if !d.follow {
			d.finish()
			return nil
		}
		if d.tool.out.Flush() != nil {
			return nil // Main will say it
		}
		seen = now
		time.Sleep(pollInterval)
	}
}

// set is a set of levels or facilities, by number. The empty one means all.
type set uint64

// kern is the set of facility 0, the kernel's own.
const kern set = 1

func (s set) has(n int) bool { return s == 0 || n >= 0 && n < 64 && s&(1<<n) != 0 }

// add adds what a list names, as in err,warn or 3,4.
func (s *set) add(what, list string, names []string) error {
	for list != "" {
		name, rest, more := strings.Cut(list, ",")
		if more && rest == "" {
			name = list // to dmesg, a comma at the end is part of the name
		}
		n, err := parseName(what, name, names, 0)
		if err != nil {
			return fmt.Errorf("unknown %s '%s'", what, list)
		}
		*s |= 1 << n
		list = rest
	}
	return nil
}

// parseName returns the number of a name, which may be a number counted from
// first.
func parseName(what, text string, names []string, first int) (int, error) {
	if n, err := strconv.Atoi(text); err == nil && n >= first && n < first+len(names) {
		return n - first, nil
	}
	if n := slices.IndexFunc(names, func(name string) bool { return strings.EqualFold(name, text) }); n >= 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown %s '%s'", what, text)
}

// parseColor reads the argument of --color.
func parseColor(text string) (string, error) {
	switch when := strings.TrimPrefix(text, "="); when {
	case "":
		return "auto", nil
	case "auto", "always", "never":
		return when, nil
	}
	return "", fmt.Errorf("unsupported color mode: '%s'", text)
}
