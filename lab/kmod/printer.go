package kmod

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// printer prints messages as dmesg does, by the options it was given.
type printer struct {
	out *bufio.Writer

	levels, facilities set
	since, until       time.Time // zero: no limit

	format    format
	delta     bool // show the time since the message before, too
	decode    bool // name facility and level
	everyLine bool // begin each line of a message as the first
	raw, json bool
	verbatim  bool // even what cannot be printed
	color     bool

	boot time.Time // of the message with time 0, in whole seconds

	// What was printed so far.
	last   time.Duration
	minute string
	values bool
}

// format is how the time of a message is shown.
type format int

const (
	seconds  format = iota // [    1.000001]
	calendar               // [Fri Nov 20 03:56:07 2026]
	relative               // [Nov20 03:56], then [  +0.000001] until the minute is over
	deltas                 // [<    0.000001>]
	iso                    // 2026-11-20T03:56:07,000001+00:00
	untimed
)

func parseFormat(name string) (format, error) {
	names := []string{"ctime", "reltime", "delta", "iso", "notime"}
	at := slices.Index(names, name)
	if at < 0 {
		return 0, errors.New("unknown time format: " + name)
	}
	return calendar + format(at), nil
}

// prepare settles what the options amount to together.
func (p *printer) prepare(color bool) {
	if p.json {
		p.format, p.delta, p.everyLine, p.raw, p.verbatim = seconds, false, false, false, true
	}
	if p.delta && (p.format == relative || p.format == untimed) {
		p.format = deltas
	}
	p.color = color && !p.json
	p.boot = bootTime()
}

// print prints the message, unless it is not wanted.
func (p *printer) print(m Message) {
	switch {
	case !p.wants(m):
	case p.json:
		p.printJSON(m)
	case m.Text == "":
		fmt.Fprintln(p.out)
	case p.raw:
		p.printText(m, "", fmt.Sprintf("<%d>", m.Facility<<3|m.Level)+"["+kernelTime(m.Time)+"] ", false)
	default:
		prefix := ""
		if p.decode && known(m) {
			prefix = fmt.Sprintf("%-6s:%-6s: ", facilities[m.Facility], levels[m.Level])
		}
		stamp, newMinute := p.stamp(m)
		p.printText(m, prefix, stamp, newMinute)
	}
}

func (p *printer) wants(m Message) bool {
	at := p.boot.Add(m.Time.Truncate(time.Second))
	return p.levels.has(m.Level) && p.facilities.has(m.Facility) &&
		(p.since.IsZero() || at.After(p.since)) && (p.until.IsZero() || at.Before(p.until))
}

// known reports whether facility and level have names.
func known(m Message) bool {
	return 0 <= m.Level && m.Level < len(levels) && 0 <= m.Facility && m.Facility < len(facilities)
}

// kernelTime is how the kernel shows a time.
func kernelTime(t time.Duration) string {
	return fmt.Sprintf("%5d.%06d", t/time.Second, t%time.Second/time.Microsecond)
}

// stamp returns what a message begins with, and whether that begins a minute.
func (p *printer) stamp(m Message) (stamp string, newMinute bool) {
	at := p.boot.Add(m.Time).Local()
	delta := 0.
	if p.last != 0 {
		delta = (m.Time - p.last).Seconds()
	}
	p.last = m.Time

	between := "" // behind the time, and in front of the bracket
	if p.delta {
		between = fmt.Sprintf(" <%12.6f>", delta)
	}
	switch p.format {
	case seconds:
		return "[" + kernelTime(m.Time) + between + "] ", false
	case calendar:
		return "[" + at.Format("Mon Jan _2 15:04:05 2006") + between + "] ", false
	case deltas:
		return fmt.Sprintf("[<%12.6f>] ", delta), false
	case iso:
		return at.Format("2006-01-02T15:04:05,000000-07:00 "), false
	case untimed:
		return "", false
	}
	minute := at.Format("Jan_2 15:04")
	switch newMinute = minute != p.minute; {
	case newMinute:
		p.minute = minute
		return "[" + minute + "] ", true
	case delta < 10:
		return fmt.Sprintf("[  %+8.6f] ", delta), false
	}
	return fmt.Sprintf("[ %+9.6f] ", delta), false
}

// The sequences of util-linux's default scheme.
const (
	green     = "\033[32m"
	brown     = "\033[33m"
	red       = "\033[31m"
	bold      = "\033[1m"
	halfLight = "\033[2m"
	reverse   = "\033[7m"
	reset     = "\033[0m"
)

// printText prints the message behind prefix and stamp. Its further lines
// stand below the first, or get a prefix and a stamp of their own.
func (p *printer) printText(m Message, prefix, stamp string, newMinute bool) {
	lines := []string{m.Text}
	if p.everyLine {
		lines = strings.FieldsFunc(m.Text, func(r rune) bool { return r == '\n' })
	}
	indent := strings.Repeat(" ", len(prefix)+len(stamp))
	for i, line := range lines {
		if p.format == relative && !p.raw && i > 0 {
			stamp = "[  +0.000000] "
		}
		stampColor := green
		if newMinute {
			stampColor += bold
		}
		p.out.WriteString(prefix)
		p.colored(stampColor, stamp)

		subsystem := 0
		if p.color {
			subsystem = subsystemEnd(line)
		}
		p.colored(brown, p.escaped(line[:subsystem], indent))
		p.colored(textColor(m.Level, line[subsystem:]), p.escaped(line[subsystem:], indent))
		p.out.WriteByte('\n')
	}
}

// colored prints text in a colour, if there is any of either.
func (p *printer) colored(sequence, text string) {
	if p.color && sequence != "" && text != "" {
		text = sequence + text + reset
	}
	p.out.WriteString(text)
}

// subsystemEnd returns where the text begins behind "subsystem: ", or 0.
func subsystemEnd(line string) int {
	for i := 0; i+2 < len(line); i++ {
		if line[i] == ':' && (line[i+1] == ' ' || line[i+1] == '\t') {
			return i + 2
		}
	}
	return 0
}

func textColor(level int, text string) string {
	switch level {
	case 1:
		return reverse + red
	case 2:
		return bold + red
	case 3:
		return red
	case 4:
		return bold
	}
	if strings.Contains(text, "segfault at") {
		return halfLight + red
	}
	return ""
}

// escaped returns the text with a sequence for each byte of what a terminal
// could not show, and its lines indented.
func (p *printer) escaped(text, indent string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch invalid := r == utf8.RuneError && n == 1; {
		case r == '\n' && n < len(text):
			b.WriteString("\n" + indent)
		case p.verbatim, !invalid && (unicode.IsPrint(r) || unicode.IsSpace(r)):
			b.WriteString(text[:n])
		default:
			for _, c := range []byte(text[:n]) {
				fmt.Fprintf(&b, "\\x%02x", c)
			}
		}
		text = text[n:]
	}
	return b.String()
}

// printJSON prints an object, and in front of the first one what is around it.
func (p *printer) printJSON(m Message) {
	if m.Text == "" {
		return
	}
	if !p.values {
		p.out.WriteString("{\n   \"dmesg\": [\n      {\n")
	} else {
		p.out.WriteString(",{\n")
	}
	p.values = true
	switch {
	case known(m) && p.decode:
		fmt.Fprintf(p.out, "         \"fac\": \"%s\",\n         \"pri\": \"%s\",\n", facilities[m.Facility], levels[m.Level])
	case known(m):
		fmt.Fprintf(p.out, "         \"pri\": %d,\n", m.Facility<<3|m.Level)
	}
	fmt.Fprintf(p.out, "         \"time\": %s,\n         \"msg\": %s\n      }", kernelTime(m.Time), quoted(m.Text))
}

// finish ends what printJSON has begun.
func (p *printer) finish() {
	if p.values {
		p.out.WriteString("\n   ]\n}\n")
	}
}

// quoted is a JSON string as util-linux writes it, bytes that are no UTF-8
// included.
func quoted(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(text) {
		switch {
		case c == '"' || c == '\\':
			b.Write([]byte{'\\', c})
		case c >= ' ':
			b.WriteByte(c)
		default:
			if at := strings.IndexByte("\b\t\n\f\r", c); at >= 0 {
				b.WriteString(`\` + "btnfr"[at:at+1])
			} else {
				fmt.Fprintf(&b, "\\u%04x", c)
			}
		}
	}
	b.WriteByte('"')
	return b.String()
}

// bootTime returns when the clock of the kernel's messages was at 0, to the
// second. It stands still while the machine sleeps, and dmesg takes all sleep
// for past.
func bootTime() time.Time {
	now := time.Now()
	var boottime, monotonic unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boottime) // both are in every kernel
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic)
	up := now.Add(-time.Duration(boottime.Nano()))
	return time.Unix(up.Unix()+boottime.Sec-monotonic.Sec, 0)
}
