// Package fs is how figures look as files: one table of files, one parser of
// written values, and the mount point's life.
//
//	open(2)   a handle, with nothing in it yet
//	read(2)   at offset 0, or the first: a snapshot, rendered to text once;
//	          from then on slices of that text
//	write(2)  one store: parsed as the kernel would, applied or refused whole
//
// # Caching
//
// Files are opened with direct I/O: the kernel caches no content, passes each
// read and write on as it came, and lets a file of size 0 be read. Names and
// attributes never change, and the kernel keeps them for an hour.
//
// # Concurrency
//
// Every request runs on its own goroutine. A handle has a lock of its own, for
// reads of one descriptor by several threads; nothing else is shared but the
// [stats.Table], which readers copy without a lock. A request is too short to
// be interrupted: FUSE interrupts (a Go program that reads is sent signals by
// its own runtime) are ignored. But for a [Stream], whose reads wait for what
// comes next (watch: the next publication): an interrupt ends one with EINTR, and
// [stats.Table.Finish], or what a [Tracer] has of that kind, all of them with the
// end of the file.
//
// # Deadlock
//
// The process that serves the tree must never touch it: a request that it
// waits for may need the very goroutine that waits. Tests read the tree from a
// child process.
//
// # Errors
//
// An error becomes an errno in one place, the function errno.
package fs
