/*
 * stream - one bulk TCP stream.
 *
 *   stream SECONDS ADDRESS SENDER_CPU RECEIVER_CPU [NETNS_PATH]
 *
 * The receiver is a child that listens on ADDRESS, in the network namespace NETNS_PATH if there is one.
 * Prints "bytes N ns T": what the receiver got until the end of the stream, and the time from the first write to there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define CHUNK (128 << 10)

/* count answers the number of bytes that came until the peer ended the stream. */
static uint64_t count(int listener, char *buf)
{
	int fd = accept(listener, NULL, NULL);
	uint64_t total = 0;
	ssize_t n;

	if (fd < 0)
		die("stream: accept");
	while ((n = read(fd, buf, CHUNK)) > 0)
		total += n;
	return total;
}

int main(int argc, char **argv)
{
	static char buf[CHUNK];
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	int ready[2], done[2], fd;
	uint64_t start, end, total = 0;

	if (argc < 5) {
		fprintf(stderr, "usage: stream SECONDS ADDRESS SENDER_CPU RECEIVER_CPU [NETNS_PATH]\n");
		return 2;
	}
	inet_pton(AF_INET, argv[2], &addr.sin_addr);
	if (pipe(ready) || pipe(done))
		die("stream: pipe");
	if (fork() == 0) {
		pin(atoi(argv[4]));
		if (argc > 5 && setns(open(argv[5], O_RDONLY), CLONE_NEWNET))
			die("stream: setns");
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0 || bind(fd, (void *)&addr, len) || listen(fd, 1) || getsockname(fd, (void *)&addr, &len))
			die("stream: listen");
		if (write(ready[1], &addr, sizeof(addr)) < 0)
			die("stream: pipe");
		total = count(fd, buf);
		if (write(done[1], &total, sizeof(total)) < 0)
			die("stream: pipe");
		return 0;
	}
	/* The child holds the only other writing ends: if it dies, the reads below end. */
	close(ready[1]);
	close(done[1]);
	pin(atoi(argv[3]));
	if (read(ready[0], &addr, sizeof(addr)) != sizeof(addr))
		return 1;
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (void *)&addr, len))
		die("stream: connect");
	start = now();
	end = start + atof(argv[1]) * 1e9;
	while (now() < end)
		if (write(fd, buf, CHUNK) < 0)
			die("stream: write");
	shutdown(fd, SHUT_WR);
	if (read(done[0], &total, sizeof(total)) != sizeof(total))
		return 1;
	printf("bytes %lu ns %lu\n", total, now() - start);
	wait(NULL);
	return 0;
}
