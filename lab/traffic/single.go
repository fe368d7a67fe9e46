package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Connections are TCP connections of this host with itself, over lo. Each is
// there to send one packet, later: a reset, which nobody answers. It takes no
// privilege.
type Connections struct{ pairs []pair }

// pair is the two ends of a connection.
type pair struct{ from, to socket }

// Connect opens k connections over lo.
//
// POSTROUTING sees 3k TCP packets: k times SYN, SYN and ACK, ACK.
//
// It is an error if a packet had to be sent twice.
func Connect(addr netip.Addr, k int) (_ *Connections, err error) {
	c := new(Connections)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("connect %s to itself: %w", addr, err), c.Close())
		}
	}()
	listener, err := open(addr, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	defer listener.close()
	wait := unix.NsecToTimeval(answerWait.Nanoseconds())
	err = errors.Join(
		listener.bind(host(addr)),
		unix.Listen(int(listener), 1),
		unix.SetsockoptTimeval(int(listener), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)) // accepted sockets inherit it
	if err != nil {
		return nil, err
	}
	dst, err := listener.local()
	if err != nil {
		return nil, err
	}
	for range k {
		if err := c.add(listener, dst); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// add opens one more. When accept returns, the last packet has arrived.
func (c *Connections) add(listener socket, dst netip.AddrPort) error {
	from, err := open(dst.Addr(), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	// As in beRefused. To linger for no time is to end with a reset.
	err = errors.Join(
		from.set(unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1),
		unix.SetsockoptLinger(int(from), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		from.connect(dst))
	if err != nil {
		return errors.Join(err, from.close())
	}
	to, err := accept(listener)
	if err != nil {
		return errors.Join(err, from.close())
	}
	c.pairs = append(c.pairs, pair{from, to})
	return errors.Join(from.sentOnce(), to.sentOnce())
}

func accept(listener socket) (socket, error) {
	for {
		fd, _, err := unix.Accept4(int(listener), unix.SOCK_CLOEXEC)
		if err != unix.EINTR {
			return socket(fd), os.NewSyscallError("accept4", err)
		}
	}
}

// sentOnce returns an error if a packet of a TCP connection was sent again.
func (s socket) sentOnce() error {
	info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	if info.Total_retrans > 0 {
		return fmt.Errorf("%d of its packets were sent again", info.Total_retrans)
	}
	return nil
}

// Len returns how many connections are left.
func (c *Connections) Len() int { return len(c.pairs) }

// Reset ends k connections, of which there must be that many.
//
// POSTROUTING sees k TCP packets.
func (c *Connections) Reset(k int) error {
	for range k {
		last := len(c.pairs) - 1
		p := c.pairs[last]
		c.pairs = c.pairs[:last]
		if err := p.reset(); err != nil {
			return fmt.Errorf("reset a connection: %w", err)
		}
	}
	return nil
}

// Close ends all that are left.
//
// POSTROUTING sees one TCP packet for each.
func (c *Connections) Close() error { return c.Reset(c.Len()) }

// reset waits until the other end has heard of it.
func (p pair) reset() error {
	if err := p.from.close(); err != nil {
		return errors.Join(err, p.to.close())
	}
	_, err := p.to.receive(make([]byte, 1))
	if errors.Is(err, unix.ECONNRESET) {
		err = nil
	} else if err == nil {
		err = errors.New("it was ended in another way")
	}
	return errors.Join(err, p.to.close())
}

// Datagrams sends k UDP datagrams to a socket of its own over lo, each when the
// one before has arrived.
//
// POSTROUTING sees k UDP packets, and has seen them all when it returns: so has
// whoever sees packets there.
func Datagrams(addr netip.Addr, k int) error {
	if err := datagrams(addr, k); err != nil {
		return fmt.Errorf("send UDP from %s to itself: %w", addr, err)
	}
	return nil
}

func datagrams(addr netip.Addr, k int) error {
	s, err := open(addr, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer s.close()
	wait := unix.NsecToTimeval(answerWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return fmt.Errorf("setsockopt SO_RCVTIMEO: %w", err)
	}
	if err := s.bind(host(addr)); err != nil {
		return err
	}
	self, err := s.local()
	if err != nil {
		return err
	}
	for i := range k {
		err := s.sendTo([]byte("kstat"), self)
		if err == nil {
			_, err = s.receive(make([]byte, 8))
		}
		if err != nil {
			return fmt.Errorf("packet %d: %w", i+1, err)
		}
	}
	return nil
}
