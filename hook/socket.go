package hook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"kstat/stats"
)

const (
	// batchLen is how many packets are taken from the socket, and answered,
	// at once.
	batchLen = 64
	// acceptLen is how many of them one verdict message accepts. The kernel
	// takes them from the queue with its lock held, for which the sender of the
	// next packet waits.
	acceptLen = 8
	// slotLen holds the longest message that a queue with our copy range
	// sends: about 20 attributes and copyRange bytes of packet.
	slotLen = 1024
	// messageTruesize is what one packet message takes of the socket's
	// receive buffer, at most; the kernel accounts for whole allocations
	// (skb->truesize).
	messageTruesize = 2048
)

// socket is the netlink socket of one queue. To go-nfqueue, which configures
// the queue through it, it is a [netlink.Socket] like any other; but packets
// end here. They are counted and accepted inside Receive, and only replies to
// requests are handed up.
//
// The descriptor is blocking and unknown to Go's network poller: a descriptor
// in the poller's epoll set wakes a second thread for every packet, on the
// sender's CPU, which halves the rate.
//
// netlink.Socket is deprecated because it is an awkward seam for tests. It is
// also the only one that lets a library configure a queue without reading from
// it.
type socket struct {
	fd     int
	portID uint32
	// sending is held while something but a verdict is sent, and to close fd,
	// whose number may then be another's.
	sending sync.Mutex
	closed  bool

	sink   func([]stats.Packet) (before uint64)
	trace  *tracing    // nil if nobody ever traces
	notify func(error) // told of an error that ends the reader, and of panics

	// awaited is the sequence number of the request whose reply Receive
	// returns; noReply if there is none. Set by Send and used by Receive,
	// which Conn.Execute calls in turn.
	awaited atomic.Uint64
	// stopping makes a Receive that awaits no reply return.
	stopping atomic.Bool
	// refused counts the errors that came back for verdicts: the packet was
	// gone already.
	refused atomic.Uint64

	// marked is the number of the last marker sent, passed that of the last
	// one that came back; each return is told through returned.
	marked, passed atomic.Uint32
	returned       chan struct{}
	// unbinding is set once go-nfqueue has asked for that, and gone closed
	// when the kernel has confirmed it, or when nothing can be received.
	unbinding atomic.Bool
	gone      chan struct{}

	// What follows belongs to the goroutine that is inside Receive.
	slots   [batchLen][slotLen]byte
	vectors [batchLen]unix.Iovec
	headers [batchLen]mmsghdr
	bodies  [batchLen][]byte // of packet messages
	packets [batchLen]stats.Packet
	seen    [batchLen]stats.Sighting
	ids     [batchLen]uint32
	// verdicts lie in a row, so that one send takes as many as there are.
	verdicts [batchLen / acceptLen][verdictLen]byte
	yielded  time.Time
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr    unix.Msghdr
	length uint32
}

const noReply = 1 << 32 // no sequence number of 32 bits

// yieldEvery is how often the reader gives way to Go's scheduler, at least
// when it is about to wait. A goroutine that has not done so for 10 ms is
// taken for one that hogs its processor: the runtime then takes that away as
// soon as a receive blocks, and the next packet pays for getting it back with
// two futex calls and the threads that they wake.
const yieldEvery = 4 * time.Millisecond

var (
	_ netlink.Socket = (*socket)(nil) //lint:ignore SA1019 see above
	// go-nfqueue interrupts its reader by a read deadline in the past.
	_ interface{ SetReadDeadline(time.Time) error } = (*socket)(nil)
)

// openSocket opens the socket for a queue of queueLen packets. sink counts a
// batch, and returns how many packets were counted before; it runs on the
// goroutine that reads the socket, and does not keep the slice.
func openSocket(queue uint16, queueLen uint32, sink func([]stats.Packet) uint64, trace *tracing, notify func(error)) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	s := &socket{
		fd:       fd,
		sink:     sink,
		trace:    trace,
		notify:   notify,
		returned: make(chan struct{}, 1),
		gone:     make(chan struct{}),
	}
	s.awaited.Store(noReply)
	for i := range s.verdicts {
		s.verdicts[i] = newVerdict(queue)
	}
	for i := range s.headers {
		s.vectors[i] = unix.Iovec{Base: &s.slots[i][0]}
		s.vectors[i].SetLen(slotLen)
		s.headers[i].hdr.Iov = &s.vectors[i]
		s.headers[i].hdr.SetIovlen(1)
	}
	if err := s.prepare(queueLen); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *socket) prepare(queueLen uint32) error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	// A connected netlink socket takes messages from the kernel only.
	if err := unix.Connect(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("connect netlink socket: %w", err)
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return fmt.Errorf("netlink socket's port: %w", err)
	}
	s.portID = name.(*unix.SockaddrNetlink).Pid

	// Room for a full queue, so that it is always the queue that overflows
	// first, where fail-open lets packets pass. In a user namespace the
	// privileged option is refused, and net.core.rmem_max is the limit; then
	// the socket may overflow first, with the same end.
	size := int(min(uint64(queueLen)*messageTruesize, 1<<30)) / 2 // the kernel doubles it
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size); err != nil {
			return fmt.Errorf("netlink receive buffer: %w", err)
		}
	}
	// Otherwise a socket that overflowed once refuses everything until it is
	// empty. What it lost shows in the rule's counter.
	if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1); err != nil {
		return fmt.Errorf("netlink no-enobufs option: %w", err)
	}
	return nil
}

// Receive counts and accepts packets until the awaited reply has come, which
// it returns, or until it is told to stop.
//
// It sits in system calls and so has a thread to itself, without being locked
// to one: a locked goroutine that gives way costs two switches of threads.
func (s *socket) Receive() ([]netlink.Message, error) {
	for {
		n, err := s.receiveBatch()
		if err != nil {
			s.notify(err)
			s.leave()
			return nil, err
		}
		if reply := s.handle(s.headers[:n]); reply != nil {
			return []netlink.Message{*reply}, nil
		}
		if s.stopping.Load() && s.awaited.Load() == noReply {
			return nil, nil
		}
	}
}

// ReceiveIter is Receive for those who iterate.
func (s *socket) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		messages, err := s.Receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range messages {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// receiveBatch fills s.headers and returns how many.
//
// It asks twice. The first call does not block, so Go's scheduler need not be
// told of it (RawSyscall), and while packets keep coming it is the only one.
func (s *socket) receiveBatch() (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd),
		uintptr(unsafe.Pointer(&s.headers[0])), batchLen, unix.MSG_DONTWAIT, 0, 0)
	for errno == unix.EAGAIN || errno == unix.EINTR || errno == unix.ENOBUFS {
		if now := time.Now(); now.Sub(s.yielded) > yieldEvery {
			s.yielded = now
			runtime.Gosched()
		}
		n, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd),
			uintptr(unsafe.Pointer(&s.headers[0])), batchLen, unix.MSG_WAITFORONE, 0, 0)
	}
	if errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", errno)
	}
	return int(n), nil
}

// handle counts and accepts the packets of a batch, and then heeds what else
// is in it. It returns the awaited reply if that was there.
func (s *socket) handle(batch []mmsghdr) (reply *netlink.Message) {
	bodies, ids := s.bodies[:0], s.ids[:0]
	for i := range batch {
		datagram := s.slots[i][:min(batch[i].length, slotLen)]
		h, body, _, _ := cut(datagram) // the kernel sends packets one by one
		if h.kind != msgPacket {
			continue
		}
		if id, ok := packetID(body); ok {
			bodies, ids = append(bodies, body), append(ids, id)
		}
	}
	if len(bodies) > 0 {
		s.count(bodies)
		s.accept(ids)
	}
	if len(bodies) == len(batch) {
		return nil
	}
	for i := range batch {
		for datagram := s.slots[i][:min(batch[i].length, slotLen)]; ; {
			h, body, rest, ok := cut(datagram)
			if !ok {
				break
			}
			if r := s.control(h, body); r != nil {
				reply = r
			}
			datagram = rest
		}
	}
	return reply
}

// count classifies packets, hands them to the sink, and shows them to who
// traces. If any of that panics, packets are accepted nevertheless.
func (s *socket) count(bodies [][]byte) {
	defer func() {
		if r := recover(); r != nil {
			s.notify(fmt.Errorf("panic while counting: %v", r))
		}
	}()
	packets := s.packets[:len(bodies)]
	for i, body := range bodies {
		packets[i] = parsePacket(body)
	}
	if s.trace == nil {
		s.sink(packets)
		return
	}
	traced := s.trace.begin()
	if traced {
		defer s.trace.mu.Unlock()
	}
	before := s.sink(packets)
	if !traced && s.trace.begin() { // somebody has just begun, maybe ahead of the count
		traced = true
		defer s.trace.mu.Unlock()
	}
	if traced {
		s.trace.show(before, bodies, packets, s.seen[:len(bodies)])
	}
}

// accept answers packets, and any before them. The kernel sends those packets
// on their way inside this call, a tenth of a millisecond for a full batch. It
// does not wait for anything, and Go's scheduler is not told of it either: on
// a busy CPU that would cost as much as the rest of the reader.
func (s *socket) accept(ids []uint32) {
	n := 0
	for ; n*acceptLen < len(ids); n++ {
		setVerdictID(&s.verdicts[n], ids[min((n+1)*acceptLen, len(ids))-1])
	}
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd),
			uintptr(unsafe.Pointer(&s.verdicts)), uintptr(n*verdictLen), 0, 0, 0)
		switch errno {
		case 0:
			return
		case unix.EINTR, unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			continue
		}
		s.notify(fmt.Errorf("verdict for packet %d: %w", ids[len(ids)-1], errno))
		return
	}
}

// control handles a message that is not a packet, and returns it if it is the
// reply that go-nfqueue waits for.
func (s *socket) control(h header, body []byte) *netlink.Message {
	if h.kind != unix.NLMSG_ERROR || len(body) < nlmsgerrLen { // an acknowledgement is error 0
		return nil
	}
	switch request := binary.NativeEndian.Uint16(body[8:]); {
	case request == unix.NLMSG_NOOP:
		s.passed.Store(h.sequence)
		select {
		case s.returned <- struct{}{}:
		default: // not fetched yet: one is enough
		}
	case request == msgConfig && uint64(h.sequence) == s.awaited.Load():
		s.awaited.Store(noReply)
		if s.unbinding.Load() {
			s.leave()
		}
		return &netlink.Message{
			Header: netlink.Header{Length: h.length, Type: netlink.Error, Sequence: h.sequence, PID: s.portID},
			Data:   slices.Clone(body),
		}
	default:
		s.refused.Add(1)
	}
	return nil
}

// Send sends a request of go-nfqueue's.
func (s *socket) Send(m netlink.Message) error {
	data, err := m.MarshalBinary()
	if err != nil {
		return err
	}
	if m.Header.Flags&netlink.Acknowledge != 0 {
		s.awaited.Store(uint64(m.Header.Sequence))
	}
	if isUnbind(m) {
		s.unbinding.Store(true)
	}
	return os.NewSyscallError("sendto", s.send(data))
}

// isUnbind recognizes the request that gives up a queue.
func isUnbind(m netlink.Message) bool {
	if m.Header.Type != msgConfig || len(m.Data) < nfgenmsgLen {
		return false
	}
	kind, value, _, ok := attribute(m.Data[nfgenmsgLen:])
	return ok && kind == attrConfigCmd && len(value) > 0 && value[0] == cmdUnbind
}

// leave closes gone. Only the goroutine that is inside Receive calls it.
func (s *socket) leave() {
	select {
	case <-s.gone:
	default:
		close(s.gone)
	}
}

// SendMessages sends requests one by one.
func (s *socket) SendMessages(messages []netlink.Message) error {
	for _, m := range messages {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (s *socket) send(data []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.closed {
		return unix.EBADF
	}
	for {
		_, err := unix.SendmsgN(s.fd, data, nil, nil, 0)
		if err != unix.EINTR {
			return err
		}
	}
}

// SetReadDeadline ends a Receive that waits for packets. go-nfqueue calls it
// with a moment that has passed, when its context ends; nobody else calls it.
func (s *socket) SetReadDeadline(time.Time) error {
	s.stopping.Store(true)
	_, err := s.mark()
	return err
}

// SetWriteDeadline does nothing: the kernel carries out a netlink request
// inside the send.
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (s *socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// Close closes the socket. Nobody may be inside Receive.
func (s *socket) Close() error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// mark sends a marker: a request that does nothing, whose acknowledgement the
// kernel puts behind everything that is in the socket already.
func (s *socket) mark() (number uint32, err error) {
	number = s.marked.Add(1)
	marker := newMarker(number)
	if err := s.send(marker[:]); err != nil {
		return 0, fmt.Errorf("send marker: %w", err)
	}
	return number, nil
}

// drain waits until everything that is in the socket when it is called has
// been counted and accepted. It gives up after the given time, with
// [os.ErrDeadlineExceeded]. One goroutine at a time may call it.
func (s *socket) drain(limit time.Duration) error {
	first, err := s.mark()
	if err != nil {
		return err
	}
	end := time.After(limit)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-s.returned:
			if int32(s.passed.Load()-first) >= 0 {
				return nil
			}
		case <-again.C: // a full receive buffer loses acknowledgements
			if _, err := s.mark(); err != nil {
				return err
			}
		case <-s.gone:
			return errors.New("drain queue: its reader has ended")
		case <-end:
			return fmt.Errorf("drain queue: %w", os.ErrDeadlineExceeded)
		}
	}
}
