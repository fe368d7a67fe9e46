package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openSink opens a UDP socket on loopback whose filter drops everything, and answers its port. It stays open as long as
// the bench lives: packets that are still queued when a blaster ends must not find a closed port, because the ICMP
// errors would be more packets at the hook.
func openSink() (port int, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open sink: %w", err)
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}); err != nil {
		return 0, fmt.Errorf("attach the sink's filter: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, fmt.Errorf("bind sink: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("name sink: %w", err)
	}
	return name.(*unix.SockaddrInet4).Port, nil
}
