package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
	"kstat/version"
)

// How the supervisor treats its workers.
const (
	watchEvery   = 100 * time.Millisecond
	patience     = 20                     // looks without a beat before a worker is killed: 2 s
	firstLimit   = 15 * time.Second       // from the start of the first worker until it is ready
	birthLimit   = 4 * time.Second        // likewise for those that follow: packets may be caught
	drainLimit   = 5 * time.Second        // from SIGTERM until it is drained
	firstBackOff = 100 * time.Millisecond // after the second death in a row; the first waits for nothing
	lastBackOff  = time.Second
	goodHealth   = 10 * time.Second // a worker that lived so long counts as no failure
)

// supervisor keeps what must outlive a worker: the mount point, what the engine
// holds, and the figures. It mounts, starts the worker, watches it, and
// unmounts when that has ended, however it came about. It never sees a packet.
type supervisor struct {
	options   *options
	args      []string // of the worker, as ours
	log       *slog.Logger
	point     *fs.MountPoint
	holding   hook.Holding
	state     *state
	stateFile *os.File
	spawner   *spawner
	web       web
	watched   bool // by the service manager, which wants to hear of every sign of life
}

// errWorker is the end of a worker that has said why itself.
var errWorker = errors.New("the worker ended")

// supervise is the daemon's life: it returns when ctx ends, or with an error,
// and leaves nothing behind.
func supervise(ctx context.Context, o *options, args []string, log *slog.Logger) (err error) {
	o.hook.Log = log
	holding, err := hook.Hold(o.hook)
	if err != nil {
		return err
	}
	defer holding.Close()
	point, err := fs.Lock(o.mount)
	if err != nil {
		return err
	}
	defer func() {
		if left := point.Close(); left != nil {
			err = errors.Join(err, left)
		}
	}()

	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog is not understood", "err", err)
	}
	web, err := openWeb(o, log)
	if err != nil {
		return err
	}
	defer func() {
		if left := web.close(); left != nil {
			err = errors.Join(err, left)
		}
	}()
	s := &supervisor{options: o, args: args, log: log, point: point, holding: holding, web: web, watched: interval > 0}
	err = s.prepare()
	if err == nil {
		defer s.stateFile.Close()
		defer s.spawner.close()
		err = s.loop(ctx)
	}
	if refused := (*cannotSplit)(nil); errors.As(err, &refused) {
		log.Warn("running as one process: a crash ends the daemon and loses its figures", "err", err)
		return s.alone(ctx)
	}
	return err
}

// cannotSplit is the error of a kernel or a container that does not let the
// daemon be two processes.
type cannotSplit struct{ error }

func (e *cannotSplit) Unwrap() error { return e.error }

// prepare makes what a second process needs. Its error is a cannotSplit.
func (s *supervisor) prepare() (err error) {
	s.stateFile, err = newStateFile()
	if err != nil {
		return &cannotSplit{err}
	}
	memory, err := mapMemory(s.stateFile)
	if err == nil {
		err = s.settle(memory)
	}
	if err == nil {
		s.spawner, err = newSpawner()
	}
	if err != nil {
		return &cannotSplit{errors.Join(err, s.stateFile.Close())}
	}
	return nil
}

// settle puts the options into a fresh state.
func (s *supervisor) settle(memory []byte) (err error) {
	if s.state, err = openState(memory, s.holding); err != nil {
		return err
	}
	s.state.engine.Store(int32(s.holding.Kind()))
	s.state.started.Store(s.options.start)
	s.state.born.Store(time.Now().UnixNano())
	s.state.listening.Store(int32(len(s.web.files)))
	if s.web.token != nil {
		s.state.token = *s.web.token
		s.state.guarded.Store(true)
	}
	return s.state.table.SetCounter(s.options.counter)
}

// alone does the worker's work in this process. If that hangs, the process
// ends, which frees what is caught in the queue.
func (s *supervisor) alone(ctx context.Context) (err error) {
	if err := s.settle(newMemory()); err != nil {
		return err
	}
	connection, err := s.point.Mount()
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		look := time.NewTicker(watchEvery)
		defer look.Stop()
		p := s.newPulse()
		for {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
				if p.silent(s) {
					end(errSilent)
				}
			}
		}
	}()
	err = work(ctx, s.options, s.log, s.holding, s.state, connection, s.web.files, os.Getpid(), func(n news) {
		switch n {
		case ready:
			s.announce()
		case drained:
			notify(s.log, daemon.SdNotifyStopping)
			if err := s.point.Unmount(); err != nil {
				s.log.Error("unmount", "err", err)
			}
		}
	})
	if errors.Is(context.Cause(ctx), errSilent) {
		err = errors.Join(errSilent, err)
	}
	return err
}

var errSilent = fmt.Errorf("no sign of life for %v", patience*watchEvery)

// pulse is what the supervisor has heard of a worker.
type pulse struct {
	beats uint64
	looks int // without a beat
	heard time.Time
}

func (s *supervisor) newPulse() *pulse { return &pulse{beats: s.state.beats.Load(), heard: time.Now()} }

// silent takes a look, and reports whether the worker has been silent for too
// long. Looks are counted, not seconds: if this process was stopped as well,
// nobody was late.
func (p *pulse) silent(s *supervisor) bool {
	if now := s.state.beats.Load(); now != p.beats {
		p.beats, p.looks, p.heard = now, 0, time.Now()
		s.pat()
		return false
	}
	p.looks++
	return p.looks >= patience
}

// pat tells the service manager's watchdog that the supervisor does its work.
func (s *supervisor) pat() {
	if s.watched {
		notify(s.log, daemon.SdNotifyWatchdog)
	}
}

// loop runs one worker after the other.
func (s *supervisor) loop(ctx context.Context) error {
	var wait time.Duration
	for first := true; ; first = false {
		began := time.Now()
		again, err := s.worker(ctx, first)
		if !again {
			return err
		}
		if time.Since(began) > goodHealth {
			wait = 0
		}
		s.pat()
		s.state.restarts.Add(1)
		s.log.Error("the worker died, and is started again", "err", err, "in", wait, "restarts", s.state.restarts.Load())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(max(2*wait, firstBackOff), lastBackOff)
	}
}

// worker runs one worker to its end, and says whether it should be followed by
// another. The tree that it leaves is dead, and stays until the next one takes
// its place, or the daemon ends.
func (s *supervisor) worker(ctx context.Context, first bool) (again bool, err error) {
	connection, err := s.point.Mount()
	if err != nil {
		return !first && !errors.Is(err, unix.EBUSY), err
	}
	held := s.holding.Files()
	s.state.held.Store(int32(len(held)))
	w, err := s.spawner.spawn(s.args, connection, s.stateFile, s.web.files, held)
	err = errors.Join(err, connection.Close()) // else the tree would outlive the worker
	if err != nil {
		if first {
			return false, &cannotSplit{errors.Join(err, s.point.Unmount())}
		}
		return true, err
	}
	live, cause := s.attend(ctx, w, first)
	<-w.ended
	if w.silent.IsZero() {
		w.silent = w.died
	}
	links := s.state.kept()
	if !s.state.started.Load() { // it died while it was stopping
		links = hook.Links{}
	}
	s.state.table.Forget() // what goes on being counted by itself is to tell nobody
	if !s.holding.Keep(links) {
		s.state.beginGap(w.silent)
	}
	code := w.process.ProcessState.ExitCode()
	switch {
	case code == exitUnmounted:
		return false, fs.ErrUnmounted
	case ctx.Err() != nil:
		return false, cause
	case first && !live && code == exitFailure:
		return false, errWorker
	case cause == nil && w.status == nil:
		cause = errors.New("it ended by itself")
	case cause == nil:
		cause = w.status
	}
	if first && !live {
		return false, fmt.Errorf("the worker ended before it was ready: %w", cause)
	}
	return true, cause
}

// attend watches a worker until it has ended, or has been killed. It reports
// whether the worker was ready, and why it was killed.
func (s *supervisor) attend(ctx context.Context, w *worker, first bool) (live bool, cause error) {
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	birth := birthLimit
	if first {
		birth = firstLimit
	}
	limit := time.After(birth) // and later, for its end
	late := fmt.Errorf("not ready %v after its start, killed", birth)
	done := ctx.Done()
	p := s.newPulse()
	for {
		select {
		case <-w.ended:
			return live, nil
		case n := <-w.news:
			switch {
			case n == opened:
				s.holding.Keep(s.state.kept())
			case n == drained && ctx.Err() != nil:
				if err := s.point.Unmount(); err != nil {
					s.log.Error("unmount", "err", err)
				}
			case n == drained: // unasked: it is about to end
				w.silent = time.Now()
			case done != nil && n == ready:
				live, limit = true, nil
				p = s.newPulse()
				if first {
					s.announce()
				}
			}
		case <-done:
			done = nil
			notify(s.log, daemon.SdNotifyStopping)
			w.signal(unix.SIGTERM)
			limit = time.After(drainLimit)
			late = fmt.Errorf("the worker had not ended %v after SIGTERM, and was killed", drainLimit)
		case <-limit:
			w.signal(unix.SIGKILL)
			return live, late
		case <-look.C:
			switch {
			case done == nil:
			case !live:
				s.pat() // until limit, which is a watchdog as well
			case p.silent(s):
				if s.state.queueing() { // else the kernel counts until it dies
					w.silent = p.heard
				}
				if err := s.state.rescue(s.options.hook); err != nil {
					s.log.Warn("what a hanging worker has not counted cannot be found out", "err", err)
				}
				w.signal(unix.SIGKILL)
				return live, fmt.Errorf("%w, killed", errSilent)
			}
		}
	}
}

// announce says that the daemon is ready, to people and to the service
// manager.
func (s *supervisor) announce() {
	o := s.options
	s.log.Info("ready", "mount", o.mount, "hook", o.hook.Point, "engine", s.holding.Kind(),
		"started", s.state.started.Load(), "pid", os.Getpid(), "version", version.String())
	notify(s.log, daemon.SdNotifyReady)
}

// notify tells the service manager, if there is one.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager was not told", "state", state, "err", err)
	}
}

// worker is a worker process.
type worker struct {
	process *exec.Cmd
	news    chan news     // never closed
	ended   chan struct{} // closed when it has ended:
	status  error         // how,
	died    time.Time     // and when

	// silent is when a worker that was killed for its silence was last heard
	// of, or one that was not asked to end had drained. The supervisor's
	// goroutine has it for itself.
	silent time.Time
}

func (w *worker) signal(signal unix.Signal) { _ = w.process.Process.Signal(signal) }

// spawner starts workers, from a thread of its own that has given up all
// privileges but one: what a process may ever do is inherited from the thread
// that starts it, and so is its death: the kernel kills a worker when this
// thread ends (PR_SET_PDEATHSIG), be it with the whole process.
type spawner struct {
	work chan func()
}

// newSpawner starts the thread. The error is for a kernel or a container that
// does not let it give up privileges.
func newSpawner() (*spawner, error) {
	s := &spawner{work: make(chan func())}
	limited := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		err := giveUpPrivileges()
		limited <- err
		if err != nil {
			return
		}
		for f := range s.work {
			f()
		}
	}()
	if err := <-limited; err != nil {
		return nil, err
	}
	return s, nil
}

// close ends the thread. Workers that are still there are killed.
func (s *spawner) close() { close(s.work) }

// giveUpPrivileges leaves processes that the calling thread starts, even as
// root, with CAP_NET_ADMIN alone, which each verdict needs.
func giveUpPrivileges() error {
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		if capability == unix.CAP_NET_ADMIN {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if err != nil && err != unix.EINVAL { // EINVAL: the kernel is older than the capability
			return fmt.Errorf("drop capability %d, which takes CAP_SETPCAP: %w", capability, err)
		}
	}
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return nil
}

// spawn starts a worker that gets the tree's connection, the state, the sockets
// for HTTP, and what the engine holds.
func (s *spawner) spawn(args []string, connection, state *os.File, listening, held []*os.File) (*worker, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	w := &worker{news: make(chan news), ended: make(chan struct{})}
	w.process = &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       append([]string{workerName}, args...),
		Env:        withoutNotifySocket(os.Environ()),
		Stdout:     os.Stdout,
		Stderr:     os.Stderr,
		ExtraFiles: slices.Concat([]*os.File{connection, state, to}, listening, held),
		SysProcAttr: &syscall.SysProcAttr{
			Pdeathsig: unix.SIGKILL,
			Setpgid:   true, // Ctrl-C is for the supervisor
		},
	}
	started := make(chan error)
	s.work <- func() { started <- w.process.Start() }
	err = errors.Join(<-started, to.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the worker: %w", err), from.Close())
	}
	go func() {
		defer from.Close()
		for b := make([]byte, 1); ; {
			if n, err := from.Read(b); n == 0 || err != nil {
				return
			}
			select {
			case w.news <- news(b[0]):
			case <-w.ended:
				return
			}
		}
	}()
	go func() {
		w.status = w.process.Wait()
		w.died = time.Now()
		close(w.ended)
	}()
	return w, nil
}

// withoutNotifySocket leaves out what would let the worker speak to the
// service manager.
func withoutNotifySocket(environ []string) (kept []string) {
	for _, v := range environ {
		if !strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			kept = append(kept, v)
		}
	}
	return kept
}
