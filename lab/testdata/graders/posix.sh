#!/bin/sh
# Imitates somebody who writes for dash and has no bashism to spare: set -u, test
# instead of [[, printf instead of echo -n. Traffic is perl's.

set -u
LC_ALL=C
export LC_ALL

passed=0
total=0

# is WANT GOT TEXT
is() {
	total=$((total + 1))
	if test "$1" = "$2"; then
		passed=$((passed + 1))
		printf 'pass  %s\n' "$3"
	else
		printf 'FAIL  %s: want %s, got %s\n' "$3" "$1" "$2"
	fi
}

# tcp N: N connects that are refused, 2N packets
tcp() {
	perl -MIO::Socket::INET -e '
		for (1 .. $ARGV[0]) { IO::Socket::INET->new("127.0.0.1:9") and die "somebody listens" }' "$1"
}

# udp N: N datagrams, each received
udp() {
	perl -MIO::Socket::INET -e '
		my $s = IO::Socket::INET->new(Proto => "udp", LocalAddr => "127.0.0.1") or die $@;
		for (1 .. $ARGV[0]) { $s->send("x", 0, $s->sockname) or die $!; $s->recv(my $x, 9) }' "$1"
}

nout() { cat /proc/kstat/nout; }
counter() { printf '%s' "$1" >/proc/kstat/counter; }

insmod ./kstat.ko || exit 99
trap 'rmmod kstat' EXIT
trap 'exit 99' HUP INT TERM

printf 1 >/sys/module/kstat/parameters/start
is 1 "$(cat /sys/module/kstat/parameters/start)" 'start reads what was written'

# For every N: nothing at N-1 packets, all of it at N. One packet at a time by UDP.
sum=0
for n in 1 2 7 16 25; do
	counter "$n"
	is "$n" "$(cat /proc/kstat/counter)" "counter $n reads back"
	udp $((n - 1))
	is "$sum" "$(nout)" "counter $n: unmoved after $((n - 1)) packets"
	tcp 1
	# The SYN was the N-th packet, the RST is the first of the next lot: it waits
	# for N - 1 more, and for N = 1 it is published as well.
	is $((sum + (n == 1) + 1)) "$(nout)" "counter $n: moved after $n packets"
	counter 1
	sum=$((sum + 2))
	is "$sum" "$(nout)" "counter $n: nothing is lost"
done

udp 30
is "$sum" "$(nout)" 'UDP does not count'

printf '%d of %d\n' "$passed" "$total"
test "$passed" -eq "$total"
