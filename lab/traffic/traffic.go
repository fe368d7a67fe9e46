package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ClosedPort returns a TCP port of a local address to which nothing is bound,
// now. It is below the range from which connecting sockets get theirs, so that
// none can be connected to itself.
func ClosedPort(addr netip.Addr) (netip.AddrPort, error) {
	const first, last = 1024, 32767 // unprivileged; net.ipv4.ip_local_port_range begins at 32768
	for port := uint16(first); port <= last; port++ {
		s, err := open(addr, unix.SOCK_STREAM, 0)
		if err != nil {
			return netip.AddrPort{}, err
		}
		dst := netip.AddrPortFrom(addr, port)
		err = errors.Join(s.bind(dst), s.close())
		if !errors.Is(err, unix.EADDRINUSE) {
			return dst, err
		}
	}
	return netip.AddrPort{}, fmt.Errorf("find a closed port of %s: %w", addr, unix.EADDRINUSE)
}

// TCPConnect connects k times to a port that is closed, and expects to be
// refused each time.
//
// POSTROUTING sees 2k TCP packets over lo, k SYN and k RST, and k over a cable.
//
// It is an error if a connection comes about, or ends otherwise, or if the SYN
// had to be sent twice, as when it is held up for a second.
func TCPConnect(dst netip.AddrPort, k int) error {
	for i := range k {
		if err := beRefused(dst); err != nil {
			return fmt.Errorf("connect %d to %s: %w", i+1, dst, err)
		}
	}
	return nil
}

func beRefused(dst netip.AddrPort) error {
	s, err := open(dst.Addr(), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.set(unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1); err != nil { // give up after seconds, not minutes
		return err
	}
	switch err := s.connect(dst); {
	case err == nil:
		return errors.New("not refused: somebody listens")
	case !errors.Is(err, unix.ECONNREFUSED):
		return err
	}
	return s.sentOnce()
}

// A Sink is a socket that takes what is sent to it, and never looks. Without
// one, the destination answers with ICMP errors. What does not fit into its
// buffer is dropped in silence.
type Sink struct {
	AddrPort netip.AddrPort // where it is; the port of a raw one is 0
	s        socket
}

// UDPSink opens a UDP socket on a port of its own choice.
func UDPSink(addr netip.Addr) (*Sink, error) {
	return sink(addr, unix.SOCK_DGRAM, 0)
}

// RawSink opens a socket that takes packets of the given protocol, as in
// /etc/protocols.
func RawSink(addr netip.Addr, protocol uint8) (*Sink, error) {
	return sink(addr, unix.SOCK_RAW, int(protocol))
}

func sink(addr netip.Addr, kind, protocol int) (*Sink, error) {
	s, err := open(addr, kind, protocol)
	if err != nil {
		return nil, fmt.Errorf("sink on %s: %w", addr, err)
	}
	err = s.bind(host(addr))
	at := host(addr)
	if err == nil && kind == unix.SOCK_DGRAM {
		at, err = s.local()
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("sink on %s: %w", addr, err)
	}
	return &Sink{at, s}, nil
}

// Close closes the socket.
func (s *Sink) Close() error { return s.s.close() }

// UDP sends k datagrams with size bytes of payload each. At the destination
// there is to be a [UDPSink], or nobody.
//
// POSTROUTING sees k UDP packets, over lo and over a cable. A datagram larger
// than the MTU is one: it is fragmented behind the hook.
func UDP(dst netip.AddrPort, k, size int) error {
	s, err := open(dst.Addr(), unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("send UDP to %s: %w", dst, err)
	}
	defer s.close()
	payload := make([]byte, size)
	for i := range k {
		if err := s.sendTo(payload, dst); err != nil {
			return fmt.Errorf("send UDP packet %d to %s: %w", i+1, dst, err)
		}
	}
	return nil
}

// Raw sends k packets of an IP protocol, as in /etc/protocols, that have
// the payload behind the IP header. Protocol 255 is refused with EINVAL: its
// payload would be a whole packet, see [RawIPv4Packet].
//
// POSTROUTING sees k packets of that protocol, over lo and over a cable. Over
// lo it is the sending socket that keeps the kernel from answering that it does
// not know the protocol. What a protocol does that the kernel knows is another
// matter: an ICMP echo request has its reply. Over a cable, the peer's answers
// do not pass our hook; a [RawSink] keeps it from answering.
func Raw(dst netip.Addr, protocol uint8, payload []byte, k int) error {
	if protocol == unix.IPPROTO_RAW {
		return fmt.Errorf("send protocol %d to %s: %w", protocol, dst, unix.EINVAL)
	}
	s, err := open(dst, unix.SOCK_RAW, int(protocol))
	if err != nil {
		return fmt.Errorf("send protocol %d to %s: %w", protocol, dst, err)
	}
	defer s.close()
	for i := range k {
		if err := s.sendTo(payload, host(dst)); err != nil {
			return fmt.Errorf("send packet %d of protocol %d to %s: %w", i+1, protocol, dst, err)
		}
	}
	return nil
}

// RawIPv4Packet sends a packet as it is, IPv4 header included (IP_HDRINCL).
//
// POSTROUTING sees 1 packet, over lo and over a cable. Over lo the receiver's
// answer passes it too, if there is one (RST, ICMP errors, and some a minute
// later, for fragments): exact figures want a cable, to the peer or to its
// Void addresses.
//
// The kernel sets the total length and the checksum, and an identification or
// source address of 0. It refuses with EINVAL a packet that is shorter than 20
// bytes or than its header says, and with EMSGSIZE one beyond the MTU
// (raw_send_hdrinc in net/ipv4/raw.c). A header length below 20 bytes is EINVAL
// on Linux 6.18; by their source, older kernels send it untouched.
func RawIPv4Packet(dst netip.Addr, packet []byte) error {
	if !dst.Is4() {
		return fmt.Errorf("send an IPv4 packet to %s: %w", dst, unix.EAFNOSUPPORT)
	}
	return sendWhole(dst, packet)
}

// RawIPv6Packet sends a packet as it is, IPv6 header included (IPV6_HDRINCL).
//
// POSTROUTING sees 1 packet, over lo and over a cable. Over lo the receiver's
// answer passes it too, if there is one (RST, ICMP errors, and some a minute
// later, for fragments): exact figures want a cable, to the peer or to its
// Void addresses.
//
// The kernel changes nothing. It refuses with EINVAL a packet that is shorter
// than 40 bytes, and with EMSGSIZE one beyond the MTU (rawv6_send_hdrinc in
// net/ipv6/raw.c).
func RawIPv6Packet(dst netip.Addr, packet []byte) error {
	if !dst.Is6() {
		return fmt.Errorf("send an IPv6 packet to %s: %w", dst, unix.EAFNOSUPPORT)
	}
	return sendWhole(dst, packet)
}

func sendWhole(dst netip.Addr, packet []byte) error {
	s, err := open(dst, unix.SOCK_RAW, unix.IPPROTO_RAW) // implies the header
	if err != nil {
		return fmt.Errorf("send a packet to %s: %w", dst, err)
	}
	defer s.close()
	if err := s.sendTo(packet, host(dst)); err != nil {
		return fmt.Errorf("send a packet of %d bytes to %s: %w", len(packet), dst, err)
	}
	return nil
}

// Ping sends k echo requests and waits for the reply to each.
//
// POSTROUTING sees 2k packets over lo, k requests and k replies, and k over a
// cable; ICMP or, to an IPv6 address, ICMPv6.
//
// It is an error, EAGAIN, if a reply does not come within 10 seconds.
func Ping(dst netip.Addr, k int) error {
	e, err := openEcho(dst)
	if err != nil {
		return fmt.Errorf("ping %s: %w", dst, err)
	}
	defer e.s.close()
	for i := range k {
		if err := e.once(uint16(i)); err != nil {
			return fmt.Errorf("ping %d of %s: %w", i+1, dst, err)
		}
	}
	return nil
}

// ICMP types, and the socket options that x/sys/unix lacks.
const (
	echoReply4, echoRequest4 = 0, 8
	echoReply6, echoRequest6 = 129, 128

	icmpFilter = 1 // ICMP_FILTER, linux/icmp.h
)

// echo is a raw ICMP socket that gets echo replies only.
type echo struct {
	s              socket
	dst            netip.Addr
	request, reply byte
	header         int // bytes before the ICMP header in what is received
}

func openEcho(dst netip.Addr) (echo, error) {
	e := echo{dst: dst, request: echoRequest4, reply: echoReply4, header: 20}
	protocol := unix.IPPROTO_ICMP
	if dst.Is6() {
		e = echo{dst: dst, request: echoRequest6, reply: echoReply6}
		protocol = unix.IPPROTO_ICMPV6
	}
	var err error
	if e.s, err = open(dst, unix.SOCK_RAW, protocol); err != nil {
		return echo{}, err
	}
	if err := e.prepare(); err != nil {
		e.s.close()
		return echo{}, err
	}
	return e, nil
}

func (e echo) prepare() error {
	wait := unix.NsecToTimeval(answerWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(int(e.s), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return fmt.Errorf("setsockopt SO_RCVTIMEO: %w", err)
	}
	if e.dst.Is4() {
		return e.s.set(unix.SOL_RAW, icmpFilter, ^(1 << e.reply))
	}
	filter := &unix.ICMPv6Filter{}
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	filter.Data[e.reply/32] &^= 1 << (e.reply % 32)
	if err := unix.SetsockoptICMPv6Filter(int(e.s), unix.SOL_ICMPV6, unix.ICMPV6_FILTER, filter); err != nil {
		return fmt.Errorf("setsockopt ICMPV6_FILTER: %w", err)
	}
	return nil
}

// once sends one request and waits for its reply. Several may be pinging at a
// time, so the identifier tells whose reply it is.
func (e echo) once(sequence uint16) error {
	id := uint16(e.s)<<8 ^ uint16(unix.Gettid())
	request := []byte{e.request, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(request[4:], id)
	binary.BigEndian.PutUint16(request[6:], sequence)
	if e.dst.Is4() { // the kernel sums ICMPv6 itself
		binary.BigEndian.PutUint16(request[2:], checksum(request))
	}
	if err := e.s.sendTo(request, host(e.dst)); err != nil {
		return err
	}
	for {
		var b [128]byte
		n, err := e.s.receive(b[:])
		if err != nil {
			return fmt.Errorf("wait for the reply: %w", err)
		}
		if n < e.header+len(request) {
			continue
		}
		reply := b[e.header:n]
		if reply[0] == e.reply && string(reply[4:8]) == string(request[4:8]) {
			return nil
		}
	}
}

// checksum is the Internet checksum of an even number of bytes (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
