package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const (
	nearAddress = "10.77.0.1"
	farAddress  = "10.77.0.2"
)

// stream is the row of one bulk TCP stream, over loopback and over a veth pair.
func stream(ctx context.Context, l *lab) []line {
	lines := l.streamOver(ctx, "bulk TCP over lo", atLeast(0.6), "127.0.0.1")
	const over = "bulk TCP over veth"
	far, err := makeVeth()
	if err != nil {
		return append(lines, line{what: over, missing: err})
	}
	defer far.Close()
	// The descriptor is opened anew by path: Go's are close-on-exec.
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(far))
	return append(lines, l.streamOver(ctx, over, nil, farAddress, path)...)
}

// streamOver measures one way; where is the receiver's address and, if it is elsewhere, its network namespace.
func (l *lab) streamOver(ctx context.Context, what string, goal *target, where ...string) []line {
	const speed = "speed"
	args := []string{seconds(l.flooding), where[0], strconv.Itoa(trafficCPU), strconv.Itoa(consumerCPU)}
	args = append(args, where[1:]...)
	t := l.rounds(ctx, what, l.numRounds, l.peerSubjects(func(ctx context.Context, _ consumer) (sample, error) {
		got, err := output(ctx, anyCPU, l.tools.path("stream"), args...)
		if err != nil {
			return nil, err
		}
		return sample{speed: float64(got["bytes"]) * 8 / float64(got["ns"])}, nil
	}, none, floor, kstatd, kstatdBPF)...)

	lines := []line{
		t.ratio(kstatd, none, speed, what, goal),
		t.ratio(kstatdBPF, none, speed, what, atLeast(0.97)),
		t.ratio(floor, none, speed, what, nil),
		t.ratio(kstatd, floor, speed, what, nil),
	}
	for _, peer := range []string{none, floor, kstatd, kstatdBPF} {
		lines = append(lines, t.line(peer, speed, what, "Gbit/s"))
	}
	return lines
}

// makeVeth adds a veth pair whose far end is in a network namespace of its own, which lives as long as the handle.
func makeVeth() (far netns.NsHandle, err error) {
	runtime.LockOSThread()
	near, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return netns.None(), fmt.Errorf("get network namespace: %w", err)
	}
	defer near.Close()
	far, err = netns.New() // and enters it
	if err == nil {
		err = netns.Set(near)
	}
	if err != nil {
		// The thread stays locked: it ends with its goroutine rather than run others in the wrong namespace.
		return netns.None(), fmt.Errorf("make network namespace: %w", err)
	}
	runtime.UnlockOSThread()

	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "bench0"}, PeerName: "bench1", PeerNamespace: netlink.NsFd(far)}
	if err := netlink.LinkAdd(pair); err != nil {
		return far, fmt.Errorf("add veth pair: %w", err)
	}
	// Duplicate address detection and the like would be packets of nobody's. Without IPv6 there are none, nor the file.
	err = os.WriteFile("/proc/sys/net/ipv6/conf/bench0/disable_ipv6", []byte("1\n"), 0o644)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return far, fmt.Errorf("silence bench0: %w", err)
	}
	if err := configure(&netlink.Handle{}, "bench0", nearAddress); err != nil {
		return far, err
	}
	there, err := netlink.NewHandleAt(far)
	if err != nil {
		return far, fmt.Errorf("open netlink in the far namespace: %w", err)
	}
	defer there.Close()
	return far, configure(there, "bench1", farAddress)
}

func configure(h *netlink.Handle, name, address string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(address + "/24")
	if err != nil {
		return err
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", address, name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}
