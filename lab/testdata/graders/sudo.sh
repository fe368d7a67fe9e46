#!/bin/bash
# Imitates a student who was told never to work as root, and puts sudo in front of
# everything to be safe. Tests himself before he hands it in.

pass=0; all=0
check() {
    all=$((all+1))
    if [ "$2" == "$3" ]
    then pass=$((pass+1)); echo "test $all $1 : passed"
    else echo "test $all $1 : FAILED (expected '$2' but got '$3')"
    fi
}

# one request to a closed port = 2 packets. curl if I have it
request() {
    if command -v curl > /dev/null
    then curl -s --noproxy '*' http://127.0.0.1:6/
    else (echo > /dev/tcp/127.0.0.1/6) 2> /dev/null
    fi
}

echo "--- kstat self test ---"
sudo dmesg -C
sudo insmod kstat.ko
check "insmod" 0 $?
check "lsmod" 1 "$(sudo lsmod | grep -c '^kstat')"
check "dmesg" yes "$(sudo dmesg | grep -q kstat && echo yes || echo no)"
check "nout" 0 "$(sudo cat /proc/kstat/nout)"

# sudo echo 1 > ... does not work because my shell opens the file!!
echo 1 | sudo tee /sys/module/kstat/parameters/start > /dev/null
check "start" 1 "$(sudo cat /sys/module/kstat/parameters/start)"

sudo sh -c 'echo 4 > /proc/kstat/counter'
check "counter" 4 "$(sudo cat /proc/kstat/counter)"

check "tee prints what it writes" 4 "$(echo 4 | sudo tee /proc/kstat/counter)"

request
check "2 packets" 0 "$(sudo cat /proc/kstat/nout)"
request
check "4 packets" 4 "$(sudo cat /proc/kstat/nout)"
for i in 1 2 3 4 5 6 7; do request; done
check "18 packets" 16 "$(sudo cat /proc/kstat/nout)"

sudo bash -c "echo 0 > /sys/module/kstat/parameters/start"
request; request; request
check "stopped" 16 "$(sudo cat /proc/kstat/nout)"

sudo sh -c 'echo banana > /proc/kstat/counter' 2> /dev/null
check "banana is an error" 1 $?
check "banana changes nothing" 4 "$(sudo cat /proc/kstat/counter)"

sudo sh -c 'exit 7'
check "sudo passes the exit code on" 7 $?

sudo -n rmmod kstat
check "rmmod" 0 $?
check "rmmod again" 1 "$(sudo rmmod kstat 2> /dev/null; echo $?)"

echo "--- $pass of $all ---"
exit $((all-pass))
