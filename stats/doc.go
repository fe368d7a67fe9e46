// Package stats holds what is counted and when it is published.
//
//	queue readers ──Add(batch)──▶ live figures ──every N packets──▶ published figures
//	                                  │                                   │
//	                                  └────────────── Snapshot ◀──────────┘
//
// A [Table] counts packets and bytes for every protocol number in every
// address family. It keeps two sets of figures: the live ones, which move with
// each packet, and the published ones, which are replaced all together at
// exactly every N-th packet and do not move in between.
//
// The one who adds may also be the kernel: then the table is a view
// ([ViewTable]) of memory that is shared with it, and only reads.
//
// Whoever wants to see each publication has a [Watcher]: while there is one, all
// are kept in a ring (package ring), each with the figures of its own packet, and a watcher that
// is overtaken is told how many it missed.
//
// # Concurrency
//
// Several goroutines may call [Table.Add] at once; each call is one arrival of
// a whole batch, and the batches are put in one order by a mutex that is taken
// once per batch, never per packet. Readers take no lock: a [Snapshot] is
// copied under a sequence count (the kernel's seqcount: odd while a writer is
// inside, and a copy that saw it move is thrown away), so that somebody who
// reads the files at any rate does not hold up the packets.
//
// Nothing in Add allocates.
package stats
