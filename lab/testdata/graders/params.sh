#!/bin/sh
# Imitates a kernel hacker's quick check of module_param(): parameters on the command
# line, and what the log has to say about them.

fails=0
n=0
t() { # t TEXT COMMAND...: COMMAND succeeds
	text=$1; shift
	n=$((n + 1))
	if "$@" >/dev/null 2>&1; then echo "ok $n $text"; else echo "not ok $n $text"; fails=$((fails + 1)); fi
}
reads() { [ "$(cat "$1")" = "$2" ]; }
logged() { dmesg | grep -F -- "$1"; }
timed() { ! dmesg | grep 'kstat: ' | grep -Ev '^\[ *[0-9]+\.[0-9]{6}\] '; }
silent() { ! dmesg | grep 'kstat: '; }
refused() { ! insmod kstat.ko "$@" && [ ! -e /proc/kstat ]; }
knock() { python3 -c '
import socket, sys
for _ in range(int(sys.argv[1])): socket.socket().connect_ex(("127.0.0.1", 13))' "$1"; }

start=/sys/module/kstat/parameters/start
counter=/proc/kstat/counter
nout=/proc/kstat/nout

dmesg -C
t 'dmesg -C leaves nothing' silent

t 'insmod start=1 counter=5' insmod ./kstat.ko start=1 counter=5
t 'start is 1' reads $start 1
t 'counter is 5' reads $counter 5
t 'the log has a word on it' logged kstat
t 'each line of it begins with the time' timed
dmesg -C
t 'dmesg -C clears it' silent
knock 2
t '4 packets of 5' reads $nout 0
knock 1
t '6 packets of 5' reads $nout 5
knock 7
t '20 packets of 5' reads $nout 20
t 'rmmod' rmmod kstat
t 'the log has a word on that, too' logged kstat

t 'insmod counter=1' insmod kstat.ko counter=1
t 'figures do not outlive the module' reads $nout 0
t 'start is 0' reads $start 0
t 'start can be changed' sh -c "echo 1 > $start"
knock 1
t '2 packets' reads $nout 2
rmmod kstat

t 'start=0 is the default' insmod kstat.ko start=0
t '... and counter is 10 again' reads $counter 10
rmmod kstat

dmesg -C
t 'start=yes is refused' refused start=yes
t '... and the log says why' logged "invalid for parameter \`start'"
t 'start= is refused' refused start=
t 'counter=many is refused' refused counter=many
t 'a parameter that nobody knows is ignored' insmod kstat.ko colour=red
t '... and the log says so' logged "kstat: unknown parameter 'colour' ignored"
t 'dmesg -c prints' sh -c 'dmesg -c | grep kstat'
t '... and clears' silent
rmmod kstat

echo "1..$n"
echo "SCORE: $((n - fails))/$n"
exit $fails
