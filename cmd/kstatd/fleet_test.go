//go:build !race

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/sys/unix"

	"kstat/lab/browser"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

// prometheusDir is what a fleet is watched with.
const prometheusDir = "../../deploy/prometheus"

// consoleLibraries is Prometheus's own, as Debian's package has it.
const consoleLibraries = "/usr/share/doc/prometheus/examples/console_libraries"

// host is a kstatd in a network of its own. It is scraped through a proxy that
// speaks to its Unix socket: so the scrapes are no traffic there, and every
// packet is one that the test has sent.
type host struct {
	t       *testing.T
	name    string
	network *sandbox.Network
	socket  string
	dir     string
	daemon  *running
	sent    map[string]int // packets by protocol
}

func newHost(t *testing.T, name string) (h *host, proxy string) {
	h = &host{t: t, name: name, network: sandbox.OwnNetwork(t), dir: mountDir(t),
		socket: filepath.Join(t.TempDir(), "sock"), sent: map[string]int{}}
	for _, lo := range los {
		must(t, h.network.Do(func() error { // else the host would answer what it does not know
			sink, err := traffic.RawSink(lo, unix.IPPROTO_SCTP)
			if err == nil {
				t.Cleanup(func() { must(t, sink.Close()) })
			}
			return err
		}))
	}
	h.start()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.socket)
		},
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: name}) },
		Transport:    transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	})
	t.Cleanup(server.Close)
	return h, strings.TrimPrefix(server.URL, "http://")
}

func (h *host) start() {
	must(h.t, h.network.Do(func() error {
		h.daemon = start(h.t, h.dir, "--start", "--listen", "unix:"+h.socket)
		return nil
	}))
}

// restart ends the daemon and starts another, whose counters begin at 0.
func (h *host) restart() {
	h.daemon.end(unix.SIGTERM)
	h.start()
}

var los = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// send sends n times what it always sends, over IPv4 and IPv6.
func (h *host) send(n int) {
	h.t.Helper()
	must(h.t, h.network.Do(func() error {
		for _, lo := range los {
			closed, err := traffic.ClosedPort(lo)
			if err != nil {
				return err
			}
			err = errors.Join(traffic.TCPConnect(closed, n), traffic.Datagrams(lo, 3*n), traffic.Ping(lo, 2*n),
				traffic.Raw(lo, unix.IPPROTO_SCTP, make([]byte, 12), n))
			if err != nil {
				return err
			}
		}
		return nil
	}))
	for protocol, packets := range map[string]int{"tcp": 4, "udp": 6, "icmp": 4, "ipv6-icmp": 4, "sctp": 2} {
		h.sent[protocol] += n * packets
	}
}

// series is one of an answer of Prometheus's query API.
type series struct {
	Metric map[string]string
	Value  [2]any // when, and what as a text
}

// value returns what, as a number.
func (s series) value(t *testing.T) float64 {
	t.Helper()
	text, ok := s.Value[1].(string)
	n, err := strconv.ParseFloat(text, 64)
	if !ok || err != nil {
		t.Fatalf("%v: no number: %v", s, err)
	}
	return n
}

// monitor is a Prometheus, or what has its API.
type monitor struct {
	t    *testing.T
	base string
	log  *sandbox.Output
}

// startMonitor starts a program, and waits until it answers at base.
func startMonitor(t *testing.T, base, healthy, program string, args ...string) *monitor {
	t.Helper()
	m := &monitor{t: t, base: base, log: new(sandbox.Output)}
	cmd := sandbox.Command(program, args...)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	for end := time.Now().Add(sandbox.AwaitLimit); ; time.Sleep(20 * time.Millisecond) {
		if _, err := m.fetch(healthy, nil); err == nil {
			return m
		}
		if len(ended) > 0 || time.Now().After(end) {
			_ = cmd.Process.Kill()
			<-ended
			ended <- nil
			t.Fatalf("%s does not answer; it said:\n%s", program, m.log.String())
		}
	}
}

// fetch returns what is at a path.
func (m *monitor) fetch(path string, query url.Values) ([]byte, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	answer, err := client.Get(m.base + path + "?" + query.Encode())
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s%s: %s: %s", m.base, path, answer.Status, text)
	}
	return text, err
}

// data asks the API, and puts what is in "data" there.
func (m *monitor) data(path string, query url.Values, to any) {
	m.t.Helper()
	text, err := m.fetch(path, query)
	must(m.t, err)
	must(m.t, json.Unmarshal(text, &struct{ Data any }{to}))
}

// query evaluates an expression, now or at a time.
func (m *monitor) query(expression string, at ...string) []series {
	m.t.Helper()
	q := url.Values{"query": {expression}, "nocache": {"1"}}
	if len(at) > 0 {
		q.Set("time", at[0])
	}
	var found struct{ Result []series }
	m.data("/api/v1/query", q, &found)
	return found.Result
}

// one waits for the only series that an expression gives: after a scrape that
// took too long there is none until the next.
func (m *monitor) one(expression string) (s series) {
	m.t.Helper()
	sandbox.Await(m.t, expression, func() bool {
		found := m.query(expression)
		if len(found) == 1 {
			s = found[0]
		}
		return len(found) == 1
	})
	return s
}

// by returns the packets by protocol that an expression gives, without zeros.
func (m *monitor) by(expression string, at ...string) map[string]float64 {
	m.t.Helper()
	figures := map[string]float64{}
	for _, s := range m.query(expression, at...) {
		if n := s.value(m.t); n != 0 {
			figures[s.Metric["protocol"]] += n
		}
	}
	return figures
}

// awaitEqual polls until a monitor has the figures.
func awaitEqual(t *testing.T, what string, want map[string]float64, got func() map[string]float64) {
	t.Helper()
	var last map[string]float64
	for end := time.Now().Add(sandbox.AwaitLimit); !maps.Equal(last, want); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: got %v, want %v", what, last, want)
		}
		last = got()
	}
}

// sum adds up figures.
func sum(of ...map[string]int) map[string]float64 {
	all := map[string]float64{}
	for _, figures := range of {
		for protocol, n := range figures {
			all[protocol] += float64(n)
		}
	}
	return all
}

// TestFleet: Debian's Prometheus scrapes three hosts, and writes to Debian's
// VictoriaMetrics. What both say is what was sent, also after one of the
// daemons was restarted and began at 0. The rules and every query of the
// dashboard are put to that Prometheus.
func TestFleet(t *testing.T) {
	need(t)
	sandbox.Need(t, sandbox.Prometheus, sandbox.VictoriaMetrics, sandbox.IPv6, sandbox.Root) // root, for series of queues
	const (
		prometheusAt = "127.0.0.1:9090" // in a network of our own
		victoriaAt   = "127.0.0.1:8428"
	)
	var hosts []*host
	var targets strings.Builder
	for _, name := range []string{"a", "b", "c"} {
		h, proxy := newHost(t, name)
		hosts = append(hosts, h)
		fmt.Fprintf(&targets, "      - {targets: [%q], labels: {instance: %s}}\n", proxy, name)
	}
	rules, err := filepath.Abs(prometheusDir)
	must(t, err)
	config := filepath.Join(t.TempDir(), "prometheus.yml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [%[1]s/kstat.rules.yml, %[1]s/kstat.alerts.yml]
scrape_configs:
  - job_name: kstatd
    static_configs:
%[2]sremote_write:
  - url: http://%[3]s/api/v1/write
    queue_config: {batch_send_deadline: 100ms, min_shards: 1, max_shards: 1}
`, rules, targets.String(), victoriaAt), 0o600))

	victoria := startMonitor(t, "http://"+victoriaAt, "/health", "victoria-metrics",
		"-httpListenAddr="+victoriaAt, "-storageDataPath="+t.TempDir(), "-search.latencyOffset=0s", "-search.disableCache")
	prometheus := startMonitor(t, "http://"+prometheusAt, "/-/ready", "prometheus",
		"--config.file="+config, "--web.listen-address="+prometheusAt, "--storage.tsdb.path="+t.TempDir(),
		"--web.console.templates="+filepath.Join(rules, "consoles"), "--web.console.libraries="+consoleLibraries)

	// A counter is exact from its first scrape on.
	scraped := func() map[string]float64 {
		return map[string]float64{"hosts": float64(len(prometheus.query("kstat_started == 1")))}
	}
	awaitEqual(t, "hosts that were scraped", map[string]float64{"hosts": 3}, scraped)

	const sumBy, increaseBy = "sum by (protocol) (kstat_packets_total)", "sum by (protocol) (increase(kstat_packets_total[5m]))"
	for i, h := range hosts {
		h.send(3 + i)
	}
	first := maps.Clone(hosts[1].sent)
	all := sum(hosts[0].sent, hosts[1].sent, hosts[2].sent)
	awaitEqual(t, "Prometheus, before the restart", all, func() map[string]float64 { return prometheus.by(sumBy) })
	awaitEqual(t, "VictoriaMetrics, before the restart", all, func() map[string]float64 {
		_, _ = victoria.fetch("/internal/force_flush", nil)
		return victoria.by(sumBy)
	})

	before := prometheus.one(`kstat_start_time_seconds{instance="b"}`).value(t)
	hosts[1].restart()
	sandbox.Await(t, "a scrape of the daemon that was restarted", func() bool {
		now := prometheus.query(`kstat_start_time_seconds{instance="b"} and up{instance="b"} == 1`)
		return len(now) == 1 && now[0].value(t) > before
	})
	hosts[1].sent = map[string]int{}
	for i, h := range hosts {
		h.send(7 - i)
	}
	second := hosts[1].sent
	awaitEqual(t, "Prometheus, after the restart", sum(hosts[0].sent, second, hosts[2].sent), func() map[string]float64 { return prometheus.by(sumBy) })
	all = sum(hosts[0].sent, first, second, hosts[2].sent)
	awaitEqual(t, "increase() of VictoriaMetrics", all, func() map[string]float64 {
		_, _ = victoria.fetch("/internal/force_flush", nil)
		return victoria.by(increaseBy)
	})

	// Prometheus's increase() extrapolates to both ends of its window. There is
	// nothing to extrapolate at an end that is a scrape, nor at a beginning from
	// which on the counter was 0.
	increased := map[string]float64{}
	for _, h := range hosts {
		of := fmt.Sprintf("{instance=%q}", h.name)
		at := prometheus.one("timestamp(kstat_started" + of + ")").value(t)
		for protocol, n := range prometheus.by("increase(kstat_packets_total"+of+"[5m])", strconv.FormatFloat(at, 'f', 3, 64)) {
			increased[protocol] += n
		}
	}
	if !maps.Equal(increased, all) {
		t.Errorf("increase() of Prometheus: got %v, want %v", increased, all)
	}
	for _, m := range []*monitor{prometheus, victoria} {
		if uncounted := m.one("sum(kstat_uncounted_packets_total)"); uncounted.value(t) != 0 {
			t.Errorf("%s: uncounted: %v", m.base, uncounted)
		}
	}
	t.Logf("sent, counted, scraped, written and increased: %v", all)

	t.Run("rules", func(t *testing.T) { checkRules(t, prometheus) })
	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, prometheus) })
	t.Run("console", func(t *testing.T) { checkConsole(t, prometheus) })
	for _, h := range hosts {
		h.daemon.end(unix.SIGTERM)
	}
}

// checkRules: every rule can be evaluated, every recording rule has recorded,
// and no alert fires.
func checkRules(t *testing.T, m *monitor) {
	var found struct {
		Groups []struct {
			Rules []struct{ Name, Type, Health, State, LastError string }
		}
	}
	recording, alerting := 0, 0
	m.data("/api/v1/rules", nil, &found)
	for _, g := range found.Groups {
		for _, r := range g.Rules {
			sandbox.Await(t, r.Name, func() bool { return r.Type != "recording" || len(m.query(r.Name)) > 0 })
			switch {
			case r.Health != "ok":
				t.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
			case r.Type == "recording":
				recording++
			default:
				alerting++
				if r.State == "firing" {
					t.Errorf("%s fires: %v", r.Name, m.query(fmt.Sprintf("ALERTS{alertname=%q}", r.Name)))
				}
			}
		}
	}
	if recording != 5 || alerting != 9 {
		t.Errorf("%d recording and %d alerting rules, want 5 and 9", recording, alerting)
	}
}

// checkDashboard: every query of the dashboard has series.
func checkDashboard(t *testing.T, m *monitor) {
	text, err := os.ReadFile(filepath.Join(prometheusDir, "grafana-dashboard.json"))
	must(t, err)
	var dashboard any
	must(t, json.Unmarshal(text, &dashboard))
	variables := strings.NewReplacer("$__rate_interval", "1m", "$__range", "5m", "$instance", ".*")
	queries := expressions(dashboard)
	for _, query := range queries {
		expression := variables.Replace(query)
		if strings.Contains(expression, "$") {
			t.Errorf("%s: a variable that this test does not know", query)
			continue
		}
		sandbox.Await(t, "a series of "+query, func() bool { return len(m.query(expression)) > 0 })
	}
	if len(queries) < 20 {
		t.Errorf("%d queries: not all were found", len(queries))
	}

	// The choice of hosts.
	const choice = `label_values(kstat_build_info{job="kstatd"}, instance)`
	if n := strings.Count(string(text), string(must1(json.Marshal(choice)))); n != 2 {
		t.Errorf("%s stands there %d times, want 2", choice, n)
	}
	var values []string
	m.data("/api/v1/label/instance/values", url.Values{"match[]": {`kstat_build_info{job="kstatd"}`}}, &values)
	if !slices.Equal(values, []string{"a", "b", "c"}) {
		t.Errorf("hosts to choose from: %v", values)
	}
}

func must1[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// expressions returns what stands under "expr", anywhere.
func expressions(in any) (found []string) {
	switch in := in.(type) {
	case []any:
		for _, v := range in {
			found = append(found, expressions(v)...)
		}
	case map[string]any:
		for key, v := range in {
			if text, ok := v.(string); ok && key == "expr" {
				found = append(found, text)
				continue
			}
			found = append(found, expressions(v)...)
		}
	}
	return found
}

// checkConsole: Prometheus makes a page of the console, and Chromium draws its
// graphs with what Prometheus serves for that.
func checkConsole(t *testing.T, m *monitor) {
	_, err := os.Stat(consoleLibraries)
	sandbox.Lack(t, err)
	browser.Need(t)
	b := must1(browser.Start())
	defer func() { must(t, b.Close()) }()
	tab := must1(b.Tab())
	defer tab.Close()
	// One host, whose name holds what could be taken for PromQL or HTML.
	for instance, want := range map[string]string{"": "3", "b": "1", `"<b>`: ""} {
		path := "/consoles/kstat.html?instance=" + url.QueryEscape(instance)
		text, err := m.fetch("/consoles/kstat.html", url.Values{"instance": {instance}})
		if want == "" {
			if err == nil || strings.Contains(string(text), "<b>") {
				t.Errorf("instance=%s: %v: %s", instance, err, text)
			}
			continue
		}
		must(t, err)
		must(t, tab.Do(chromedp.EmulateViewport(1200, 900), chromedp.Navigate(m.base+path)))
		must(t, tab.Await("PromConsole._graph_registry.length === 4 && PromConsole._graph_registry.every(g => g.rickshawGraph)"))
		var figure string
		var hosts, lines int
		must(t, tab.Do(chromedp.Evaluate(`document.querySelector(".figure").textContent.trim()`, &figure),
			chromedp.Evaluate(`document.querySelectorAll(".hosts td:first-child").length`, &hosts),
			chromedp.Evaluate(`PromConsole._graph_registry[2].rickshawGraph.series.length`, &lines)))
		if figure != want || strconv.Itoa(hosts) != want || strconv.Itoa(lines) != want {
			t.Errorf("instance=%s: %q hosts answer, %d in the table, %d lines; want %s", instance, figure, hosts, lines, want)
		}
	}
	// The menu of the library, and what the page does at a refresh.
	must(t, tab.Do(chromedp.Click(".dropdown-toggle"), chromedp.WaitVisible("#prom_graph_refresh_intervals"),
		chromedp.Evaluate(`document.querySelector(".figure").textContent = "old"`, nil), chromedp.Click("#prom_graph_refresh_button")))
	must(t, tab.Await(`["1", "3"].includes(document.querySelector(".figure").textContent.trim())`))
	for _, fault := range tab.Faults() {
		// Two files that Debian's library asks for where Debian has none.
		if !strings.Contains(fault, "d3.layout.min.js") && !strings.Contains(fault, "Unexpected token '<'") {
			t.Error(fault)
		}
	}
}

// TestConsole: what the console asks for is what the dashboard asks for, but
// for "> 0", which leaves out protocols that there are none of.
func TestConsole(t *testing.T) {
	var dashboard any
	must(t, json.Unmarshal(must1(os.ReadFile(filepath.Join(prometheusDir, "grafana-dashboard.json"))), &dashboard))
	known := expressions(dashboard)
	text := string(must1(os.ReadFile(filepath.Join(prometheusDir, "consoles", "kstat.html"))))
	variables := map[string]string{"$instance": "$instance", "$rate": "$__rate_interval", "$range": "$__range"}
	found := 0
	for _, m := range regexp.MustCompile("printf `([^`]*)`((?: \\$\\w+)+)").FindAllStringSubmatch(text, -1) {
		expression := m[1]
		for _, variable := range strings.Fields(m[2]) {
			expression = strings.Replace(expression, "%s", variables[variable], 1)
		}
		found++
		if !slices.Contains(known, strings.TrimSuffix(expression, " > 0")) {
			t.Errorf("the dashboard does not ask for %s", expression)
		}
	}
	if found != 10 {
		t.Errorf("%d expressions, want 10: 5 figures, 4 graphs, a table", found)
	}
}

// TestDashboardLayout: what Grafana takes as it is and shows wrongly.
func TestDashboardLayout(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(prometheusDir, "grafana-dashboard.json"))
	must(t, err)
	var d struct {
		UID, Title    string
		ID            *int // would be another dashboard's
		SchemaVersion int
		Inputs        []any `json:"__inputs"` // of an export, which cannot be provisioned
		Panels        []struct {
			ID         int
			Type       string
			Title      string
			Datasource struct{ UID string }
			GridPos    struct{ X, Y, W, H int }
			Targets    []struct {
				RefID      string
				Datasource struct{ UID string }
			}
		}
	}
	must(t, json.Unmarshal(text, &d))
	if d.UID == "" || d.Title == "" || d.ID != nil || d.SchemaVersion < 36 || d.Inputs != nil {
		t.Errorf("not to be provisioned: %+v", d)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if !slices.Contains([]string{"stat", "timeseries", "bargauge", "table"}, p.Type) {
			t.Errorf("%s: a panel of type %q", p.Title, p.Type)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies over %q or over the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] || target.Datasource.UID != "${datasource}" || p.Datasource.UID != "${datasource}" {
				t.Errorf("%s: %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
		if len(p.Targets) == 0 {
			t.Errorf("%s asks for nothing", p.Title)
		}
	}
}

// TestPromtool: Prometheus's own tool finds nothing wrong with what is to be
// deployed, and its tests of the rules pass.
func TestPromtool(t *testing.T) {
	sandbox.Need(t, sandbox.Prometheus)
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "--lint=all", "--lint-fatal", "kstat.rules.yml", "kstat.alerts.yml"},
		{"test", "rules", "kstat.test.yml"},
	} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = prometheusDir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v:\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestDaemonSet: the flags in the manifest are flags. The manifest itself is
// for make manifests to check.
func TestDaemonSet(t *testing.T) {
	text, err := os.ReadFile("../../deploy/kubernetes/daemonset.yaml")
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "          args:\n")
	list, _, _ := strings.Cut(rest, "          env:\n")
	var args []string
	for line := range strings.Lines(list) {
		if arg, ok := strings.CutPrefix(strings.TrimSpace(line), "- "); ok {
			args = append(args, strings.ReplaceAll(arg, "$(NODE_IP)", "192.0.2.1"))
		}
	}
	o, err := parseFlags(args)
	must(t, err)
	if !o.start || o.mount != "/run/kstatd/kstat" || len(o.listen) != 1 || o.listen[0].String() != "192.0.2.1:9469" {
		t.Errorf("%q are %+v", args, o)
	}
}
