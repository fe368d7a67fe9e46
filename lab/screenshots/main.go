// Screenshots takes the pictures of the page that the documentation shows: of
// kstatd itself, in a network of its own, while real packets of several
// protocols leave through a cable. Loopback, where Chromium asks for the page,
// is left out.
//
//	go run ./lab/screenshots -kstatd bin/kstatd -o docs/images
//
// The chart shows five minutes, and so that is how long it takes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"kstat/lab/browser"
	"kstat/lab/sandbox"
	"kstat/lab/screenshots/studio"
	"kstat/lab/traffic"
)

// address is where kstatd serves the page, in the network of its own.
const address = "127.0.0.1:9469"

func main() {
	kstatd := flag.String("kstatd", "bin/kstatd", "the daemon's `binary`")
	folder := flag.String("o", "docs/images", "where the pictures go")
	length := flag.Duration("for", 5*time.Minute+5*time.Second, "how long there is traffic")
	flag.Parse()
	studio.Main(func(ctx context.Context) error { return take(ctx, *kstatd, *folder, *length) })
}

// take takes all pictures. When ctx ends before that, it clears away what it has
// begun.
func take(ctx context.Context, kstatd, folder string, length time.Duration) (err error) {
	if err := sandbox.Missing(sandbox.FUSE, sandbox.IPv6, sandbox.NFQueue, sandbox.NFTables); err != nil {
		return err
	}
	if err := browser.Missing(); err != nil {
		return err
	}
	base, err := os.MkdirTemp("", "kstat-screenshots-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	tokenFile := filepath.Join(base, "token")
	if err := os.WriteFile(tokenFile, []byte("a-token-for-the-pictures\n"), 0o600); err != nil {
		return err
	}
	peer, err := sandbox.NewPeer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, peer.Close()) }()

	daemon := sandbox.Command(kstatd, "--mount", filepath.Join(base, "kstat"), "--start", "--exclude-loopback",
		"--listen", address, "--token-file", tokenFile)
	daemon.Stderr = os.Stderr
	manager, err := sandbox.StartReady(daemon)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, daemon.Process.Signal(syscall.SIGTERM), daemon.Wait(), manager.Close())
	}()

	b, err := browser.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	tab, err := b.Tab()
	if err != nil {
		return err
	}
	defer tab.Close()
	err = tab.Do(chromedp.EmulateViewport(1200, 900), chromedp.Navigate("http://"+address+"/"))
	if err != nil {
		return err
	}
	if err := tab.Await(`document.querySelector("#link").dataset.state === "live"`); err != nil {
		return err
	}
	fmt.Printf("%v of traffic …\n", length)
	ctx, stop := context.WithCancel(ctx)
	sent := make(chan error, 1)
	go func() { sent <- studio.Send(ctx, kinds(peer)) }()
	defer func() {
		stop()
		err = errors.Join(err, <-sent)
	}()
	select {
	case <-time.After(length):
	case <-ctx.Done():
		return errors.New("interrupted")
	case err := <-sent:
		sent <- nil
		return err
	}
	// The controls as they look with the token.
	err = tab.Do(chromedp.Focus("#token", chromedp.ByQuery), chromedp.KeyEvent("a-token-for-the-pictures\r"),
		chromedp.WaitVisible("#controls", chromedp.ByQuery), chromedp.Evaluate(`said("", false)`, nil))
	if err != nil {
		return err
	}
	for _, p := range []struct {
		name, theme string
		width       int64
	}{{"page-light", "light", 1200}, {"page-dark", "dark", 1200}, {"page-narrow", "light", 400}} {
		if err := picture(tab, filepath.Join(folder, p.name+".png"), p.theme, p.width); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// kinds is what leaves through the cable.
func kinds(peer *sandbox.Peer) []studio.Kind {
	closed := netip.AddrPortFrom(peer.Addr4, 1)
	closed6 := netip.AddrPortFrom(peer.Addr6, 1)
	const s = time.Second
	return []studio.Kind{
		{Mean: 820, Wave: 400, Period: 97 * s, Send: func(n int) error { return traffic.TCPConnect(closed, n) }},
		{Mean: 430, Wave: 170, Period: 61 * s, Send: func(n int) error { return traffic.UDP(netip.AddrPortFrom(peer.Void4, 53), n, 320) }},
		{Mean: 230, Wave: 90, Period: 143 * s, Send: func(n int) error { return traffic.TCPConnect(closed6, n) }},
		{Mean: 120, Wave: 100, Period: 79 * s, Send: func(n int) error { return traffic.Raw(peer.Void4, 50, make([]byte, 1200), n) }},
		{Mean: 70, Wave: 30, Period: 37 * s, Send: func(n int) error { return traffic.UDP(netip.AddrPortFrom(peer.Void6, 443), n, 900) }},
		{Mean: 24, Wave: 6, Period: 29 * s, Send: func(n int) error { return traffic.Ping(peer.Addr4, n) }},
		{Mean: 9, Wave: 3, Period: 51 * s, Send: func(n int) error { return traffic.Ping(peer.Addr6, n) }},
		{Mean: 14, Wave: 8, Period: 67 * s, Send: func(n int) error { return traffic.Raw(peer.Void4, 132, make([]byte, 64), n) }},
	}
}

// picture writes the whole page as a PNG.
func picture(tab *browser.Tab, path, theme string, width int64) error {
	var shot []byte
	err := tab.Do(
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
		chromedp.EmulateViewport(width, 900),
		chromedp.Evaluate(`document.activeElement.blur(), drawNow()`, nil),
		chromedp.ActionFunc(func(ctx context.Context) error { return chromedp.FullScreenshot(&shot, 100).Do(ctx) }))
	if err != nil {
		return err
	}
	return studio.WritePNG(path, shot)
}
