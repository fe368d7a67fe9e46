package metrics_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/metrics"
	"kstat/stats"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

var born = time.Unix(1_700_000_000, 0)

// sourceOf returns a source of a table's figures in which all is well.
func sourceOf(table *stats.Table) *metrics.Source {
	return &metrics.Source{
		Snapshot: table.Snapshot,
		Names:    stats.BuiltinNames(),
		Families: []stats.Family{stats.IPv4, stats.IPv6},
		Status:   func() (metrics.Status, error) { return metrics.Status{}, nil },
		Started:  func() bool { return true },
		Healthy:  func() error { return nil },
		Hook:     "postrouting",
		Engine:   "nfqueue",
		Version:  "1.2.3",
		Born:     born,
		Document: func() ([]byte, error) { return []byte("{}\n"), nil },
		Write:    func(string, []byte) error { return nil },
	}
}

// serving is a server that runs.
type serving struct {
	t   *testing.T
	at  string
	log strings.Builder // to be read after the end
	end func()
}

// serve runs a server until the test ends.
func serve(t *testing.T, source *metrics.Source, token *metrics.Token) *serving {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return serveAt(t, source, token, l)
}

// serveAt is serve with a listener.
func serveAt(t *testing.T, source *metrics.Source, token *metrics.Token, l net.Listener) *serving {
	t.Helper()
	s := &serving{t: t, at: l.Addr().String()}
	server := metrics.NewServer(source, token, slog.New(slog.NewTextHandler(&s.log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- server.Run(ctx, l) }()
	s.end = sync.OnceFunc(func() {
		cancel()
		must(t, <-ended)
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(s.end)
	return s
}

// ask makes a request; header is of pairs.
func (s *serving) ask(method, path string, header ...string) (status int, text string, answered http.Header) {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.at+path, nil)
	must(s.t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	must(s.t, err)
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	must(s.t, err)
	return a.StatusCode, string(body), a.Header
}

// scrape returns the samples of /metrics, by what stands before the value.
func (s *serving) scrape() map[string]string {
	s.t.Helper()
	status, text, _ := s.ask("GET", "/metrics")
	if status != http.StatusOK {
		s.t.Fatalf("status %d: %s", status, text)
	}
	samples := make(map[string]string)
	for line := range strings.Lines(text) {
		if at := strings.LastIndexByte(line, ' '); line[0] != '#' {
			samples[line[:at]] = strings.TrimSpace(line[at:])
		}
	}
	return samples
}

func (s *serving) expect(want map[string]string) {
	s.t.Helper()
	got := s.scrape()
	for sample, value := range want {
		if got[sample] != value {
			s.t.Errorf("%s: got %q, want %q", sample, got[sample], value)
		}
	}
}

func add(table *stats.Table, n int, f stats.Family, p stats.Protocol, bytes uint32) {
	table.Add(slices.Repeat([]stats.Packet{{Class: stats.ClassOf(f, p), Bytes: bytes}}, n))
}

// TestCounters: what a scrape says is what was counted, neither what was
// published nor what is left after a reset.
func TestCounters(t *testing.T) {
	table := stats.NewTable()
	s := serve(t, sourceOf(table), nil)
	s.expect(map[string]string{
		`kstat_packets_total{family="ipv4",protocol="tcp"}`:       "0",
		`kstat_packets_total{family="ipv6",protocol="tcp"}`:       "0",
		`kstat_packets_total{family="ipv4",protocol="icmp"}`:      "0",
		`kstat_packets_total{family="ipv6",protocol="ipv6-icmp"}`: "0",
		`kstat_bytes_total{family="ipv6",protocol="other"}`:       "0",
		`kstat_publications_total`:                                "0",
	})
	add(table, 7, stats.IPv4, stats.TCP, 100)
	add(table, 5, stats.IPv6, 17, 1000)
	add(table, 1, stats.IPv4, 33, 60) // DCCP has no series before its first packet
	add(table, 2, stats.IPv6, stats.Other, 40)
	must(t, table.Reset(), table.SetCounter(3))
	add(table, 1, stats.IPv4, 6, 50)
	s.expect(map[string]string{
		`kstat_packets_total{family="ipv4",protocol="tcp"}`:   "8",
		`kstat_bytes_total{family="ipv4",protocol="tcp"}`:     "750",
		`kstat_packets_total{family="ipv6",protocol="udp"}`:   "5",
		`kstat_bytes_total{family="ipv6",protocol="udp"}`:     "5000",
		`kstat_packets_total{family="ipv4",protocol="udp"}`:   "0",
		`kstat_packets_total{family="ipv4",protocol="dccp"}`:  "1",
		`kstat_packets_total{family="ipv6",protocol="other"}`: "2",
		`kstat_counter`:            "3",
		`kstat_publications_total`: "1",
		`kstat_started`:            "1",
	})
}

// TestFamilies: a family that is not counted has no series.
func TestFamilies(t *testing.T) {
	source := sourceOf(stats.NewTable())
	source.Families = []stats.Family{stats.IPv6}
	families := map[bool]int{}
	for sample := range serve(t, source, nil).scrape() {
		if strings.HasPrefix(sample, "kstat_packets_total") {
			families[strings.Contains(sample, `"ipv6",`)]++
		}
	}
	if families[true] != 12 || families[false] != 0 {
		t.Errorf("series of IPv6, and of others: %v; want 12 and none", families)
	}
}

// TestStatus: the rest of the metrics.
func TestStatus(t *testing.T) {
	source := sourceOf(stats.NewTable())
	status := metrics.Status{Uncounted: 1, Repairs: 2, Flushes: 3, Restarts: 4, Gaps: 5, GapOpen: true, Dropped: 6,
		Queues: []metrics.Queue{{Number: 7, Waiting: 8, Capacity: 9}, {Number: 8, Waiting: 0, Capacity: 9}}}
	source.Status = func() (metrics.Status, error) { return status, nil }
	source.Started = func() bool { return false }
	s := serve(t, source, nil)
	s.expect(map[string]string{
		"kstat_uncounted_packets_total":           "1",
		"kstat_rule_repairs_total":                "2",
		"kstat_queue_flushes_total":               "3",
		"kstat_worker_restarts_total":             "4",
		"kstat_gaps_total":                        "5",
		"kstat_gap_open":                          "1",
		"kstat_queue_dropped_packets_total":       "6",
		`kstat_queue_packets{queue="7"}`:          "8",
		`kstat_queue_packets{queue="8"}`:          "0",
		`kstat_queue_capacity_packets{queue="8"}`: "9",
		"kstat_started":                           "0",
		"kstat_start_time_seconds":                "1.7e+09",
	})

	status.Queues = nil // as of an engine without
	for sample := range s.scrape() {
		if strings.HasPrefix(sample, "kstat_queue_packets") || strings.HasPrefix(sample, "kstat_queue_dropped") {
			t.Error("without a queue there is", sample)
		}
	}
}

// TestBuildInfo: one series, whatever the build.
func TestBuildInfo(t *testing.T) {
	n := 0
	for sample, value := range serve(t, sourceOf(stats.NewTable()), nil).scrape() {
		if strings.HasPrefix(sample, "kstat_build_info{") && value == "1" &&
			strings.Contains(sample, `engine="nfqueue"`) && strings.Contains(sample, `hook="postrouting"`) && strings.Contains(sample, `version="1.2.3"`) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d series of build_info, want 1", n)
	}
}

// nameOfTheFile is what linters say of kstat_counter, which is called as the
// file is, and nothing else.
const nameOfTheFile = "kstat_counter metric name should not include type 'counter'"

// TestLint: the linters of Prometheus, as a library and as Debian's program,
// find nothing else to say.
func TestLint(t *testing.T) {
	source := sourceOf(stats.NewTable())
	source.Status = func() (metrics.Status, error) { return metrics.Status{Queues: make([]metrics.Queue, 1)}, nil }
	_, text, _ := serve(t, source, nil).ask("GET", "/metrics")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	must(t, err)
	for _, p := range problems {
		if line := p.Metric + " " + p.Text; line != nameOfTheFile {
			t.Error(line)
		}
	}
	sandbox.Need(t, sandbox.Prometheus)
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(out)) != nameOfTheFile {
		t.Errorf("promtool: %v: %s", err, out)
	}
}

// TestFormats: what is negotiated, and that counters say since when they count
// where the format can.
func TestFormats(t *testing.T) {
	s := serve(t, sourceOf(stats.NewTable()), nil)
	_, text, header := s.ask("GET", "/metrics", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(text, "\n# EOF\n") {
		t.Errorf("%v, which ends with %q", header, text[len(text)-20:])
	}
	if strings.Contains(text, "_created") {
		t.Error("OpenMetrics has a series of its own for when each counter began")
	}
	_, text, header = s.ask("GET", "/metrics", "Accept", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")
	from := expfmt.NewDecoder(strings.NewReader(text), expfmt.ResponseFormat(header))
	counters := 0
	for {
		var f dto.MetricFamily
		if err := from.Decode(&f); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, m := range f.GetMetric() {
			if c := m.GetCounter(); c != nil && strings.HasPrefix(f.GetName(), "kstat_") {
				counters++
				if at := c.GetCreatedTimestamp().AsTime(); !at.Equal(born) {
					t.Errorf("%s was created %v, want %v", f.GetName(), at, born)
				}
			}
		}
	}
	if counters < 50 {
		t.Errorf("%d counters", counters)
	}
}

// TestStatusFails: what can be told is told.
func TestStatusFails(t *testing.T) {
	source := sourceOf(stats.NewTable())
	source.Status = func() (metrics.Status, error) { return metrics.Status{}, errors.New("no such rule") }
	s := serve(t, source, nil)
	s.expect(map[string]string{
		`kstat_packets_total{family="ipv4",protocol="tcp"}`: "0",
		"kstat_uncounted_packets_total":                     "",
	})
	s.end()
	if !strings.Contains(s.log.String(), "no such rule") {
		t.Error("the log does not say why:", s.log.String())
	}
}

// TestPanic: neither a request nor a scrape that panics ends the process, or
// the server.
func TestPanic(t *testing.T) {
	source := sourceOf(stats.NewTable())
	source.Document = func() ([]byte, error) { panic("in a request") }
	snapshot := source.Snapshot
	source.Snapshot = func() *stats.Snapshot { panic("in a scrape") }
	s := serve(t, source, nil)
	if _, err := http.Get("http://" + s.at + "/stats.json"); err == nil {
		t.Error("a request that panics is answered")
	}
	_, text, _ := s.ask("GET", "/metrics")
	if strings.Contains(text, "kstat_packets_total") {
		t.Error("a scrape that panics has figures:", text)
	}
	source.Snapshot = snapshot
	s.expect(map[string]string{"kstat_started": "1"})
}

func TestHealth(t *testing.T) {
	source := sourceOf(stats.NewTable())
	s := serve(t, source, nil)
	if status, text, _ := s.ask("GET", "/healthz"); status != http.StatusOK || text != "ok\n" {
		t.Errorf("%d %q", status, text)
	}
	source.Healthy = func() error { return errors.New("packets pass uncounted") }
	if status, text, _ := s.ask("GET", "/healthz"); status != http.StatusServiceUnavailable || text != "packets pass uncounted\n" {
		t.Errorf("%d %q", status, text)
	}
}

// TestReadOnly: what is only to be read refuses all else.
func TestReadOnly(t *testing.T) {
	s := serve(t, sourceOf(stats.NewTable()), nil)
	for _, path := range []string{"/metrics", "/healthz", "/stats.json"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			if status, _, _ := s.ask(method, path); status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: status %d", method, path, status)
			}
		}
		if status, text, _ := s.ask("HEAD", path); status != http.StatusOK || text != "" {
			t.Errorf("HEAD %s: status %d, %q", path, status, text)
		}
	}
	if status, text, header := s.ask("GET", "/stats.json"); status != http.StatusOK || text != "{}\n" || header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %q %v", status, text, header)
	}
}

// TestHeaders: no answer is of use to another site's page.
func TestHeaders(t *testing.T) {
	s := serve(t, sourceOf(stats.NewTable()), nil)
	for _, path := range []string{"/", "/metrics", "/healthz", "/stats.json", "/elsewhere"} {
		_, _, header := s.ask("GET", path)
		for name, want := range map[string]string{
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: %s: got %q, want %q", path, name, got, want)
			}
		}
	}
}

// TestScraperGone: a scraper that goes away before it has its answer is not
// worth a line in the log, let alone one for each metric.
func TestScraperGone(t *testing.T) {
	source := sourceOf(stats.NewTable())
	asked, reset := make(chan struct{}), make(chan struct{})
	source.Status = func() (metrics.Status, error) {
		asked <- struct{}{}
		<-reset
		return metrics.Status{}, nil
	}
	s := serve(t, source, nil)
	c, err := net.Dial("tcp", s.at)
	must(t, err)
	_, err = io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: kstat\r\n\r\n")
	must(t, err)
	<-asked
	must(t, c.(*net.TCPConn).SetLinger(0), c.Close())
	close(reset)
	s.end()
	if text := s.log.String(); text != "" {
		t.Error("the log says", text)
	}
}

// TestToken: control takes the token, and without one nobody has it.
func TestToken(t *testing.T) {
	const secret = "0123456789abcdef"
	guarded := serve(t, sourceOf(stats.NewTable()), metrics.NewToken([]byte(secret)))
	open := serve(t, sourceOf(stats.NewTable()), nil)
	for header, allowed := range map[string]bool{
		"Bearer " + secret: true, "bearer " + secret: true,
		"": false, "Bearer": false, "Bearer ": false, "Basic " + secret: false, secret: false,
		"Bearer " + secret + "0": false, "Bearer " + secret[1:]: false, "Bearer  " + secret: false,
	} {
		status, text, _ := guarded.ask("POST", "/control/start", "Authorization", header)
		if refused := status == http.StatusUnauthorized || status == http.StatusForbidden; refused == allowed {
			t.Errorf("%q: status %d: %s", header, status, text)
		}
		if status, text, _ := open.ask("POST", "/control/start", "Authorization", header); status != http.StatusForbidden {
			t.Errorf("%q, and there is no token: status %d: %s", header, status, text)
		}
	}
}

// TestIdleConnections: a thousand connections that say nothing, or half a
// line, keep nobody out and are not kept; those that are being answered are.
func TestIdleConnections(t *testing.T) {
	source := sourceOf(stats.NewTable())
	gate, entered := make(chan struct{}), make(chan struct{})
	source.Document = func() ([]byte, error) {
		entered <- struct{}{}
		<-gate
		return []byte("{}\n"), nil
	}
	s := serve(t, source, nil)
	answers := make(chan string)
	const busy = 4
	for range busy {
		go func() {
			a, err := http.Get("http://" + s.at + "/stats.json")
			if err != nil {
				answers <- err.Error()
				return
			}
			text, _ := io.ReadAll(a.Body)
			answers <- fmt.Sprint(a.StatusCode, string(text), a.Body.Close())
		}()
		<-entered
	}
	if status, _, header := s.ask("GET", "/stats.json"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("one more at a time: status %d, %v", status, header)
	}

	var idle []net.Conn
	for i := range 1000 {
		c, err := net.Dial("tcp", s.at)
		must(t, err)
		defer c.Close()
		if i%2 == 0 {
			_, err = io.WriteString(c, "GET /metrics HTTP/1.1\r\nX: ")
			must(t, err)
		}
		idle = append(idle, c)
	}
	s.expect(map[string]string{"kstat_started": "1"}) // behind the thousand
	closed := 0
	for _, c := range idle[:900] { // the older ones are being closed
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := bufio.NewReader(c).ReadByte(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
	}
	if closed != 900 {
		t.Errorf("%d of the 900 oldest idle connections were closed", closed)
	}
	close(gate)
	for range busy {
		if a := <-answers; a != "200{}\n<nil>" {
			t.Errorf("a connection that was being answered: %s", a)
		}
	}
}

// failing is a listener whose first connections come with errors.
type failing struct {
	net.Listener
	errs []error
}

func (l *failing) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return l.Listener.Accept()
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

// TestAcceptFails: what accept(2) says of one connection, or of a moment, does
// not end the server.
func TestAcceptFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := serveAt(t, sourceOf(stats.NewTable()), nil, &failing{l, []error{unix.ENOBUFS, unix.EPERM, unix.ENETDOWN}})
	if status, text, _ := s.ask("GET", "/healthz"); status != http.StatusOK {
		t.Errorf("%d %q", status, text)
	}
}

// BenchmarkScrape is one scrape of a table with 60 classes.
func BenchmarkScrape(b *testing.B) {
	table := stats.NewTable()
	for p := range stats.Protocol(30) {
		add(table, 1, stats.IPv4, p, 100)
		add(table, 1, stats.IPv6, p, 100)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- metrics.NewServer(sourceOf(table), nil, slog.New(slog.DiscardHandler)).Run(ctx, l)
	}()
	b.ReportAllocs()
	for b.Loop() {
		a, err := http.Get("http://" + l.Addr().String() + "/metrics")
		must(b, err)
		n, err := io.Copy(io.Discard, a.Body)
		must(b, err, a.Body.Close())
		b.ReportMetric(float64(n), "answer-bytes")
	}
	cancel()
	must(b, <-ended)
	http.DefaultClient.CloseIdleConnections()
}
