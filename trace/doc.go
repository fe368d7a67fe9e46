// Package trace shows packets to whoever reads trace_pipe or trace.pcapng.
//
//	hook ─▶ Trace.Trace ─▶ the latest packets ─▶ Reader.Next ─▶ text, like tcpdump's
//	         who counts     (kstat/stats/ring)    who reads      or pcapng
//
// Who counts a packet copies its first bytes into a ring and goes on. Whatever
// takes time, as the words for it do, is done by who reads, when he reads: a
// reader that is too slow misses packets, and is told how many.
//
// # Numbers
//
// A packet's number is its place among all that were counted. A reader sees each
// from when it was opened, or is told that it has missed it: so lines and missed
// ones add up to what was counted meanwhile, always.
//
// # Concurrency
//
// Trace and Traced are for one goroutine at a time, a Reader's methods too. All
// else may be called by any.
package trace
