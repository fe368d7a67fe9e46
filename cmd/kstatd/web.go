package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"kstat/fs"
	"kstat/hook"
	"kstat/metrics"
	"kstat/stats"
	"kstat/version"
)

// newWeb returns what answers the HTTP requests that arrive at the sockets,
// until its context ends: nobody, if there are none. What goes wrong with it
// ends nothing else.
func newWeb(o *options, log *slog.Logger, engine *engine, tree *fs.Tree, sockets []*os.File) (run func(context.Context) error) {
	if len(sockets) == 0 {
		return func(context.Context) error { return nil }
	}
	listeners, err := listenersOf(sockets)
	if err != nil {
		log.Error("HTTP requests are not answered everywhere", "err", err)
	}
	server := metrics.NewServer(newSource(o, engine, tree), engine.state.tokenOrNil(), log)
	for _, l := range listeners {
		log.Info("HTTP requests are answered", "listen", l.Addr())
	}
	return func(ctx context.Context) error {
		if err := server.Run(ctx, listeners...); err != nil {
			log.Error("HTTP requests were not answered to the end", "err", err)
		}
		return nil
	}
}

// newSource returns what the HTTP server shows of the daemon.
func newSource(o *options, engine *engine, tree *fs.Tree) *metrics.Source {
	families := []stats.Family{stats.IPv4, stats.IPv6}
	switch o.hook.Families {
	case hook.OnlyIPv4:
		families = families[:1]
	case hook.OnlyIPv6:
		families = families[1:]
	}
	return &metrics.Source{
		Snapshot: tree.Table.Snapshot,
		// Not the host's own: hosts that differ in /etc/protocols, or have
		// none, are to be summed up by name.
		Names:    stats.BuiltinNames(),
		Families: families,
		Status: func() (metrics.Status, error) {
			status, err := engine.Status()
			return engine.state.metricsOf(status), err
		},
		Started:  engine.Started,
		Healthy:  engine.state.healthy,
		Hook:     engine.Point(),
		Engine:   engine.Name(),
		Version:  version.String(),
		Born:     time.Unix(0, engine.state.born.Load()),
		Document: tree.File("stats.json").Read,
		Write:    func(file string, text []byte) error { return tree.File(file).Write(text) },
	}
}

// tokenOrNil returns the token that permits control over HTTP.
func (s *state) tokenOrNil() *metrics.Token {
	if !s.guarded.Load() {
		return nil
	}
	return &s.token
}

// metricsOf returns what metrics show of the engine's status and of the
// workers. A figure that the engine took back, because it had only just begun
// to look, or because a worker died before it could say so to the next one,
// stays where it was shown.
func (s *state) metricsOf(status hook.Status) metrics.Status {
	began, ended := s.began.Load(), s.ended.Load()
	m := metrics.Status{
		Uncounted: raise(&s.shown.uncounted, status.Uncounted),
		Repairs:   raise(&s.shown.repairs, status.Repairs),
		Flushes:   raise(&s.shown.flushes, status.Flushes),
		Dropped:   raise(&s.shown.dropped, status.Dropped),
		Restarts:  s.restarts.Load(),
		Gaps:      began,
		GapOpen:   began != ended,
	}
	for _, q := range status.Queues {
		m.Queues = append(m.Queues, metrics.Queue(q))
	}
	return m
}

// raise makes the figure n, if that is more, and returns it.
func raise(figure *atomic.Uint64, n uint64) uint64 {
	for {
		now := figure.Load()
		if n <= now {
			return now
		}
		if figure.CompareAndSwap(now, n) {
			return n
		}
	}
}

// healthLimit is how old the last proof may be of a worker that is well. The
// supervisor kills it then.
const healthLimit = patience * watchEvery

// healthy returns why packets may be passing uncounted, or nil.
func (s *state) healthy() error {
	began, ended := s.began.Load(), s.ended.Load()
	if s.started.Load() && began != ended {
		since := time.Unix(0, s.gaps[(began-1)%keptGaps].from.Load())
		return fmt.Errorf("packets pass uncounted since %s", since.UTC().Format(time.RFC3339Nano))
	}
	if late := time.Since(*s.proved.Load()); late > healthLimit {
		return fmt.Errorf("no proof for %v that packets are counted", late.Round(time.Millisecond))
	}
	return nil
}
