/*
 * reader - how long open + read + close of a small file takes.
 *
 *   reader FILE COUNT SECONDS
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
	int n, i;
	uint64_t *v, end;

	if (argc != 4) {
		fprintf(stderr, "usage: reader FILE COUNT SECONDS\n");
		return 2;
	}
	n = atoi(argv[2]);
	v = calloc(n, sizeof(*v));
	end = now() + atof(argv[3]) * 1e9;
	for (i = 0; i < n; i++) {
		uint64_t start = now();
		int fd;

		if (start > end)
			break;
		fd = open(argv[1], O_RDONLY);
		if (fd < 0)
			die(argv[1]);
		if (read(fd, text, sizeof(text)) <= 0)
			die("reader: read");
		close(fd);
		v[i] = now() - start;
	}
	print_quantiles(v, i);
	return 0;
}
