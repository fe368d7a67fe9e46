package traffic

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// answerWait bounds the wait for one answer. It is met only when there is none.
const answerWait = 10 * time.Second

// A socket is a blocking one, unknown to Go's poller: with it, a packet that
// arrives wakes nobody but its reader.
type socket int

// open opens a socket of addr's family.
func open(addr netip.Addr, kind, protocol int) (socket, error) {
	family := unix.AF_INET6
	if addr.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	return socket(fd), os.NewSyscallError("socket", err)
}

func (s socket) close() error { return unix.Close(int(s)) }

func (s socket) bind(addr netip.AddrPort) error {
	return os.NewSyscallError("bind", unix.Bind(int(s), sockaddr(addr)))
}

func (s socket) connect(dst netip.AddrPort) error {
	return os.NewSyscallError("connect", unix.Connect(int(s), sockaddr(dst)))
}

func (s socket) set(level, option, value int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(s), level, option, value))
}

// sendTo sends one datagram. A port has no meaning to a raw socket.
func (s socket) sendTo(b []byte, dst netip.AddrPort) error {
	for {
		switch err := unix.Sendto(int(s), b, 0, sockaddr(dst)); err {
		case unix.EINTR:
		case unix.ENOBUFS:
			// The send buffer of a raw socket is full of packets that wait in
			// an NFQUEUE, and raw sockets do not wait by themselves.
			time.Sleep(50 * time.Microsecond)
		default:
			return os.NewSyscallError("sendto", err)
		}
	}
}

// receive reads one datagram into b, or fails with EAGAIN after answerWait.
func (s socket) receive(b []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(int(s), b, 0)
		if err != unix.EINTR {
			return n, os.NewSyscallError("recvfrom", err)
		}
	}
}

// local returns the address the socket is bound to.
func (s socket) local() (netip.AddrPort, error) {
	sa, err := unix.Getsockname(int(s))
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("local address is a %T", sa)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// host returns a destination for a raw socket.
func host(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, 0) }
