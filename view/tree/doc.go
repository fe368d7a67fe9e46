// Package tree reads and writes the daemon's file tree as any other process
// does: by opening files. It is what the views of a running kstatd share.
//
//	t, err := tree.Find("")       // or the directory that somebody named
//	stats, err := t.Stats()       // stats.json
//	p, err := t.Watch()           // watch, a publication at a time
//	err = t.Write("start", "1")
//
// # Errors
//
// Those that a person may see are one line: what happened, where, and what to
// do. A tree that is not there is [ErrAbsent], one whose server has died
// [ErrDead]; either may pass, as a kstatd is started, or replaces its worker.
//
// # Concurrency
//
// A [Tree] is a name, and may be used by any goroutine. A request to a kstatd
// that hangs waits until it is replaced.
package tree
