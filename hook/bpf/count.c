//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR MIT

// The bpf engine's part in the kernel: two programs at a netfilter hook, one
// per family, tell a packet's protocol and count it; two more, which are run
// by hand, change the counter and reset the figures. docs/adr/0025 says why it
// is done in this way, and go generate ./hook builds it.

#include <linux/bpf.h>
#include <linux/netfilter.h>

#define SEC(name) __attribute__((section(name), used))
#define ksym __attribute__((section(".ksyms")))
#define core __attribute__((preserve_access_index))
#define apart static __attribute__((noinline)) // not to be copied into what is fast
#define global __attribute__((noinline)) // apart, and verified once, not for each call
#define inlined static inline __attribute__((always_inline))

// Their calls must be GPL's: the kernel functions below are for such programs.
static const char gpl[] SEC("license") = "Dual MIT/GPL";

static long (*bpf_spin_lock)(struct bpf_spin_lock *) = (void *)BPF_FUNC_spin_lock;
static long (*bpf_spin_unlock)(struct bpf_spin_lock *) = (void *)BPF_FUNC_spin_unlock;
static long (*bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_output;
static void *(*bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static void (*bpf_ringbuf_submit)(void *record, __u64 flags) = (void *)BPF_FUNC_ringbuf_submit;
static long (*bpf_dynptr_read)(void *to, __u32 size, const struct bpf_dynptr *from, __u32 offset, __u64 flags) = (void *)BPF_FUNC_dynptr_read;
static __u64 (*bpf_ktime_get_tai_ns)(void) = (void *)BPF_FUNC_ktime_get_tai_ns;

// What is needed of the kernel's structures. Where a field is, is settled when
// the program is loaded (CO-RE).

struct net_device {
	int ifindex;
	unsigned short type;
} core;

struct nf_hook_state {
	struct net_device *in, *out;
} core;

struct sk_buff {
	__u32 len, data_len;
	unsigned char *data; // the network header, at every hook
} core;

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
} core;

struct iphdr {
	__u8 tos, protocol;
} core;

struct ipv6hdr {
	__u8 nexthdr;
} core;

extern void *bpf_rdonly_cast(const void *object, __u32 type) ksym;
extern int bpf_dynptr_from_skb(struct sk_buff *skb, __u64 flags, struct bpf_dynptr *packet) ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *packet, __u32 offset, void *buffer, __u32 size) ksym;

// cast makes a pointer to bytes one to a structure of the kernel's, through
// which may be read; a fault reads 0.
#define cast(pointer, type) ((type *)bpf_rdonly_cast(pointer, __builtin_btf_type_id(*(type *)0, 1)))

// The figures: type figures of stats/table.go.

#define TCP 6
#define OTHER 256
#define CLASSES ((OTHER + 1) * 2)

enum family { IPV4, IPV6 };

struct cell {
	__u64 packets, bytes;
};

struct row {
	struct cell live, previous;
	__u64 interval;
	struct cell base;
	__u64 unused;
};

struct figures {
	__u64 layout;
	__u64 seq; // see below
	__u64 pending;
	__u64 counted;
	__u64 publications;
	__u64 interval; // number of the change that began it
	__u32 counter;
	__u32 watched; // who is to be told of what: bits
	__u64 at_reset;
	__u64 seen[16];
	struct row rows[CLASSES];
	struct row aside[CLASSES];
};

struct figures figures;

// The bits of watched: stats/feed.go has the same.
#define PUBLICATIONS 1
#define PACKETS 2

// Who may write the figures
//
// Seq is the number of changes so far, times STEP, and two flags. Whoever sets
// BUSY is the writer. Whoever finds it set does not wait, but takes the lock,
// counts its packet in rows of their own (aside), and sets CALLED, which makes
// the writer come to the lock before it leaves. A reader adds up both rows.
//
// So a writer takes no lock unless it is called, which makes it cheap; and as
// it can be interrupted, by a packet on its own CPU even, nobody waits for it
// but readers. The lock is held with interrupts off, for a few instructions.

#define ASIDE_TOLD 16

#define BUSY 1
#define CALLED 2
#define STEP 4

static struct bpf_spin_lock lock SEC(".data.private");

// What the writer has to take over from those who counted aside: what seq and
// interval will be, and what is to be added. Nothing if ops is 0.
static struct {
	__u64 ops;
	__u64 interval;
	__u64 counted;
	__u64 publications;
	__u64 tcp;

	// The publications among that, while somebody watches: what the fields
	// above were. What finds no room is missed.
	__u32 told;
	struct publication {
		__u64 number, tcp, packets, time;
	} tell[ASIDE_TOLD];
} aside SEC(".data.private");

// How many packets of TCP were ever taken over.
static __u64 taken_tcp SEC(".data.private");

// How many changes were no packet's. The number of another is that of its
// change less these: what counted is behind it.
static __u64 by_hand SEC(".data.private");

#define once(x) (*(volatile typeof(x) *)&(x))

// count_in counts a packet in a row, in an interval.
inlined void count_in(struct row *rows, __u64 interval, __u32 class, __u32 length)
{
	struct row *row = &rows[class];

	if (row->interval != interval) {
		row->previous = row->live;
		row->interval = interval;
	}
	if (!row->live.packets)
		__sync_fetch_and_or(&figures.seen[class / 64], 1ull << class % 64);
	row->live.packets++;
	row->live.bytes += length;
}

// Publications for those who watch: stats.Publication, but that time is TAI.
struct {
	int (*type)[BPF_MAP_TYPE_RINGBUF];
	int (*max_entries)[1 << 20];
} publications SEC(".maps");

// announce tells of the publication that has just been made, and of what was
// counted aside since. Nobody waits for those who watch: if the ring is full, the
// next number shows it. The caller is the writer, and has not got the lock: so
// they are in order.
apart void announce(const struct publication *since)
{
	struct row *tcp = &figures.rows[TCP << 1];
	struct publication p = {
		.number = figures.publications + since->number,
		.tcp = tcp[IPV4].live.packets - tcp[IPV4].base.packets + tcp[IPV6].live.packets - tcp[IPV6].base.packets +
		       taken_tcp + since->tcp,
		.packets = figures.counted - figures.at_reset + since->packets,
		.time = since->time,
	};

	bpf_ringbuf_output(&publications, &p, sizeof(p), 0);
}

global int announce_now(void)
{
	struct publication now = { .time = bpf_ktime_get_tai_ns() };

	announce(&now);
	return 0;
}

// add counts the packet that is change number ops. The caller is the writer, and
// has not got the lock.
inlined void add(__u64 ops, __u32 class, __u32 length)
{
	__u64 pending = ops - figures.interval;

	count_in(figures.rows, figures.interval, class, length);
	figures.counted++;
	if (pending >= figures.counter) {
		figures.interval = ops;
		figures.publications++;
		pending = 0;
		if (figures.watched & PUBLICATIONS)
			announce_now();
	}
	figures.pending = pending;
}

// put_aside counts a packet while a writer makes the change behind seq. Time is 0
// if nobody watches. The caller has the lock.
inlined void put_aside(__u64 seq, __u32 class, __u32 length, __u64 time)
{
	if (!aside.ops) {
		// The writer's own packet comes first. It may have published, or is
		// going to.
		aside.ops = seq / STEP + 1;
		aside.interval = once(figures.interval);
		if (aside.ops - aside.interval >= figures.counter)
			aside.interval = aside.ops;
	}
	count_in(figures.aside, aside.interval, class, length);
	aside.counted++;
	aside.tcp += class >> 1 == TCP;
	if (++aside.ops - aside.interval >= figures.counter) {
		__u32 told = aside.told;

		aside.interval = aside.ops;
		aside.publications++;
		if (time && told < ASIDE_TOLD) {
			aside.tell[told] = (struct publication){ aside.publications, aside.tcp, aside.counted, time };
			aside.told = told + 1;
		}
	}
}

// take_over makes what was counted aside count, and returns the number of the
// last change. The caller is the writer, whose own is change number ops, and
// has the lock.
inlined __u64 take_over(__u64 ops)
{
	if (!aside.ops)
		return ops;
	ops = aside.ops;
	figures.interval = aside.interval;
	figures.counted += aside.counted;
	figures.publications += aside.publications;
	figures.pending = ops - aside.interval;
	taken_tcp += aside.tcp;
	aside.ops = aside.counted = aside.publications = aside.tcp = aside.told = 0;
	return ops;
}

// call makes the caller, who has the lock, the writer if there is none, which
// shows in what it returns: the seq before. Else it calls the writer.
inlined __u64 call(void)
{
	return __sync_fetch_and_or(&figures.seq, BUSY | CALLED);
}

// leave ends a change. The caller has the lock.
inlined void leave(__u64 ops)
{
	__sync_lock_test_and_set(&figures.seq, ops * STEP); // a full barrier
}

// finish ends change number ops, for a writer that was called. What was counted
// aside is announced, which cannot be done with the lock held, as long as more
// comes.
global int finish(__u64 ops)
{
	bpf_spin_lock(&lock);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < ASIDE_TOLD && i < once(aside.told); i++) {
		bpf_spin_unlock(&lock);
		announce(&aside.tell[i]);
		bpf_spin_lock(&lock);
	}
	leave(take_over(ops));
	bpf_spin_unlock(&lock);
	return 0;
}

// A packet for those who trace: stats.Sighting, but that time is TAI.
#define CAPTURE 128 // as many bytes as the nfqueue engine captures

struct sighting {
	__u64 number, time;
	__u32 class, length;
	__u32 in, out; // 0 is none
	__u32 captured, unused;
	__u8 head[CAPTURE];
};

struct {
	int (*type)[BPF_MAP_TYPE_RINGBUF];
	int (*max_entries)[2 << 20];
} packets SEC(".maps");

// count counts a packet. If it has a sighting, that gets its number.
inlined int count(__u32 class, __u32 length, struct sighting *sighting)
{
	__u64 seq = once(figures.seq), time;

	if (!(seq & BUSY) && __sync_bool_compare_and_swap(&figures.seq, seq, seq | BUSY)) {
		if (sighting)
			sighting->number = seq / STEP + 1 - by_hand;
		add(seq / STEP + 1, class, length);
		if (__sync_bool_compare_and_swap(&figures.seq, seq | BUSY, seq + STEP))
			return NF_ACCEPT;
		goto called;
	}
	time = figures.watched & PUBLICATIONS ? bpf_ktime_get_tai_ns() : 0;
	bpf_spin_lock(&lock);
	seq = call();
	if (seq & BUSY) {
		put_aside(seq, class, length, time);
		if (sighting)
			sighting->number = aside.ops - by_hand;
		bpf_spin_unlock(&lock);
		return NF_ACCEPT;
	}
	if (sighting)
		sighting->number = seq / STEP + 1 - by_hand;
	bpf_spin_unlock(&lock);
	add(seq / STEP + 1, class, length);
called:
	finish(seq / STEP + 1);
	return NF_ACCEPT;
}

// What a packet is: the same answers as hook.Classify's, see there.

#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define EXTENSION 8 // the least that an extension header takes

inlined _Bool is_extension(__u8 next)
{
	switch (next) {
	case 0:  // hop-by-hop
	case 43: // routing
	case 44: // fragment
	case 51: // authentication
	case 60: // destination options
		return 1;
	}
	return 0;
}

// linear returns how many bytes of a packet are in one piece. The IP layers see
// to it that their header is, ahead of every hook.
inlined __u32 linear(const struct sk_buff *skb) { return skb->len - skb->data_len; }

inlined __u32 classify_ipv4(struct sk_buff *skb)
{
	const struct iphdr *ip = cast(skb->data, struct iphdr);

	if (linear(skb) < IPV4_HEADER)
		return OTHER;
	__u8 first = *(__u8 *)ip;
	__u32 length = (first & 0xf) * 4;
	if (first >> 4 != 4 || length < IPV4_HEADER || length > skb->len)
		return OTHER;
	return ip->protocol;
}

// behind walks over extension headers, which need not be in one piece with what
// comes before.
inlined __u32 behind(struct sk_buff *skb, __u8 next)
{
	struct {
		__u8 next, length;
		__u16 offset; // of a fragment
		__u8 more[4];
	} buffer, *header;
	__u32 end = skb->len < CAPTURE ? skb->len : CAPTURE;
	__u32 at = IPV6_HEADER;
	struct bpf_dynptr packet;

	if (bpf_dynptr_from_skb(skb, 0, &packet))
		return OTHER;
	for (int i = 0; i <= (CAPTURE - IPV6_HEADER) / EXTENSION && is_extension(next); i++) {
		__u32 length;

		if (at + EXTENSION > end)
			return OTHER;
		header = bpf_dynptr_slice(&packet, at, &buffer, sizeof(buffer));
		if (!header)
			return OTHER;
		switch (next) {
		case 51:
			if (!header->length)
				return OTHER;
			length = (header->length + 2) * 4;
			break;
		case 44:
			length = 8;
			break;
		default:
			length = (header->length + 1) * 8;
		}
		if (at + length > end)
			return OTHER;
		if (next == 44 && header->offset & __builtin_bswap16(0xfff8)) // a later one
			return is_extension(header->next) ? OTHER : header->next;
		next = header->next;
		at += length;
	}
	return is_extension(next) ? OTHER : next;
}

inlined __u32 classify_ipv6(struct sk_buff *skb)
{
	const struct ipv6hdr *ip = cast(skb->data, struct ipv6hdr);

	if (linear(skb) < IPV6_HEADER || *(__u8 *)ip >> 4 != 6)
		return OTHER;
	if (is_extension(ip->nexthdr))
		return behind(skb, ip->nexthdr);
	return ip->nexthdr;
}

// Set before the programs are loaded, which then lack the branch.
const volatile _Bool exclude_loopback;
const volatile _Bool incoming; // a packet has a device that it came in by, but none to leave by yet

#define ARPHRD_LOOPBACK 772

inlined _Bool excluded(struct bpf_nf_ctx *ctx)
{
	const struct net_device *device;

	if (!exclude_loopback)
		return 0;
	device = incoming ? ctx->state->in : ctx->state->out;
	return device && device->type == ARPHRD_LOOPBACK;
}

inlined __u32 classify(struct sk_buff *skb, enum family family)
{
	return (family == IPV6 ? classify_ipv6(skb) : classify_ipv4(skb)) << 1 | family;
}

inlined __u32 index_of(const struct net_device *device) { return device ? device->ifindex : 0; }

// see fills in a sighting, but for its number.
inlined void see(struct sighting *s, struct bpf_nf_ctx *ctx, __u32 class)
{
	// Cast, because else the verifier asks for each pointer in it how far that
	// may be trusted, by going through all names of the kernel: 3 ms each.
	const struct nf_hook_state *state = cast(ctx->state, struct nf_hook_state);
	struct sk_buff *skb = ctx->skb;
	__u32 size = skb->len;
	struct bpf_dynptr packet;

	s->time = bpf_ktime_get_tai_ns();
	s->class = class;
	s->length = size;
	s->in = index_of(state->in);
	s->out = index_of(state->out);
	if (size > CAPTURE)
		size = CAPTURE;
	asm volatile("" : "+r"(size)); // else the verifier loses what it has just learnt
	s->captured = 0;
	if (!bpf_dynptr_from_skb(skb, 0, &packet) && !bpf_dynptr_read(s->head, size, &packet, 0, 0))
		s->captured = size;
}

// count_traced counts a packet while somebody traces. It takes room for the
// sighting before it counts: so once a packet is counted, either what it looks
// like is in the ring, ahead of what comes later, or its number never will be.
apart int count_traced(struct bpf_nf_ctx *ctx, __u32 class)
{
	struct sighting *s = bpf_ringbuf_reserve(&packets, sizeof(*s), 0);

	if (!s)
		return count(class, ctx->skb->len, 0);
	see(s, ctx, class);
	count(class, s->length, s);
	bpf_ringbuf_submit(s, 0);
	return NF_ACCEPT;
}

inlined int see_packet(struct bpf_nf_ctx *ctx, enum family family)
{
	__u32 class;

	if (excluded(ctx))
		return NF_ACCEPT;
	class = classify(ctx->skb, family); // once: to verify it takes the kernel milliseconds
	if (__builtin_expect(figures.watched & PACKETS, 0))
		return count_traced(ctx, class);
	return count(class, ctx->skb->len, 0);
}

SEC("netfilter")
int count_ipv4(struct bpf_nf_ctx *ctx) { return see_packet(ctx, IPV4); }

SEC("netfilter")
int count_ipv6(struct bpf_nf_ctx *ctx) { return see_packet(ctx, IPV6); }

// What hook/bpf.go runs. They are of a type that can be given a number (the
// mark), and return AGAIN if there is a writer.

#define DONE 0
#define AGAIN 1

SEC("tc")
int set_counter(struct __sk_buff *argument)
{
	__u32 counter = argument->mark;

	bpf_spin_lock(&lock);
	__u64 seq = call(), ops = seq / STEP;
	if (seq & BUSY) {
		bpf_spin_unlock(&lock);
		return AGAIN;
	}
	figures.counter = counter;
	if (figures.pending < counter) {
		leave(ops);
		bpf_spin_unlock(&lock);
		return DONE;
	}
	by_hand++;
	figures.interval = ++ops;
	figures.publications++;
	figures.pending = 0;
	bpf_spin_unlock(&lock);
	if (figures.watched & PUBLICATIONS)
		announce_now();
	finish(ops);
	return DONE;
}

SEC("tc")
int reset(void *unused __attribute__((unused)))
{
	int done = AGAIN;

	bpf_spin_lock(&lock);
	__u64 seq = call();
	if (!(seq & BUSY)) {
		__u64 ops = seq / STEP + 1;

		// Unrolled, because at each jump back the verifier compares what it has
		// with all that it had there before: that took it 7 ms.
#pragma clang loop unroll_count(16)
		for (__u32 class = 0; class < CLASSES; class++) {
			struct row *row = &figures.rows[class], *more = &figures.aside[class];

			row->base.packets = row->live.packets + more->live.packets;
			row->base.bytes = row->live.bytes + more->live.bytes;
		}
		by_hand++;
		figures.interval = ops;
		figures.pending = 0;
		figures.at_reset = figures.counted;
		leave(ops);
		done = DONE;
	}
	bpf_spin_unlock(&lock);
	return done;
}
