// Command bench measures kstatd side by side with what it could be compared to, within one run on one machine:
//
//	go run ./bench -kstatd bin/kstatd -o bench/report.md
//
// beside which it leaves its plots, report.svg and model.svg.
//
// It needs root and gcc; libfuse3's development files and pkg-config are used when they are there. It compiles its C
// programs and the Go peer into a temporary directory, then executes itself again inside fresh network and mount
// namespaces, so the host's traffic, rules and mounts are neither touched nor measured:
//
//	go run ./bench
//	└─ outer: builds floor, stock, blaster, ping, stream, reader, twin, hook.test
//	   └─ inner (own netns: lo, veth; own mount namespace): the rows, the report
//	      ├─ CPU 0: blaster, ping, the sender of a stream
//	      └─ CPU 1: the consumer of the queue: floor | stock | kstatd, one at a time
//
// Every row runs in interleaved rounds: each subject once a round, in rotating order, a fresh process each time.
// Figures are medians over the rounds; a ratio is the median of the per-round ratios, so that a slow minute of the
// machine touches both of its sides. What could not be measured is a line that says NOT MEASURED and why.
//
// # Peers
//
// "none" has no rule. The others read queue 7 behind a rule that counts before it queues (a named counter, seen):
// what the rule saw and the consumer did not count is uncounted. "C floor" (c/floor.c) is raw netlink with recvmmsg and
// batched verdicts. "go-nfqueue as it comes" (stock) is the library's README. kstatd brings a rule of its own.
//
// The engine in the kernel (kstatd bpf) has peers there: a BPF program that does nothing, which is what any program at the
// hook costs; an nftables counter, for all protocols together; a dynamic set, the same count as kstatd's; nfacct, with an
// object for each protocol that it was told of; and bpftrace. What one of them costs is seen by the sender.
//
// # Exit status
//
// 0: every chosen row was measured. Targets are reported, not asserted: timing decides nothing here.
// 1: counted + uncounted differed from the rule's counter, which is a bug at any speed.
// 2: something (other than the optional libfuse3 twin) could not be measured.
package main
