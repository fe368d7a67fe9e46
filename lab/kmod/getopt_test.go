package kmod

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

var testGrammar = grammar{"ab:c::", []longOption{
	{"all", no, "a"},
	{"before", required, "b"},
	{"beyond", required, "beyond"},
	{"colour", optional, "c"},
	{"color", optional, "c"},
}}

// show writes a command line down as name=value words, | and the operands.
func show(c commandLine) string {
	var words []string
	for _, o := range c.options {
		words = append(words, o.name+"="+o.value)
	}
	return strings.Join(slices.Concat(words, []string{"|"}, c.operands), " ")
}

func TestGetopt(t *testing.T) {
	for _, tt := range []struct{ args, want, err string }{
		{"", "|", ""},
		{"x -a y -b z -- -a --", "a= b=z | x y -a --", ""},
		{"- -a", "a= | -", ""},
		{"-abz", "a= b=z |", ""},
		{"-ab z", "a= b=z |", ""},
		{"-c z -cz", "c= c=z | z", ""},
		{"-b -a", "b=-a |", ""},
		{"--all --before=x=y --before z", "a= b=x=y b=z |", ""},
		{"--bef z --al", "b=z a= |", ""},
		{"--col --col=x --colour=", "c= c=x c= |", ""},
		{"--before= y", "b= | y", ""},
		{"-a x -z -a", "a= | x", "invalid option -- 'z'"},
		{"-a:", "a= |", "invalid option -- ':'"},
		{"-ab", "a= |", "option requires an argument -- 'b'"},
		{"--all=x", "|", "option '--all' doesn't allow an argument"},
		{"--before", "|", "option '--before' requires an argument"},
		{"--be=x", "|", "option '--be=x' is ambiguous; possibilities: '--before' '--beyond'"},
		{"--allow=x", "|", "unrecognized option '--allow=x'"},
		{"--=x", "|", "option '--=x' is ambiguous; possibilities: '--all' '--before' '--beyond' '--colour' '--color'"},
	} {
		c, err := testGrammar.parse(strings.Fields(tt.args))
		if err == nil {
			err = fmt.Errorf("")
		}
		if show(c) != tt.want || err.Error() != tt.err {
			t.Errorf("%q: got %q, %q\nwant %q, %q", tt.args, show(c), err, tt.want, tt.err)
		}
	}
	first := testGrammar
	first.short = "+" + first.short
	if c, err := first.parse([]string{"-a", "x", "-b"}); err != nil || show(c) != "a= | x -b" || c.ended {
		t.Errorf("+: got %q, %v", show(c), err)
	}
	if c, err := first.parse([]string{"-a", "--", "x"}); err != nil || show(c) != "a= | x" || !c.ended {
		t.Errorf("+ and --: got %q, %v", show(c), err)
	}
}

// Options and operands are all that was given, and the options as words mean
// the same again.
func FuzzGetopt(f *testing.F) {
	f.Add("x -abz --be --before=q -- -c")
	f.Add("-c -- - --colour=x")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		c, err := testGrammar.parse(args)
		if err != nil {
			return
		}
		n := len(c.words) + len(c.operands)
		if c.ended {
			n++
		}
		if n != len(args) {
			t.Errorf("%q: %q and %q", args, c.words, c.operands)
		}
		again, err := testGrammar.parse(append(slices.Clone(c.words), append([]string{"--"}, c.operands...)...))
		if err != nil || show(again) != show(c) {
			t.Errorf("%q: %q, then %q, %v", args, show(c), show(again), err)
		}
	})
}
