package world

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Each signal reaches the command once. A terminal, and whoever else signals a
// process group, sends it to all of kstat run, init and the command; who signals
// kstat run alone means the command. So kstat run tells init of every signal, and
// init passes on those that it has not got itself.

// signals are those that are passed on to the command: what a terminal, a
// shell, timeout(1) or a CI job sends. SIGTSTP and SIGCONT reach the command only
// if they are sent to the process group, as shells and terminals do.
var signals = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM}

// catch returns a channel of those signals that are not ignored: who runs us
// with nohup means the command.
func catch() chan os.Signal {
	c := make(chan os.Signal, 64)
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return c
}

// relay passes on to the command the signals that kstat run was sent, but for
// those that init has caught, too. It ends init when kstat run is gone. Before
// there is a command, a signal ends the world, as it would have ended the command.
func relay(conn net.Conn, caught <-chan os.Signal, command *atomic.Int64) {
	told := make(chan syscall.Signal)
	go func() {
		for {
			m, err := receive(conn)
			if err != nil {
				os.Exit(statusWorld)
			}
			told <- syscall.Signal(m.Signal)
		}
	}()
	own := make(map[os.Signal]*tally)
	for _, s := range signals {
		own[s] = new(tally)
	}
	for {
		select {
		case s := <-caught:
			own[s].add()
		case s := <-told:
			settle(s)
			for len(caught) > 0 {
				own[<-caught].add()
			}
			switch took, pid := own[s].take(), int(command.Load()); {
			case pid == 0:
				_ = send(conn, message{Ended: true, Status: 128 + int(s)})
				os.Exit(0)
			case took && sameGroup(pid): // the command has got it
			default:
				_ = unix.Kill(pid, s)
			}
		}
	}
}

// tally is of one signal, as init has caught it.
type tally struct {
	n    int
	last time.Time
}

const (
	// stale is the age at which a signal was not one for the whole group:
	// somebody inside has sent it to init alone.
	stale = 5 * time.Second
	// soon is the time in which two signals may become one, as signals do, in
	// init but not in kstat run.
	soon = 100 * time.Millisecond
)

func (t *tally) add() { t.n, t.last = t.n+1, time.Now() }

// take reports whether a signal that kstat run has got is among them.
func (t *tally) take() bool {
	age := time.Since(t.last)
	if age > stale {
		t.n = 0
	}
	took := t.n > 0 || age < soon
	t.n = max(0, t.n-1)
	return took
}

// settle returns when init has caught a signal that kstat run has got, if it was
// for both.
//
// The kernel sends to a process group with its list of processes locked against
// changes (kill_pgrp in kernel/signal.c), and setpgid(2) locks it for a change: when
// that is through, all of the group have got what one of them has. Then a thread
// has to take it, and Go to tell.
func settle(s os.Signal) {
	_ = unix.Setpgid(-1, 1) // there is no such process, as it finds out by then
	for end := time.Now().Add(time.Second); pending() && time.Now().Before(end); {
		time.Sleep(100 * time.Microsecond)
	}
	idle := make(chan os.Signal, 1)
	signal.Notify(idle, s)
	signal.Stop(idle) // no signal is on its way to a channel when it returns
}

// pending reports whether one of the signals waits for a thread to take it.
func pending() bool {
	text, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(text), "\nShdPnd:")
	var set uint64
	_, _ = fmt.Sscanf(after, "%x", &set)
	for _, s := range signals {
		if set&(1<<(s.(unix.Signal)-1)) != 0 {
			return true
		}
	}
	return false
}

// sameGroup reports whether a process is in init's process group.
func sameGroup(pid int) bool {
	ours, err1 := unix.Getpgid(0)
	its, err2 := unix.Getpgid(pid)
	return err1 == nil && err2 == nil && ours == its
}
