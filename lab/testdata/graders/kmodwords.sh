#!/bin/bash
# Imitates a grading system that compares what a session prints with a transcript of a
# real one, to the letter, standard error and exit statuses included.

export LC_ALL=C
dir=$(mktemp -d)
trap 'rm -rf "$dir"; rmmod kstat 2> /dev/null' EXIT

run() {
    echo "\$ $*"
    "$@"
    echo "[$?]"
}

session() {
    run rmmod kstat
    run rmmod
    run insmod
    run insmod nowhere/kstat.ko
    run insmod kstat.ko
    run insmod kstat.ko
    run insmod ./kstat.ko start=1
    run cat /sys/module/kstat/parameters/start
    run rmmod kstat
    run cat /proc/kstat/nout
    run insmod kstat.ko start=maybe
    run rmmod kstat
    run /sbin/insmod "$PWD/kstat.ko" counter=3
    run cat /proc/kstat/counter
    run /sbin/rmmod kstat.ko
    run /sbin/rmmod kstat.ko
    run modinfo nowhere/kstat.ko
}

cat > "$dir/want" << 'END'
$ rmmod kstat
rmmod: ERROR: Module kstat is not currently loaded
[1]
$ rmmod
rmmod: ERROR: missing module name.
[1]
$ insmod
insmod: ERROR: missing filename.
[1]
$ insmod nowhere/kstat.ko
insmod: ERROR: could not load module nowhere/kstat.ko: No such file or directory
[1]
$ insmod kstat.ko
[0]
$ insmod kstat.ko
insmod: ERROR: could not insert module kstat.ko: File exists
[1]
$ insmod ./kstat.ko start=1
insmod: ERROR: could not insert module ./kstat.ko: File exists
[1]
$ cat /sys/module/kstat/parameters/start
0
[0]
$ rmmod kstat
[0]
$ cat /proc/kstat/nout
cat: /proc/kstat/nout: No such file or directory
[1]
$ insmod kstat.ko start=maybe
insmod: ERROR: could not insert module kstat.ko: Invalid parameters
[1]
$ rmmod kstat
rmmod: ERROR: Module kstat is not currently loaded
[1]
$ /sbin/insmod DIR/kstat.ko counter=3
[0]
$ cat /proc/kstat/counter
3
[0]
$ /sbin/rmmod kstat.ko
[0]
$ /sbin/rmmod kstat.ko
rmmod: ERROR: Module kstat is not currently loaded
[1]
$ modinfo nowhere/kstat.ko
modinfo: ERROR: Module nowhere/kstat.ko not found.
[1]
END

session 2>&1 | sed "s|$PWD|DIR|" > "$dir/got"
diff -u --label want --label got "$dir/want" "$dir/got" && { echo "transcript: as expected, 17 commands"; echo "SCORE: 100%"; exit 0; }
echo "SCORE: 0%"
exit 1
