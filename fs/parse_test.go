package fs

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// written is one row of the contract's table of inputs: what counter and start
// make of a text. A value of -1 stands for an error.
type written struct {
	text    string
	counter int64
	cErrno  error
	start   int64
	sErrno  error
}

const none = -1

// writingTable is the contract's table, row by row, and the neighbours of its
// rows.
var writingTable = []written{
	{"10", 10, nil, none, unix.EINVAL},
	{"10\n", 10, nil, none, unix.EINVAL},
	{"+10", 10, nil, none, unix.EINVAL},
	{"1", 1, nil, 1, nil},
	{"1\n", 1, nil, 1, nil},
	{"+1", 1, nil, 1, nil},
	{"+1\n", 1, nil, 1, nil},
	{"0", none, unix.EINVAL, 0, nil},
	{"0\n", none, unix.EINVAL, 0, nil},
	{"-0", none, unix.EINVAL, 0, nil},
	{"+0", none, unix.EINVAL, 0, nil},
	{"010", 10, nil, none, unix.EINVAL},
	{"0010", 10, nil, none, unix.EINVAL},
	{"08", 8, nil, none, unix.EINVAL},
	{"01", 1, nil, 1, nil},
	{"00", none, unix.EINVAL, 0, nil},
	{"0x1", none, unix.EINVAL, 1, nil},
	{"0X1", none, unix.EINVAL, 1, nil},
	{"0x0", none, unix.EINVAL, 0, nil},
	{"0x", none, unix.EINVAL, none, unix.EINVAL},
	{"0xg", none, unix.EINVAL, none, unix.EINVAL},
	{" 10 ", 10, nil, none, unix.EINVAL},
	{"\t10\r\n", 10, nil, none, unix.EINVAL},
	{"\v10\f", 10, nil, none, unix.EINVAL},
	{"\xa010\xa0", 10, nil, none, unix.EINVAL},
	{"10\n\n", 10, nil, none, unix.EINVAL},
	{" 1", 1, nil, none, unix.EINVAL},
	{"1 ", 1, nil, none, unix.EINVAL},
	{"1\n\n", 1, nil, none, unix.EINVAL},
	{"-1", none, unix.EINVAL, none, unix.EINVAL},
	{"0x10", none, unix.EINVAL, none, unix.EINVAL},
	{"--1", none, unix.EINVAL, none, unix.EINVAL},
	{"-+1", none, unix.EINVAL, none, unix.EINVAL},
	{"+-1", none, unix.EINVAL, none, unix.EINVAL},
	{"++1", none, unix.EINVAL, none, unix.EINVAL},
	{"+", none, unix.EINVAL, none, unix.EINVAL},
	{"-", none, unix.EINVAL, none, unix.EINVAL},
	{"1.5", none, unix.EINVAL, none, unix.EINVAL},
	{"1e3", none, unix.EINVAL, none, unix.EINVAL},
	{"0b1", none, unix.EINVAL, none, unix.EINVAL},
	{"0o7", none, unix.EINVAL, none, unix.EINVAL},
	{"0o1", none, unix.EINVAL, none, unix.EINVAL},
	{"1_000", none, unix.EINVAL, none, unix.EINVAL},
	{"1_", none, unix.EINVAL, none, unix.EINVAL},
	{"10abc", none, unix.EINVAL, none, unix.EINVAL},
	{"10 20", none, unix.EINVAL, none, unix.EINVAL},
	{"10\n20", none, unix.EINVAL, none, unix.EINVAL},
	{"abc", none, unix.EINVAL, none, unix.EINVAL},
	{"yes", none, unix.EINVAL, none, unix.EINVAL},
	{"Y", none, unix.EINVAL, none, unix.EINVAL},
	{"\n", none, unix.EINVAL, none, unix.EINVAL},
	{" ", none, unix.EINVAL, none, unix.EINVAL},
	{"\x00", none, unix.EINVAL, none, unix.EINVAL},
	{"\xff", none, unix.EINVAL, none, unix.EINVAL},
	{"٣", none, unix.EINVAL, none, unix.EINVAL}, // a digit to Unicode
	{"2", 2, nil, none, unix.EINVAL},
	{"2147483647", 2147483647, nil, none, unix.EINVAL},
	{"2147483648", 2147483648, nil, none, unix.ERANGE},
	{"-2147483648", none, unix.EINVAL, none, unix.EINVAL},
	{"-2147483649", none, unix.EINVAL, none, unix.ERANGE},
	{"4294967295", 4294967295, nil, none, unix.ERANGE},
	{"4294967296", none, unix.ERANGE, none, unix.ERANGE},
	{"18446744073709551615", none, unix.ERANGE, none, unix.ERANGE},
	{"18446744073709551616", none, unix.ERANGE, none, unix.ERANGE},
	{"99999999999999999999", none, unix.ERANGE, none, unix.ERANGE},
	{"99999999999999999999abc", none, unix.ERANGE, none, unix.ERANGE},
	{"4294967296abc", none, unix.EINVAL, none, unix.EINVAL},
	{"0x80000000", none, unix.EINVAL, none, unix.ERANGE},
	{strings.Repeat("0", 20) + "1", 1, nil, 1, nil},
	{strings.Repeat("0", 4095) + "1", 1, nil, 1, nil},
	{strings.Repeat("0", 4096) + "1", none, unix.EINVAL, none, unix.EINVAL},
	{strings.Repeat("9", 4096), none, unix.ERANGE, none, unix.ERANGE},
	{strings.Repeat("9", 5000), none, unix.EINVAL, none, unix.ERANGE},
	{"1\n" + strings.Repeat(" ", 5000), none, unix.EINVAL, none, unix.EINVAL},
	{"1\x00" + strings.Repeat("x", 5000), none, unix.EINVAL, none, unix.EINVAL},
	{"10\x00junk", 10, nil, none, unix.EINVAL},
	{"1\x00junk", 1, nil, 1, nil},
	{"10 \x00junk", 10, nil, none, unix.EINVAL},
}

func TestParse(t *testing.T) {
	for _, row := range writingTable {
		name := row.text[:min(len(row.text), 30)]
		n, err := parseCounter([]byte(row.text))
		if !errors.Is(err, row.cErrno) || err == nil && int64(n) != row.counter {
			t.Errorf("counter %q: got %d, %v; want %d, %v", name, n, err, row.counter, row.cErrno)
		}
		on, err := parseSwitch([]byte(row.text))
		if !errors.Is(err, row.sErrno) || err == nil && on != (row.start == 1) {
			t.Errorf("start %q: got %v, %v; want %d, %v", name, on, err, row.start, row.sErrno)
		}
	}
}

// FuzzParse holds the parsers to what is true of every text.
func FuzzParse(f *testing.F) {
	for _, row := range writingTable {
		f.Add([]byte(row.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := parseCounter(text)
		switch {
		case err == nil && n == 0:
			t.Errorf("%q: counter 0", text)
		case err != nil && err != unix.EINVAL && err != unix.ERANGE:
			t.Errorf("%q: %v", text, err)
		}
		if err == nil {
			if again, err := parseCounter(line(n)); err != nil || again != n {
				t.Errorf("%q is %d, whose own text gives %d, %v", text, n, again, err)
			}
			if padded, err := parseCounter(append([]byte(" \t"), text...)); len(text) < pageSize-1 && (err != nil || padded != n) {
				t.Errorf("%q is %d, with white space before it %d, %v", text, n, padded, err)
			}
		}
		on, err := parseSwitch(text)
		if err != nil && err != unix.EINVAL && err != unix.ERANGE {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil && len(text) > pageSize {
			t.Errorf("%d bytes were taken for %v", len(text), on)
		}
	})
}

func TestErrno(t *testing.T) {
	for _, test := range []struct {
		err  error
		want unix.Errno
	}{
		{nil, 0},
		{errors.New("no errno in here"), unix.EIO},
		{unix.EBUSY, unix.EBUSY},
		{errors.Join(errors.New("first"), unix.EPERM), unix.EPERM},
	} {
		if got := errno(test.err); got != test.want {
			t.Errorf("%v: got %v, want %v", test.err, got, test.want)
		}
	}
}

// FuzzDocument: what stats.json says is what went into it, whatever the
// figures are.
func FuzzDocument(f *testing.F) {
	f.Add(uint64(1<<64-1), uint64(1<<31), uint32(1<<32-1), "postrouting", 1e300, true)
	f.Fuzz(func(t *testing.T, a, b uint64, counter uint32, hook string, seconds float64, open bool) {
		if math.IsNaN(seconds) || math.IsInf(seconds, 0) || !utf8.ValidString(hook) {
			t.Skip("no gap is so long, and no hook so called")
		}
		number := int(a % 256)
		want := Document{
			Schema: Schema, NOut: a, Counter: counter, Start: int(b % 2), Pending: b, Uncounted: a, Hook: hook, Engine: hook,
			Publications: b, PID: int(counter), Version: hook, Published: Figures{a, b}, Live: Figures{b, a},
			Health: Health{Restarts: a, Repairs: b, Flushes: a, Gaps: []Gap{{time.Unix(int64(counter), 0).UTC(), seconds, open}}},
			Protocols: []Protocol{
				{Name: "tcp", Number: &number, Family: "ipv4", Published: Figures{a, b}, Live: Figures{b, a}, Total: Figures{a, a}},
				{Name: "other", Family: "ipv6", Total: Figures{b, b}},
			},
		}
		text, err := want.render()
		if err != nil {
			t.Fatal(err)
		}
		var got Document
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestHighFigures(t *testing.T) {
	for n, want := range map[uint64]string{1<<64 - 1: "18446744073709551615\n", 1 << 63: "9223372036854775808\n", 1 << 31: "2147483648\n"} {
		if got := string(line(n)); got != want {
			t.Errorf("%d reads %q", n, got)
		}
	}
}
