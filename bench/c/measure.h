/* What the measuring programs share: a clock, quantiles, a pin and an exit. */
#ifndef MEASURE_H
#define MEASURE_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

static inline uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* cpu_time answers how long this process has run, in nanoseconds. */
static inline uint64_t cpu_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline void pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
}

static inline int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* print_quantiles sorts v (nanoseconds) and prints one line for the bench to read. */
static inline void print_quantiles(uint64_t *v, size_t n)
{
	if (!n) {
		fprintf(stderr, "no sample\n");
		exit(1);
	}
	qsort(v, n, sizeof(*v), compare_u64);
	printf("samples %zu p50 %lu p99 %lu max %lu\n", n, v[n / 2], v[n - 1 - n / 100], v[n - 1]);
}

#endif
