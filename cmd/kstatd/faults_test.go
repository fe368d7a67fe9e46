package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/packets"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

// These are the faults of whole processes. docs/reliability.md lists the
// promises and names the test that holds each; make faults runs them at full
// length and shows their figures. A time is shown, and compared with ten times
// what is promised, because a shared machine may be slow; a number is exact.

// fullLength says that make faults runs this, and not make test.
func fullLength() bool { return os.Getenv("KSTAT_FAULTS") == "full" }

// scale returns how often to do something: fully, or enough for a test.
func scale(full, short int) int {
	if fullLength() {
		return full
	}
	return short
}

// within reports a time that something took, and fails if that was ten times
// too long.
func within(t *testing.T, what string, took, promised time.Duration) {
	t.Helper()
	t.Logf("%s: %v (promised: %v)", what, took.Round(time.Millisecond), promised)
	if took > 10*promised {
		t.Errorf("%s took %v, promised is %v", what, took, promised)
	}
}

// worker returns the process id of the daemon's worker.
func (d *running) worker() int {
	d.t.Helper()
	if workers := sandbox.Children(d.cmd.Process.Pid); len(workers) > 0 {
		return workers[0]
	}
	d.t.Fatal("there is no worker")
	return 0
}

// readable reports whether the tree can be read.
func (d *running) readable() bool {
	_, err := os.ReadFile(filepath.Join(d.dir, "nout"))
	return err == nil
}

// flood sends UDP packets to nobody, about rate of them a second, until it is
// stopped, which returns how many there were.
func flood(t *testing.T, to netip.Addr, rate int) (stop func() uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sent := make(chan uint64, 1)
	go func() {
		var n uint64
		began := time.Now()
		for ctx.Err() == nil {
			if float64(n) > time.Since(began).Seconds()*float64(rate) {
				time.Sleep(100 * time.Microsecond)
				continue
			}
			if err := traffic.UDP(netip.AddrPortFrom(to, 9), 50, 10); err != nil {
				t.Error(err)
				break
			}
			n += 50
		}
		sent <- n
	}()
	return func() uint64 {
		cancel()
		return <-sent
	}
}

// echoes exchanges datagrams over lo until it is stopped: each must come back.
func echoes(t *testing.T) (stop func() uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var exchanged atomic.Uint64
	ended := make(chan error, 1)
	go func() { ended <- traffic.Echo(ctx, lo, 10*time.Second, &exchanged) }()
	return func() uint64 {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error("the host lost a packet:", err)
		}
		return exchanged.Load()
	}
}

// transfer starts a TCP transfer over lo.
func transfer(t *testing.T, size int64) (ended chan error) {
	t.Helper()
	return transferAt(t, size, 0)
}

// transferAt starts a TCP transfer over lo of at most rate bytes a second.
func transferAt(t *testing.T, size int64, rate int) (ended chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ended = make(chan error, 1)
	go func() {
		defer listener.Close()
		ended <- traffic.StreamPaced(listener, size, rate)
	}()
	return ended
}

// TestFaultWorkerKilledAtRest: the figures outlive the worker, to the packet.
func TestFaultWorkerKilledAtRest(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--counter", "7")
		must(t, traffic.Ping(lo, 10))
		for i := range uint64(5) {
			before := d.document()
			must(t, unix.Kill(d.worker(), unix.SIGKILL))
			sandbox.Await(t, "a new worker", func() bool { return d.readable() && d.document().Restarts == i+1 })
			after := d.document()
			if after.Live != before.Live || after.NOut != before.NOut || after.Pending != before.Pending || after.Counter != 7 || after.Start != 1 || after.PID != before.PID {
				t.Fatalf("before: %+v\nafter: %+v", before, after)
			}
			must(t, traffic.Ping(lo, 3))
			if now := d.document(); now.Live.Packets != after.Live.Packets+6 || now.Pending != (after.Pending+6)%7 {
				t.Fatalf("6 packets later: live %d, pending %d; before them %d, %d", now.Live.Packets, now.Pending, after.Live.Packets, after.Pending)
			}
		}
		want := 5
		if engine == engineFlag+"bpf" {
			want = 0 // the kernel counts on
		}
		if gaps := d.document().Gaps; len(gaps) != want || want > 0 && (gaps[4].Open || gaps[4].Seconds <= 0) {
			t.Errorf("gaps %+v, want %d", gaps, want)
		}
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		sandbox.Await(t, "a new worker", d.readable)
		d.write("start", "0")
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		sandbox.Await(t, "a new worker", func() bool { return d.readable() && d.document().Restarts == 7 })
		d.expect("start", "0\n")
		if want > 0 {
			want++
		}
		if gaps := d.document().Gaps; len(gaps) != want {
			t.Errorf("gaps %+v, want %d: one that is stopped has none", gaps, want)
		}
	})
}

// TestFaultWorkerTerminated: a worker that somebody tells to end serves for a
// second what it has counted, as nobody unmounts the tree: that is a gap.
func TestFaultWorkerTerminated(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start")
		first := d.worker()
		must(t, unix.Kill(first, unix.SIGTERM))
		sandbox.Await(t, "its end", func() bool { return unix.Kill(first, 0) == unix.ESRCH })
		sandbox.Await(t, "a new worker", func() bool { return d.readable() && d.document().Restarts == 1 })
		if gaps := d.document().Gaps; len(gaps) != 1 || gaps[0].Open || gaps[0].Seconds < 0.5 {
			t.Errorf("gaps %+v, want one of about a second", gaps)
		}
	})
}

// TestFaultWorkerKilledUnderLoad: 50,000 packets a second and a TCP transfer.
func TestFaultWorkerKilledUnderLoad(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start")
		peer := sandbox.Veth(t)
		moved := transfer(t, 512<<20)
		stop := flood(t, peer.Void4, 50_000)
		sandbox.Await(t, "traffic", func() bool { return d.document().Live.Packets > 20_000 })
		before := d.document()
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		died := time.Now()
		sandbox.Await(t, "a new worker", func() bool {
			text, err := os.ReadFile(filepath.Join(d.dir, "start"))
			return err == nil && string(text) == "1\n" && d.document().Restarts == 1
		})
		within(t, "readable again", time.Since(died), time.Second)
		after := d.document()
		if after.Live.Packets < before.Live.Packets {
			t.Errorf("live went from %d to %d", before.Live.Packets, after.Live.Packets)
		}
		if engine == engineFlag+"bpf" {
			if len(after.Gaps) != 0 {
				t.Errorf("gaps %+v, and the kernel counts on", after.Gaps)
			}
		} else if len(after.Gaps) != 1 || after.Gaps[0].Open {
			t.Fatalf("gaps %+v", after.Gaps)
		} else {
			within(t, "gap", time.Duration(after.Gaps[0].Seconds*float64(time.Second)), 250*time.Millisecond)
		}
		must(t, <-moved)
		sent := stop()
		d.write("start", "0")
		end := d.document()
		if end.Published.Packets+end.Pending != end.Live.Packets {
			t.Errorf("published %d + pending %d, live %d", end.Published.Packets, end.Pending, end.Live.Packets)
		}
		var udp uint64
		for _, p := range end.Protocols {
			if p.Name == "udp" {
				udp = p.Live.Packets
			}
		}
		if udp+end.Uncounted > sent {
			t.Errorf("%d UDP packets sent, %d counted, %d uncounted", sent, udp, end.Uncounted)
		}
		t.Logf("%d UDP packets sent, %d of them before the rule was back or in the gap", sent, sent-udp-end.Uncounted)
	})
}

// TestFaultSupervisorKilled: the worker goes with it, and the rule with that.
func TestFaultSupervisorKilled(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprintf("both %v", both), func(t *testing.T) {
				dir := mountDir(t)
				d := start(t, dir, engine, "--start")
				stop := echoes(t)
				moved := transfer(t, 256<<20)
				sandbox.Await(t, "traffic", func() bool { return d.document().Live.Packets > 1000 })
				stopEchoes := stop() // a datagram in the queue is lost with it: only TCP mends that
				worker := d.worker()
				if both {
					must(t, unix.Kill(worker, unix.SIGKILL))
				}
				must(t, d.cmd.Process.Kill())
				took := sandbox.Await(t, "no rule", func() bool { return len(rules(t)) == 0 })
				within(t, "no rule", took, 100*time.Millisecond)
				sandbox.Await(t, "no process", func() bool { return errors.Is(unix.Kill(worker, 0), unix.ESRCH) })
				<-d.done
				must(t, <-moved)
				t.Logf("%d datagrams exchanged before", stopEchoes)

				next := start(t, dir, engine, "--start")
				must(t, traffic.Ping(lo, 2))
				next.expect("pending", "4\n")
				next.end(unix.SIGTERM)
				nothingLeft(t, dir)
			})
		}
	})
}

// TestFaultWorkerStopped: SIGSTOP. New connections get through after a second,
// caught ones after the watchdog has struck.
func TestFaultWorkerStopped(t *testing.T) {
	d := start(t, mountDir(t), "--start")
	closed, err := traffic.ClosedPort(lo)
	must(t, err)
	must(t, traffic.TCPConnect(closed, 3))
	peer := sandbox.Veth(t) // by now: between the two switches there is about a second
	worker := d.worker()
	stopped := time.Now()
	must(t, sandbox.Stop(worker))
	caught := make(chan time.Duration, 1)
	go func() {
		_, err := net.DialTimeout("tcp", closed.String(), 30*time.Second)
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Error("the caught connection:", err)
		}
		caught <- time.Since(stopped)
	}()
	sandbox.Await(t, "new connections", func() bool {
		_, err := net.DialTimeout("tcp", closed.String(), 50*time.Millisecond)
		return errors.Is(err, unix.ECONNREFUSED)
	})
	within(t, "new connections get through", time.Since(stopped), 1200*time.Millisecond)
	must(t, traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 1000, 10)) // which pass, and nobody counts
	inTime := unix.Kill(worker, 0) == nil                             // else the next worker, on a busy machine
	within(t, "a caught connection goes on", <-caught, 4*time.Second)
	sandbox.Await(t, "a new worker", func() bool { return d.readable() && d.document().Restarts == 1 })
	doc := d.document()
	if inTime && doc.Uncounted < 1000 || doc.Uncounted > 1200 {
		t.Errorf("uncounted %d, want the 1000 packets that passed, and some attempts to connect", doc.Uncounted)
	}
	if len(doc.Gaps) != 1 || doc.Gaps[0].Seconds < 1 {
		t.Errorf("gaps %+v, want one that begins with the last sign of life", doc.Gaps)
	}
	before := doc.Live.Packets
	must(t, traffic.TCPConnect(closed, 3))
	if now := d.document().Live.Packets; now != before+6 {
		t.Errorf("counted %d of 6 packets afterwards", now-before)
	}
}

// TestFaultWorkerStoppedInKernel: with the bpf engine SIGSTOP costs nobody
// anything. Packets pass and are counted, and the worker is replaced.
func TestFaultWorkerStoppedInKernel(t *testing.T) {
	d := start(t, mountDir(t), engineFlag+"bpf", "--start")
	worker := d.worker()
	must(t, sandbox.Stop(worker))
	began := time.Now()
	must(t, traffic.Ping(lo, 500))
	within(t, "500 pings", time.Since(began), 100*time.Millisecond)
	sandbox.Await(t, "a new worker", func() bool { return d.readable() && d.document().Restarts == 1 })
	doc := d.document()
	if doc.Live.Packets != 1000 || doc.Uncounted != 0 {
		t.Errorf("counted %d, uncounted %d of 1000", doc.Live.Packets, doc.Uncounted)
	}
	if len(doc.Gaps) != 0 {
		t.Errorf("gaps %+v, and the kernel counted", doc.Gaps)
	}
}

// TestFaultWorkerKilledInKernel: with the bpf engine no packet goes by
// uncounted, however many workers die; a stop by the last of them is one.
func TestFaultWorkerKilledInKernel(t *testing.T) {
	d := start(t, mountDir(t), engineFlag+"bpf", "--start", "--counter", "7")
	peer := sandbox.Veth(t)
	stop := flood(t, peer.Void4, 50_000)
	n := uint64(scale(50, 5))
	for i := range n {
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		sandbox.Await(t, "a new worker", func() bool { return d.readable() && d.document().Restarts == i+1 })
	}
	sent := stop()
	doc := d.document()
	if doc.Live.Packets != sent || doc.NOut != 0 || doc.Pending != sent%7 || doc.Publications != sent/7 || len(doc.Gaps) != 0 {
		t.Errorf("%d packets sent, %d counted, %d pending, %d publications, gaps %+v", sent, doc.Live.Packets, doc.Pending, doc.Publications, doc.Gaps)
	}
	d.write("start", "0")
	must(t, traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 10, 10))
	if now := d.document(); now.Live != doc.Live {
		t.Errorf("stopped, and counted %d more", now.Live.Packets-doc.Live.Packets)
	}
	if left := rules(t); len(left) > 0 {
		t.Error("stopped, and at the hook:", left)
	}
	t.Logf("%d workers died, %d packets sent and all of them counted", n, sent)
}

// TestFaultTerminatedUnderLoad: the host loses nothing. What TCP sends again
// is shown, beside what it sent again before the end: its timers are at the
// mercy of a busy machine, and at full speed on lo, where a packet is 64 KiB,
// one that passes when the rule has just gone can overtake one that is still
// being accepted.
func TestFaultTerminatedUnderLoad(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		for _, rate := range []int{20 << 20, 0} {
			t.Run(fmt.Sprintf("%d bytes per second", rate), func(t *testing.T) {
				var again, earlier, moved int
				var after, ahead time.Duration
				for range scale(20, 2) {
					dir := mountDir(t)
					d := start(t, dir, engine, "--start")
					peer, err := sandbox.NewPeer()
					must(t, err)
					stopFlood, stopEchoes := flood(t, peer.Void4, 50_000), echoes(t)
					before, began := retransmissions(t), time.Now()
					size := int64(10 << 20)
					if rate == 0 {
						size = 256 << 20
					}
					ended := transferAt(t, size, rate)
					sandbox.Await(t, "traffic", func() bool { return d.document().Live.Packets > 5000 })
					atEnd, halfway := retransmissions(t), time.Now()
					d.end(unix.SIGTERM)
					must(t, <-ended)
					ahead, after = ahead+halfway.Sub(began), after+time.Since(halfway)
					stopFlood()
					moved += int(stopEchoes())
					earlier += atEnd - before
					again += retransmissions(t) - atEnd
					nothingLeft(t, dir)
					must(t, peer.Close())
				}
				t.Logf("%d datagrams exchanged and none lost; TCP segments sent again: %d in the %.1f s from SIGTERM on, %d in the %.1f s before",
					moved, again, after.Seconds(), earlier, ahead.Seconds())
			})
		}
	})
}

// retransmissions is this namespace's counter RetransSegs.
func retransmissions(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/snmp")
	must(t, err)
	var names []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, name := range names {
			if name == "RetransSegs" {
				n, err := strconv.Atoi(f[i])
				must(t, err)
				return n
			}
		}
	}
	t.Fatal("no RetransSegs in /proc/net/snmp")
	return 0
}

// TestFaultRestarts: the daemon is started and ended at random moments under
// load. There is one mount and one table each time, and the host loses
// nothing.
func TestFaultRestarts(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		dir := mountDir(t)
		stop := echoes(t)
		random := rand.New(rand.NewPCG(1, 2))
		n := scale(100, 8)
		for range n {
			d := start(t, dir, engine, "--start")
			time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			must(t, err)
			if m, found := strings.Count(string(mounts), dir), rules(t); m != 1 || len(found) != 1 {
				t.Fatalf("%d mounts, and at the hook: %q", m, found)
			}
			d.end(unix.SIGTERM)
		}
		t.Logf("%d starts, %d datagrams exchanged meanwhile and none lost", n, stop())
		nothingLeft(t, dir)
	})
}

// TestFaultWorkerKilledAtRandom: whatever the worker was doing, the figures
// stay whole and never go back.
func TestFaultWorkerKilledAtRandom(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--counter", "3")
		peer := sandbox.Veth(t)
		stop := flood(t, peer.Void4, 50_000)
		random := rand.New(rand.NewPCG(3, 4))
		last := d.document()
		n := scale(40, 4)
		for i := range n {
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
			must(t, unix.Kill(d.worker(), unix.SIGKILL))
			sandbox.Await(t, "a new worker", func() bool { return d.readable() && d.document().Restarts == uint64(i+1) })
			now := d.document()
			if now.Live.Packets < last.Live.Packets || now.Published.Packets+now.Pending != now.Live.Packets || now.Start != 1 {
				t.Fatalf("after %d deaths: live %d (before: %d), published %d, pending %d, start %d",
					i+1, now.Live.Packets, last.Live.Packets, now.Published.Packets, now.Pending, now.Start)
			}
			if bytes := now.Live.Bytes; bytes != now.Live.Packets*38 {
				t.Fatalf("after %d deaths: %d packets of 38 bytes are %d bytes", i+1, now.Live.Packets, bytes)
			}
			last = now
		}
		stop()
		t.Logf("%d deaths, %d packets counted", n, last.Live.Packets)
	})
}

// TestFaultMixedPackets: packets of many protocols, as fast as they go.
func TestFaultMixedPackets(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--queues", "2")
		peer := sandbox.Veth(t)
		rounds, each := scale(1000, 20), 1000
		var endless []byte // a chain of headers that leads nowhere
		for _, c := range packets.IPv6Cases(peer.Own6, peer.Void6) {
			if c.Protocol == packets.Unknown {
				endless = c.Packet
			}
		}
		want := make(map[string]uint64)
		send := func(name string, n int, err error) {
			must(t, err)
			want[name] += uint64(n)
		}
		began := time.Now()
		for range rounds {
			for version, nobody := range map[string]netip.Addr{"ipv4": peer.Void4, "ipv6": peer.Void6} {
				send("udp/"+version, 2*each, traffic.UDP(netip.AddrPortFrom(nobody, 9), 2*each, 10))
				send("tcp/"+version, each, traffic.Raw(nobody, unix.IPPROTO_TCP, make([]byte, 20), each))
				send("sctp/"+version, each, traffic.Raw(nobody, unix.IPPROTO_SCTP, make([]byte, 12), each))
				send("253/"+version, each/2, traffic.Raw(nobody, 253, make([]byte, 4), each/2))
			}
			send("icmp/ipv4", each, traffic.Raw(peer.Void4, unix.IPPROTO_ICMP, make([]byte, 8), each)) // echo replies
			for range each / 100 {
				send("other/ipv6", 1, traffic.RawIPv6Packet(peer.Void6, endless))
			}
		}
		took := time.Since(began)
		d.write("start", "0")
		doc := d.document()
		var sum, missing uint64
		for _, p := range doc.Protocols {
			name := p.Name + "/" + p.Family
			sum += want[name]
			if p.Live.Packets > want[name] {
				t.Errorf("%s: counted %d of %d", name, p.Live.Packets, want[name])
			}
			missing += want[name] - p.Live.Packets
			delete(want, name)
		}
		if len(want) > 0 || missing != doc.Uncounted {
			t.Errorf("%d packets are missing, uncounted says %d; protocols without any: %v", missing, doc.Uncounted, want)
		}
		t.Logf("%d packets in %v, %d of them uncounted", sum, took.Round(time.Millisecond), doc.Uncounted)
	})
}

// TestFaultDevicesComeAndGo: devices that appear, go down and vanish under
// traffic cost nothing and leave nothing.
func TestFaultDevicesComeAndGo(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start")
		worker := fmt.Sprintf("/proc/%d/fd", d.worker())
		open := func() int {
			entries, err := os.ReadDir(worker)
			must(t, err)
			return len(entries)
		}
		d.document() // go-fuse opens some at the first request
		before := open()
		var sent uint64
		n := scale(1000, 30)
		for range n {
			peer, err := sandbox.NewPeer()
			must(t, err)
			must(t, traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), 5, 10))
			sent += 5
			must(t, peer.Close()) // with packets perhaps in the queue
		}
		d.write("start", "0")
		doc := d.document()
		if doc.Live.Packets+doc.Uncounted != sent || doc.Restarts != 0 {
			t.Errorf("%d packets sent, %d counted, %d uncounted, %d restarts; the log:\n%s", sent, doc.Live.Packets, doc.Uncounted, doc.Restarts, d.log.String())
		}
		// Some are open for a moment, and the readers of bpf's rings, three each, may have come after the start.
		sandbox.Await(t, "no descriptor more for each device", func() bool { return open() < before+n })
		t.Logf("%d devices came and went, %d packets", n, sent)
	})
}

// TestFaultReaders: somebody who holds a file for ever, one who reads byte by
// byte, and thousands of opens a second do not change what is counted.
func TestFaultReaders(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--counter", "1")
		held, err := os.Open(filepath.Join(d.dir, "stats.json"))
		must(t, err)
		defer held.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var sent uint64
		opens := make(chan int, 2)
		for range 2 {
			go func() {
				n := 0
				for ; ctx.Err() == nil; n++ {
					f, err := os.Open(filepath.Join(d.dir, "nout"))
					if err != nil {
						t.Error(err)
						break
					}
					for one := make([]byte, 1); ; {
						if k, _ := f.Read(one); k == 0 {
							break
						}
					}
					f.Close()
				}
				opens <- n
			}()
		}
		peer := sandbox.Veth(t)
		rate := func() float64 {
			began, stop := time.Now(), flood(t, peer.Void4, 50_000)
			time.Sleep(time.Duration(scale(5000, 500)) * time.Millisecond)
			n := stop()
			sent += n
			return float64(n) / time.Since(began).Seconds()
		}
		with := rate()
		cancel()
		total := <-opens + <-opens
		without := rate()
		d.write("start", "0")
		doc := d.document()
		if doc.Live.Packets+doc.Uncounted != sent {
			t.Errorf("counted %d, uncounted %d of %d", doc.Live.Packets, doc.Uncounted, sent)
		}
		t.Logf("%.0f packets/s beside %d opens and byte-wise reads, %.0f without: ratio %.2f (promised: 0.95); %d uncounted",
			with, total, without, with/without, doc.Uncounted)
	})
}

// TestFaultTerminalAndLog: a terminal that is closed ends the daemon well, and
// a log that nobody reads any more does not end it at all.
func TestFaultTerminalAndLog(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir := mountDir(t)
		d := start(t, dir, engine, "--start")
		d.end(unix.SIGHUP)
		nothingLeft(t, dir)

		sandbox.Need(t, sandbox.Namespaces)
		r, w, err := os.Pipe()
		must(t, err)
		cmd := command(engine, "--mount", dir, "--start")
		cmd.Stderr = w
		must(t, cmd.Start(), w.Close())
		_, err = r.Read(make([]byte, 100)) // the line "ready"
		must(t, err, r.Close())
		for _, text := range []string{"0", "1", "0"} { // each of which is logged
			must(t, os.WriteFile(filepath.Join(dir, "start"), []byte(text), 0))
		}
		must(t, cmd.Process.Signal(unix.SIGTSTP)) // Ctrl-Z does nothing
		must(t, cmd.Process.Signal(unix.SIGTERM), cmd.Wait())
		nothingLeft(t, dir)
	})
}

// TestFaultLogStuck: a log that is neither read nor closed holds up nothing.
func TestFaultLogStuck(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		dir := mountDir(t)
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		_, err = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
		must(t, err)
		cmd := command(engine, "--mount", dir)
		cmd.Stderr = w
		must(t, cmd.Start(), w.Close())
		sandbox.Await(t, "the tree", func() bool {
			_, err := os.ReadFile(filepath.Join(dir, "nout"))
			return err == nil
		})
		for range 100 {
			for _, text := range []string{"1", "0"} { // a line each
				must(t, os.WriteFile(filepath.Join(dir, "start"), []byte(text), 0))
			}
		}
		began := time.Now()
		must(t, cmd.Process.Signal(unix.SIGTERM), cmd.Wait())
		within(t, "the end", time.Since(began), 3*time.Second)
		nothingLeft(t, dir)
	})
}

// TestFaultEarlySignals: SIGTERM at any moment of start-up is a clean end.
func TestFaultEarlySignals(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		dir := mountDir(t)
		n := scale(200, 10)
		for i := range n {
			cmd := command(engine, "--mount", dir, "--start")
			var log strings.Builder
			cmd.Stderr = &log
			must(t, cmd.Start())
			time.Sleep(5*time.Millisecond + time.Duration(i%25)*2*time.Millisecond)
			must(t, cmd.Process.Signal(unix.SIGTERM))
			if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != -1 { // -1: before main has begun
				t.Errorf("after %d: %v: %s", i, err, log.String())
			}
			nothingLeft(t, dir)
		}
	})
}

// TestFaultMountedOver: what somebody mounts over the tree is not covered by a
// new worker's tree, and not taken away.
func TestFaultMountedOver(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start")
		must(t, unix.Mount("tmpfs", d.dir, "tmpfs", 0, ""))
		defer func() {
			_ = unix.Unmount(d.dir, 0)
			_ = unix.Unmount(d.dir, unix.MNT_DETACH)
		}()
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		if err := <-d.done; err == nil || d.cmd.ProcessState.ExitCode() != exitFailure {
			t.Errorf("the daemon's end: %v", err)
		}
		if !strings.Contains(d.log.String(), "tmpfs file system is mounted there") {
			t.Errorf("the log: %s", d.log.String())
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		if n := strings.Count(string(mounts), d.dir); n != 2 {
			t.Errorf("%d mounts, want the dead tree and the stranger's on it", n)
		}
	})
}

// TestFaultFirstWorkerDies: there is a line that says so.
func TestFaultFirstWorkerDies(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		need(t, engine)
		dir := mountDir(t)
		for range scale(20, 3) {
			d := &running{t: t, dir: dir, cmd: command(engine, "--mount", dir)}
			d.cmd.Stderr = &d.log
			must(t, d.cmd.Start())
			sandbox.Await(t, "a worker", func() bool {
				workers := sandbox.Children(d.cmd.Process.Pid)
				return len(workers) > 0 && unix.Kill(workers[0], unix.SIGKILL) == nil
			})
			// Killed in time, the daemon ends with a line; else it goes on.
			ended := make(chan error, 1)
			go func() { ended <- d.cmd.Wait() }()
			sandbox.Await(t, "its end, or that it is ready", func() bool {
				return len(ended) > 0 || strings.Contains(d.log.String(), "msg=ready")
			})
			if len(ended) == 0 {
				must(t, d.cmd.Process.Signal(unix.SIGTERM), <-ended)
			} else if err := <-ended; err == nil || !strings.Contains(d.log.String(), "before it was ready") {
				t.Errorf("%v: %q", err, d.log.String())
			}
			nothingLeft(t, dir)
		}
	})
}

// TestFaultForeignTools: what people do to a host's rules does not end
// counting.
func TestFaultForeignTools(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		d := start(t, mountDir(t), engine, "--start", "--counter", "1")
		counted := uint64(0)
		for _, tool := range [][]string{
			{"nft", "flush", "ruleset"},
			{"iptables", "-F"},
			{"iptables-nft", "-t", "mangle", "-F"},
			{"iptables-legacy", "-t", "mangle", "-F"},
			{"iptables-restore"},
			{"iptables-legacy-restore"},
			{"nft", "-f", "-"},
		} {
			path, err := exec.LookPath(tool[0])
			if err != nil {
				if os.Getenv("KSTAT_REQUIRE") == "1" {
					t.Fatal("needs nftables and iptables:", err)
				}
				t.Logf("not tried, it is not installed: %s", tool[0])
				continue
			}
			cmd := sandbox.Command(path, tool[1:]...)
			rules := "*mangle\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n-A POSTROUTING -p udp -j ACCEPT\nCOMMIT\n"
			if tool[0] == "nft" {
				rules = "flush ruleset\ntable inet other {\n chain c {\n  type filter hook output priority 0;\n }\n}\n"
			}
			cmd.Stdin = strings.NewReader(rules)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %v: %s", tool, err, out)
			}
			must(t, traffic.Ping(lo, 5))
			counted += 10
			if doc := d.document(); doc.Live.Packets != counted || doc.Uncounted != 0 || doc.Repairs != 0 || doc.Start != 1 {
				t.Errorf("after %v: counted %d of %d, uncounted %d, repairs %d, start %d", tool, doc.Live.Packets, counted, doc.Uncounted, doc.Repairs, doc.Start)
			}
		}
		must(t, sandbox.FlushRuleset())
	})
}
