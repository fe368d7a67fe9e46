#!/usr/bin/env python3
"""Imitates the author of a course on concurrency: two readers and a writer at once, under traffic.

No reader may ever see half a number, an empty file, or a nout that goes back; no store may be lost."""

import re
import socket
import subprocess
import sys
import threading

NOUT, COUNTER = "/proc/kstat/nout", "/proc/kstat/counter"
CONNECTS = 400
LAST = 7  # after the race
complaints = []
finished = threading.Event()


def complain(text):
    complaints.append(text)


def connect(n):
    for _ in range(n):
        with socket.socket() as s:
            s.connect_ex(("127.0.0.1", 16))


def reader():
    last = reads = 0
    while not finished.is_set() or reads < 50:
        with open(NOUT, "rb", buffering=0) as f:
            text = f.read(64)
        reads += 1
        if not re.fullmatch(rb"(0|[1-9][0-9]*)\n", text):
            return complain(f"nout was {text!r}")
        if int(text) < last:
            return complain(f"nout went from {last} back to {int(text)}")
        if int(text) > 2 * CONNECTS:
            return complain(f"nout was {int(text)}, more than was sent")
        last = int(text)


def writer():
    values = [b"1\n", b"23\n", b"456\n", b"7890\n"]
    rounds = 0
    while not finished.is_set() or rounds < 50:
        for value in values:
            with open(COUNTER, "wb", buffering=0) as f:
                f.write(value)
            with open(COUNTER, "rb", buffering=0) as f:
                text = f.read(64)
            if text != value:
                return complain(f"counter was {text!r} after {value!r}")
        rounds += 1


def main():
    subprocess.run(["insmod", "kstat.ko", "start=1"], check=True)
    threads = [threading.Thread(target=job) for job in (reader, reader, writer)]
    for t in threads:
        t.start()
    connect(CONNECTS)
    finished.set()
    for t in threads:
        t.join()

    connect(LAST)  # counter is 7890: these wait
    with open(COUNTER, "w") as f:
        f.write("1")  # and now they do not
    with open(NOUT) as f:
        if (text := f.read()) != f"{2 * (CONNECTS + LAST)}\n":
            complain(f"in the end nout was {text!r}")
    subprocess.run(["rmmod", "kstat"], check=True)

    for text in complaints:
        print("-5 points:", text)
    print(f"SCORE: {max(0, 20 - 5 * len(complaints))}/20")
    return bool(complaints)


sys.exit(main())
