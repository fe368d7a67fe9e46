package hook

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/stats"
)

// bpfConfig is quiet for the bpf engine.
func bpfConfig() Config {
	c := quiet()
	c.Engine = KindBPF
	return c
}

// loaded is the programs, to be run by hand (BPF_PROG_TEST_RUN).
type loaded struct {
	programs [2]*ebpf.Program // by family
	table    *stats.Table
	figures  *countFigures // the table's memory
	held     *programs
}

func load(t testing.TB) *loaded {
	t.Helper()
	sandbox.Need(t, needed[KindBPF]...)
	held, err := holdPrograms(bpfConfig())
	must(t, err)
	t.Cleanup(held.Close)
	h := held.(*programs)
	l := &loaded{held: h}
	l.table, err = h.Table(nil)
	must(t, err)
	memory, err := unix.Mmap(int(h.files[figuresFile].Fd()), 0, stats.ViewSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Munmap(memory)) })
	l.figures = (*countFigures)(unsafe.Pointer(&memory[0]))
	for i, file := range []int{countIPv4File, countIPv6File} {
		fd, err := unix.FcntlInt(h.files[file].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		l.programs[i], err = ebpf.NewProgramFromFD(fd)
		must(t, err)
		t.Cleanup(func() { l.programs[i].Close() })
	}
	return l
}

// feed returns what passes on publications.
func (l *loaded) feed() (*feed, error) {
	all, err := l.held.feeds(Config{}, l.table)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// run shows a packet to the program of a family, n times. Signals, Go's own for
// one, are kept from it: the kernel would end in the middle, and cilium/ebpf
// begin anew, so that more than n were counted.
func (l *loaded) run(family stats.Family, packet []byte, n int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		return err
	}
	begun := 1
	_, _, err := l.programs[family].Benchmark(packet, n, func() { begun++ })
	if err == nil && begun > 1 {
		err = fmt.Errorf("%d packets were begun %d times", n, begun)
	}
	return errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}

// leastPacket is how many bytes the kernel wants to run a program on.
const leastPacket = 20

// class shows a packet to the program of a family and returns what it was
// counted as.
func (l *loaded) class(t testing.TB, family stats.Family, packet []byte) stats.Class {
	t.Helper()
	before := make(map[stats.Class]stats.Figures)
	for _, row := range l.table.Snapshot().Rows {
		before[row.Class] = row.Total
	}
	result, _, err := l.programs[family].Test(packet)
	must(t, err)
	if result != nfAccept {
		t.Fatalf("the verdict is %d", result)
	}
	for _, row := range l.table.Snapshot().Rows {
		if row.Total != before[row.Class] {
			return row.Class
		}
	}
	t.Fatal("not counted")
	return 0
}

// TestClassifyInKernel: the programs give Classify's answers.
func TestClassifyInKernel(t *testing.T) {
	l := load(t)
	for _, test := range classifyCases() {
		if len(test.packet) < leastPacket {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			class := l.class(t, test.family, test.packet)
			if class.Protocol() != test.want || class.Family() != test.family {
				t.Errorf("got protocol %d of %v, want %d of %v", class.Protocol(), class.Family(), test.want, test.family)
			}
		})
	}
}

// FuzzClassifyInKernel compares the programs with Classify, which sees as many
// bytes as the other engine captures.
func FuzzClassifyInKernel(f *testing.F) {
	addPackets(f)
	l := load(f)
	f.Fuzz(func(t *testing.T, six bool, packet []byte) {
		if len(packet) < leastPacket || len(packet) > 2000 {
			return
		}
		family := stats.IPv4
		if six {
			family = stats.IPv6
		}
		want := Classify(family, packet[:min(len(packet), copyRange)])
		if got := l.class(t, family, packet); got != want {
			t.Errorf("%v packet %x: the kernel says protocol %d of %v, Classify says %d", family, packet, got.Protocol(), got.Family(), want.Protocol())
		}
	})
}

// TestScatteredPacket: extension headers need not be in one piece with what
// comes before them, as in a packet whose sender gave the kernel pages.
func TestScatteredPacket(t *testing.T) {
	sandbox.Need(t, sandbox.IPv6)
	c := bpfConfig()
	c.Point = Prerouting
	e, table := started(t, c)
	peer := sandbox.Veth(t)
	ours, err := net.InterfaceByName("veth0")
	must(t, err)
	chain := v6(extDestination, ext(extRouting, 2, 24), ext(extFragment, 0, 8), fragment(extDestination, 0, true), ext(17, 1, 16), make([]byte, 5000))
	cut := v6(extDestination, ext(extDestination, 9, 80), ext(17, 0, 8), make([]byte, 5000)) // 40+80+8 bytes: all in sight
	long := v6(extDestination, ext(extDestination, 10, 88), ext(17, 0, 8), make([]byte, 5000))
	takeVeth := func() error { return takeLong("veth0") }
	must(t, takeVeth(), peer.Do(takeVeth), peer.Do(func() error {
		for _, packet := range [][]byte{chain, cut, long} {
			copy(packet[8:], peer.Addr6.AsSlice())
			copy(packet[24:], peer.Own6.AsSlice())
			binary.BigEndian.PutUint16(packet[4:], uint16(len(packet)-ipv6HeaderLen))
			if err := sendScattered("veth0", ours.HardwareAddr, packet, ipv6HeaderLen); err != nil {
				return err
			}
		}
		return nil
	}))
	sandbox.Await(t, "3 packets", func() bool { return table.Counted() >= 3 })
	stop(t, e)
	expect(t, e, table, map[string]uint64{"udp/ipv6": 2, "other/ipv6": 1})
}

// takeLong makes a device take packets that are longer than a page.
func takeLong(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	mtu, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	mtu.SetUint32(9000)
	return unix.IoctlIfreq(fd, unix.SIOCSIFMTU, mtu)
}

// sendScattered sends an IPv6 packet on a device, from pages but for its first
// bytes: a packet socket makes it so if it is longer than a page
// (packet_alloc_skb), and is told by a struct virtio_net_hdr.
func sendScattered(device string, to net.HardwareAddr, packet []byte, linear int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	own, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	frame := make([]byte, 10) // struct virtio_net_hdr: flags, gso_type, hdr_len, …
	binary.NativeEndian.PutUint16(frame[2:], uint16(14+linear))
	frame = append(frame, to...)
	frame = append(frame, own.HardwareAddr...)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_IPV6)
	frame = append(frame, packet...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: own.Index})
}

// TestFiguresLayout: what C calls the figures is what a table reads.
func TestFiguresLayout(t *testing.T) {
	if size := unsafe.Sizeof(countFigures{}); size != uintptr(stats.ViewSize) {
		t.Fatalf("the figures have %d bytes in C, %d in Go", size, stats.ViewSize)
	}
	f := new(countFigures)
	memory := unsafe.Slice((*byte)(unsafe.Pointer(f)), stats.ViewSize)
	table, err := stats.ViewTable(memory, nil)
	must(t, err)
	f.Pending, f.Counted, f.Publications, f.Interval, f.Counter = 3, 4, 5, 77, 6
	for class := range stats.Class(stats.NumClasses) {
		n := uint64(class) * 100
		f.Seen[class/64] |= 1 << (class % 64)
		f.Rows[class].Live.Packets, f.Rows[class].Live.Bytes = n+1, n+2
		f.Rows[class].Base.Packets, f.Rows[class].Base.Bytes = 1, 2
		f.Rows[class].Previous.Packets, f.Rows[class].Previous.Bytes = n+3, n+4
		f.Aside[class].Live.Packets, f.Aside[class].Live.Bytes = n+5, n+6
		f.Aside[class].Previous.Packets, f.Aside[class].Previous.Bytes = n+7, n+8
		switch class % 3 {
		case 1:
			f.Rows[class].Interval = 77
		case 2:
			f.Aside[class].Interval = 77
		}
	}
	s := table.Snapshot()
	if s.Counter != 6 || s.Pending != 3 || s.Publications != 5 || table.Counted() != 4 || len(s.Rows) != stats.NumClasses {
		t.Errorf("got %d, %d, %d, %d and %d rows", s.Counter, s.Pending, s.Publications, table.Counted(), len(s.Rows))
	}
	for i, row := range s.Rows {
		n := uint64(i) * 100
		published := stats.Figures{Packets: 2*n + 5, Bytes: 2*n + 6}
		switch i % 3 {
		case 1:
			published = stats.Figures{Packets: 2*n + 7, Bytes: 2*n + 8}
		case 2:
			published = stats.Figures{Packets: 2*n + 7, Bytes: 2*n + 8}
		}
		want := stats.Row{
			Class:     stats.Class(i),
			Published: published,
			Live:      stats.Figures{Packets: 2*n + 5, Bytes: 2*n + 6},
			Total:     stats.Figures{Packets: 2*n + 6, Bytes: 2*n + 8},
		}
		if row != want {
			t.Fatalf("got %+v, want %+v", row, want)
		}
	}
}

// TestAllCPUs: packets of several protocols arrive on all CPUs as fast as they
// can, for any counter. None is lost, every N-th publishes, and no reader sees
// figures that do not belong together. On two CPUs some find a writer, and are
// counted aside.
func TestAllCPUs(t *testing.T) {
	sandbox.Need(t, sandbox.BPF)
	aside := uint64(0)
	count := func(every uint64) {
		t.Run(fmt.Sprintf("N=%d", every), func(t *testing.T) {
			l := load(t)
			must(t, l.table.SetCounter(uint32(every)))
			const each = 500_003
			errs := make(chan error, 4)
			for _, s := range []struct {
				family stats.Family
				packet []byte
			}{{stats.IPv4, v4(5, 6)}, {stats.IPv4, v4(5, 17)}, {stats.IPv6, v6(6)}, {stats.IPv4, v4(5, 6)}} {
				go func() { errs <- l.run(s.family, s.packet, each) }()
			}
			looks := 0
			for ended := 0; ended < cap(errs); looks++ {
				select {
				case err := <-errs:
					must(t, err)
					ended++
				default:
				}
				s := l.table.Snapshot()
				var published, live uint64
				for _, row := range s.Rows {
					published += row.Published.Packets
					live += row.Live.Packets
				}
				if published != s.Publications*every || live-published != s.Pending || s.Pending >= every {
					t.Fatalf("published %d, live %d, pending %d, publications %d", published, live, s.Pending, s.Publications)
				}
			}
			s := l.table.Snapshot()
			const sum = 4 * each
			if s.Publications != sum/every || s.Pending != sum%every || l.table.Counted() != sum {
				t.Errorf("publications %d, pending %d, counted %d; want %d, %d, %d", s.Publications, s.Pending, l.table.Counted(), sum/every, sum%every, sum)
			}
			for i, want := range []stats.Figures{{Packets: 2 * each, Bytes: 40 * each}, {Packets: each, Bytes: 40 * each}, {Packets: each, Bytes: 20 * each}} {
				if s.Rows[i].Total != want { // TCP, TCP over IPv6, UDP
					t.Errorf("%+v, want %v", s.Rows[i], want)
				}
			}
			n := uint64(0)
			for i := range l.figures.Aside {
				n += l.figures.Aside[i].Live.Packets
			}
			aside += n
			t.Logf("%d packets, %d of them counted aside, %d looks", sum, n, looks)
		})
	}
	// A busy machine may run the programs one after the other.
	for late := time.Now().Add(sandbox.AwaitLimit); ; {
		for _, every := range []uint64{1, 2, 7, 1000} {
			count(every)
		}
		if aside > 0 || runtime.NumCPU() == 1 || t.Failed() || t.Skipped() || time.Now().After(late) {
			break
		}
	}
	if aside == 0 && runtime.NumCPU() > 1 && !t.Failed() && !t.Skipped() {
		t.Error("nothing was counted aside: the test tests nothing")
	}
}

// TestChangeWaitsForPacket: somebody who changes the counter, or resets, while
// a packet is being counted comes after it.
func TestChangeWaitsForPacket(t *testing.T) {
	l := load(t)
	seq := (*atomic.Uint64)(unsafe.Pointer(&l.figures.Seq))
	for what, change := range map[string]func() error{
		"counter": func() error { return l.table.SetCounter(5) },
		"reset":   l.table.Reset,
	} {
		const busy, called = 1, 2
		before := seq.Add(busy) // as a packet would, that is interrupted
		changed := make(chan error, 1)
		go func() { changed <- change() }()
		for seq.Load() != before|called {
			runtime.Gosched()
		}
		select {
		case err := <-changed:
			t.Errorf("%s changed beside a packet: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
		seq.Store(before - busy)
		must(t, <-changed)
	}
	if s := l.table.Snapshot(); s.Counter != 5 {
		t.Errorf("counter %d, want 5", s.Counter)
	}
}

// TestFaultDetached: what a root detaches by hand is attached again.
func TestFaultDetached(t *testing.T) {
	e, table := started(t, bpfConfig())
	must(t, traffic.Ping(lo4, 1))
	for i := range uint64(2) {
		b := e.(*BPF)
		b.mu.Lock() // it looks at its links while it runs
		err := b.places[i].link.Detach()
		b.mu.Unlock()
		must(t, err)
		for end := time.Now().Add(sandbox.AwaitLimit); ; {
			status, err := e.Status()
			must(t, err)
			if status.Repairs == i+1 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("not repaired")
			}
			time.Sleep(time.Millisecond)
		}
		must(t, traffic.Ping(lo4, 1), traffic.Ping(lo6, 1))
	}
	expect(t, e, table, map[string]uint64{"icmp/ipv4": 6, "ipv6-icmp/ipv6": 4})
}

// TestFaultProcessGone: what a process has attached counts on after its end, if
// another one keeps it; the next one takes it over, once, and can stop it. Kept
// no longer, it is gone.
func TestFaultProcessGone(t *testing.T) {
	sandbox.Need(t, needed[KindBPF]...)
	held, err := Hold(bpfConfig())
	must(t, err)
	defer held.Close()
	table, err := held.Table(nil)
	must(t, err)
	process := func(h Holding) (e *BPF, gone func()) { // that keeps, as a supervisor does
		c := bpfConfig()
		c.Opened = func(o Opened) { held.Keep(o.Links) }
		made, err := h.New(c, table)
		must(t, err, made.Start())
		e = made.(*BPF)
		return e, func() {
			for _, at := range e.places {
				must(t, at.link.Close(), at.Program.Close())
			}
		}
	}
	next := func() Holding {
		var files []*os.File
		for _, f := range held.Files() {
			duplicate, err := duplicate(int(f.Fd()), f.Name())
			must(t, err)
			files = append(files, duplicate)
		}
		h, err := Inherit(KindBPF, files)
		must(t, err)
		t.Cleanup(h.Close)
		return h
	}
	want := func(when string, n uint64) {
		t.Helper()
		must(t, traffic.Ping(lo4, 1))
		if got := table.Counted(); got != n {
			t.Fatalf("%s: counted %d, want %d", when, got, n)
		}
	}

	_, gone := process(next())
	want("started", 2)
	gone()
	want("without a process", 4)
	second, _ := process(next())
	want("taken over", 6)
	must(t, second.Stop())
	want("stopped", 6)
	_, gone = process(next())
	want("started again", 8)
	gone()
	if held.Keep(Links{}) {
		t.Error("something is still kept")
	}
	want("let go", 8)
	if held.Keep(Links{1 << 30, 0}) {
		t.Error("a link that is none is kept")
	}
	strangers := bpfConfig()
	var links Links
	strangers.Opened = func(o Opened) { links = o.Links }
	started(t, strangers)
	if held.Keep(links) {
		t.Error("somebody else's links are kept")
	}
}

// TestPrioritiesTaken: the kernel gives BPF programs at a hook a priority each.
// As many engines as there are priorities count beside each other, and the next
// is refused in words.
func TestPrioritiesTaken(t *testing.T) {
	var tables []*stats.Table
	for range priority - lowestPriority + 1 {
		_, table := started(t, bpfConfig())
		tables = append(tables, table)
	}
	e, _ := newEngine(t, bpfConfig())
	if err := e.Start(); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "priority from 90 to 99") || e.Started() {
		t.Errorf("got %v, want EBUSY", err)
	}
	must(t, traffic.Ping(lo4, 1))
	for _, table := range tables {
		if n := table.Counted(); n != 2 {
			t.Errorf("counted %d of 2", n)
		}
	}
}

// TestObjectsAreUpToDate: what is embedded was built from what is there.
func TestObjectsAreUpToDate(t *testing.T) {
	sums, err := os.ReadFile("bpf/SHA256SUMS")
	must(t, err)
	var names []string
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		text, err := os.ReadFile(name)
		must(t, err)
		if got := fmt.Sprintf("%x", sha256.Sum256(text)); got != sum {
			t.Errorf("%s is not what go generate ./hook has left, which needs clang-16: run it, and commit all of it", name)
		}
		names = append(names, name)
	}
	if want := []string{"bpf/count.c", "count_bpfeb.go", "count_bpfeb.o", "count_bpfel.go", "count_bpfel.o"}; !slices.Equal(names, want) {
		t.Errorf("bpf/SHA256SUMS has %q, want %q", names, want)
	}
}

// TestKernelTypes: none but the programs that are given the kernel's types
// (loadAtOnce) look into them. For others cilium/ebpf would read those of all
// modules, behind no lock.
func TestKernelTypes(t *testing.T) {
	spec, err := loadCount()
	must(t, err)
	for name, program := range spec.Programs {
		looks := slices.ContainsFunc(program.Instructions, func(i asm.Instruction) bool {
			return btf.CORERelocationMetadata(&i) != nil || i.IsKfuncCall()
		})
		if given := program.Type == ebpf.Netfilter; looks != given {
			t.Errorf("%s (%v): looks into types %v, is given them %v", name, program.Type, looks, given)
		}
	}
}

// BenchmarkProgram is what a packet costs in the kernel. What the loop around
// it costs is that of a program that does nothing.
func BenchmarkProgram(b *testing.B) {
	l := load(b)
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.Netfilter,
		AttachType:   ebpf.AttachNetfilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, nfAccept), asm.Return()},
	})
	must(b, err)
	defer empty.Close()
	feeds, err := l.held.feeds(Config{Tracer: forgetful{}}, l.table)
	must(b, err)
	for _, f := range feeds {
		fed := make(chan error, 1)
		go func() { fed <- f.run() }()
		defer func() { must(b, f.end(), <-fed) }()
	}
	tcp6 := v6(extHopByHop, ext(extDestination, 0, 8), fragment(extDestination, 0, true), ext(6, 0, 8))
	for _, bench := range []struct {
		name    string
		program *ebpf.Program
		counter uint32
		packet  []byte
		watched bool
		traced  bool
	}{
		{"empty", empty, 10, v4(5, 6), false, false},
		{"IPv4 TCP, N=10", l.programs[stats.IPv4], 10, v4(5, 6), false, false},
		{"IPv4 TCP, N=1", l.programs[stats.IPv4], 1, v4(5, 6), false, false},
		{"IPv4 TCP, N=10, watched", l.programs[stats.IPv4], 10, v4(5, 6), true, false},
		{"IPv4 TCP, N=1, watched", l.programs[stats.IPv4], 1, v4(5, 6), true, false},
		{"IPv4 TCP, N=10, traced", l.programs[stats.IPv4], 10, append(v4(5, 6), make([]byte, 1480)...), false, true},
		{"IPv6 TCP, N=10", l.programs[stats.IPv6], 10, v6(6), false, false},
		{"IPv6 TCP behind three headers, N=10", l.programs[stats.IPv6], 10, tcp6, false, false},
	} {
		b.Run(bench.name, func(b *testing.B) {
			must(b, l.table.SetCounter(bench.counter))
			if bench.watched {
				w, err := l.table.Watch()
				must(b, err)
				defer w.Close()
			}
			l.table.Trace(bench.traced)
			defer l.table.Trace(false)
			_, each, err := bench.program.Benchmark(bench.packet, b.N, b.ResetTimer)
			must(b, err)
			b.ReportMetric(float64(each.Nanoseconds()), "ns/op")
		})
	}
}
