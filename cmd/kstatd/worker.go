package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kstat/fs"
	"kstat/hook"
	"kstat/stats"
	"kstat/trace"
	"kstat/version"
)

// What a worker tells whoever runs it.
type news byte

const (
	opened  news = 'O' // packets are seen at another place, or nowhere: hook.Opened is in the state
	ready   news = 'R' // the tree is live, and counting is on if it is to be
	drained news = 'D' // counting has ended for good: the tree may go
)

// workerName is what a worker is called, which is also how it knows that it is
// one.
const workerName = "kstatd-worker"

// The descriptors that a worker is born with.
const (
	connectionFD = 3 + iota // to the kernel, for the tree
	stateFD                 // the state
	newsFD                  // to the supervisor
	firstFD                 // the sockets for HTTP, and then what the engine holds
)

// runWorker is the main function of a worker process.
func runWorker(ctx context.Context, o *options, log *slog.Logger) error {
	_ = os.WriteFile("/proc/self/comm", []byte(workerName), 0) // else it is called exe
	memory, err := mapMemory(os.NewFile(stateFD, "state"))
	if err != nil {
		return err
	}
	record := recordIn(memory)
	files := make([]*os.File, record.listening.Load()+record.held.Load())
	for i := range files {
		files[i] = os.NewFile(uintptr(firstFD+i), "inherited")
	}
	listening, held := files[:record.listening.Load()], files[record.listening.Load():]
	holding, err := hook.Inherit(hook.Kind(record.engine.Load()), held)
	if err != nil {
		return err
	}
	s, err := openState(memory, holding)
	if err != nil {
		return err
	}
	supervisor := os.NewFile(newsFD, "news")
	return work(ctx, o, log, holding, s, os.NewFile(connectionFD, "/dev/fuse"), listening, os.Getppid(), func(n news) {
		_, _ = supervisor.Write([]byte{byte(n)}) // without a supervisor, we are about to be killed
	})
}

// work counts and serves until ctx ends: then it stops counting, tells that,
// and serves until the tree is unmounted. HTTP requests are answered at what is
// listening. pid is what the tree shows as the daemon's.
func work(ctx context.Context, o *options, log *slog.Logger, holding hook.Holding, s *state,
	connection *os.File, listening []*os.File, pid int, tell func(news)) error {
	c := o.hook
	c.Log, c.Before, c.Alive = log, s.before(), s.beat
	c.Opened = func(o hook.Opened) {
		s.opened(o)
		tell(opened)
	}
	names, err := stats.HostNames()
	if err != nil {
		log.Warn("/etc/protocols cannot be read: built-in protocol names are used", "err", err)
	}
	packets := trace.New(s.table, names)
	c.Tracer = packets
	plain, err := holding.New(c, s.table)
	if err != nil {
		return errors.Join(err, connection.Close())
	}
	engine := &engine{Engine: plain, state: s}
	tree := &fs.Tree{
		Table:   s.table,
		Engine:  engine,
		Names:   names,
		Health:  engine.health,
		PID:     pid,
		Version: version.String(),
		Tracer:  fs.TracerOf(packets.Text, packets.Pcapng),
		Log:     log,
	}
	now := time.Now()
	s.proved.Store(&now)
	if s.started.Load() {
		if err := engine.Start(); err != nil {
			return errors.Join(fmt.Errorf("start: %w", err), engine.Close(), connection.Close())
		}
	}
	server, err := tree.Serve(connection)
	if err != nil {
		return errors.Join(err, engine.Close())
	}
	serveHTTP := newWeb(o, log, engine, tree, listening)
	tell(ready)

	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return engine.Run(running) })
	g.Go(func() error { return server.Run(running) })
	g.Go(func() error { return serveHTTP(running) })
	err = g.Wait()
	log.Info("counting ended", "counted", s.table.Counted())
	s.table.Finish()
	packets.Finish()
	tell(drained)
	if ctx.Err() != nil { // else nobody unmounts the tree, and the next worker is due
		server.Drain(time.Second)
	}
	return err
}

// engine is one whose start and stop outlive it.
type engine struct {
	hook.Engine
	state *state
	mu    sync.Mutex // one start or stop at a time
}

// Start starts and remembers it.
func (e *engine) Start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.Engine.Start(); err != nil {
		return err
	}
	e.state.endGap(time.Now())
	e.state.started.Store(true)
	return nil
}

// Stop stops and remembers it: before it does so, because a worker that hangs
// is killed in the middle, and the next should do as it was told. An engine
// that has ended stops nothing.
func (e *engine) Stop() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.state.started.Swap(false)
	err := e.Engine.Stop()
	if errors.Is(err, hook.ErrClosed) {
		e.state.started.Store(before)
	}
	return err
}

func (e *engine) health() (fs.Health, uint64, error) {
	status, err := e.Status()
	return e.state.health(status), status.Uncounted, err
}
