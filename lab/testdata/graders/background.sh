#!/bin/bash
# Imitates a grader who distrusts quiet machines: traffic in the background all the
# time, killed by a trap; every read under timeout; diff against what was expected.

T=$(mktemp -d) || exit 1
SCORE=0

generator() { # 150 refused connects, 300 packets
    for i in {1..150}; do
        (: > /dev/tcp/127.0.0.1/7) 2> /dev/null
    done
}

finish() {
    [ -n "$GEN" ] && kill "$GEN" 2> /dev/null
    wait
    rmmod kstat 2> /dev/null
    rm -rf "$T"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

point() { # point STATUS TEXT
    if [ "$1" = 0 ]; then SCORE=$((SCORE + 1)); echo "+1 $2"; else echo "+0 $2"; fi
}

insmod kstat.ko || exit 1
echo 1 > /sys/module/kstat/parameters/start

# 1. Under traffic: only TCP, so that every nout is a whole number of tens.
generator & GEN=$!
while kill -0 $GEN 2> /dev/null; do
    timeout 60 cat /proc/kstat/nout || echo failed
done > "$T/samples"
wait $GEN; GEN=

grep -vxE '0|[1-9][0-9]*0' "$T/samples"; point $((! $?)) "every sample is a publication"
sort -nc "$T/samples" 2>&1; point $? "nout never decreases"
[ "$(timeout 60 cat /proc/kstat/nout)" -eq 300 ]; point $? "nout arrives where it should"

# 2. After a stop nothing moves any more.
echo 0 > /sys/module/kstat/parameters/start
timeout 60 cat /proc/kstat/nout > "$T/before"
for i in {1..20}; do (: > /dev/tcp/127.0.0.1/7) 2> /dev/null; done
diff "$T/before" <(timeout 60 cat /proc/kstat/nout); point $? "final figures are final"

# 3. From scratch, exactly.
rmmod kstat && insmod kstat.ko
{
    for f in /proc/kstat/nout /proc/kstat/counter /sys/module/kstat/parameters/start; do timeout 60 cat $f; done
    echo 1 > /sys/module/kstat/parameters/start
    for job in 1 2 3 4; do
        for i in {1..6}; do (: > /dev/tcp/127.0.0.1/7) 2> /dev/null; done &
    done
    wait
    timeout 60 cat /proc/kstat/nout
    echo 8 > /proc/kstat/counter
    timeout 60 cat /proc/kstat/nout
} > "$T/got"
diff - "$T/got" << 'END'
0
10
0
40
48
END
point $? "48 packets from 4 jobs"

echo "SCORE: $SCORE/5"
[ $SCORE -eq 5 ]
