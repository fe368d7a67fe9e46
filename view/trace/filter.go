package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"kstat/stats"
	"kstat/trace/header"
)

// A Filter says of a packet whether it is to be shown. nil lets all pass.
type Filter func(*header.Header) bool

// ParseFilter reads a filter in a part of the language of tcpdump
// (pcap-filter(7)):
//
//	ip, ip6                               the family
//	tcp, udp, icmp, icmp6, sctp, …        a protocol by its name in /etc/protocols
//	proto N                               a protocol by its number or name
//	host A, net A/BITS                    an address, source or destination
//	port N, portrange N-M                 a port, likewise
//	src …, dst …                          one of these at one end; alone, a host
//	tcp port N, ip6 host A, …             both
//	not F, F and F, F or F, ( F )         also !, && and ||
//
// As there, not binds most, and "and" and "or" bind alike, from left to right.
// The text may be empty: then the filter is nil. The error is one line.
func ParseFilter(text string, names *stats.Names) (Filter, error) {
	p := &parser{words: split(text), names: names}
	if len(p.words) == 0 {
		return nil, nil
	}
	f, err := p.expression()
	if err == nil && p.word() != "" {
		err = p.unexpected("and, or, or the end")
	}
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return f, nil
}

// split cuts a text into words.
func split(text string) (words []string) {
	for _, sign := range []string{"(", ")", "&&", "||", "!"} {
		text = strings.ReplaceAll(text, sign, " "+sign+" ")
	}
	return strings.Fields(text)
}

type parser struct {
	words []string
	at    int
	depth int
	names *stats.Names
}

// deepest is how far filters may be nested.
const deepest = 100

// word returns the next word; "" is the end.
func (p *parser) word() string {
	if p.at < len(p.words) {
		return p.words[p.at]
	}
	return ""
}

// take steps over the next word if it is one of these.
func (p *parser) take(words ...string) bool {
	if p.word() != "" && slices.Contains(words, p.word()) {
		p.at++
		return true
	}
	return false
}

func (p *parser) unexpected(wanted string) error {
	if p.word() == "" {
		return fmt.Errorf("it ends where %s is expected", wanted)
	}
	return fmt.Errorf("%q where %s is expected", p.word(), wanted)
}

func (p *parser) expression() (Filter, error) {
	f, err := p.term()
	for err == nil {
		and := p.take("and", "&&")
		if !and && !p.take("or", "||") {
			break
		}
		var right Filter
		right, err = p.term()
		f = join(f, and, right)
	}
	return f, err
}

func join(left Filter, and bool, right Filter) Filter {
	if and {
		return func(h *header.Header) bool { return left(h) && right(h) }
	}
	return func(h *header.Header) bool { return left(h) || right(h) }
}

func (p *parser) term() (Filter, error) {
	if p.depth++; p.depth > deepest {
		return nil, fmt.Errorf("more than %d parentheses or nots in each other", deepest)
	}
	defer func() { p.depth-- }()
	switch {
	case p.take("not", "!"):
		f, err := p.term()
		return func(h *header.Header) bool { return !f(h) }, err
	case p.take("("):
		f, err := p.expression()
		if err == nil && !p.take(")") {
			err = p.unexpected(")")
		}
		return f, err
	}
	return p.primitive()
}

// ends says at which ends of a packet something is to be.
type ends int

const (
	either ends = iota
	source
	destination
)

func (e ends) match(src, dst bool) bool {
	return e != destination && src || e != source && dst
}

// primitive is [family or protocol] [end] [host, net, port … and its value].
func (p *parser) primitive() (Filter, error) {
	what, err := p.kind()
	if err != nil {
		return nil, err
	}
	end, ended := either, false
	switch {
	case p.take("src"):
		end, ended = source, true
	case p.take("dst"):
		end, ended = destination, true
	}
	place, err := p.place(end, ended)
	switch {
	case err != nil:
		return nil, err
	case what == nil && place == nil:
		return nil, p.unexpected("a protocol, or ip, ip6, proto, host, net, port, portrange, src, dst")
	case what == nil:
		return place, nil
	case place == nil:
		return what, nil
	}
	return join(what, true, place), nil
}

// kind is a family or a protocol; nil if there is none.
func (p *parser) kind() (Filter, error) {
	version := func(v int) Filter { return func(h *header.Header) bool { return h.Version == v } }
	switch {
	case p.take("ip"):
		return p.of(version(4))
	case p.take("ip6"):
		return p.of(version(6))
	case p.word() == "proto":
		return p.of(nil)
	}
	if n, ok := p.protocol(p.word()); ok && p.word() != "" && strings.Trim(p.word(), "0123456789") != "" {
		p.at++
		return protocol(n), nil
	}
	return nil, nil
}

// of reads what may stand behind ip and ip6: proto N.
func (p *parser) of(family Filter) (Filter, error) {
	if !p.take("proto") {
		return family, nil
	}
	n, ok := p.protocol(p.word())
	if !ok {
		return nil, p.unexpected("a protocol, by a name of /etc/protocols or its number")
	}
	p.at++
	if family == nil {
		return protocol(n), nil
	}
	return join(family, true, protocol(n)), nil
}

func protocol(n int) Filter { return func(h *header.Header) bool { return h.Protocol == n } }

// protocol returns the number of a protocol.
func (p *parser) protocol(name string) (int, bool) {
	switch name {
	case "":
		return 0, false
	case "icmp6":
		return header.ICMPv6, true
	}
	if n, err := strconv.ParseUint(name, 10, 8); err == nil {
		return int(n), true
	}
	for n := range stats.Other {
		if p.names.Name(n) == name {
			return int(n), true
		}
	}
	return 0, false
}

// place is where a packet comes from or goes to; nil if nothing is said of
// that.
func (p *parser) place(end ends, ended bool) (Filter, error) {
	switch {
	case p.take("host"):
		return p.host(end)
	case p.take("net"):
		return p.network(end)
	case p.take("port"):
		return p.ports(end, false)
	case p.take("portrange"):
		return p.ports(end, true)
	case ended:
		return p.host(end)
	}
	return nil, nil
}

func (p *parser) host(end ends) (Filter, error) {
	a, err := netip.ParseAddr(p.word())
	if err != nil || a.Zone() != "" { // no packet has a zone
		return nil, p.unexpected("an address, like 10.0.0.1 or ::1,")
	}
	p.at++
	return func(h *header.Header) bool { return end.match(h.Src == a, h.Dst == a) }, nil
}

func (p *parser) network(end ends) (Filter, error) {
	n, err := netip.ParsePrefix(p.word())
	if err != nil || n != n.Masked() {
		return nil, p.unexpected("a network, like 10.0.0.0/8 or fd00::/8, with no bit set behind it,")
	}
	p.at++
	return func(h *header.Header) bool { return end.match(n.Contains(h.Src), n.Contains(h.Dst)) }, nil
}

func (p *parser) ports(end ends, many bool) (Filter, error) {
	first, last, cut := strings.Cut(p.word(), "-")
	if !many {
		first, last = p.word(), p.word()
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || many != cut || low > high {
		if many {
			return nil, p.unexpected("a range of ports, like 6000-6008,")
		}
		return nil, p.unexpected("a port, 0 to 65535,")
	}
	p.at++
	in := func(port int) bool { return port >= int(low) && port <= int(high) }
	return func(h *header.Header) bool { return end.match(in(h.SrcPort), in(h.DstPort)) }, nil
}
