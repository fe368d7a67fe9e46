/*
 * reader - how long open + read + close of a small file takes, or one pread of it while it is open.
 *
 *   reader open|pread FILE COUNT SECONDS
 *
 * Stops after COUNT times or SECONDS, whichever comes first.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "measure.h"

int main(int argc, char **argv)
{
	char text[4096];
	int n, i, fd, once;
	uint64_t *v, end;

	once = argc == 5 && !strcmp(argv[1], "pread");
	if (argc != 5 || (!once && strcmp(argv[1], "open"))) {
		fprintf(stderr, "usage: reader open|pread FILE COUNT SECONDS\n");
		return 2;
	}
	n = atoi(argv[3]);
	v = calloc(n, sizeof(*v));
	fd = open(argv[2], O_RDONLY);
	if (fd < 0)
		die(argv[2]);
	end = now() + atof(argv[4]) * 1e9;
	for (i = 0; i < n; i++) {
		uint64_t start = now();

		if (start > end)
			break;
		if (!once)
			fd = open(argv[2], O_RDONLY);
		if (fd < 0)
			die(argv[2]);
		if (pread(fd, text, sizeof(text), 0) <= 0)
			die("reader: read");
		if (!once)
			close(fd);
		v[i] = now() - start;
	}
	print_quantiles(v, i);
	return 0;
}
