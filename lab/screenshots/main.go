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
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"kstat/lab/browser"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

// address is where kstatd serves the page, in the network of its own.
const address = "127.0.0.1:9469"

func main() {
	kstatd := flag.String("kstatd", "bin/kstatd", "the daemon's `binary`")
	folder := flag.String("o", "docs/images", "where the pictures go")
	length := flag.Duration("for", 5*time.Minute+5*time.Second, "how long there is traffic")
	flag.Parse()
	inside, status, err := sandbox.Reexec()
	if err == nil && inside {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = take(ctx, *kstatd, *folder, *length)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		status = 1
	}
	os.Exit(status)
}

// take takes all pictures. When ctx ends before that, it clears away what it has
// begun.
func take(ctx context.Context, kstatd, folder string, length time.Duration) (err error) {
	for _, thing := range []sandbox.Thing{sandbox.FUSE, sandbox.IPv6, sandbox.NFQueue, sandbox.NFTables} {
		if err := sandbox.Missing(thing); err != nil {
			return err
		}
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
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("start %s: %w; make build makes it", kstatd, err)
	}
	defer func() {
		err = errors.Join(err, daemon.Process.Signal(syscall.SIGTERM), daemon.Wait())
	}()
	if err := ready(); err != nil {
		return err
	}

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
	go func() { sent <- send(ctx, peer) }()
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

// ready waits until kstatd answers.
func ready() error {
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var r *http.Response
		if r, err = http.Get("http://" + address + "/"); err == nil {
			return r.Body.Close()
		}
	}
	return fmt.Errorf("kstatd does not answer: %w", err)
}

// send sends packets of several protocols, in waves, until ctx ends.
func send(ctx context.Context, peer *sandbox.Peer) error {
	closed := netip.AddrPortFrom(peer.Addr4, 1)
	closed6 := netip.AddrPortFrom(peer.Addr6, 1)
	kinds := []struct {
		mean, wave, period float64 // packets a second, seconds
		send               func(n int) error
		owed               float64
	}{
		{820, 400, 97, func(n int) error { return traffic.TCPConnect(closed, n) }, 0},
		{430, 170, 61, func(n int) error { return traffic.UDP(netip.AddrPortFrom(peer.Void4, 53), n, 320) }, 0},
		{230, 90, 143, func(n int) error { return traffic.TCPConnect(closed6, n) }, 0},
		{120, 100, 79, func(n int) error { return traffic.Raw(peer.Void4, 50, make([]byte, 1200), n) }, 0},
		{70, 30, 37, func(n int) error { return traffic.UDP(netip.AddrPortFrom(peer.Void6, 443), n, 900) }, 0},
		{24, 6, 29, func(n int) error { return traffic.Ping(peer.Addr4, n) }, 0},
		{9, 3, 51, func(n int) error { return traffic.Ping(peer.Addr6, n) }, 0},
		{14, 8, 67, func(n int) error { return traffic.Raw(peer.Void4, 132, make([]byte, 64), n) }, 0},
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	last := began
	for ctx.Err() == nil {
		now := <-tick.C
		at, passed := now.Sub(began).Seconds(), now.Sub(last).Seconds()
		last = now
		for i := range kinds {
			k := &kinds[i]
			phase := at/k.period*2*math.Pi + float64(i)
			k.owed += passed * (k.mean + k.wave*math.Sin(phase) + k.wave/3*math.Sin(5.3*phase))
			n := math.Floor(max(k.owed, 0))
			k.owed -= n
			if err := k.send(int(n)); err != nil {
				return err
			}
		}
	}
	return nil
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
	art, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return err
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, paletted(art)); err != nil {
		return err
	}
	fmt.Printf("%s: %d kB\n", path, (small.Len()+500)/1000)
	return os.WriteFile(path, small.Bytes(), 0o644)
}

// paletted returns the picture in its 256 most frequent colours, which makes it
// a third as large; what is left are shades at the edges of letters.
func paletted(art image.Image) *image.Paletted {
	bounds := art.Bounds()
	often := make(map[color.Color]int)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			often[art.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(often), func(a, b color.Color) int { return often[b] - often[a] })
	palette := color.Palette(colors[:min(256, len(colors))])
	index := make(map[color.Color]uint8)
	for _, c := range colors {
		index[c] = uint8(palette.Index(c))
	}
	flat := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			flat.SetColorIndex(x, y, index[art.At(x, y)])
		}
	}
	return flat
}
