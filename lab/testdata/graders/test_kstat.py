#!/usr/bin/env python3
"""Imitates a course that grades with unittest: fixtures, subprocess, os.open flags, threads."""

import os
import socket
import stat
import subprocess
import sys
import threading
import unittest

NOUT = "/proc/kstat/nout"
COUNTER = "/proc/kstat/counter"
START = "/sys/module/kstat/parameters/start"


def read(path):
    with open(path) as f:
        return f.read()


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def refused(n, family=socket.AF_INET, host="127.0.0.1"):
    """n connects to a closed port: 2n TCP packets."""
    for _ in range(n):
        with socket.socket(family) as s:
            assert s.connect_ex((host, 2)) != 0


class KstatTest(unittest.TestCase):
    def setUp(self):
        subprocess.run(["insmod", "kstat.ko"], check=True)
        self.addCleanup(subprocess.run, ["rmmod", "kstat"], check=True)

    def test_defaults(self):
        self.assertEqual([read(NOUT), read(COUNTER), read(START)], ["0\n", "10\n", "0\n"])

    def test_modes(self):
        for path, mode in (NOUT, 0o444), (COUNTER, 0o644), (START, 0o644):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode, path)
            self.assertTrue(stat.S_ISREG(os.stat(path).st_mode), path)

    def test_nout_is_read_only(self):
        with self.assertRaises(OSError):
            write(NOUT, "5")
        self.assertEqual(read(NOUT), "0\n")

    def test_counts(self):
        write(START, "1")
        refused(7)
        self.assertEqual(read(NOUT), "10\n")
        refused(3)
        self.assertEqual(read(NOUT), "20\n")

    def test_stop_keeps_and_start_goes_on(self):
        write(COUNTER, "4")
        write(START, "1")
        refused(3)
        write(START, "0")
        refused(9)
        self.assertEqual(read(NOUT), "4\n")
        write(START, "1")
        refused(1)
        self.assertEqual(read(NOUT), "8\n")

    def test_open_flags(self):
        for flags in os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT:
            fd = os.open(COUNTER, flags)
            self.assertEqual(os.write(fd, b"77\n"), 3)
            self.assertEqual(os.write(fd, b"8"), 1)  # a second store, not an "8" behind "77"
            os.close(fd)
            self.assertEqual(read(COUNTER), "8\n")
        with self.assertRaises(FileExistsError):
            os.open(COUNTER, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    @unittest.skipUnless(os.path.exists("/proc/sys/net/ipv6") and read("/proc/net/if_inet6"), "no IPv6 here")
    def test_ipv6(self):
        write(START, "1")
        refused(2, socket.AF_INET6, "::1")
        refused(3)
        self.assertEqual(read(NOUT), "10\n")

    def test_threads(self):
        write(COUNTER, "1")
        write(START, "1")
        threads = [threading.Thread(target=refused, args=(25,)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(read(NOUT), "200\n")


if __name__ == "__main__":
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(unittest.defaultTestLoader.loadTestsFromTestCase(KstatTest))
    bad = len(result.failures) + len(result.errors)
    print(f"SCORE: {result.testsRun - bad}/{result.testsRun}")
    sys.exit(bad > 0)
