// Package metrics is how figures look to Prometheus and to a browser: an HTTP
// server in the process that counts, which reads what it shows through a
// [Source] and can change nothing without a token.
//
//	kernel ─▶ hook ─▶ stats ◀── Snapshot ── metrics ◀── GET /metrics ── Prometheus
//
// # Traffic first
//
// Packets wait while this process does something else, so whoever reaches the
// server must not be able to keep it busy or to use it up. The server holds a
// fixed number of connections; when one more arrives, it closes the one that
// has done nothing for the longest time (see gate). A handful of requests of a
// kind is answered at a time, the rest is refused. Reading a request and
// writing an answer have deadlines. A handler that panics costs its connection.
//
// A scrape takes one snapshot, which waits for no lock of the packets' path.
//
// # Counters
//
// They never decrease while the daemon lives, whatever is written to reset and
// however many workers die: a Source must see to it. Series of common protocols
// are there from the beginning, with 0, because a counter that Prometheus sees
// for the first time at 1 has not increased for it.
//
// The functions of this package may be called by any goroutine.
package metrics
