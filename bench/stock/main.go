// Command stock counts packets with go-nfqueue as its README shows it: a callback per packet and a verdict per packet.
//
//	stock QUEUE QUEUE_LEN COPY_RANGE RECEIVE_BUFFER
//
// Queue length, copy range, receive buffer and flags are those of every other consumer of the bench, so that only the
// way of reading and answering differs. It speaks like c/floor.c: "ready", then "counted N tcp N udp N errors N" on
// SIGUSR1 and at the end (SIGTERM).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stock:", err)
		os.Exit(1)
	}
}

// tally is written by go-nfqueue's reader and read by main's goroutine.
type tally struct {
	protocols [256]atomic.Uint64
	counted   atomic.Uint64
	errors    atomic.Uint64
}

func (t *tally) print() {
	fmt.Printf("counted %d tcp %d udp %d errors %d\n",
		t.counted.Load(), t.protocols[syscall.IPPROTO_TCP].Load(), t.protocols[syscall.IPPROTO_UDP].Load(), t.errors.Load())
}

// add classifies one packet by its protocol byte, without IPv6 extension headers, as c/floor.c does.
func (t *tally) add(packet []byte) {
	protocol := byte(255)
	switch {
	case len(packet) < 20:
	case packet[0]>>4 == 4:
		protocol = packet[9]
	default:
		protocol = packet[6]
	}
	t.protocols[protocol].Add(1)
	t.counted.Add(1)
}

// accept repeats a verdict that failed, which the README does not: on a loaded machine its WriteTimeout of 15 ms runs
// out before the send, and the packet would stay in the kernel's queue for good.
func (t *tally) accept(nf *nfqueue.Nfqueue, id uint32) {
	const patience = 100
	for range patience {
		if err := nf.SetVerdict(id, nfqueue.NfAccept); err == nil {
			return
		}
		t.errors.Add(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: stock QUEUE QUEUE_LEN COPY_RANGE RECEIVE_BUFFER")
	}
	var n [4]int
	for i, a := range args {
		v, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		n[i] = v
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)

	nf, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      uint16(n[0]),
		MaxQueueLen:  uint32(n[1]),
		MaxPacketLen: uint32(n[2]),
		Copymode:     nfqueue.NfQnlCopyPacket,
		Flags:        nfqueue.NfQaCfgFlagFailOpen | nfqueue.NfQaCfgFlagGSO,
		WriteTimeout: 15 * time.Millisecond,
	})
	if err != nil {
		return fmt.Errorf("open queue: %w", err)
	}
	defer nf.Close()
	if err := nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("set NETLINK_NO_ENOBUFS: %w", err)
	}
	if err := nf.Con.SetReadBuffer(n[3]); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var t tally
	err = nf.RegisterWithErrorFunc(ctx, func(a nfqueue.Attribute) int {
		if a.Payload != nil {
			t.add(*a.Payload)
		}
		if a.PacketID != nil {
			t.accept(nf, *a.PacketID)
		}
		return 0
	}, func(error) int {
		t.errors.Add(1)
		return 0
	})
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	fmt.Println("ready")
	for s := range signals {
		t.print()
		if s == syscall.SIGTERM {
			break
		}
	}
	return nil
}
