/*
 * ping - ICMP echo round trips over loopback on an otherwise idle host, with a gap between them.
 *
 *   ping COUNT GAP_MICROSECONDS CPU
 *
 * The kernel answers by itself, so no second process adds its wake-up. Request and reply both pass POSTROUTING:
 * one round trip is two packets through the hook.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/icmp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "measure.h"

#define WARM_UP 100
#define IP_HEADER 20 /* a raw socket hands it over too; loopback adds no options */

static uint16_t checksum(const void *data, size_t len)
{
	const uint16_t *p = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < len / 2; i++)
		sum += p[i];
	sum = (sum >> 16) + (sum & 0xffff);
	return ~(sum + (sum >> 16));
}

static uint64_t round_trip(int fd, uint16_t seq)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct { struct icmphdr h; char pad[56]; } echo;
	char answer[256];
	uint64_t start;

	memset(&echo, 0, sizeof(echo));
	echo.h.type = ICMP_ECHO;
	echo.h.un.echo.id = htons(getpid() & 0xffff);
	echo.h.un.echo.sequence = htons(seq);
	echo.h.checksum = checksum(&echo, sizeof(echo));
	start = now();
	if (sendto(fd, &echo, sizeof(echo), 0, (void *)&to, sizeof(to)) < 0)
		die("ping: send");
	for (;;) {
		struct icmphdr *h = (void *)(answer + IP_HEADER);

		if (recv(fd, answer, sizeof(answer), 0) < 0)
			die("ping: receive");
		if (h->un.echo.id == echo.h.un.echo.id && h->un.echo.sequence == echo.h.un.echo.sequence)
			return now() - start;
	}
}

int main(int argc, char **argv)
{
	struct icmp_filter replies = { ~(1u << ICMP_ECHOREPLY) };
	struct timeval limit = { .tv_sec = 2 };
	struct timespec gap = { 0 };
	int n, fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	uint64_t *v;

	if (argc != 4) {
		fprintf(stderr, "usage: ping COUNT GAP_MICROSECONDS CPU\n");
		return 2;
	}
	n = atoi(argv[1]);
	gap.tv_nsec = atol(argv[2]) * 1000;
	pin(atoi(argv[3]));
	if (fd < 0 || setsockopt(fd, SOL_RAW, ICMP_FILTER, &replies, sizeof(replies)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		die("ping: socket");
	v = calloc(n, sizeof(*v));
	for (int i = -WARM_UP; i < n; i++) {
		uint64_t t = round_trip(fd, i);

		if (i >= 0)
			v[i] = t;
		nanosleep(&gap, NULL);
	}
	print_quantiles(v, n);
	return 0;
}
