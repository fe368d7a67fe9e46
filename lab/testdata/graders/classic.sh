#!/bin/bash
# Imitates the teaching assistant who has graded this since 2016: copy and paste,
# OK and FAIL, points added up by hand.
#
# Usage: ./classic.sh     as root, where kstat.ko is

POINTS=0
MAX=14

NOUT=/proc/kstat/nout
COUNTER=/proc/kstat/counter
START=/sys/module/kstat/parameters/start

if [ $EUID -ne 0 ]; then
    echo "Please run me as root!"
    exit 2
fi

ok()   { echo "  [ OK ] $1 (+$2)"; POINTS=$((POINTS + $2)); }
fail() { echo "  [FAIL] $1"; }

# connect to a port where nobody listens: a SYN and a RST each time
connect() {
    for i in $(seq 1 $1); do
        (echo > /dev/tcp/127.0.0.1/1) 2> /dev/null
    done
}

echo "=== 1. Loading ==="
insmod kstat.ko
if [ $? -eq 0 ]; then ok "insmod" 1; else fail "insmod"; fi
if lsmod | grep -q "^kstat "; then ok "lsmod shows it" 1; else fail "lsmod shows it"; fi
if [ -r $NOUT ] && [ -w $COUNTER ] && [ -w $START ]; then ok "files are there" 1; else fail "files are there"; fi

echo "=== 2. Before the start ==="
if [ "`cat $NOUT`" = "0" ]; then ok "nout is 0" 1; else fail "nout is 0"; fi
if [ "`cat $COUNTER`" = "10" ]; then ok "counter is 10" 1; else fail "counter is 10"; fi
connect 10
if [ "`cat $NOUT`" = "0" ]; then ok "nothing is counted" 1; else fail "nothing is counted"; fi

echo "=== 3. Counting ==="
echo "1" > $START
connect 4
x=$(cat $NOUT)
if [ "$x" = "0" ]; then ok "8 packets: not yet" 1; else fail "8 packets: not yet, but nout=$x"; fi
connect 1
x=$(cat $NOUT)
if [ "$x" = "10" ]; then ok "10 packets" 2; else fail "10 packets, but nout=$x"; fi
connect 9
x=$(cat $NOUT)
if [ "$x" = "20" ]; then ok "28 packets: still 20" 1; else fail "28 packets, but nout=$x"; fi

echo "=== 4. Counter ==="
echo 2 > $COUNTER
connect 1
x=$(cat $NOUT)
if [ "$x" = "30" ]; then ok "every 2 packets" 2; else fail "every 2 packets, but nout=$x"; fi

echo "=== 5. Stop ==="
echo "0" > $START
connect 10
x=$(cat $NOUT)
if [ "$x" = "30" ]; then ok "stopped" 1; else fail "stopped, but nout=$x"; fi

echo "=== 6. Unloading ==="
rmmod kstat && [ ! -e /proc/kstat ] && ok "rmmod" 1 || fail "rmmod"

echo
echo "SCORE: $POINTS/$MAX"
[ $POINTS -eq $MAX ]
