// Package trace is what kstat trace does: it reads a tree's trace_pipe, or its
// trace.pcapng, and shows what a filter lets pass.
//
//	trace_pipe ──▶ lines ──▶ header ─┐
//	                                 ├─▶ Filter ─▶ columns, or blocks
//	trace.pcapng ▶ blocks ─▶ header ─┘
//
// It needs nothing but the two files, and takes packets apart by itself:
// kstat/trace costs each process milliseconds before it does anything.
package trace
