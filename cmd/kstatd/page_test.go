//go:build !race

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
	"golang.org/x/sys/unix"

	"kstat/lab/browser"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

// TestPage: what a browser shows is what was sent, before and after a worker is
// killed, which the page survives; and its controls are those of the tree.
// Loopback, where the browser is, is left out.
func TestPage(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	browser.Need(t)
	b, err := browser.Start()
	must(t, err)
	defer func() { must(t, b.Close()) }()
	overEngines(t, func(t *testing.T, engine string) {
		token := filepath.Join(t.TempDir(), "token")
		must(t, os.WriteFile(token, []byte("open-sesame-open-sesame\n"), 0o600))
		peer := sandbox.Veth(t)
		d := start(t, mountDir(t), engine, "--exclude-loopback", "--start", "--listen", "127.0.0.1:0", "--token-file", token)

		tab, err := b.Tab()
		must(t, err)
		defer tab.Close()
		await := func(expression string, args ...any) {
			t.Helper()
			must(t, tab.Await(fmt.Sprintf(expression, args...)))
		}
		row := func(key string, packets int) {
			t.Helper()
			await(`document.querySelector("[data-key='%s'] td:nth-child(6) data")?.value === "%d"`, key, packets)
		}
		void := netip.AddrPortFrom(peer.Void4, 9)
		must(t, traffic.UDP(void, 37, 10), traffic.Ping(peer.Addr4, 3), tab.Do(chromedp.Navigate("http://"+d.tcpAddress()+"/")))
		row("udp ipv4", 37)
		row("icmp ipv4", 3)
		await(`$("link").dataset.state === "live" && $("engine").textContent === %q`, engine[len(engineFlag):])

		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		await(`past.last.restarts === 1 && $("link").dataset.state === "live" && !$("mended-tile").hidden`)
		must(t, traffic.UDP(void, 5, 10))
		row("udp ipv4", 42)
		await(`document.querySelectorAll("#chart .nodata").length === 1 && $("uncounted").value === "0"`)

		must(t, tab.Do(chromedp.Focus("#token", chromedp.ByQuery), chromedp.KeyEvent("open-sesame-open-sesame\r"), chromedp.Click("#start", chromedp.ByQuery)))
		await(`$("started").textContent === "stopped"`)
		d.expect("start", "0\n")
		for _, fault := range tab.Faults() {
			t.Error("in the page:", fault)
		}
	})
}
