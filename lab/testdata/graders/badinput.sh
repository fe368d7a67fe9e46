#!/bin/bash
# Imitates a security-minded grader: whatever a student's sscanf lets through costs
# points. Every bad text has to fail, with the right words, and change nothing.

export LC_ALL=C
COUNTER=/proc/kstat/counter
START=/sys/module/kstat/parameters/start
passed=0

# refuses FILE WORDS TEXT...: writing TEXT to FILE fails with WORDS, whichever of them it is
refuses() {
    local file=$1 words=$2 complaints=0 text message was
    shift 2
    for text; do
        was=$(cat $file; echo .)
        if message=$( { printf '%s' "$text" > $file; } 2>&1 ); then
            printf '    %q was accepted, and it is now %s\n' "$text" "$(cat $file)"
        elif [[ $message != *": write error: $words" ]]; then
            printf '    %q: %s\n' "$text" "${message##*: }"
        elif [[ $(cat $file; echo .) != "$was" ]]; then
            printf '    %q was refused, but it is now %s\n' "$text" "$(cat $file)"
        else
            continue
        fi
        complaints=$((complaints + 1))
    done
    echo "${file##*/}: $(($# - complaints)) of $# texts refused: $words"
    [ $complaints = 0 ] && passed=$((passed + 1))
}

insmod kstat.ko || exit 1
trap 'rmmod kstat' EXIT
inval='Invalid argument'
range='Numerical result out of range'

echo 7 > $COUNTER
refuses $COUNTER "$inval" 0 00 -0 -1 -10 0x10 0X10 0b11 0o17 1.5 1,5 1e3 1_000
refuses $COUNTER "$inval" abc 10abc abc10 '10 20' '1 0' '+ 1' ++1 +-1 --1 + - ' ' $'\t' $'\n'
refuses $COUNTER "$inval" yes true on '"10"' '$((10))' '%d' ../../etc/passwd $'\xff' '٣'
refuses $COUNTER "$range" 4294967296 18446744073709551615 18446744073709551616 99999999999999999999

refuses $START "$inval" 2 -1 10 010 0x2 ' 1' '1 ' '1 0' 1.0 1a a1 0b1
refuses $START "$inval" yes Y on true + - -- ' ' $'\n' $'\xff'
refuses $START "$range" 2147483648 -2147483649 4294967295 4294967296 99999999999999999999
echo 1 > $START
refuses $START "$inval" 2 -1 no

# And it still works.
for i in 1 2 3 4; do (: < /dev/tcp/127.0.0.1/8) 2> /dev/null; done
nout=$(cat /proc/kstat/nout)
echo "nout after 8 packets of 7: $nout"
[ "$nout" = 7 ] && passed=$((passed + 1))

echo "SCORE: $passed/9"
[ $passed = 9 ]
