// Dashboard takes the pictures of what Prometheus shows of a fleet: of Debian's
// own Prometheus, which scrapes three kstatds in networks of their own, while
// real packets leave these.
//
//	go run ./lab/screenshots/dashboard -kstatd bin/kstatd -o docs/images
//
// It wants Debian's prometheus and chromium.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/sync/errgroup"

	"kstat/lab/browser"
	"kstat/lab/sandbox"
	"kstat/lab/screenshots/studio"
	"kstat/lab/traffic"
)

const (
	deployed  = "deploy/prometheus"
	libraries = "/usr/share/doc/prometheus/examples/console_libraries"
	address   = "127.0.0.1:9090" // of Prometheus, in a network of our own

	warm = 15 * time.Second // before what the pictures show: a rate takes a while
)

func main() {
	kstatd := flag.String("kstatd", "bin/kstatd", "the daemon's `binary`")
	folder := flag.String("o", "docs/images", "where the pictures go")
	length := flag.Duration("for", 4*time.Minute, "how much time the pictures show")
	flag.Parse()
	studio.Main(func(ctx context.Context) error { return take(ctx, *kstatd, *folder, *length) })
}

// take takes all pictures. When ctx ends before that, it clears away what it has
// begun.
func take(ctx context.Context, kstatd, folder string, length time.Duration) (err error) {
	if err := sandbox.Missing(sandbox.FUSE, sandbox.IPv6, sandbox.NFQueue, sandbox.NFTables, sandbox.Prometheus); err != nil {
		return err
	}
	if err := browser.Missing(); err != nil {
		return err
	}
	if _, err := os.Stat(libraries); err != nil {
		return fmt.Errorf("console library of Prometheus: %w; apt-get install --reinstall prometheus, with its documentation", err)
	}
	base, err := os.MkdirTemp("", "kstat-screenshots-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()

	var config strings.Builder
	rules, err := filepath.Abs(deployed)
	if err != nil {
		return err
	}
	fmt.Fprintf(&config, "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"+
		"rule_files: [%[1]s/kstat.rules.yml, %[1]s/kstat.alerts.yml]\n"+
		"scrape_configs:\n  - job_name: kstatd\n    static_configs:\n", rules)
	var hosts []*host
	for _, kind := range []struct {
		name  string
		kinds func(*sandbox.Peer) []studio.Kind
	}{{"dns", dns}, {"vpn", vpn}, {"web", web}} {
		h, err := newHost(kind.name, kstatd, base, kind.kinds)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		defer func() { err = errors.Join(err, h.close()) }()
		hosts = append(hosts, h)
		fmt.Fprintf(&config, "      - {targets: [%q], labels: {instance: %s}}\n", h.server.Addr, h.name)
	}
	configFile := filepath.Join(base, "prometheus.yml")
	if err := os.WriteFile(configFile, []byte(config.String()), 0o600); err != nil {
		return err
	}
	prometheus := sandbox.Command("prometheus", "--config.file="+configFile, "--web.listen-address="+address,
		"--storage.tsdb.path="+filepath.Join(base, "tsdb"), "--log.level=warn",
		"--web.console.templates="+filepath.Join(deployed, "consoles"), "--web.console.libraries="+libraries)
	prometheus.Stderr = os.Stderr
	if err := prometheus.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end(prometheus)) }()

	fmt.Printf("%v of traffic …\n", warm+length)
	playing, stop := context.WithCancel(ctx)
	defer stop()
	group, playing := errgroup.WithContext(playing)
	for _, h := range hosts {
		group.Go(func() error {
			return h.network.Do(func() error { return studio.Send(playing, h.kinds) })
		})
	}
	group.Go(func() error {
		defer stop()
		select {
		case <-time.After(warm + length):
			return pictures(folder, length)
		case <-playing.Done():
			return nil
		}
	})
	err = group.Wait()
	if err == nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// end ends a program as a service manager would.
func end(cmd *exec.Cmd) error {
	return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
}

// host is a kstatd in a network of its own, with a cable to somewhere else. It
// is scraped through a proxy that speaks to its Unix socket, so that the
// scrapes are no packets there.
type host struct {
	name    string
	network *sandbox.Network
	peer    *sandbox.Peer
	daemon  *exec.Cmd
	server  *http.Server // the proxy
	kinds   []studio.Kind
}

func newHost(name, kstatd, base string, kinds func(*sandbox.Peer) []studio.Kind) (_ *host, err error) {
	h := &host{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.network, err = sandbox.NewNetwork(); err != nil {
		return nil, err
	}
	socket := filepath.Join(base, name+".sock")
	err = h.network.Do(func() (err error) {
		if h.peer, err = sandbox.NewPeer(); err != nil {
			return err
		}
		daemon := sandbox.Command(kstatd, "--mount", filepath.Join(base, name), "--start", "--exclude-loopback", "--listen", "unix:"+socket)
		daemon.Stderr = os.Stderr
		if err := daemon.Start(); err != nil {
			return fmt.Errorf("start %s: %w; make build makes it", kstatd, err)
		}
		h.daemon = daemon
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.kinds = kinds(h.peer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h.server = &http.Server{Addr: listener.Addr().String(), Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: name}) },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	go func() { _ = h.server.Serve(listener) }()
	return h, await("http://"+h.server.Addr+"/healthz", 10*time.Second)
}

// await waits until there is an answer at an address.
func await(address string, patience time.Duration) error {
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(address)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(answer.Status)
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%s does not answer: %w", address, err)
		}
	}
}

func (h *host) close() (err error) {
	if h.server != nil {
		err = h.server.Close()
	}
	if h.daemon != nil {
		err = errors.Join(err, end(h.daemon))
	}
	if h.peer != nil {
		err = errors.Join(err, h.network.Do(h.peer.Close))
	}
	if h.network != nil {
		err = errors.Join(err, h.network.Close())
	}
	return err
}

// web is TCP for the most part.
func web(peer *sandbox.Peer) []studio.Kind {
	closed, closed6 := netip.AddrPortFrom(peer.Addr4, 443), netip.AddrPortFrom(peer.Addr6, 443)
	return []studio.Kind{
		{Mean: 360, Wave: 190, Period: 97 * time.Second, Send: func(n int) error { return traffic.TCPConnect(closed, n) }},
		{Mean: 170, Wave: 80, Period: 71 * time.Second, Send: func(n int) error { return traffic.TCPConnect(closed6, n) }},
		{Mean: 40, Wave: 20, Period: 43 * time.Second, Send: func(n int) error {
			return traffic.UDP(netip.AddrPortFrom(peer.Void6, 443), n, 1200)
		}},
	}
}

// dns is UDP and a little TCP.
func dns(peer *sandbox.Peer) []studio.Kind {
	closed := netip.AddrPortFrom(peer.Addr4, 53)
	return []studio.Kind{
		{Mean: 310, Wave: 120, Period: 61 * time.Second, Send: func(n int) error {
			return traffic.UDP(netip.AddrPortFrom(peer.Void4, 53), n, 180)
		}},
		{Mean: 120, Wave: 70, Period: 83 * time.Second, Send: func(n int) error {
			return traffic.UDP(netip.AddrPortFrom(peer.Void6, 53), n, 220)
		}},
		{Mean: 20, Wave: 10, Period: 37 * time.Second, Send: func(n int) error { return traffic.TCPConnect(closed, n) }},
	}
}

// vpn is ESP, GRE and pings.
func vpn(peer *sandbox.Peer) []studio.Kind {
	return []studio.Kind{
		{Mean: 190, Wave: 130, Period: 79 * time.Second, Send: func(n int) error { return traffic.Raw(peer.Void4, 50, make([]byte, 1200), n) }},
		{Mean: 90, Wave: 50, Period: 53 * time.Second, Send: func(n int) error { return traffic.Raw(peer.Void4, 47, make([]byte, 700), n) }},
		{Mean: 40, Wave: 10, Period: 29 * time.Second, Send: func(n int) error { return traffic.Ping(peer.Addr4, n) }},
		{Mean: 24, Wave: 6, Period: 51 * time.Second, Send: func(n int) error { return traffic.Ping(peer.Addr6, n) }},
	}
}

// pictures takes them: of the console that is deployed, and of the first of its
// graphs in Prometheus's own page, to which its links lead.
func pictures(folder string, length time.Duration) (err error) {
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
	hash, err := json.Marshal(map[string]any{"duration": length.Seconds(), "endTime": 0})
	if err != nil {
		return err
	}
	// Tall enough for what is fixed to an edge of the window to be at the edge.
	err = shoot(tab, "/consoles/kstat.html?rate=10s&range=5m#pctc"+url.PathEscape(string(hash)), 950,
		`PromConsole._graph_registry.length === 4 && PromConsole._graph_registry.every(g => g.rickshawGraph)`,
		filepath.Join(folder, "dashboard.png"))
	if err != nil {
		return err
	}
	var expression, span string
	err = tab.Do(chromedp.Evaluate("PromConsole._graph_registry[0].params.expr[0]", &expression),
		chromedp.Evaluate(`document.querySelector("#prom_graph_duration").value`, &span))
	if err != nil {
		return err
	}
	query := url.Values{"g0.expr": {expression}, "g0.tab": {"0"}, "g0.range_input": {span}}
	return shoot(tab, "/classic/graph?"+query.Encode(), 890, `document.querySelectorAll(".rickshaw_graph svg path").length > 4`,
		filepath.Join(folder, "prometheus.png"))
}

// shoot writes a picture of one of Prometheus's pages, once drawn is true there.
func shoot(tab *browser.Tab, path string, height int64, drawn, file string) error {
	var shot []byte
	err := tab.Do(chromedp.EmulateViewport(1200, height), chromedp.Navigate("http://"+address+path))
	if err == nil {
		err = tab.Await(drawn)
	}
	if err == nil {
		err = tab.Do(chromedp.CaptureScreenshot(&shot))
	}
	if err == nil {
		err = studio.WritePNG(file, shot)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return nil
}
