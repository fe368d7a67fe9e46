#!/bin/bash
# Imitates whoever has seen too many modules that leak a proc entry or a hook, and whose
# machine had to be rebooted for it: 20 times in and out, a different figure each time.

good=0
for round in {1..20}; do
    problem=
    insmod kstat.ko || problem="insmod: $?"
    [ "$(cat /proc/kstat/nout)/$(cat /proc/kstat/counter)" = 0/10 ] || problem="did not begin at zero"

    echo 1 > /sys/module/kstat/parameters/start
    echo $((round * 2)) > /proc/kstat/counter
    for ((i = 0; i < round; i++)); do
        (exec 3<> /dev/tcp/127.0.0.1/14) 2> /dev/null
    done
    seen=$(cat /proc/kstat/nout)
    [ "$seen" = $((round * 2)) ] || problem="$seen packets of $((round * 2))"

    # Odd rounds unload it while it counts.
    [ $((round % 2)) = 1 ] || echo 0 > /sys/module/kstat/parameters/start
    rmmod kstat || problem="rmmod: $?"
    for f in /proc/kstat /sys/module/kstat; do
        [ ! -e $f ] || problem="$f is still there"
    done
    (exec 3<> /dev/tcp/127.0.0.1/14) 2> /dev/null && problem="the network behaves strangely"

    if [ -n "$problem" ]; then
        echo "round $round: $problem"
    else
        good=$((good + 1))
    fi
done

left=$(lsmod | grep -c kstat)
echo "$good good rounds, $left modules left"
if [ $good = 20 ] && [ $left = 0 ]; then echo "Grade: A"; else echo "Grade: F"; exit 1; fi
