package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"
)

// Echo sends UDP datagrams to itself over a local address, one after the other
// until ctx ends, each when the one before has come back, and adds to
// exchanged for each.
//
// POSTROUTING sees 1 UDP packet per exchange.
//
// It is an error if one does not come back within patience, or comes back
// changed: it was lost.
func Echo(ctx context.Context, addr netip.Addr, patience time.Duration, exchanged *atomic.Uint64) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return fmt.Errorf("echo over %s: %w", addr, err)
	}
	defer c.Close()
	buffer := make([]byte, 32)
	for n := uint64(0); ctx.Err() == nil; n++ {
		message := strconv.AppendUint(nil, n, 10)
		if _, err := c.WriteTo(message, c.LocalAddr()); err != nil {
			return fmt.Errorf("echo over %s: send datagram %d: %w", addr, n, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return fmt.Errorf("echo over %s: %w", addr, err)
		}
		got, err := c.Read(buffer)
		if err != nil {
			return fmt.Errorf("echo over %s: datagram %d did not come back: %w", addr, n, err)
		}
		if string(buffer[:got]) != string(message) {
			return fmt.Errorf("echo over %s: datagram %d came back as %q", addr, n, buffer[:got])
		}
		exchanged.Add(1)
	}
	return nil
}
