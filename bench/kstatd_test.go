package main

import "testing"

func TestLivePackets(t *testing.T) {
	for _, tc := range []struct {
		text string
		want uint64
		ok   bool
	}{
		{`{"schema":1,"live":{"packets":18446744073709551615,"tcp":3},"uncounted":2}`, 18446744073709551615, true},
		{`{"schema":1,"live":{"packets":0}}`, 0, true},
		{`{"schema":1}`, 0, false},
		{`{"live":`, 0, false},
	} {
		if got, ok := livePackets([]byte(tc.text)); got != tc.want || ok != tc.ok {
			t.Errorf("%s: got %d, %v, want %d, %v", tc.text, got, ok, tc.want, tc.ok)
		}
	}
}

func TestSumPackets(t *testing.T) {
	got, err := sumPackets("# name number family packets bytes\ntcp 6 ipv4 100 5200\ntcp 6 ipv6 20 900\nudp 17 ipv4 3 84\n")
	if got != 123 || err != nil {
		t.Errorf("got %d, %v, want 123", got, err)
	}
	for _, bad := range []string{"tcp 6 ipv4 100\n", "tcp 6 ipv4 many 5200\n"} {
		if _, err := sumPackets(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestFigures(t *testing.T) {
	got, err := figures("sent 12 ns 2000000000")
	if err != nil || got["sent"] != 12 || got["ns"] != 2e9 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "sent", "sent many"} {
		if _, err := figures(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
