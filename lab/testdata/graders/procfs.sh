#!/bin/bash
# Imitates a suspicious colleague: "that /proc of yours, is it a real one?" Uses what
# scripts use without thinking of it, with the module in and out.

n=0
bad=0
is() { # is TEXT GOT WANT
    n=$((n + 1))
    [ "$2" = "$3" ] && { echo "$n. $1"; return; }
    bad=$((bad + 1)); echo "$n. $1: NO, '$2' is not '$3'"
}
knock() { for ((i = 0; i < $1; i++)); do (: < /dev/tcp/127.0.0.1/15) 2> /dev/null; done; }
segments() { awk '/^Tcp:/ { if (c) print $c; for (i = 1; i <= NF; i++) if ($i == "OutSegs") c = i }' /proc/net/snmp; }
python() {
    python3 -c 'import os, sys; print(
        os.readlink("/proc/self") == str(os.getpid()), os.path.samefile("/proc/self/exe", sys.executable), os.cpu_count())'
}

all() {
    is 'ps finds this shell' "$(ps -o pid= -p $$ | tr -d ' ')" $$
    is 'ps -e finds it, once' "$(ps -e | awk -v me=$$ '$1 == me' | wc -l)" 1
    is '/proc/$$ has the same parent as bash says' "$(awk '/^PPid/ { print $2 }' /proc/$$/status)" $PPID
    sleep 5 & is 'a child has this one as its parent' "$(awk '/^PPid/ { print $2 }' /proc/$!/status)" $$
    kill $!; wait $! 2> /dev/null; is '... and gone' "$([ -d /proc/$! ] || echo gone)" gone

    exec 7< /dev/null
    is '/proc/self/fd' "$(readlink /proc/self/fd/7)" /dev/null
    is 'what Python knows from /proc and /sys' "$(python)" "True True $(getconf _NPROCESSORS_ONLN)"
    is 'a find in /proc/self' "$(find /proc/self/ -maxdepth 1 \( -name maps -o -name stat -o -name cgroup \) -type f | wc -l)" 3
    is 'find counts one thread' "$(find /proc/self/task/ -mindepth 1 -maxdepth 1 -type d | wc -l)" 1
    is '/dev/stdin' "$(echo word | cat /dev/stdin)" word
    is 'process substitution' "$(diff <(seq 1000) <(seq 1000) && echo same)" same
    is '... for writing' "$(echo up > >(tr a-z A-Z))" UP

    is 'lo is in /proc/net/dev' "$(sed -n 's/^ *\(lo\):.*/\1/p' /proc/net/dev)" lo
    is '/proc/cpuinfo and nproc' "$(($(grep -c '^processor' /proc/cpuinfo) >= $(nproc)))" 1
    is 'memory' "$(free -k | awk '/^Mem/ { print $2 }')" "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
    is 'time passes' "$( (cat /proc/uptime; sleep 0.05; cat /proc/uptime) | awk '{ passed = $1 - last; last = $1 } END { print (passed > 0 && passed < 60) }')" 1
    is '/proc is mounted' "$(awk '$2 == "/proc"' /proc/self/mounts | wc -l | sed 's/[1-9][0-9]*/yes/')" yes

    ttl=/proc/sys/net/ipv4/ip_default_ttl; was=$(cat $ttl); want=$was
    if [ -w $ttl ]; then want=77; echo 77 > $ttl; fi # a container may have it read-only
    is '/proc/sys' "$(cat $ttl)" "$want"
    [ ! -w $ttl ] || echo $was > $ttl
}

echo "--- without the module"; all
insmod kstat.ko start=1 counter=1
from=$(segments)
echo "--- with it"; all
knock 10
is 'nout and the segments of /proc/net/snmp' "$(cat /proc/kstat/nout)" "$(($(segments) - from))"
rmmod kstat

echo "SCORE: $((n - bad))/$n"
exit $bad
