package stats

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

func TestBuiltinNames(t *testing.T) {
	names := BuiltinNames()
	for p, name := range map[Protocol]string{
		0: "ip", 1: "icmp", TCP: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp", 253: "253", 255: "255", Other: "other", 300: "other",
	} {
		want(t, "name", names.Name(p), name)
	}
	seen := make(map[string]Protocol)
	for p := range Other + 1 {
		name := names.Name(p)
		if before, twice := seen[name]; twice {
			t.Errorf("%d and %d are both called %q", before, p, name)
		}
		seen[name] = p
	}
}

func TestParseNames(t *testing.T) {
	names, err := ParseNames(strings.NewReader(`# comment
tcp	6	TCP		# transmission control protocol
twice	6
tcp	7
../etc	8
..	9
.	10
77	11
other	12
far	256
negative -1
alone
empty	# 13
  indented   14   ALIAS
`))
	if err != nil {
		t.Fatal(err)
	}
	for p, name := range map[Protocol]string{
		6: "tcp", 7: "7", 8: "8", 9: "9", 10: "10", 11: "11", 12: "12", 13: "13", 14: "indented",
	} {
		want(t, "name", names.Name(p), name)
	}
	broken := errors.New("broken")
	if _, err := ParseNames(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("error of the reader: got %v", err)
	}
}
