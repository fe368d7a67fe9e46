/*
 * floor - a plain NFQUEUE consumer that does as little as one can, as the yardstick for kstatd.
 *
 *   floor QUEUE QUEUE_LEN COPY_RANGE RECEIVE_BUFFER [BATCH [VERDICT]]
 *
 * Raw netlink, one thread, one blocking socket: recvmmsg of up to 64 messages (or BATCH), one NFQNL_MSG_VERDICT_BATCH per receive,
 * or per VERDICT packets of it, all in one send: the kernel holds the queue's lock while it takes out what a verdict is for.
 * It looks at the protocol byte (no IPv6 extension headers) and adds one to an array: no library could do less.
 *
 * Prints "ready" when the queue is configured and "counted N tcp N udp N errors N" on SIGUSR1 and at the end (SIGTERM).
 * A packet is counted before it is accepted, so the line is exact once the queue is empty.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define BATCH 64
#define SLOT 2048 /* one message: headers and attributes (< 300 bytes) and the copy range */

static volatile sig_atomic_t want_end, want_line;
static uint64_t protocols[256], counted, errors;

static void on_signal(int sig)
{
	if (sig == SIGTERM)
		want_end = 1;
	else
		want_line = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

struct request {
	struct nlmsghdr nlh;
	struct nfgenmsg nfg;
	char attrs[64];
};

/* verdict is a whole request, as they lie in a row in one send. */
struct verdict {
	struct nlmsghdr nlh;
	struct nfgenmsg nfg;
	struct nlattr attr;
	struct nfqnl_msg_verdict_hdr accept;
};

static void begin(struct request *r, int type, int flags, uint16_t queue)
{
	memset(r, 0, sizeof(*r));
	r->nlh.nlmsg_len = NLMSG_LENGTH(sizeof(r->nfg));
	r->nlh.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type;
	r->nlh.nlmsg_flags = NLM_F_REQUEST | flags;
	r->nfg.version = NFNETLINK_V0;
	r->nfg.res_id = htons(queue);
}

static void put(struct request *r, int type, const void *data, size_t len)
{
	struct nlattr *a = (void *)((char *)r + NLMSG_ALIGN(r->nlh.nlmsg_len));

	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + len;
	memcpy((char *)a + NLA_HDRLEN, data, len);
	r->nlh.nlmsg_len = NLMSG_ALIGN(r->nlh.nlmsg_len) + NLA_ALIGN(a->nla_len);
}

/* configure sends one request and waits for its acknowledgement; nothing else arrives before the copy mode is set. */
static void configure(int fd, struct request *r, const char *what)
{
	char buf[SLOT];
	struct nlmsghdr *nlh = (void *)buf;

	if (send(fd, r, r->nlh.nlmsg_len, 0) < 0)
		die(what);
	do {
		if (recv(fd, buf, sizeof(buf), 0) < 0)
			die(what);
	} while (nlh->nlmsg_type != NLMSG_ERROR);
	errno = -((struct nlmsgerr *)NLMSG_DATA(nlh))->error;
	if (errno)
		die(what);
}

static int open_queue(uint16_t queue, uint32_t len, uint32_t range, int rcvbuf)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER), one = 1;
	struct sockaddr_nl self = { .nl_family = AF_NETLINK };
	struct timeval tick = { .tv_usec = 100000 }; /* to look at the signal flags now and then */
	struct nfqnl_msg_config_cmd bind_cmd = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_UNSPEC) };
	struct nfqnl_msg_config_params params = { .copy_range = htonl(range), .copy_mode = NFQNL_COPY_PACKET };
	uint32_t be_len = htonl(len), flags = htonl(NFQA_CFG_F_FAIL_OPEN | NFQA_CFG_F_GSO);
	struct request r;

	if (fd < 0 || bind(fd, (void *)&self, sizeof(self)))
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcvbuf, sizeof(rcvbuf)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick)) ||
	    setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one)))
		die("setsockopt");

	begin(&r, NFQNL_MSG_CONFIG, NLM_F_ACK, queue);
	put(&r, NFQA_CFG_CMD, &bind_cmd, sizeof(bind_cmd));
	configure(fd, &r, "bind queue");
	begin(&r, NFQNL_MSG_CONFIG, NLM_F_ACK, queue);
	put(&r, NFQA_CFG_FLAGS, &flags, sizeof(flags));
	put(&r, NFQA_CFG_MASK, &flags, sizeof(flags));
	put(&r, NFQA_CFG_QUEUE_MAXLEN, &be_len, sizeof(be_len));
	put(&r, NFQA_CFG_PARAMS, &params, sizeof(params));
	configure(fd, &r, "configure queue");
	return fd;
}

/* packet classifies and counts one message and returns its packet id, as it is on the wire. */
static uint32_t packet(const struct nlmsghdr *nlh)
{
	const char *p = (char *)NLMSG_DATA(nlh) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
	const char *end = (char *)nlh + nlh->nlmsg_len;
	uint32_t id = 0;
	unsigned int protocol = 255;

	while (p + NLA_HDRLEN <= end) {
		const struct nlattr *a = (void *)p;
		const unsigned char *v = (void *)(p + NLA_HDRLEN);

		if (a->nla_len < NLA_HDRLEN)
			break;
		if (a->nla_type == NFQA_PACKET_HDR)
			id = ((struct nfqnl_msg_packet_hdr *)v)->packet_id;
		else if (a->nla_type == NFQA_PAYLOAD && a->nla_len >= NLA_HDRLEN + 20)
			protocol = v[0] >> 4 == 4 ? v[9] : v[6];
		p += NLA_ALIGN(a->nla_len);
	}
	protocols[protocol]++;
	counted++;
	return id;
}

static void line(void)
{
	printf("counted %lu tcp %lu udp %lu errors %lu\n", counted, protocols[IPPROTO_TCP], protocols[IPPROTO_UDP], errors);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static char slots[BATCH][SLOT];
	static struct iovec iov[BATCH];
	static struct mmsghdr msgs[BATCH];
	const struct nfqnl_msg_verdict_hdr accept = { .verdict = htonl(NF_ACCEPT) };
	struct request verdict;
	struct sigaction act = { .sa_handler = on_signal }; /* no SA_RESTART: a signal ends the receive */
	static struct verdict verdicts[BATCH];
	int fd, batch = argc > 5 ? atoi(argv[5]) : BATCH, each = argc > 6 ? atoi(argv[6]) : BATCH;

	if (argc < 5 || argc > 7 || batch < 1 || batch > BATCH || each < 1) {
		fprintf(stderr, "usage: floor QUEUE QUEUE_LEN COPY_RANGE RECEIVE_BUFFER [BATCH [VERDICT]]\n");
		return 2;
	}
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGUSR1, &act, NULL);
	fd = open_queue(atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
	for (int i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){ slots[i], SLOT };
		msgs[i].msg_hdr = (struct msghdr){ .msg_iov = &iov[i], .msg_iovlen = 1 };
	}
	begin(&verdict, NFQNL_MSG_VERDICT_BATCH, 0, atoi(argv[1]));
	put(&verdict, NFQA_VERDICT_HDR, &accept, sizeof(accept));
	for (int i = 0; i < BATCH; i++)
		memcpy(&verdicts[i], &verdict, sizeof(verdicts[i]));
	printf("ready\n");
	fflush(stdout);

	while (!want_end) {
		int n = recvmmsg(fd, msgs, batch, MSG_WAITFORONE, NULL), seen = 0;

		if (want_line) {
			want_line = 0;
			line();
		}
		for (int i = 0; i < n; i++) {
			int left = msgs[i].msg_len;

			for (struct nlmsghdr *h = (void *)slots[i]; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
				if (h->nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET)) {
					verdicts[seen++ / each].accept.id = packet(h);
				} else {
					errors++; /* a refused verdict */
				}
			}
		}
		if (!seen)
			continue;
		if (send(fd, verdicts, (seen + each - 1) / each * sizeof(verdicts[0]), 0) < 0)
			die("send verdict");
	}
	line();
	return 0;
}
