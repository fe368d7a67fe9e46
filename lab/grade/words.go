package grade

import (
	"fmt"
	"net/netip"
	"strings"

	"kstat/lab/shell"
)

// maxQuoted is how many bytes of a text are shown in a sentence.
const maxQuoted = 60

// quote shows a text with every byte that cannot be seen, a newline included,
// as Go, C and printf(1) spell it.
func quote[T ~string | ~[]byte](text T) string {
	if len(text) <= maxQuoted {
		return fmt.Sprintf("%q", string(text))
	}
	return fmt.Sprintf("%q… (%d bytes)", string(text[:maxQuoted]), len(text))
}

// count shows a number of things.
func count(n int, thing string) string { return plural(float64(n), thing) }

// typedWrite is a command that writes text to a file in one write(2).
func typedWrite(path, text string) string {
	path = shell.Quote(path)
	toDD := " | dd of=" + path + " bs=64k iflag=fullblock status=none"
	line, ended := strings.CutSuffix(text, "\n")
	switch {
	case text == "":
		return fmt.Sprintf(`python3 -c 'import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), b"")' %s`, path)
	case len(text) > maxQuoted:
		first, rest := text[:2], text[2:]
		return fmt.Sprintf("(printf '%s'; head -c %d /dev/zero | tr '\\0' '%s')%s", escape(first), len(rest), escape(rest[:1]), toDD)
	case ended && shell.Quote(line) == line && line[0] != '-':
		return "echo " + line + " > " + path
	case strings.Contains(line, "\n"): // bash writes each line for itself
		return "printf '" + escape(text) + "'" + toDD
	}
	return "printf '" + escape(text) + "' > " + path
}

// escape shows a text as printf(1) takes it for its format.
func escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '%':
			b.WriteString(`%%`)
		case c < ' ' || c > '~' || c == '\\' || c == '\'' || c == '-' && i == 0:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Functions for a shell, for packets that no common tool sends one of: a TCP
// reset, and UDP to a socket that takes it, so that nobody answers.
const (
	resets    = "one_tcp"
	resetBody = resets + `() { python3 -c 'import socket as s, sys; to = sys.argv[1]  # a reset, which nobody answers
s.socket(s.AF_INET6 if ":" in to else s.AF_INET, s.SOCK_RAW, s.IPPROTO_TCP).sendto(bytes.fromhex("0001000200000000000000005004000000000000"), (to, 0))' "$1"; }
`
	datagrams    = "some_udp"
	datagramBody = datagrams + `() { python3 -c 'import socket as s, sys; to = sys.argv[1]
u = s.socket(s.AF_INET6 if ":" in to else s.AF_INET, s.SOCK_DGRAM); u.bind((to, 0))
for i in range(int(sys.argv[2])): u.sendto(b"kstat", u.getsockname()); u.recv(8)' "$1" "$2"; }
`
)

// typedTCP is a command that sends n TCP packets.
func typedTCP(addr netip.Addr, n int) string {
	var commands []string
	if n > 1 {
		commands = append(commands, fmt.Sprintf("for i in {1..%d}; do : < /dev/tcp/%s/1; done 2> /dev/null", n/2, addr))
	}
	if n%2 > 0 {
		commands = append(commands, resets+" "+addr.String())
	}
	return strings.Join(commands, "; ") + "   # " + count(n, "TCP packet")
}

// typedUDP is a command that sends n UDP packets.
func typedUDP(addr netip.Addr, n int) string {
	return fmt.Sprintf("%s %s %d   # %s", datagrams, addr, n, count(n, "UDP packet"))
}

func typedPing(addr netip.Addr, n int) string {
	return fmt.Sprintf("ping -q -c %d %s   # %d requests, %d replies", n, addr, n, n)
}

// script is what a person types to do the steps: in bash, as root.
func script(typed []string) string {
	lines := strings.Join(typed, "\n")
	for _, function := range []struct{ name, body string }{{resets, resetBody}, {datagrams, datagramBody}} {
		if strings.Contains(lines, function.name+" ") {
			lines = function.body + lines
		}
	}
	return lines
}
