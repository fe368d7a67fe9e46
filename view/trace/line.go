package trace

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"kstat/stats"
	"kstat/trace/header"
)

// line is a line of trace_pipe, taken apart.
type line struct {
	time, device, direction, family string
	places, rest                    string // what is in front of the colon, and behind
	missed                          uint64 // not 0: it is no packet, but how many there is none of
}

// cutLine takes a line apart. It is false for one that it does not know.
func cutLine(text []byte) (l line, ok bool) {
	text = bytes.TrimSuffix(text, []byte("\n"))
	if bytes.HasPrefix(text, []byte("#")) {
		n, _ := fmt.Sscanf(string(text), "# %d packet", &l.missed)
		return l, n == 1 && l.missed > 0
	}
	rest := string(text)
	word := func() (w string) {
		w, rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
		return w
	}
	l.time, l.family = word(), word()
	if l.family != "IP" && l.family != "IP6" {
		l.device, l.direction, l.family = l.family, word(), word()
	}
	if l.family != "IP" && l.family != "IP6" {
		return line{}, false
	}
	if l.places, l.rest, ok = strings.Cut(rest, ": "); !ok || !strings.Contains(l.places, " > ") {
		l.places, l.rest = "", rest // it was truncated in front of them
	}
	return l, true
}

// numbers are protocols by their names.
type numbers map[string]int

func newNumbers(names *stats.Names) numbers {
	all := make(numbers)
	for n := range stats.Other {
		all[names.Name(n)] = int(n)
	}
	return all
}

// header returns what a filter looks at.
func (n numbers) header(l *line) header.Header {
	h := header.Header{Version: 4, Protocol: -1, SrcPort: -1, DstPort: -1}
	if l.family == "IP6" {
		h.Version = 6
	}
	src, dst, _ := strings.Cut(l.places, " > ")
	h.Src, h.SrcPort = place(src)
	h.Dst, h.DstPort = place(dst)
	name, _, _ := strings.Cut(l.rest, ",")
	name, _, _ = strings.Cut(name, " ")
	switch name {
	case "Flags":
		h.Protocol = header.TCP
	case "UDP":
		h.Protocol = header.UDP
	case "ICMP":
		h.Protocol = header.ICMP
	case "ICMP6":
		h.Protocol = header.ICMPv6
	default:
		if number, ok := n[strings.TrimPrefix(name, "ip-proto-")]; ok {
			h.Protocol = number
		}
	}
	return h
}

// place cuts the port off an address. A port is the fifth number of an IPv4
// address, and behind a dot in the last part of an IPv6 address.
func place(text string) (netip.Addr, int) {
	last := text[strings.LastIndexByte(text, ':')+1:]
	port := -1
	if dots := strings.Count(last, "."); dots == 4 || dots == 1 {
		at := strings.LastIndexByte(text, '.')
		if n, err := strconv.ParseUint(text[at+1:], 10, 16); err == nil {
			text, port = text[:at], int(n)
		}
	}
	a, _ := netip.ParseAddr(text)
	return a, port
}
