#!/bin/bash
# Imitates the one who keeps the course's marks in text files: measurements are lines,
# awk does the marking, sed the typography. Exits with the number of points lost.

measure() { printf '%s|%s|%s|%s\n' "$1" "$2" "$3" "$4"; } # POINTS|WHAT|GOT|WANT
nout() { sed -n '1{s/[^0-9]/?/g;p;}' /proc/kstat/nout; }
bytes() { od -An -c "$1" | sed 's/ //g'; }
tcp() { for ((; $1 - i++; )); do (: < /dev/tcp/127.0.0.1/17) 2> /dev/null; done; i=0; }
udp() { for ((; $1 - i++; )); do echo x > /dev/udp/127.0.0.1/17; done; i=0; }
datagrams() { awk '$1 == "Udp:" && $5 ~ /^[0-9]+$/ { print $5 }' /proc/net/snmp; }
i=0

experiments() {
    measure 1 'before insmod' "$(ls /proc/kstat 2> /dev/null | wc -w)" 0
    insmod kstat.ko
    measure 1 'after insmod' "$(echo $(ls /proc/kstat))" 'counter nout'
    measure 1 'nout, to the byte' "$(bytes /proc/kstat/nout)" '0\n'
    measure 1 'counter, to the byte' "$(bytes /proc/kstat/counter)" '10\n'
    measure 1 'start, to the byte' "$(bytes /sys/module/kstat/parameters/start)" '0\n'

    echo 1 > /sys/module/kstat/parameters/start
    tcp 3; measure 2 '6 packets' "$(nout)" 0
    tcp 3; measure 2 '12 packets' "$(nout)" 10
    tcp 3; measure 2 '18 packets' "$(nout)" 10
    echo 1 > /proc/kstat/counter
    measure 2 'the rest at once' "$(nout)" 18

    d=$(datagrams)
    udp 20
    # One queue, first in, first out: the datagrams are through before this SYN.
    tcp 1; measure 4 'TCP only' "$(nout)" 20
    measure 1 '... though there was UDP' "$(($(datagrams) - d))" 20

    echo 3 > /proc/kstat/counter
    tcp 9; measure 2 'by threes' "$(nout | awk '{ print $1 == 38 ? "38" : $1 }')" 38
    for how in 'echo 21 > $C' 'echo 22 >> $C' 'printf 23 > $C' 'echo 24 | tee $C > /dev/null' 'echo 25 | dd of=$C status=none' \
        'cp <(echo 26) $C' '{ echo 99; echo 27; } > $C' ': > $C' 'echo 3 > $C'; do C=/proc/kstat/counter; eval "$how"; cat $C; done |
        paste -sd ' ' | { read -r line; measure 2 'every way to write' "$line" '21 22 23 24 25 26 27 27 3'; }
    for x in {1..30}; do nout; done | sort -n | uniq -c | sed 's/^ *//' | { read -r line; measure 2 '30 readings, one value' "$line" '30 38'; }

    echo 0 > /sys/module/kstat/parameters/start
    tcp 6; measure 2 'stopped' "$(nout)" 38
    rmmod kstat
    measure 1 'after rmmod' "$(lsmod | awk '/kstat/' | wc -l)" 0
}

experiments | awk -F'|' '
    $3 == $4 { got += $1; mark = $1 }
    $3 != $4 { mark = 0; note = "  (" $3 " instead of " $4 ")" }
    { line = $2 " "; while (length(line) < 40) line = line "."; print line, mark "/" $1 note; note = "" }
    END { print "total", got "/27"; exit 27 - got }
' | sed 's/^total/SCORE:/'
exit "${PIPESTATUS[1]}"
