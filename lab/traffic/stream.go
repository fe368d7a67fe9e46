package traffic

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Stream connects to the listener and sends it size bytes over TCP. The
// listener answers with the SHA-256 sum of what has arrived; another sum than
// that of what was sent is an error. The caller closes the listener.
//
// The listener's side can be in another namespace than the caller: it is where
// it was opened.
//
// POSTROUTING sees as many TCP packets as it takes, over lo of both
// directions; how many depends on segmentation offload and on timing. When
// Stream returns without an error, the last of them has passed the hook.
func Stream(l net.Listener, size int64) error { return StreamPaced(l, size, 0) }

// StreamPaced is [Stream] at no more than rate bytes a second; 0 means as fast
// as it goes. The kernel paces, packet by packet (SO_MAX_PACING_RATE).
func StreamPaced(l net.Listener, size int64, rate int) error {
	// The connection goes through the calling thread's namespace: a dialler
	// given an address opens its socket on the caller's goroutine.
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		return fmt.Errorf("stream to %s: %w", l.Addr(), err)
	}
	defer c.Close()
	if rate > 0 {
		if err := pace(c.(*net.TCPConn), rate); err != nil {
			return fmt.Errorf("stream to %s: %w", l.Addr(), err)
		}
	}

	answered := make(chan error, 1)
	go func() { answered <- answer(l) }()
	err = send(c.(*net.TCPConn), size)
	if err != nil {
		c.Close() // end the answer, too
	}
	if err := errors.Join(err, <-answered); err != nil {
		return fmt.Errorf("stream %d bytes to %s: %w", size, l.Addr(), err)
	}
	return nil
}

func pace(c *net.TCPConn, rate int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, rate))
	})
	return errors.Join(err, set)
}

// send writes size bytes that do not repeat, and compares sums. It reads to
// the end of file: by then the kernel has acknowledged the other side's FIN,
// and neither has anything left to send.
func send(c *net.TCPConn, size int64) error {
	sum := sha256.New()
	bytes := io.LimitReader(rand.NewChaCha8([32]byte{}), size)
	if _, err := io.Copy(io.MultiWriter(c, sum), bytes); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("read the checksum: %w", err)
	}
	return compare(got, sum)
}

func compare(got []byte, sum hash.Hash) error {
	if want := sum.Sum(nil); string(got) != string(want) {
		return fmt.Errorf("checksum of what arrived is %x, want %x", got, want)
	}
	return nil
}

// answer accepts one connection, reads it to its end, and writes the sum.
func answer(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer c.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, c); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if _, err := c.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}
