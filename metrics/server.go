package metrics

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// What the server takes on at most.
const (
	maxConnections = 64
	maxScrapes     = 4 // of /metrics at a time; likewise of /stats.json
	maxOthers      = 8
	maxListeners   = 16      // of /events
	maxHeader      = 8 << 10 // bytes

	connectionGrace = 50 * time.Millisecond // before a new connection may make way for another

	headerLimit = 5 * time.Second  // from the first byte of a request to the last of its header
	readLimit   = 10 * time.Second // … to its end
	writeLimit  = 15 * time.Second // from there to the end of the answer; a stream sets its own
	idleLimit   = 2 * time.Minute  // between two requests: more than between two scrapes
	endLimit    = 250 * time.Millisecond
)

// Token is the SHA-256 of the token that permits control: the server needs no
// more of it.
type Token [sha256.Size]byte

// NewToken returns the token that a text is.
func NewToken(text []byte) *Token {
	t := Token(sha256.Sum256(text))
	return &t
}

// authorizes reports whether the request has the token. Without a token, none
// has.
func (t *Token) authorizes(r *http.Request) bool {
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if t == nil || !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	given := NewToken([]byte(text))
	return subtle.ConstantTimeCompare(given[:], t[:]) == 1
}

// Server answers HTTP requests.
type Server struct {
	source *Source
	token  *Token
	log    *slog.Logger
	gate   gate
}

// NewServer returns a server. A nil token lets nobody change anything.
func NewServer(source *Source, token *Token, log *slog.Logger) *Server {
	return &Server{source: source, token: token, log: log, gate: gate{limit: maxConnections, grace: connectionGrace}}
}

// Run answers what arrives at the listeners, which it closes in the end, until
// ctx ends. Its error is for a listener that could not go on before that; the
// others did.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	server := &http.Server{
		Handler:           marking(s.handler()),
		ReadHeaderTimeout: headerLimit,
		ReadTimeout:       readLimit,
		WriteTimeout:      writeLimit,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnContext:       withConn,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	errs := make([]error, len(listeners))
	var g sync.WaitGroup
	for i, l := range listeners {
		g.Go(func() {
			if err := server.Serve(s.gate.listener(l)); !errors.Is(err, http.ErrServerClosed) {
				s.log.Error("HTTP requests are not answered any more", "listen", l.Addr(), "err", err)
				errs[i] = err
			}
		})
	}
	<-ctx.Done()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	_ = server.Shutdown(limit) // else:
	_ = server.Close()
	g.Wait()
	return errors.Join(errs...)
}

// handler is the table of paths.
func (s *Server) handler() http.Handler {
	page := newPage(s.source.Document, s.source.Write, s.token.authorizes, s.token != nil)
	mux := http.NewServeMux()
	mux.Handle("/metrics", reading(s.metrics()))
	mux.Handle("/healthz", reading(http.HandlerFunc(s.health)))
	mux.Handle("/stats.json", reading(atMost(maxScrapes, http.HandlerFunc(s.document))))
	mux.Handle("/events", page) // which has a limit of its own
	mux.Handle("/", atMost(maxOthers, page))
	return secured(byOwnName(mux))
}

// secured adds the headers that every answer has.
func secured(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.ServeHTTP(w, r)
	})
}

// metrics answers with the metrics, in Prometheus's or OpenMetrics' format.
func (s *Server) metrics() http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(s.source), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(ofProcess(registry), promhttp.HandlerOpts{
		ErrorLog:            scrapeLog{s.log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		DisableCompression:  true, // a compressor takes more memory than a hundred answers
		EnableOpenMetrics:   true,
	})
}

// ofProcess leaves out what the process collector says of a network namespace
// as if it were the process's.
func ofProcess(all prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := all.Gather()
		return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool {
			return strings.HasPrefix(f.GetName(), "process_network_")
		}), err
	})
}

// scrapeLog takes what is wrong with a scrape.
type scrapeLog struct{ log *slog.Logger }

// Println logs one error. That the scraper has gone away is none of ours, and
// would be said once for each metric.
func (l scrapeLog) Println(v ...any) {
	err, _ := v[len(v)-1].(error)
	if gone := (*net.OpError)(nil); !errors.As(err, &gone) {
		l.log.Error("metrics are incomplete", "err", err)
	}
}

// health says whether packets are being counted, if they are to be.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if err := s.source.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// document answers with stats.json.
func (s *Server) document(w http.ResponseWriter, _ *http.Request) {
	text, err := s.source.Document()
	if err != nil {
		http.Error(w, "stats.json cannot be read: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text)
}

// reading returns a handler of GET and HEAD alone.
func reading(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this can only be read", http.StatusMethodNotAllowed)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// atMost returns a handler that refuses to serve more than n requests at a
// time.
func atMost(n int, h http.Handler) http.Handler {
	places := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			h.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many of these requests at a time", http.StatusServiceUnavailable)
		}
	})
}
