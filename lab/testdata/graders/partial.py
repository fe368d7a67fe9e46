#!/usr/bin/env python3
# Imitates the author of an assignment on seq_file, whose favourite mistake is a read
# handler that ignores *ppos: endless cat, or nothing after the first byte.

import os
import socket
import subprocess

NOUT, COUNTER = "/proc/kstat/nout", "/proc/kstat/counter"
START = "/sys/module/kstat/parameters/start"
score = 0


def check(what, got, want):
    global score
    if got == want:
        score += 1
        print("PASS", what)
    else:
        print("FAIL", what, "got", repr(got), "want", repr(want))


def sh(command):
    return subprocess.run(command, shell=True, stdout=subprocess.PIPE, timeout=60).stdout


def connect(n):
    for _ in range(n):
        s = socket.socket()
        s.connect_ex(("127.0.0.1", 12))
        s.close()


def bytewise(fd, size=1):
    text = b""
    while part := os.read(fd, size):
        text += part
    return text


subprocess.check_call(["insmod", "kstat.ko", "start=1"])
connect(617)  # 1234 packets, 1230 published

check("cat", sh(f"cat {NOUT}"), b"1230\n")
check("dd bs=1", sh(f"dd if={NOUT} bs=1 2>/dev/null"), b"1230\n")
check("dd bs=3", sh(f"dd if={NOUT} bs=3 2>/dev/null"), b"1230\n")
check("dd bs=1 skip=2", sh(f"dd if={NOUT} bs=1 skip=2 2>/dev/null"), b"30\n")
check("dd bs=1M count=1", sh(f"dd if={NOUT} bs=1M count=1 2>/dev/null"), b"1230\n")
check("head -c 2", sh(f"head -c 2 {NOUT}"), b"12")
check("tail -c 2", sh(f"tail -c 2 {NOUT}"), b"0\n")
check("wc", sh(f"wc -l -c < {NOUT}").split(), [b"1", b"5"])
check("read of the shell", sh(f"read -r x < {NOUT} && echo got $x"), b"got 1230\n")
check("dd bs=1 of counter", sh(f"dd if={COUNTER} bs=1 2>/dev/null"), b"10\n")
check("dd bs=1 of start", sh(f"dd if={START} bs=1 2>/dev/null"), b"1\n")
check("no end in sight", sh(f"timeout 30 cat {NOUT} {NOUT} {NOUT} | wc -c"), b"15\n")

fd = os.open(NOUT, os.O_RDONLY)
check("read(1) until it ends", bytewise(fd), b"1230\n")
check("at the end", os.read(fd, 100), b"")
check("and again", os.read(fd, 100), b"")
os.lseek(fd, 0, os.SEEK_SET)
check("lseek, read(2)", bytewise(fd, 2), b"1230\n")
check("pread of each byte", [os.pread(fd, 1, i) for i in range(6)], [b"1", b"2", b"3", b"0", b"\n", b""])
check("pread of the middle", os.pread(fd, 2, 1), b"23")
check("pread behind the end", os.pread(fd, 10, 4096), b"")

# A text that is read in parts is one text, whatever happens in between.
os.lseek(fd, 0, os.SEEK_SET)
first = os.read(fd, 2)
connect(5000 // 10)
check("the rest belongs to the beginning", first + bytewise(fd), b"1230\n")
os.lseek(fd, 0, os.SEEK_SET)
check("from the beginning it is a new one", os.read(fd, 100), b"2230\n")
os.close(fd)

subprocess.check_call(["rmmod", "kstat"])
print(f"SCORE: {score}/21")
raise SystemExit(score != 21)
