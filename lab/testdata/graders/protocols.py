#!/usr/bin/env python3
# Imitates a networking course: what else leaves a host, and what of it is TCP.
# Plain asserts; the first that fails ends it.

import errno
import shutil
import socket
import struct
import subprocess


def echo(text, path):
    with open(path, "w") as f:
        print(text, file=f)


def nout():
    with open("/proc/kstat/nout") as f:
        text = f.read()
    assert text.endswith("\n"), f"nout is {text!r}"
    return int(text)


def tcp(n, host="127.0.0.1"):
    """2n packets of TCP: SYN, RST."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(n):
        with socket.socket(family) as s:
            assert s.connect_ex((host, 18)) == errno.ECONNREFUSED


def udp(n):
    """n packets of UDP, each received before the next is sent."""
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        for _ in range(n):
            s.sendto(b"datagram", s.getsockname())
            s.recv(100)


def ping(n):
    """2n packets of ICMP: request, reply."""
    if shutil.which("ping"):
        # All at once: ping waits for its last reply no longer than -i, whatever -c is.
        return subprocess.run(["ping", "-n", "-q", "-l", str(n), "-i", "5", "-c", str(n), "127.0.0.1"], check=True, stdout=subprocess.DEVNULL)
    with socket.socket(type=socket.SOCK_RAW, proto=socket.IPPROTO_ICMP) as s:
        for i in range(n):
            head = struct.pack("!BBHHH", 8, 0, 0, 1, i)
            s.sendto(head[:2] + struct.pack("!H", 0xFFFF - 0x0800 - 1 - i) + head[4:], ("127.0.0.1", 0))
            while s.recv(100)[20] != 0:
                pass


def expect(what, want):
    got = nout()
    assert got == want, f"{what}: nout is {got}, not {want}"
    print(f"{what}: {got}")


subprocess.check_call(["insmod", "kstat.ko"])
try:
    echo(1, "/sys/module/kstat/parameters/start")
    tcp(3)
    udp(3)
    expect("6 TCP, 3 UDP", 0)
    udp(1)
    expect("6 TCP, 4 UDP, which is the tenth packet", 6)
    ping(4)
    expect("and 8 ICMP", 6)
    tcp(1)
    expect("and 2 TCP", 8)
    udp(50)
    ping(10)
    expect("and a lot of the others", 8)
    echo(100, "/proc/kstat/counter")
    tcp(10)
    udp(79)
    expect("99 of 100 packets", 8)
    udp(1)
    expect("100 of 100 packets", 28)
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
        host = "::1"
    except OSError:
        host = "127.0.0.1"  # a machine without IPv6
    tcp(50, host)
    expect("IPv6", 128)
finally:
    subprocess.check_call(["rmmod", "kstat"])
print("8 of 8 points")
