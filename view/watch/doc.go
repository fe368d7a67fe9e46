// Package watch prints what a running kstatd counts as lines: one per
// publication, or one per interval.
//
// A line is one write(2). What the lines look like is in docs/contract.md.
//
// # Whoever dies
//
// A worker that dies is replaced within moments, and numbers go on: the tree
// is tried anew for as long as that takes, and what was published meanwhile is
// missed. A daemon that ends, ends the watch: [ErrEnded].
//
// Nothing here can be interrupted, as a read of the file watch cannot: it ends
// with the process.
package watch
