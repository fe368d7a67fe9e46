//go:build !race

package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"kstat/fs"
	"kstat/hook"
	chromium "kstat/lab/browser"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

// TestBrowser is the tests of the page in Chromium, which they share, as it
// takes a second to start.
func TestBrowser(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	chromium.Need(t)
	b, err := chromium.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	for name, test := range map[string]func(*testing.T, *chromium.Tab){
		"Traffic":       testTraffic,
		"Hour":          testHour,
		"Restart":       testRestart,
		"Control":       testControl,
		"ReadOnly":      testReadOnly,
		"Keyboard":      testKeyboard,
		"Accessibility": testAccessibility,
		"Rebinding":     testRebinding,
		"Narrow":        testNarrow,
	} {
		t.Run(name, func(t *testing.T) {
			tab, err := b.Tab()
			if err != nil {
				t.Fatal(err)
			}
			defer tab.Close()
			test(t, tab)
			for _, fault := range tab.Faults() {
				t.Error("in the page:", fault)
			}
		})
	}
}

// do carries out actions.
func do(t *testing.T, tab *chromium.Tab, actions ...chromedp.Action) {
	t.Helper()
	if err := tab.Do(actions...); err != nil {
		t.Fatal(err)
	}
}

// await waits until an expression is true.
func await(t *testing.T, tab *chromium.Tab, expression string, args ...any) {
	t.Helper()
	if err := tab.Await(fmt.Sprintf(expression, args...)); err != nil {
		var body string
		_ = tab.Do(chromedp.Evaluate(`document.body.innerText`, &body))
		t.Fatalf("%v; the page says:\n%s", err, body)
	}
}

// eval returns the value of an expression.
func eval[T any](t *testing.T, tab *chromium.Tab, expression string) (value T) {
	t.Helper()
	do(t, tab, chromedp.Evaluate(expression, &value))
	return value
}

// visit opens the page where a device has just come, of which Chromium may hear
// in the middle: it drops then what it loads, the page or its script
// (ERR_NETWORK_CHANGED).
func visit(t *testing.T, tab *chromium.Tab, url string) {
	t.Helper()
	var err error
	for range 5 {
		var whole bool
		err = tab.Do(chromedp.Navigate(url), chromedp.Evaluate(`typeof past === "object" && document.styleSheets.length > 0`, &whole))
		if err == nil && whole {
			return
		}
		if err != nil && !strings.Contains(err.Error(), "ERR_NETWORK_CHANGED") {
			t.Fatal(err)
		}
	}
	t.Fatalf("the page is not loaded: %v", err)
}

// tableOf is the page's table, as its cells say exactly.
func tableOf(t *testing.T, tab *chromium.Tab) [][]string {
	t.Helper()
	return eval[[][]string](t, tab, `[...document.querySelectorAll("#rows tr")].map((row) =>
		[row.cells[0].childNodes[1].data, ...[1, 2, 5, 6, 7].map((i) => row.cells[i].querySelector("data")?.value ?? row.cells[i].textContent)])`)
}

// testTraffic compares the figures on the page with what was sent: through a
// real engine, with loopback left out, where Chromium itself is.
func testTraffic(t *testing.T, tab *chromium.Tab) {
	sandbox.Need(t, sandbox.NFQueue, sandbox.NFTables, sandbox.IPv6)
	c := hook.Config{Point: hook.Postrouting, ExcludeLoopback: true, Log: slog.New(slog.DiscardHandler)}
	holding, err := hook.Hold(c)
	if err != nil {
		t.Fatal(err)
	}
	defer holding.Close()
	memory := make([]uint64, stats.LedgerSize/8)
	table, err := holding.Table(unsafe.Slice((*byte)(unsafe.Pointer(&memory[0])), stats.LedgerSize))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := holding.New(c, table)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	defer func() {
		cancel()
		if err := errors.Join(<-ended, engine.Close()); err != nil {
			t.Error(err)
		}
	}()

	peer := sandbox.Veth(t)
	at := server(t, quick(newTree(engine, table), true))
	visit(t, tab, at.URL)
	await(t, tab, `document.title.includes("packets/s")`)
	await(t, tab, `$("started").textContent === "stopped" && !$("empty").hidden`)

	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	send := func(steps ...error) {
		t.Helper()
		if err := errors.Join(steps...); err != nil {
			t.Fatal(err)
		}
	}
	closed := func() error {
		to, err := traffic.ClosedPort(peer.Own4) // the peer has no listeners at all
		if err != nil {
			return err
		}
		return traffic.TCPConnect(netip.AddrPortFrom(peer.Addr4, to.Port()), 13)
	}
	send(closed(),
		traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 37, 100),
		traffic.UDP(netip.AddrPortFrom(peer.Void6, 9), 5, 1),
		traffic.Ping(peer.Addr4, 11),
		traffic.Raw(peer.Void4, 132, make([]byte, 12), 3))
	await(t, tab, `$("started").textContent === "started" && document.querySelector("[data-key='sctp ipv4'] data")?.value === "3"`)

	// 60 bytes a SYN; 20 or 40, 8 and the payload; 20, 8 and 0; 20 and 12. Published were 60 of 69 packets.
	is(t, "the table: protocol, number, family, packets, bytes, published", tableOf(t, tab), [][]string{
		{"udp", "17", "ipv4", "37", fmt.Sprint(37 * 128), "37"},
		{"tcp", "6", "ipv4", "13", fmt.Sprint(13 * 60), "13"},
		{"icmp", "1", "ipv4", "11", fmt.Sprint(11 * 28), "5"},
		{"udp", "17", "ipv6", "5", fmt.Sprint(5 * 49), "5"},
		{"sctp", "132", "ipv4", "3", fmt.Sprint(3 * 32), "0"},
	})
	figures := func() string {
		return eval[string](t, tab, `["nout", "publications", "pending", "counter", "uncounted"].map((id) => $(id).value).join(" ")`)
	}
	is(t, "nout, publications, pending, counter, uncounted", figures(), "13 6 9 10 0")
	is(t, "hook, engine, version", eval[string](t, tab, `["hook", "engine", "version"].map((id) => $(id).textContent).join(" ")`),
		"postrouting nfqueue v0")

	// The rates of the chart are those of the differences: their sum over the samples is what was sent.
	is(t, "packets and bytes under the lines", eval[string](t, tab, `(() => {
		const sum = { packets: 0, bytes: 0 };
		past.samples.forEach(({ rates, time }, i) => {
			for (const rate of rates?.values() ?? []) {
				for (const unit in sum) sum[unit] += rate[unit] * (time - past.samples[i - 1].time) / 1000;
			}
		});
		return Math.round(sum.packets) + " " + Math.round(sum.bytes);
	})()`), fmt.Sprint(69, " ", 37*128+13*60+11*28+5*49+3*32))

	// And by the page's own controls, on the same engine.
	unlock(t, tab)
	do(t, tab, enter("#counter-value", "9"))
	await(t, tab, `$("pending").value === "0"`)
	is(t, "after counter = 9", figures(), "13 7 0 9 0")
	do(t, tab, chromedp.Click("#start", chromedp.ByQuery))
	await(t, tab, `$("started").textContent === "stopped"`)
	is(t, "started", engine.Started(), false)
	send(traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 4, 100))
	do(t, tab, chromedp.Click("#reset", chromedp.ByQuery), chromedp.Click(`#sure [value="yes"]`, chromedp.ByQuery))
	await(t, tab, `$("nout").value === "0"`)
	is(t, "after reset", figures(), "0 7 0 9 0")
	is(t, "the totals after reset", tableOf(t, tab)[0], []string{"udp", "17", "ipv4", "37", fmt.Sprint(37 * 128), "0"})
}

// unlock gives the page the token.
func unlock(t *testing.T, tab *chromium.Tab) {
	t.Helper()
	await(t, tab, `!$("control").hidden`)
	do(t, tab, enter("#token", token))
	await(t, tab, `!$("controls").hidden`)
}

// enter replaces the text of an input, and ends with Enter.
func enter(selector, text string) chromedp.Action {
	empty := fmt.Sprintf(`{ const input = document.querySelector(%q); input.value = ""; input.focus(); }`, selector)
	return chromedp.Tasks{chromedp.Evaluate(empty, nil), chromedp.KeyEvent(text + kb.Enter)}
}

// script serves the page, and as its events what a test sends.
type script struct {
	http.Handler
	events chan string   // "" ends the stream
	status atomic.Uint32 // of the answer to who asks for events, if not 0
	asked  atomic.Uint32 // how often somebody did
}

func newScript() *script {
	s := &script{events: make(chan string)}
	page := pageOf(newTree(&standIn{}, stats.NewTable()), false)
	mux := http.NewServeMux()
	mux.Handle("/", page)
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if status := s.status.Load(); status != 0 {
			http.Error(w, "full", int(status))
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "retry: 50\n\n")
		http.NewResponseController(w).Flush()
		for {
			select {
			case text := <-s.events:
				if text == "" {
					return
				}
				io.WriteString(w, text)
				http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	s.Handler = mux
	return s
}

// second is the time of the n-th event of a script.
func second(n int) int64 { return 1_800_000_000_000 + int64(n)*1000 }

// sample is an event of one second, in which a protocol has had so many packets
// and bytes in all.
func sample(epoch string, n int, packets, bytes uint64) string {
	six := 6
	return string(message("", &event{
		Epoch: epoch, Time: second(n), Start: 1, Counter: 10, NOut: packets, Hook: "postrouting", Engine: "nfqueue", Version: "v0",
		Protocols: []protocol{{"tcp", &six, "ipv4", packets, bytes, packets}},
	}))
}

// testHour lets the page be in the background for an hour, in which it is
// given no frame to draw in, and then looks.
func testHour(t *testing.T, tab *chromium.Tab) {
	s := newScript()
	at := server(t, s)
	do(t, tab, chromedp.Navigate(at.URL))
	s.events <- sample("a", 0, 0, 0)
	await(t, tab, `$("nout").value === "0"`)
	hide(t, tab, true)

	// The page is frozen for the first half: its tasks do not run at all. In the second it may run, hidden.
	freeze := func(state cdpage.SetWebLifecycleStateState) { do(t, tab, cdpage.SetWebLifecycleState(state)) }
	freeze(cdpage.SetWebLifecycleStateStateFrozen)
	const hour = 3600
	for n := 1; n <= hour; n++ {
		if n == hour/2 {
			freeze(cdpage.SetWebLifecycleStateStateActive)
		}
		s.events <- sample("a", n, uint64(n)*uint64(n), 1000*uint64(n))
	}
	await(t, tab, `past.last.time === %d`, second(hour))
	is(t, "hidden, and so not drawn: nout", eval[string](t, tab, `document.visibilityState + " " + $("nout").value`), "hidden 0")
	is(t, "samples, keys and waiting events", eval[string](t, tab, `[past.samples.length, names.size, waiting.length, rows.size].join(" ")`), "301 1 0 1")

	hide(t, tab, false)
	await(t, tab, `$("nout").value === "%d"`, hour*hour)
	is(t, "the chart's span", eval[int64](t, tab, `past.latest.time - past.samples[0].time`), 300_000)
	// (n² − (n−1)²) a second: exact differences, by the events' own clock.
	is(t, "rates that are wrong", eval[int](t, tab, fmt.Sprintf(`past.samples.filter(({ time, rates }) => {
		const n = (time - %d) / 1000;
		return rates.get("tcp ipv4").packets !== 2 * n - 1 || rates.get("tcp ipv4").bytes !== 1000;
	}).length`, second(0))), 0)
	is(t, "points of the line, gaps", eval[string](t, tab, `document.querySelector("#chart .series").getAttribute("d").split(/[ML]/).length - 1 + " " +
		document.querySelectorAll("#chart .nodata").length`), "301 0")
	is(t, "now", eval[string](t, tab, `$("now-packets").textContent + ", " + $("now-bytes").textContent`), "7,199, 1.00 kB/s")

	// Paused for a while longer than the chart: as many events wait as the chart can show.
	do(t, tab, chromedp.Click("#pause", chromedp.ByQuery))
	for n := hour + 1; n <= hour+500; n++ {
		s.events <- sample("a", n, uint64(n)*uint64(n), 1000*uint64(n))
	}
	await(t, tab, `waiting.at(-1)?.time === %d`, second(hour+500))
	is(t, "paused: state, nout, waiting", eval[string](t, tab, `[$("link").textContent, $("nout").value, waiting.length].join(" ")`), fmt.Sprint("paused ", hour*hour, " 360"))
	do(t, tab, chromedp.Click("#pause", chromedp.ByQuery))
	await(t, tab, `$("nout").value === "%d"`, (hour+500)*(hour+500))
	is(t, "samples after the pause", eval[string](t, tab, `[past.samples.length, past.samples.filter(({ rates }) => !rates).length].join(" ")`), "301 0")
}

// testRestart has the connection refused and the daemon anew: figures that
// went back are a gap, and no rate.
func testRestart(t *testing.T, tab *chromium.Tab) {
	s := newScript()
	at := server(t, s)
	do(t, tab, chromedp.Navigate(at.URL))
	for n := range 5 {
		s.events <- sample("a", n, 1000+100*uint64(n), 0)
		s.events <- sample("a", n, 1000+100*uint64(n), 0) // whoever comes back may be given one again
	}
	await(t, tab, `past.samples.length === 5 && $("link").dataset.state === "live"`)

	// The stream ends, and who comes back is told that there is no room.
	s.status.Store(http.StatusServiceUnavailable)
	asked := s.asked.Load()
	s.events <- ""
	await(t, tab, `source.readyState === EventSource.CLOSED && retry > 0`) // the browser has given up, the page has not
	is(t, "the connection's state", eval[string](t, tab, `$("link").dataset.state + " " + $("link").textContent.replace(/[0-9].*/, "")`), "lost reconnecting since ")
	if s.asked.Load() == asked {
		t.Error("the page did not come back")
	}
	await(t, tab, `$("status").textContent === "connection lost"`)
	s.status.Store(0)
	s.events <- sample("b", 6, 50, 0) // another daemon, soon; the channel is taken when the page is back
	s.events <- sample("b", 7, 80, 0)
	s.events <- sample("b", 7+60, 90, 0) // a minute without events
	s.events <- sample("b", 7+61, 95, 0)
	s.events <- sample("b", 7+62, 90, 0) // back within one daemon: nothing does that, and it is no rate
	s.events <- sample("c", 7+63, 99, 0) // another daemon, that has counted more already
	await(t, tab, `past.last.time === %d && $("link").dataset.state === "live"`, second(70))
	is(t, "the rates", eval[[]*float64](t, tab, `past.samples.map(({ rates }) => rates && (rates.get("tcp ipv4")?.packets ?? 0))`),
		[]*float64{nil, num(100), num(100), num(100), num(100), nil, num(30), nil, num(5), nil, nil})
	is(t, "gaps that are drawn", eval[int](t, tab, `(drawNow(), document.querySelectorAll("#chart .nodata").length)`), 4)

	s.events <- string(message("trouble", trouble{second(71), "the figures cannot be read: broken"}))
	await(t, tab, `!$("trouble").hidden && $("trouble").textContent === "the figures cannot be read: broken"`)
	s.events <- sample("c", 72, 100, 0)
	await(t, tab, `$("trouble").hidden`)
	s.events <- sample("c", 1, 100, 0) // the host's clock was set back
	await(t, tab, `past.samples.length === 1`)
}

func num(f float64) *float64 { return &f }

// testControl is what is refused, and what the page keeps.
func testControl(t *testing.T, tab *chromium.Tab) {
	engine := &standIn{refuse: fmt.Errorf("queue 0 is held by pid 7 (dog): %w", syscall.EBUSY)}
	at := server(t, quick(newTree(engine, stats.NewTable()), true))
	said := func(bad bool, text string) {
		t.Helper()
		await(t, tab, `!$("said").hidden && $("said").textContent === %q && $("said").classList.contains("bad") === %t`, text, bad)
	}
	do(t, tab, chromedp.Navigate(at.URL), chromedp.WaitVisible("#token", chromedp.ByQuery), enter("#token", "wrong"))
	said(true, "not the token that kstatd was started with")
	unlock(t, tab)
	said(false, "unlocked")
	do(t, tab, chromedp.Click("#start", chromedp.ByQuery))
	said(true, `cannot write "1" to start: queue 0 is held by pid 7 (dog): device or resource busy`)
	for _, value := range []string{"0", "-1", "1e3", "", "4294967296", "ten"} {
		do(t, tab, enter("#counter-value", value))
		said(true, "counter takes a whole number from 1 to 4294967295, not “"+value+"”")
		is(t, "aria-invalid", eval[string](t, tab, `$("counter-value").getAttribute("aria-invalid")`), "true")
	}
	do(t, tab, enter("#counter-value", "4294967295"))
	said(false, "published after every 4,294,967,295 packets")
	await(t, tab, `$("counter").value === "4294967295"`)

	// Reset asks first, and no is the answer to Enter.
	do(t, tab, chromedp.Click("#reset", chromedp.ByQuery), chromedp.WaitVisible("#sure", chromedp.ByQuery), chromedp.KeyEvent(kb.Enter), chromedp.WaitNotVisible("#sure", chromedp.ByQuery))
	is(t, "after the question was answered by Enter", eval[string](t, tab, `$("sure").returnValue`), "no")

	// The token is in this tab's session, and nowhere else.
	is(t, "where the token is", eval[string](t, tab, `JSON.stringify([sessionStorage, localStorage, document.cookie, location.href.includes("sesame")])`),
		`[{"kstat-token":"open-sesame"},{},"",false]`)
	do(t, tab, chromedp.Reload())
	await(t, tab, `!$("control").hidden && !$("controls").hidden && $("token-form").hidden`)
	do(t, tab, chromedp.Click("#forget", chromedp.ByQuery))
	const session = `JSON.stringify(sessionStorage)`
	is(t, "the session then", eval[string](t, tab, session), "{}")

	// A token that is none any more is asked for again.
	do(t, tab, chromedp.Evaluate(`unlock("old")`, nil), chromedp.Click("#start", chromedp.ByQuery))
	said(true, "not the token that kstatd was started with")
	await(t, tab, `!$("token-form").hidden && $("controls").hidden`)
	is(t, "the session then", eval[string](t, tab, session), "{}")
}

// testReadOnly: without a token there is nothing to press.
func testReadOnly(t *testing.T, tab *chromium.Tab) {
	table := stats.NewTable()
	packet(table, 12, stats.IPv4, stats.TCP, 40)
	at := server(t, quick(newTree(&standIn{uncounted: 7}, table), false))
	do(t, tab, chromedp.Navigate(at.URL))
	await(t, tab, `$("nout").value === "10"`)
	is(t, "controls", eval[bool](t, tab, `$("control").checkVisibility() || $("start").checkVisibility() || $("token").checkVisibility()`), false)
	is(t, "uncounted", eval[string](t, tab, `[$("uncounted").value, $("uncounted-note").textContent, $("uncounted-tile").className].join("; ")`),
		"7; packets passed and were not counted; alarm")
	is(t, "the connection", eval[string](t, tab, `$("link").textContent`), "live")
}

// testKeyboard goes through the page without a pointer.
func testKeyboard(t *testing.T, tab *chromium.Tab) {
	s := newScript()
	at := server(t, s)
	do(t, tab, chromedp.Navigate(at.URL))
	for n := range 4 {
		s.events <- sample("a", n, 10*uint64(n)*uint64(n), 0)
	}
	await(t, tab, `past.samples.length === 4 && rows.size === 1`)

	var order []string
	for range 8 {
		do(t, tab, chromedp.KeyEvent(kb.Tab))
		order = append(order, eval[string](t, tab, `document.activeElement.id || document.activeElement.className || document.activeElement.textContent || document.activeElement.value`))
	}
	is(t, "the order of Tab", order, []string{"skip", "pause", "theme", "packets", "chart", "scroll", "Protocol", "No."})
	do(t, tab, chromedp.KeyEvent(kb.Enter))
	is(t, "aria-sort after Enter", eval[string](t, tab, `document.activeElement.parentElement.ariaSort`), "descending")
	do(t, tab, chromedp.KeyEvent(kb.Enter))
	is(t, "aria-sort after Enter", eval[string](t, tab, `document.activeElement.parentElement.ariaSort`), "ascending")

	// Through the chart.
	do(t, tab, chromedp.Focus("#chart", chromedp.ByQuery))
	says := func(key, want string) {
		t.Helper()
		do(t, tab, chromedp.KeyEvent(key))
		is(t, "what the chart says", eval[string](t, tab, `$("chart").ariaValueText.replace(/^.*?[AP]M: /, "")`), want)
	}
	says(kb.ArrowLeft, "tcp ipv4 30 packets/s")
	says(kb.ArrowLeft, "tcp ipv4 10 packets/s")
	says(kb.Home, "no data")
	says(kb.End, "tcp ipv4 50 packets/s")
	is(t, "where the slider is", eval[string](t, tab, `[$("chart").ariaValueMin, $("chart").ariaValueNow, $("chart").ariaValueMax].join(" ")`), "0 3 3")
	do(t, tab, chromedp.KeyEvent(kb.Escape))
	is(t, "the cursor after Escape", eval[bool](t, tab, `cursor === null && !document.querySelector("#chart .cursor")`), true)

	// The theme is kept.
	do(t, tab, chromedp.Focus("#theme", chromedp.ByQuery), chromedp.KeyEvent(kb.Enter), chromedp.KeyEvent(kb.Enter), chromedp.Reload())
	is(t, "the theme after a reload", eval[string](t, tab, `document.documentElement.dataset.theme + ", " + $("theme").textContent`), "dark, Theme: dark")
}

// testAccessibility looks at Chromium's accessibility tree, and computes the
// contrast of every text, in both themes and at two widths.
func testAccessibility(t *testing.T, tab *chromium.Tab) {
	table := stats.NewTable()
	engine := &standIn{uncounted: 7}
	tree := newTree(engine, table)
	gaps := []fs.Gap{{Open: true}}
	tree.Health = func() (fs.Health, uint64, error) { return fs.Health{Repairs: 2, Gaps: gaps}, 7, nil }
	for p := range stats.Protocol(9) {
		packet(table, int(p)+1, stats.IPv4, p+1, 40)
	}
	at := server(t, quick(tree, true))
	do(t, tab, chromedp.Navigate(at.URL))
	await(t, tab, `rows.size === 9`)
	unlock(t, tab)
	for p := range stats.Protocol(9) {
		packet(table, int(p)+1, stats.IPv4, p+1, 40)
	}
	await(t, tab, `document.querySelectorAll("#legend li").length === 7`)
	do(t, tab, enter("#counter-value", "no"))

	// Whatever can be used has a name, and the page has its landmarks.
	roles := make(map[string][]string)
	do(t, tab, chromedp.ActionFunc(func(ctx context.Context) error {
		// By hand: the library takes an answer with a value that it does not know for an error.
		var tree struct {
			Nodes []struct {
				Ignored bool `json:"ignored"`
				Role    struct {
					Value string `json:"value"`
				} `json:"role"`
				Name struct {
					Value any `json:"value"`
				} `json:"name"`
			} `json:"nodes"`
		}
		err := cdp.Execute(ctx, accessibility.CommandGetFullAXTree, nil, &tree)
		for _, n := range tree.Nodes {
			if !n.Ignored {
				name, _ := n.Name.Value.(string)
				roles[n.Role.Value] = append(roles[n.Role.Value], name)
			}
		}
		return err
	}))
	for _, role := range []string{"button", "textbox", "slider", "radio", "link", "region", "table", "row", "progressIndicator", "group"} {
		if role != "row" && role != "progressIndicator" && len(roles[role]) == 0 {
			t.Errorf("nothing has the role %s", role)
		}
		if role != "row" && slices.Contains(roles[role], "") {
			t.Errorf("one with the role %s has no name: %q", role, roles[role])
		}
	}
	is(t, "main, banner, contentinfo", fmt.Sprint(len(roles["main"]), len(roles["banner"]), len(roles["contentinfo"])), "1 1 1")
	is(t, "headings", roles["heading"], []string{"kstat", "State", "Rate per protocol", "Figures", "Control"})
	is(t, "table", roles["table"], []string{"Packets and bytes by protocol and family. The buttons in the heads sort."})
	is(t, "column heads", roles["columnheader"], []string{"Protocol", "No.", "Family", "Packets/s", "Bytes/s", "Packets", "Bytes", "Published", "Share of packets"})
	is(t, "row heads", len(roles["rowheader"]), 9)

	for _, theme := range []string{"light", "dark"} {
		for _, width := range []int64{1200, 400} {
			do(t, tab, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
				chromedp.EmulateViewport(width, 900))
			is(t, fmt.Sprintf("how far the page is wider than %d", width), eval[int](t, tab, `document.documentElement.scrollWidth - innerWidth`), 0)
			texts := eval[[]struct {
				Text        string
				Front, Back []float64
				Large, Line bool
			}](t, tab, contrasts)
			if len(texts) < 60 {
				t.Fatalf("%d texts were found", len(texts))
			}
			for _, it := range texts {
				least := 4.5 // WCAG 2.2, 1.4.3 and 1.4.11
				if it.Large || it.Line {
					least = 3
				}
				if got := contrast(it.Front, it.Back); got < least {
					t.Errorf("%s, %d wide: %q has a contrast of %.2f, %v on %v; %v at least", theme, width, it.Text, got, it.Front, it.Back, least)
				}
			}
		}
	}
}

// testNarrow: the largest figures, and many of them, make no page wider than
// its window, nor a tile's text wider than the tile (WCAG 2.2, 1.4.10).
func testNarrow(t *testing.T, tab *chromium.Tab) {
	s := newScript()
	at := server(t, s)
	do(t, tab, chromedp.Navigate(at.URL))
	for n := range uint64(2) {
		e := &event{
			Epoch: "a", Time: second(int(n)), Start: 1, Counter: 1<<32 - 1, NOut: 1<<64 - 1, Publications: 1<<64 - 1, Pending: 1<<32 - 2, Uncounted: 1<<64 - 1,
			Gaps: 1<<32 - 1, Restarts: 1<<32 - 1, Hook: "postrouting", Engine: "nfqueue", Version: strings.Repeat("v0", 50),
		}
		for p := range 60 {
			e.Protocols = append(e.Protocols, protocol{fmt.Sprint("protocol-", p), &p, "ipv6", 1<<64 - 2 + n, 1<<64 - 2 + n, 1<<64 - 1})
		}
		s.events <- string(message("", e))
	}
	await(t, tab, `rows.size === 60 && $("nout").value === "18446744073709551615"`)
	for _, width := range []int64{1200, 600, 400, 360, 320} {
		do(t, tab, chromedp.EmulateViewport(width, 900), chromedp.Evaluate(`drawNow()`, nil))
		is(t, fmt.Sprintf("how far the page is wider than %d", width), eval[int](t, tab, `document.documentElement.scrollWidth - innerWidth`), 0)
		is(t, fmt.Sprintf("what is wider than its tile, at %d", width), eval[[]string](t, tab,
			`[...document.querySelectorAll(".tiles dt, .tiles dd, .tiles dd *")].filter((e) => e.checkVisibility() && e.clientWidth && e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent)`), []string{})
		is(t, fmt.Sprintf("the chart's times that touch, at %d", width), eval[[]string](t, tab, `[...document.querySelectorAll("#chart text")]
			.filter((text) => /min|now/.test(text.textContent)).map((text) => [text.getBoundingClientRect(), text.textContent]).sort(([a], [b]) => a.left - b.left)
			.filter(([a], i, all) => i && a.left < all[i - 1][0].right + 8).map(([, text]) => text)`), []string{})
	}
}

// contrasts lists every visible text with its colour and the one behind it, and
// every line of the chart.
const contrasts = `(() => {
	const parse = (color) => {
		const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
		canvas.fillStyle = color;
		canvas.fillRect(0, 0, 1, 1);
		return [...canvas.getImageData(0, 0, 1, 1).data];
	};
	const behind = (element) => {
		for (let e = element; e; e = e.parentElement) {
			const color = parse(getComputedStyle(e).backgroundColor);
			if (color[3] === 255) return color;
		}
		return [255, 255, 255, 255];
	};
	const list = [];
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let text = walk.nextNode(); text; text = walk.nextNode()) {
		const element = text.parentElement;
		if (!text.data.trim() || !element.checkVisibility() || element.closest("script, style, .hidden, .skip")) continue;
		const style = getComputedStyle(element);
		const size = parseFloat(style.fontSize);
		const color = element instanceof SVGElement ? style.fill : style.color;
		list.push({ text: text.data.trim().slice(0, 40), front: parse(color), back: behind(element), line: false,
			large: size >= 24 || size >= 18.66 && style.fontWeight >= 700 });
	}
	for (const line of document.querySelectorAll("#chart .series, .swatch .series")) {
		list.push({ text: line.getAttribute("class"), front: parse(getComputedStyle(line).stroke), back: behind(line), line: true, large: false });
	}
	for (const edge of document.querySelectorAll("button:not(thead *), input:not([type=radio]), .switch")) {
		if (edge.checkVisibility()) list.push({ text: "edge of " + (edge.id || edge.textContent), front: parse(getComputedStyle(edge).borderTopColor), back: behind(edge.parentElement), line: true, large: false });
	}
	return list;
})()`

// contrast is the contrast ratio of WCAG 2.2.
func contrast(a, b []float64) float64 {
	luminance := func(c []float64) float64 {
		linear := func(v float64) float64 {
			if v /= 255; v <= 0.04045 {
				return v / 12.92
			}
			return math.Pow((v+0.055)/1.055, 2.4)
		}
		return 0.2126*linear(c[0]) + 0.7152*linear(c[1]) + 0.0722*linear(c[2])
	}
	light, dark := luminance(a), luminance(b)
	if light < dark {
		light, dark = dark, light
	}
	return (light + 0.05) / (dark + 0.05)
}

// hide puts the tab into the background, and gets it out of there.
func hide(t *testing.T, tab *chromium.Tab, hidden bool) {
	t.Helper()
	state := browser.WindowStateNormal
	if hidden {
		state = browser.WindowStateMinimized
	}
	do(t, tab, chromedp.ActionFunc(func(ctx context.Context) error {
		window, _, err := browser.GetWindowForTarget().WithTargetID(chromedp.FromContext(ctx).Target.TargetID).Do(ctx)
		if err != nil {
			return err
		}
		return browser.SetWindowBounds(window, &browser.Bounds{WindowState: state}).Do(ctx)
	}))
	await(t, tab, `document.hidden === %t`, hidden)
}

// testRebinding has a page of a name of its own that points to 127.0.0.1, as
// that of a web site can begin to.
func testRebinding(t *testing.T, tab *chromium.Tab) {
	figures := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("figures")) })
	at := httptest.NewServer(byOwnName(figures))
	defer at.Close()
	_, port, err := net.SplitHostPort(at.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"localhost": "200 figures", "evil.example": `421 "evil.example" may be another host's name`} {
		do(t, tab, chromedp.Navigate("http://"+net.JoinHostPort(name, port)))
		text := eval[string](t, tab, `performance.getEntriesByType("navigation")[0].responseStatus + " " + document.body.innerText`)
		text, _, _ = strings.Cut(text, ":")
		is(t, "what "+name+" shows", text, want)
	}
}
