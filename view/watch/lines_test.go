package watch

import (
	"strings"
	"testing"
	"time"

	"kstat/fs"
	"kstat/view/tree"
)

// at is a moment in the test's zone, at which a clock shows 10:20:30.
var at = time.Date(2026, 11, 20, 10, 20, 30, 123456789, time.UTC)

func text(lines [][]byte) (all string) {
	for _, line := range lines {
		all += string(line)
	}
	return all
}

// columns puts one blank between columns.
func columns(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(line), " ")+"\n")
	}
	return strings.Join(lines, "")
}

func TestPublicationLines(t *testing.T) {
	before := &fs.Document{Publications: 4, NOut: 20, Published: fs.Figures{Packets: 40}}
	type step struct {
		p    tree.Publication
		text string
		json string
	}
	for name, steps := range map[string][]step{
		"one after another": {
			{tree.Publication{Number: 5, NOut: 25, Total: 50, Time: at}, "10:20:30.123456 5 25 50 +5 +10\n",
				`{"time":"2026-11-20T10:20:30.123456789Z","publication":5,"nout":25,"total":50,"nout_delta":5,"total_delta":10}` + "\n"},
			{tree.Publication{Number: 6, NOut: 25, Total: 60, Time: at}, "10:20:30.123456 6 25 60 +0 +10\n",
				`{"time":"2026-11-20T10:20:30.123456789Z","publication":6,"nout":25,"total":60,"nout_delta":0,"total_delta":10}` + "\n"},
		},
		"some before the first": {
			{tree.Publication{Number: 7, NOut: 25, Total: 70, Time: at}, "10:20:30.123456 7 25 70 - -\n",
				`{"time":"2026-11-20T10:20:30.123456789Z","publication":7,"nout":25,"total":70,"nout_delta":null,"total_delta":null}` + "\n"},
			{tree.Publication{Number: 8, NOut: 26, Total: 80, Time: at}, "10:20:30.123456 8 26 80 +1 +10\n",
				`{"time":"2026-11-20T10:20:30.123456789Z","publication":8,"nout":26,"total":80,"nout_delta":1,"total_delta":10}` + "\n"},
		},
		"missed": {
			{tree.Publication{Number: 5, NOut: 20, Total: 50, Time: at}, "10:20:30.123456 5 20 50 +0 +10\n", ""},
			{tree.Publication{Missed: 3}, "# missed 3\n", `{"missed":3}` + "\n"},
			{tree.Publication{Number: 9, NOut: 20, Total: 90, Time: at}, "10:20:30.123456 9 20 90 +0 +40\n", ""},
			// Nobody said so: the worker was another one meanwhile.
			{tree.Publication{Number: 12, NOut: 21, Total: 120, Time: at}, "# missed 2\n10:20:30.123456 12 21 120 +1 +30\n", ""},
		},
		"missed at once": {
			{tree.Publication{Missed: 3}, "# missed 3\n", ""},
			{tree.Publication{Number: 8, NOut: 21, Total: 80, Time: at}, "10:20:30.123456 8 21 80 +1 +40\n", ""},
		},
		"reset": {
			{tree.Publication{Number: 5, NOut: 3, Total: 10, Time: at}, "10:20:30.123456 5 3 10 +3 +10\n", ""},
			{tree.Publication{Number: 6, NOut: 4, Total: 10, Time: at}, "10:20:30.123456 6 4 10 +4 +10\n", ""},
			{tree.Publication{Number: 7, NOut: 0, Total: 12, Time: at}, "10:20:30.123456 7 0 12 +0 +12\n", ""},
		},
		"restarted": {
			{tree.Publication{Number: 5, NOut: 25, Total: 50, Time: at}, "10:20:30.123456 5 25 50 +5 +10\n", ""},
			{tree.Publication{Number: 1, NOut: 60, Total: 100, Time: at}, "# restarted\n10:20:30.123456 1 60 100 +60 +100\n", ""},
			{tree.Publication{Number: 1, NOut: 0, Total: 1, Time: at}, "# restarted\n10:20:30.123456 1 0 1 +0 +1\n", `{"restarted":true}` + "\n" +
				`{"time":"2026-11-20T10:20:30.123456789Z","publication":1,"nout":0,"total":1,"nout_delta":0,"total_delta":1}` + "\n"},
		},
	} {
		asText, asJSON := publicationLines{}, publicationLines{format: format{json: true}}
		asText.after(before)
		asJSON.after(before)
		for i, s := range steps {
			if got := columns(text(asText.lines(s.p))); got != s.text {
				t.Errorf("%s, step %d: %q, want %q", name, i, got, s.text)
			}
			if got := text(asJSON.lines(s.p)); s.json != "" && got != s.json {
				t.Errorf("%s, step %d: %q, want %q", name, i, got, s.json)
			}
		}
	}
	if got := columns(string(new(publicationLines).header())); got != "#time publication nout total +nout +total\n" {
		t.Errorf("header %q", got)
	}
}

func TestIntervalLines(t *testing.T) {
	six, one := 6, 1
	protocols := func(tcp, icmp, other uint64) []fs.Protocol {
		return []fs.Protocol{
			{Name: "icmp", Number: &one, Family: "ipv4", Total: fs.Figures{Packets: icmp, Bytes: icmp * 28}},
			{Name: "tcp", Number: &six, Family: "ipv4", Total: fs.Figures{Packets: tcp, Bytes: tcp * 50}},
			{Name: "other", Family: "ipv6", Total: fs.Figures{Packets: other, Bytes: other}},
		}
	}
	begin := &fs.Document{PID: 10, Start: 1, Protocols: protocols(5, 0, 0)[1:2]}
	asText, asJSON := intervalLines{last: begin, at: at}, intervalLines{format: format{json: true}, last: begin, at: at}
	for i, s := range []struct {
		d    *fs.Document
		text string
		json string
	}{
		{begin, "-", `{"time":"2026-11-20T10:20:31.123456789Z","seconds":1,"start":1,"pending":0,"uncounted":0,"uncounted_delta":0,"packets":0,"bytes":0,"protocols":[]}`},
		{&fs.Document{PID: 10, Start: 1, Pending: 7, Uncounted: 4, Protocols: protocols(8, 2, 1)}, "icmp/ipv4 +2 tcp/ipv4 +3 other/ipv6 +1 uncounted +4",
			`{"time":"2026-11-20T10:20:32.123456789Z","seconds":1,"start":1,"pending":7,"uncounted":4,"uncounted_delta":4,"packets":6,"bytes":207,"protocols":[` +
				`{"name":"icmp","number":1,"family":"ipv4","packets":2,"bytes":56},{"name":"tcp","number":6,"family":"ipv4","packets":3,"bytes":150},` +
				`{"name":"other","number":null,"family":"ipv6","packets":1,"bytes":1}]}`},
		{&fs.Document{PID: 10, Start: 1, Uncounted: 3, Protocols: protocols(8, 2, 1)}, "-",
			`{"time":"2026-11-20T10:20:33.123456789Z","seconds":1,"start":1,"pending":0,"uncounted":3,"uncounted_delta":-1,"packets":0,"bytes":0,"protocols":[]}`},
		{&fs.Document{PID: 10, Uncounted: 3, Protocols: protocols(8, 2, 1)}, "stopped", ""},
		{&fs.Document{PID: 11, Start: 1, Protocols: protocols(2, 9, 0)}, "# restarted\nicmp/ipv4 +9 tcp/ipv4 +2",
			`{"restarted":true}` + "\n" +
				`{"time":"2026-11-20T10:20:35.123456789Z","seconds":1,"start":1,"pending":0,"uncounted":0,"uncounted_delta":0,"packets":11,"bytes":352,"protocols":[` +
				`{"name":"icmp","number":1,"family":"ipv4","packets":9,"bytes":252},{"name":"tcp","number":6,"family":"ipv4","packets":2,"bytes":100}]}`},
		// A container's kstatd has always the same number.
		{&fs.Document{PID: 11, Start: 1, Protocols: protocols(1, 20, 0)}, "# restarted\nicmp/ipv4 +20 tcp/ipv4 +1", ""},
		{&fs.Document{PID: 11, Start: 1}, "# restarted\n-", ""},
	} {
		now := at.Add(time.Duration(i+1) * time.Second)
		want := strings.Replace(s.text, "\n", "\n"+now.Format(clock)+" ", 1) + "\n"
		if !strings.Contains(s.text, "\n") {
			want = now.Format(clock) + " " + want
		}
		if got := text(asText.lines(s.d, now)); got != want {
			t.Errorf("step %d: %q, want %q", i, got, want)
		}
		if got := text(asJSON.lines(s.d, now)); s.json != "" && got != s.json+"\n" {
			t.Errorf("step %d: %s, want %s", i, got, s.json)
		}
	}
}
