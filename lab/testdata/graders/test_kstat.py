#!/usr/bin/env python3
"""Imitates a course that grades with unittest: fixtures, subprocess, os.open flags, threads."""

import os
import socket
import subprocess
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NOUT = Path("/proc/kstat/nout")
COUNTER = Path("/proc/kstat/counter")
START = Path("/sys/module/kstat/parameters/start")
IF_INET6 = Path("/proc/net/if_inet6")


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
        self.assertEqual([f.read_text() for f in (NOUT, COUNTER, START)], ["0\n", "10\n", "0\n"])

    def test_modes(self):
        for path, mode in (NOUT, 0o100444), (COUNTER, 0o100644), (START, 0o100644):
            self.assertEqual(oct(path.stat().st_mode), oct(mode), path)

    def test_nout_is_read_only(self):
        with self.assertRaises(OSError):
            NOUT.write_text("5")
        self.assertEqual(NOUT.read_text(), "0\n")

    def test_counts(self):
        START.write_text("1")
        refused(7)
        self.assertEqual(NOUT.read_text(), "10\n")
        refused(3)
        self.assertEqual(NOUT.read_text(), "20\n")

    def test_stop_keeps_and_start_goes_on(self):
        COUNTER.write_text("4")
        START.write_text("1")
        refused(3)
        START.write_text("0")
        refused(9)
        self.assertEqual(NOUT.read_text(), "4\n")
        START.write_text("1")
        refused(1)
        self.assertEqual(NOUT.read_text(), "8\n")

    def test_open_flags(self):
        for flags in os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT:
            fd = os.open(COUNTER, flags)
            self.assertEqual(os.write(fd, b"77\n"), 3)
            self.assertEqual(os.write(fd, b"8"), 1)  # a second store, not an "8" behind "77"
            os.close(fd)
            self.assertEqual(COUNTER.read_text(), "8\n")
        with self.assertRaises(FileExistsError):
            os.open(COUNTER, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    @unittest.skipUnless(IF_INET6.exists() and IF_INET6.read_text(), "no IPv6 here")
    def test_ipv6(self):
        START.write_text("1")
        refused(2, socket.AF_INET6, "::1")
        refused(3)
        self.assertEqual(NOUT.read_text(), "10\n")

    def test_threads(self):
        COUNTER.write_text("1")
        START.write_text("1")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(refused, [25] * 4))
        self.assertEqual(NOUT.read_text(), "200\n")


if __name__ == "__main__":
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(KstatTest)
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(tests)
    bad = len(result.failures) + len(result.errors)
    print(f"SCORE: {result.testsRun - bad}/{result.testsRun}")
    sys.exit(bad > 0)
