/*
 * blaster - sends small UDP packets over loopback, as fast as it can or at a given rate.
 *
 *   blaster SECONDS PACKETS_PER_SECOND(0: no limit) CPU [PORT [PAYLOAD]]
 *
 * PORT is a sink: a socket whose filter drops everything, so that receiving costs next to nothing. Without PORT the blaster
 * opens one itself, which is gone when it ends: what still waits in a queue then causes ICMP errors, more packets.
 * The send buffer is huge: packets that wait in a queue are charged to it, and a sender that blocks there would never overrun one.
 * Prints "sent N ns T cpu T batch T" at the end: the time of the clock, that of the processor, and the median of the clock's
 * for one batch of 64, which whoever else is on the machine disturbs least.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/filter.h>
#include <sys/socket.h>

#include "measure.h"

#define BATCH 64
#define PAYLOAD 18 /* 46 bytes of IP, what the smallest Ethernet frame carries */
#define MAX_PAYLOAD 1472
#define MAX_BATCHES (1 << 20)

static int open_sink(struct sockaddr_in *addr)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = { 1, &drop };
	socklen_t len = sizeof(*addr);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ||
	    bind(fd, (void *)addr, len) || getsockname(fd, (void *)addr, &len))
		die("sink");
	return fd;
}

int main(int argc, char **argv)
{
	static uint64_t batches[MAX_BATCHES];
	static char payload[MAX_PAYLOAD];
	struct iovec iov = { payload, PAYLOAD };
	struct mmsghdr msgs[BATCH];
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int buffer = 512 << 20, fd = socket(AF_INET, SOCK_DGRAM, 0);
	uint64_t start, end, t, took, sent = 0;
	size_t timed = 0;
	double rate;

	if (argc < 4) {
		fprintf(stderr, "usage: blaster SECONDS PACKETS_PER_SECOND CPU [PORT [PAYLOAD]]\n");
		return 2;
	}
	rate = atof(argv[2]);
	pin(atoi(argv[3]));
	if (argc > 5)
		iov.iov_len = atoi(argv[5]);
	if (iov.iov_len > sizeof(payload))
		iov.iov_len = sizeof(payload);
	if (argc > 4)
		addr.sin_port = htons(atoi(argv[4]));
	else
		open_sink(&addr);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer)) || connect(fd, (void *)&addr, sizeof(addr)))
		die("socket");
	memset(msgs, 0, sizeof(msgs));
	for (int i = 0; i < BATCH; i++)
		msgs[i].msg_hdr = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1 };

	start = now();
	end = start + atof(argv[1]) * 1e9;
	while ((t = now()) < end) {
		int n;

		/* Pacing spins: a sleep would be coarser than a burst, and the core is the blaster's own. */
		if (rate > 0 && sent > (t - start) * rate / 1e9)
			continue;
		n = sendmmsg(fd, msgs, BATCH, 0);
		if (n == BATCH && timed < MAX_BATCHES)
			batches[timed++] = now() - t;
		if (n > 0)
			sent += n;
		else if (errno != ENOBUFS && errno != EAGAIN && errno != EPERM)
			die("sendmmsg");
	}
	took = now() - start;
	t = cpu_time();
	qsort(batches, timed, sizeof(*batches), compare_u64);
	printf("sent %lu ns %lu cpu %lu batch %lu\n", sent, took, t, timed ? batches[timed / 2] : 0);
	return 0;
}
