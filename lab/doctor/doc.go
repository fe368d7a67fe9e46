// Package doctor finds out what this kernel and this user can do for kstat and
// kstatd, and how to mend what they cannot.
//
//	          ┌─ examination ─ reads /proc, lists rules, …  ─┐
//	Examine ──┼─ examination ─ …                              ├──▶ Report ──▶ text, JSON
//	          └─ examination ──▶ probe (a process of its own) ┘
//
// What can be tried is tried: a packet is sent through a queue, a program is
// attached, a tree is mounted and read, a private world is entered. That
// happens in processes of this same program, each in namespaces of its own,
// with the code that kstatd and kstat run themselves, so that an answer here is
// theirs. The host's own rules, mounts and processes are only read. A program
// that has probes calls [Main] first thing in main.
//
// Nothing is waited for without a limit. What may hang for ever, a file of a
// tree whose daemon is stopped, is touched by a process that can be left behind
// and that the kernel kills with this one (PR_SET_PDEATHSIG).
//
// One thing may change: the kernel may load the modules that it would load for
// kstatd (nf_tables, nfnetlink_queue, fuse, …).
package doctor
