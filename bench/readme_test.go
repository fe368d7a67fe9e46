package main

import "testing"

func TestBetweenMarkers(t *testing.T) {
	text := "above\n" + tableBegin + "old\n" + tableEnd + "beneath\n"
	got, err := betweenMarkers([]byte(text), []byte("new\n"))
	if want := "above\n" + tableBegin + "new\n" + tableEnd + "beneath\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"", tableBegin, tableEnd, tableEnd + tableBegin} {
		if _, err := betweenMarkers([]byte(bad), nil); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
