// Package hook is where packets come from: the engines that see them, and the
// function that tells a packet's protocol from its first bytes.
//
//	nfqueue   a rule queues packets, and [NFQueue] takes them from the queue,
//	          counts and accepts them
//	bpf       programs in the kernel count them, and [BPF] attaches those
//
// Outside of this package an engine is an [Engine], what it keeps for as long as
// the daemon lives is a [Holding], and nobody asks which one it is. A further
// one is a file here, and a line in the table of engines (engine.go).
//
// What follows is about nfqueue. The bpf engine has no queue to drain and no
// reader to watch: bpf/count.c and docs/adr/0025 tell its story.
//
// # States
//
//	            Start                     Stop
//	         ┌──────────▶ started ─────────────┐
//	         │               │                 ▼
//	New ─▶ stopped ◀─────────┼──────────── stopping
//	         │               │ reader died
//	         │ Run ends      ▼ Run ends
//	         └───────────▶ closed
//
// start:  bind and configure every queue, then add the rule. A packet that
// arrives at the hook after Start returned is queued.
//
// stop:  delete the rule, wait until no CPU can still be inside it (an RCU
// grace period), answer everything that is queued, read the rule's counter a
// last time, unbind, delete the table. The order matters: a queue that is
// bound and not yet configured drops packets in spite of the bypass flag, and
// unbinding a queue, or deleting a base chain, drops what is still queued
// (net/netfilter/nfnetlink_queue.c, nfqnl_flush).
//
// # The dead-man's switch
//
// While it is started, [NFQueue.Run] proves four times a second that packets
// are read and answered: it sends a marker through every queue's socket, which
// comes back behind all packets that are in there, and only then renews the
// set that the rule matches. A reader that hangs, or a process that is stopped,
// thus disarms the rule after a second, and packets pass. It also puts a rule
// back that is gone, and reports each proof to whoever watches the process.
//
// # The packet path
//
//	kernel ─▶ rule: counter, queue ─▶ NFQUEUE ─▶ recvmmsg ─▶ walk ─▶ Classify
//	                                     ▲                              │
//	                                     └── verdicts, one send ◀─── stats.Add
//
// go-nfqueue binds, configures and unbinds the queue. Its packet reader gets
// nothing to do: the netlink socket beneath it is our own (type socket), which
// takes packets in batches, in place, by blocking calls outside of Go's network
// poller, and hands up only the replies to go-nfqueue's requests.
//
// Whatever happens, a panic while counting included, the verdict is ACCEPT.
// What passed the rule and was not counted shows in [NFQueue.Uncounted],
// because the kernel counts at the rule as well.
//
// While somebody traces ([stats.Table.Traced]), packets that have been counted are
// shown to [Config.Tracer], with their first bytes, before the verdict.
package hook
