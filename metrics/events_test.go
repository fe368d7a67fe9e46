package metrics

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"kstat/fs"
	"kstat/stats"
)

// standIn is an engine that sees no packets.
type standIn struct {
	on        atomic.Bool
	refuse    error // what Start gives
	uncounted uint64
}

func (*standIn) Name() string                 { return "nfqueue" }
func (*standIn) Point() string                { return "postrouting" }
func (e *standIn) Started() bool              { return e.on.Load() }
func (e *standIn) Uncounted() (uint64, error) { return e.uncounted, nil }

func (e *standIn) Start() error {
	if e.refuse == nil {
		e.on.Store(true)
	}
	return e.refuse
}

func (e *standIn) Stop() error {
	e.on.Store(false)
	return nil
}

// newTree returns a real tree, of a real table, over an engine.
func newTree(engine fs.Engine, table *stats.Table) *fs.Tree {
	return &fs.Tree{
		Table:  table,
		Engine: engine,
		Names:  stats.BuiltinNames(),
		Health: func() (fs.Health, uint64, error) {
			uncounted, err := engine.Uncounted()
			return fs.Health{Gaps: []fs.Gap{}}, uncounted, err
		},
		PID:     1,
		Version: "v0",
		Log:     slog.New(slog.DiscardHandler),
	}
}

const token = "open-sesame"

// pageOf is the page of a tree, with a token or without one.
func pageOf(tree *fs.Tree, control bool) http.Handler {
	return newPage(tree.File("stats.json").Read, writing(tree), withToken(control), control)
}

// quick is the same with ten events a second.
func quick(tree *fs.Tree, control bool) http.Handler {
	s := newStream(tree.File("stats.json").Read, control)
	s.interval = eventInterval / 10
	return (&page{s, writing(tree), withToken(control), control}).handler()
}

func writing(tree *fs.Tree) func(file string, text []byte) error {
	return func(file string, text []byte) error { return tree.File(file).Write(text) }
}

func withToken(control bool) func(*http.Request) bool {
	return func(r *http.Request) bool { return control && r.Header.Get("Authorization") == "Bearer "+token }
}

// packet counts packets of one kind.
func packet(table *stats.Table, n int, f stats.Family, p stats.Protocol, bytes uint32) {
	for range n {
		table.Add([]stats.Packet{{Class: stats.ClassOf(f, p), Bytes: bytes}})
	}
}

// server serves h until the test ends.
func server(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// listen opens /events, and returns a function for the next event's text, ""
// at its end.
func listen(t *testing.T, s *httptest.Server) (next func() string) {
	t.Helper()
	r, err := http.Get(s.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Body.Close() })
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(r.Status, r.Header)
	}
	lines := bufio.NewReader(r.Body)
	return func() string {
		var text strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return ""
			}
			if line == "\n" {
				return text.String()
			}
			text.WriteString(line)
		}
	}
}

// is compares.
func is[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s is\n%v\nnot\n%v", what, got, want)
	}
}

func TestEvent(t *testing.T) {
	table := stats.NewTable()
	engine := &standIn{uncounted: 3}
	engine.on.Store(true)
	packet(table, 11, stats.IPv4, stats.TCP, 1<<32-1)
	packet(table, 2, stats.IPv6, 17, 100)
	packet(table, 1, stats.IPv6, stats.Other, 40)
	s := server(t, pageOf(newTree(engine, table), true))

	next := listen(t, s)
	is(t, "the first line", next(), "retry: 2000\n")
	before := time.Now().Add(-time.Minute).UnixMilli()
	text := next()
	var head struct {
		Epoch string
		Time  int64
	}
	data, found := strings.CutPrefix(text, "data: ")
	if err := json.Unmarshal([]byte(data), &head); err != nil || !found {
		t.Fatalf("%q: %v", text, err)
	}
	if after := time.Now().Add(time.Minute).UnixMilli(); head.Time < before || head.Time > after || head.Epoch == "" {
		t.Errorf("time %d, epoch %q", head.Time, head.Epoch)
	}
	is(t, "the event", data, fmt.Sprintf(`{"epoch":%q,"time":%d,"control":true,"start":1,"counter":10,"pending":"4",`+
		`"nout":"10","uncounted":"3","publications":"1","hook":"postrouting","engine":"nfqueue","version":"v0",`+
		`"restarts":0,"repairs":0,"flushes":0,"gaps":0,"gap_open":false,"protocols":[`+
		`{"name":"tcp","number":6,"family":"ipv4","packets":"11","bytes":"47244640245","published":"10"},`+
		`{"name":"udp","number":17,"family":"ipv6","packets":"2","bytes":"200","published":"0"},`+
		`{"name":"other","number":null,"family":"ipv6","packets":"1","bytes":"40","published":"0"}]}`, head.Epoch, head.Time)+"\n")
}

// What went wrong is in the event, and a number beyond 2^53 is exact.
func TestEventReadsAll(t *testing.T) {
	e := event{Epoch: "e", Time: 5}
	if err := e.read([]byte(`{"schema": 1, "nout": 18446744073709551615, "counter": 4294967295, "start": 0, "pending": 9,
		"worker_restarts": 1, "rule_repairs": 2, "queue_flushes": 3, "gaps": [{"open": false}, {"open": true}],
		"protocols": [{"name": "99", "number": 99, "family": "ipv4", "published": {"packets": 9007199254740993},
		"total": {"packets": 18446744073709551614, "bytes": 18446744073709551613}}]}`)); err != nil {
		t.Fatal(err)
	}
	number := 99
	is(t, "the event", e, event{
		Epoch: "e", Time: 5, NOut: 1<<64 - 1, Counter: 1<<32 - 1, Pending: 9,
		Restarts: 1, Repairs: 2, Flushes: 3, Gaps: 2, GapOpen: true,
		Protocols: []protocol{{"99", &number, "ipv4", 1<<64 - 2, 1<<64 - 3, 1<<53 + 1}},
	})
}

// recorder is a response whose writes a test takes one by one, in the time of a
// synctest bubble.
type recorder struct {
	header http.Header
	writes chan string
	status int

	once   sync.Once
	broken chan struct{} // closed by a write deadline in the past
}

func newRecorder() *recorder {
	return &recorder{header: http.Header{}, writes: make(chan string), broken: make(chan struct{})}
}

func (r *recorder) Header() http.Header    { return r.header }
func (r *recorder) WriteHeader(status int) { r.status = status }
func (r *recorder) FlushError() error      { return nil }

func (r *recorder) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() {
		r.once.Do(func() { close(r.broken) })
	}
	return nil
}

func (r *recorder) Write(text []byte) (int, error) {
	select {
	case r.writes <- string(text):
		return len(text), nil
	case <-r.broken:
		return 0, errors.New("the write took too long")
	}
}

// open lets somebody listen in the background, and returns a channel that is
// closed when that is over.
func open(ctx context.Context, s *stream) (*recorder, <-chan struct{}) {
	r, over := newRecorder(), make(chan struct{})
	request := httptest.NewRequestWithContext(ctx, "GET", "/events", nil)
	go func() {
		defer close(over)
		s.ServeHTTP(r, request)
	}()
	return r, over
}

// One producer serves all: as many documents as seconds, whoever listens, and
// none while nobody does.
func TestOncePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		documents := 0
		s := newStream(func() ([]byte, error) {
			documents++
			return fmt.Appendf(nil, `{"nout": %d}`, documents), nil
		}, false)
		time.Sleep(time.Hour)
		is(t, "documents, with no listener", documents, 0)

		ctx, cancel := context.WithCancel(t.Context())
		var listeners []*recorder
		var ends []<-chan struct{}
		for i := range 3 { // each is given what there is, at once
			r, over := open(ctx, s)
			is(t, "the first write", <-r.writes, "retry: 2000\n\n")
			if text := <-r.writes; !strings.Contains(text, `"nout":"1"`) {
				t.Fatalf("listener %d began with %q", i, text)
			}
			listeners, ends = append(listeners, r), append(ends, over)
		}
		began := time.Now()
		for n := 2; n <= 60; n++ {
			var texts []string
			for _, r := range listeners {
				texts = append(texts, <-r.writes)
			}
			if !strings.Contains(texts[0], fmt.Sprintf(`"nout":"%d"`, n)) || texts[1] != texts[0] || texts[2] != texts[0] {
				t.Fatalf("event %d is %q", n, texts)
			}
		}
		is(t, "the time for 59 events", time.Since(began), 59*time.Second)
		is(t, "documents", documents, 60)

		cancel()
		for _, over := range ends {
			<-over
		}
		time.Sleep(time.Hour)
		is(t, "documents, an hour after the last listener left", documents, 60)
	})
}

// Two events are never closer than a second, however long a document takes.
func TestSlowDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(func() ([]byte, error) {
			time.Sleep(2500 * time.Millisecond)
			return []byte(`{}`), nil
		}, false)
		ctx, cancel := context.WithCancel(t.Context())
		r, over := open(ctx, s)
		<-r.writes
		<-r.writes
		for range 5 {
			began := time.Now()
			<-r.writes
			is(t, "the time between two events", time.Since(began), 3500*time.Millisecond)
		}
		cancel()
		<-over
	})
}

// A document that was asked for by those who have left is not shown to those
// who came after them.
func TestLateDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late, asked := make(chan struct{}), 0
		s := newStream(func() ([]byte, error) {
			asked++
			n := asked
			if n == 1 {
				<-late
			}
			return fmt.Appendf(nil, `{"nout": %d}`, n), nil
		}, false)
		ctx, cancel := context.WithCancel(t.Context())
		first, firstOver := open(ctx, s)
		<-first.writes
		cancel()
		synctest.Wait()

		ctx, cancel = context.WithCancel(t.Context())
		second, secondOver := open(ctx, s)
		<-second.writes
		<-second.writes
		close(late)
		<-firstOver
		if text := <-second.writes; !strings.Contains(text, `"nout":"3"`) {
			t.Errorf("behind the document of its own run came %q", text)
		}
		cancel()
		<-secondOver
	})
}

// A document that takes its time leaves signs of life.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		s := newStream(func() ([]byte, error) {
			<-answer
			return []byte(`{}`), nil
		}, false)
		ctx, cancel := context.WithCancel(t.Context())
		r, over := open(ctx, s)
		is(t, "the first write", <-r.writes, "retry: 2000\n\n")
		began := time.Now()
		is(t, "the next one", <-r.writes, ":\n\n")
		is(t, "its time", time.Since(began), heartbeat)
		close(answer)
		if text := <-r.writes; !strings.HasPrefix(text, "data: {") {
			t.Fatalf("then came %q", text)
		}
		cancel()
		<-over
	})
}

// Who does not read is dropped when it is maxBehind events late; the others
// miss nothing.
func TestSlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(func() ([]byte, error) { return []byte(`{}`), nil }, false)
		ctx, cancel := context.WithCancel(t.Context())
		quick, quickOver := open(ctx, s)
		<-quick.writes
		slow, slowOver := open(ctx, s)
		<-slow.writes
		seconds := 0
		for over := false; !over; seconds++ {
			<-quick.writes
			synctest.Wait()
			select {
			case <-slowOver:
				over = true
			default:
			}
		}
		is(t, "events until it was dropped", seconds, maxBehind+2) // one is being written, and one is too much
		s.mu.Lock()
		is(t, "listeners", len(s.listeners), 1)
		s.mu.Unlock()
		cancel()
		<-quickOver
	})
}

// The same over TCP: a connection whose buffers are full is given up.
func TestSlowConnection(t *testing.T) {
	big := strings.Repeat("x", 8<<20)
	s := newStream(func() ([]byte, error) { return json.Marshal(map[string]string{"version": big}) }, false)
	s.interval = time.Millisecond
	over := make(chan struct{})
	address := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(over)
		s.ServeHTTP(w, r)
	})).Listener.Addr()
	conn, err := net.Dial("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /events HTTP/1.1\r\nHost: kstat\r\n\r\n")
	<-over
	// Nothing was read so far, and what comes is the beginning of an answer that was cut off.
	if n, err := io.Copy(io.Discard, conn); n == 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes came, %v", n, err)
	}
}

func TestTooManyListeners(t *testing.T) {
	s := newStream(func() ([]byte, error) { return []byte(`{}`), nil }, false)
	s.limit = 2
	left := make(chan struct{}, 9)
	at := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r)
		left <- struct{}{}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	request, _ := http.NewRequestWithContext(ctx, "GET", at.URL, nil)
	first, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Body.Close()
	listen(t, at)

	third, err := http.Get(at.URL)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(third.Body)
	third.Body.Close()
	<-left
	is(t, "the answer", fmt.Sprintf("%d %s %s", third.StatusCode, third.Header["Retry-After"], text),
		"503 [10] 2 pages are open already, and that is the limit\n")

	cancel()
	<-left
	next := listen(t, at)
	next()
	if text := next(); !strings.HasPrefix(text, "data: {") {
		t.Errorf("who came for the one that left got %q", text)
	}
}

// A server's limits for requests that end do not end this one. They are long
// enough for a busy machine to answer.
func TestEventsOutliveTheServersDeadlines(t *testing.T) {
	at := httptest.NewUnstartedServer(pageOf(newTree(&standIn{}, stats.NewTable()), false))
	const limit = 2 * eventInterval
	at.Config.ReadTimeout, at.Config.WriteTimeout = limit, limit
	at.Start()
	t.Cleanup(func() {
		at.CloseClientConnections()
		at.Close()
	})
	next := listen(t, at)
	for i := range 1 + 2*limit/eventInterval {
		if next() == "" {
			t.Fatalf("the stream ended after %d events", i)
		}
	}
}

// Listeners go when the server's base context ends, so that Shutdown need not
// wait for them.
func TestEventsEndWithTheServer(t *testing.T) {
	base, end := context.WithCancel(context.Background())
	at := httptest.NewUnstartedServer(pageOf(newTree(&standIn{}, stats.NewTable()), false))
	at.Config.BaseContext = func(net.Listener) context.Context { return base }
	at.Start()
	defer at.Close()
	next := listen(t, at)
	next()
	next()
	end()
	for next() != "" {
	}
	if err := at.Config.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestFiguresCannotBeRead(t *testing.T) {
	errPanic := errors.New("instead of this, a panic")
	for _, test := range []struct {
		text []byte
		err  error
		want string
	}{
		{nil, fmt.Errorf("read counters:\n%w", syscall.EPERM), "read counters: operation not permitted"},
		{[]byte(`{"nout": -1}`), nil, "stats.json: json: cannot unmarshal number -1 into Go struct field .NOut of type uint64"},
		{nil, nil, "stats.json: unexpected end of JSON input"},
		{nil, errPanic, "panic: boom"},
	} {
		s := newStream(func() ([]byte, error) {
			if test.err == errPanic {
				panic("boom")
			}
			return test.text, test.err
		}, false)
		next := listen(t, server(t, s))
		next()
		text := next()
		kind, data, _ := strings.Cut(text, "\ndata: ")
		is(t, "the kind", kind, "event: trouble")
		var got trouble
		if err := json.Unmarshal([]byte(data), &got); err != nil {
			t.Fatal(err)
		}
		is(t, "the reason", got.Error, "the figures cannot be read: "+test.want)
	}
}

// Another site's page must not use up the places, which a browser would let it
// ask for.
func TestEventsForOtherSites(t *testing.T) {
	s := newStream(func() ([]byte, error) { return nil, errors.New("asked") }, false)
	for site, want := range map[string]int{"cross-site": 403, "same-site": 403} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/events", nil)
		r.Header.Set("Sec-Fetch-Site", site)
		s.ServeHTTP(w, r)
		is(t, site, w.Code, want)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("HEAD", "/events", nil))
	is(t, "HEAD", fmt.Sprint(w.Code, w.Header()["Content-Type"]), "200 [text/event-stream]")
}
