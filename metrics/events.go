package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// How the figures are sent to the pages that are open.
const (
	eventInterval = time.Second
	heartbeat     = 15 * time.Second // a sign of life while document takes its time
	maxBehind     = 4                // events that a listener may be late with
)

// stream sends the figures as server-sent events to everyone who listens.
//
//	document ─▶ produce, once a second ─▶ a channel per listener ─▶ ServeHTTP ─▶ page
//
// While nobody listens there is no goroutine, and nobody calls document.
type stream struct {
	document func() ([]byte, error)
	control  bool
	interval time.Duration
	limit    int
	epoch    string // another one each time that kstatd, or its worker, starts

	mu        sync.Mutex
	listeners map[*listener]bool // false for one that is being dropped
	latest    []byte             // of the run that goes on
	run       *run               // nil while nobody listens
}

// run is a time in which somebody listens.
type run struct{ stop, over chan struct{} }

// listener is one request for /events.
type listener struct {
	events chan []byte // closed by whoever drops it
	conn   *http.ResponseController
}

func newStream(document func() ([]byte, error), control bool) *stream {
	return &stream{
		document:  document,
		control:   control,
		interval:  eventInterval,
		limit:     maxListeners,
		epoch:     strconv.FormatInt(time.Now().UnixNano(), 36),
		listeners: make(map[*listener]bool),
	}
}

// ServeHTTP sends events until the request's context ends, or the client
// proves too slow.
func (s *stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default: // it could not read the answer, but take the place of somebody who can
		http.Error(w, "refused: another site's page asks for this", http.StatusForbidden)
		return
	}
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // for nginx in front
	if r.Method == http.MethodHead {
		return
	}
	conn := http.NewResponseController(w)
	_ = conn.SetWriteDeadline(time.Time{}) // the server's is for answers that end
	l := s.join(conn)
	if l == nil {
		header.Set("Retry-After", "10")
		http.Error(w, fmt.Sprintf("%d pages are open already, and that is the limit", s.limit),
			http.StatusServiceUnavailable)
		return
	}
	defer s.leave(l)
	defer context.AfterFunc(r.Context(), func() { s.drop(l) })()

	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	event, more := []byte("retry: 2000\n\n"), true
	for more {
		if _, err := w.Write(event); err != nil {
			return
		}
		if err := conn.Flush(); err != nil {
			return
		}
		select {
		case event, more = <-l.events:
			beat.Reset(heartbeat)
		case <-beat.C:
			event = []byte(":\n\n")
		}
	}
}

// join adds a listener, or returns nil if there are too many. The first one
// starts the run.
func (s *stream) join(conn *http.ResponseController) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listeners) >= s.limit {
		return nil
	}
	l := &listener{make(chan []byte, maxBehind), conn}
	s.listeners[l] = true
	switch {
	case s.run == nil:
		s.run = &run{make(chan struct{}), make(chan struct{})}
		go s.produce(s.run)
	case s.latest != nil:
		l.events <- s.latest
	}
	return l
}

// leave takes a listener out. The last one ends the run, and waits for it.
func (s *stream) leave(l *listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	last := len(s.listeners) == 0
	r := s.run
	if last {
		close(r.stop)
		s.run, s.latest = nil, nil
	}
	s.mu.Unlock()
	if last {
		<-r.over
	}
}

// drop ends a listener's request, also if it hangs in a write.
func (s *stream) drop(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(l)
}

func (s *stream) dropLocked(l *listener) {
	if s.listeners[l] { // else it has left, and its connection may serve another request
		s.listeners[l] = false
		close(l.events)
		_ = l.conn.SetWriteDeadline(time.Unix(1, 0))
	}
}

// produce makes an event, and another one an interval after each, until the run
// ends. A ticker would make two at a time after a document that took long, and
// the rate of a moment is noise.
func (s *stream) produce(r *run) {
	defer close(r.over)
	for {
		s.send(s.next(), r)
		select {
		case <-time.After(s.interval):
		case <-r.stop:
			return
		}
	}
}

// send hands an event of a run to every listener, and drops those that are too
// late.
func (s *stream) send(event []byte, r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != r { // another run has begun
		return
	}
	s.latest = event
	for l, live := range s.listeners {
		if !live {
			continue
		}
		select {
		case l.events <- event:
		default:
			s.dropLocked(l)
		}
	}
}

// next makes an event of the figures of now.
func (s *stream) next() []byte {
	text, err := s.text()
	now := time.Now() // what is slow comes before the look at the figures
	e := event{Epoch: s.epoch, Time: now.UnixMilli(), Control: s.control}
	if err == nil {
		err = e.read(text)
	}
	if err != nil {
		return message("trouble", trouble{now.UnixMilli(), "the figures cannot be read: " + oneLine(err.Error())})
	}
	return message("", &e)
}

// text returns the document. If that panics it is an error, as it would be in a
// handler: packets are counted in this process.
func (s *stream) text() (text []byte, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	return s.document()
}

// message renders a server-sent event of a kind; "" is the usual one.
func message(kind string, data any) []byte {
	text, err := json.Marshal(data)
	if err != nil {
		panic("metrics: " + err.Error()) // numbers and strings
	}
	var m []byte
	if kind != "" {
		m = fmt.Appendf(m, "event: %s\n", kind)
	}
	return fmt.Appendf(m, "data: %s\n\n", text)
}

// trouble is what is sent instead of figures that cannot be had.
type trouble struct {
	Time  int64  `json:"time"`
	Error string `json:"error"`
}

// event is what the page is sent: what it shows of stats.json. Figures are
// strings, as a number of JavaScript is exact up to 2⁵³ only, which is a few
// days of bytes on a fast link.
type event struct {
	Epoch        string     `json:"epoch"`
	Time         int64      `json:"time"` // of the figures, in milliseconds since 1970
	Control      bool       `json:"control"`
	Start        int        `json:"start"`
	Counter      uint32     `json:"counter"`
	Pending      uint64     `json:"pending,string"`
	NOut         uint64     `json:"nout,string"`
	Uncounted    uint64     `json:"uncounted,string"`
	Publications uint64     `json:"publications,string"`
	Hook         string     `json:"hook"`
	Engine       string     `json:"engine"`
	Version      string     `json:"version"`
	Restarts     uint64     `json:"restarts"`
	Repairs      uint64     `json:"repairs"`
	Flushes      uint64     `json:"flushes"`
	Gaps         int        `json:"gaps"`
	GapOpen      bool       `json:"gap_open"`
	Protocols    []protocol `json:"protocols"`
}

// protocol is one protocol in one family, in an event.
type protocol struct {
	Name      string `json:"name"`
	Number    *int   `json:"number"` // null for "other"
	Family    string `json:"family"`
	Packets   uint64 `json:"packets,string"` // since kstatd started, as Bytes
	Bytes     uint64 `json:"bytes,string"`
	Published uint64 `json:"published,string"` // packets, as of the last publication
}

// read fills in what stats.json says.
func (e *event) read(text []byte) error {
	type figures struct{ Packets, Bytes uint64 }
	var d struct {
		Start                                  int
		Counter                                uint32
		Pending, NOut, Uncounted, Publications uint64
		Hook, Engine, Version                  string
		Restarts                               uint64 `json:"worker_restarts"`
		Repairs                                uint64 `json:"rule_repairs"`
		Flushes                                uint64 `json:"queue_flushes"`
		Gaps                                   []struct{ Open bool }
		Protocols                              []struct {
			Name, Family     string
			Number           *int
			Published, Total figures
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return fmt.Errorf("stats.json: %w", err)
	}
	e.Start, e.Counter, e.Pending, e.NOut, e.Uncounted = d.Start, d.Counter, d.Pending, d.NOut, d.Uncounted
	e.Publications, e.Hook, e.Engine, e.Version = d.Publications, d.Hook, d.Engine, d.Version
	e.Restarts, e.Repairs, e.Flushes, e.Gaps = d.Restarts, d.Repairs, d.Flushes, len(d.Gaps)
	for _, g := range d.Gaps {
		e.GapOpen = e.GapOpen || g.Open
	}
	e.Protocols = make([]protocol, 0, len(d.Protocols))
	for _, p := range d.Protocols {
		e.Protocols = append(e.Protocols,
			protocol{p.Name, p.Number, p.Family, p.Total.Packets, p.Total.Bytes, p.Published.Packets})
	}
	return nil
}
