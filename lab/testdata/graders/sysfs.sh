#!/bin/bash
# Imitates somebody who has read Documentation/ABI/testing/sysfs-module and wants every
# place that knows the module to tell the same story.

mod=/sys/module/kstat
points=0

verify() { # verify TEXT GOT WANT
    if [[ $2 == "$3" ]]; then
        ((points++)); printf '%-44s %s\n' "$1" ok
    else
        printf '%-44s %s\n' "$1" "WRONG: '$2', not '$3'"
    fi
}
names() { { lsmod | sed '1d; s/ .*//'; ls /sys/module; } | sort -u; }
missing() { comm -23 - <(names) <<< "$before"; } # who was there before and is not now
column() { awk -v n="$1" '$1 == "kstat" { print $n }' /proc/modules; }
listed() { lsmod | awk -v n="$1" '$1 == "kstat" { print $n }'; }

before=$(names)
verify 'not in /proc/modules before' "$(column 1)" ''
verify 'not in /sys/module before' "$(ls -d $mod 2> /dev/null)" ''
verify 'not in /proc before' "$(ls /proc | grep -cx kstat)" 0

insmod kstat.ko

verify 'in /proc/modules, once' "$(column 1)" kstat
verify 'its size is a number' "$(column 2 | tr -d 0-9)" ''
verify 'nobody uses it' "$(column 3) $(column 4)" '0 -'
verify 'it is live' "$(column 5)" Live
verify 'lsmod has the heading' "$(lsmod | head -n 1 | tr -s ' ')" 'Module Size Used by'
verify 'lsmod and /proc/modules agree on the size' "$(listed 2)" "$(column 2)"
verify 'lsmod and /proc/modules agree on the users' "$(listed 3)" "$(column 3)"

verify 'initstate' "$(cat $mod/initstate)" live
verify 'refcnt' "$(cat $mod/refcnt)" 0
verify 'coresize is what lsmod says' "$(cat $mod/coresize)" "$(listed 2)"
verify 'version is what modinfo says' "$(cat $mod/version)" "$(modinfo -F version kstat.ko)"
verify 'holders: a directory, nobody in it' "$(stat -c %F $mod/holders) $(ls -A $mod/holders | wc -l)" 'directory 0'

verify 'one parameter' "$(ls $mod/parameters)" start
verify 'start as grep shows it' "$(grep -H . $mod/parameters/*)" "$mod/parameters/start:0"
verify 'start: mode, size, owner' "$(stat -c '%a %s %U' $mod/parameters/start)" '644 4096 root'
verify 'directories: mode, owner' "$(stat -c '%a %U' $mod $mod/parameters | uniq)" '755 root'
verify '/proc/kstat' "$(ls /proc/kstat | xargs)" 'counter nout'
verify 'nout: mode, size, owner' "$(stat -c '%a %s %U' /proc/kstat/nout)" '444 0 root'
verify 'counter: mode, size, owner' "$(stat -c '%a %s %U' /proc/kstat/counter)" '644 0 root'
verify 'the others are still there' "$(missing)" ''

echo 1 > $mod/parameters/start
verify 'still nobody uses it while it counts' "$(cat $mod/refcnt) $(column 3)" '0 0'

rmmod kstat

verify 'gone from /proc/modules' "$(column 1)" ''
verify 'gone from /sys/module' "$(ls -d $mod 2> /dev/null)" ''
verify 'gone from /proc' "$(ls /proc | grep -cx kstat)" 0
verify 'the others are still there, again' "$(missing)" ''

echo "SCORE: $points/28"
exit $((28 - points))
