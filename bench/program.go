package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Packets that a program is run on: the IP header is all it looks at.
var (
	tcpPacket  = ipv4Packet(unix.IPPROTO_TCP)
	udpPacket  = ipv4Packet(unix.IPPROTO_UDP)
	tcp6Packet = append([]byte{0: 0x60, 6: unix.IPPROTO_TCP, 39: 1}, make([]byte, 20)...)
)

func ipv4Packet(protocol byte) []byte {
	return append([]byte{0: 0x45, 3: 40, 8: 64, 9: protocol, 19: 1}, make([]byte, 20)...)
}

// program is the row of what the program itself takes per packet. It is the daemon's own, which the kernel runs over and
// over on one packet in its cache (BPF_PROG_TEST_RUN); what the loop around it takes is that of an empty program.
func program(ctx context.Context, l *lab) []line {
	const (
		empty, ten, one, thousand, six = "empty", "N=10", "N=1", "N=1000", "IPv6"
		same, different                = "same", "different"
		flooded, floodedByTwo          = "flooded", "flooded by two"
	)
	t := l.rounds(ctx, "program", l.numRounds, subject{kstatdBPF, func(ctx context.Context) (sample, error) {
		return l.with(ctx, kstatdBPF, func(c consumer) (sample, error) {
			d := c.(*daemon)
			nothing, err := loadEmpty()
			if err != nil {
				return nil, err
			}
			defer nothing.Close()
			v4, err := d.program("count_ipv4")
			if err != nil {
				return nil, err
			}
			defer v4.Close()
			v6, err := d.program("count_ipv6")
			if err != nil {
				return nil, err
			}
			defer v6.Close()

			out := make(sample)
			times := make(map[string]series)
			for range 5 {
				for _, b := range []struct {
					name    string
					program *ebpf.Program
					counter int
					packet  []byte
				}{
					{empty, nothing, 10, tcpPacket},
					{ten, v4, 10, tcpPacket},
					{one, v4, 1, tcpPacket},
					{thousand, v4, 1000, tcpPacket},
					{six, v6, 10, tcp6Packet},
				} {
					if err := d.publishAfter(b.counter); err != nil {
						return nil, err
					}
					ns, err := perRun(b.program, b.packet, trafficCPU)
					if err != nil {
						return nil, err
					}
					times[b.name] = append(times[b.name], ns)
				}
			}
			for name, v := range times {
				out[name] = v.median() - times[empty].median()
			}
			out[empty] = times[empty].median()
			if err := d.publishAfter(10); err != nil {
				return nil, err
			}
			for name, second := range map[string][]byte{same: tcpPacket, different: udpPacket} {
				ns, err := onTwoCPUs(v4, tcpPacket, second)
				if err != nil {
					return nil, err
				}
				out[name] = ns - out[empty]
			}
			if out[flooded], err = l.whileSent(ctx, v4, trafficCPU); err != nil {
				return nil, err
			}
			out[floodedByTwo], err = l.whileSent(ctx, v4, trafficCPU, consumerCPU)
			return out, err
		})
	}}, subject{emptyBPF, func(ctx context.Context) (sample, error) {
		nothing, err := loadEmpty()
		if err != nil {
			return nil, err
		}
		defer nothing.Close()
		at, err := attach(nothing)
		if err != nil {
			return nil, err
		}
		first, err := l.whileSent(ctx, nothing, trafficCPU)
		second, err2 := l.whileSent(ctx, nothing, trafficCPU, consumerCPU)
		return sample{flooded: first, floodedByTwo: second}, errors.Join(err, err2, at.Close())
	}})

	const what = "added to a packet by the program, an empty one subtracted"
	named := func(figure, name string, goal *target) line {
		out := t.line(kstatdBPF, figure, what, "ns")
		out.what, out.target = what+": "+name, goal
		return out
	}
	inFlood := func(figure, name string) line {
		out := t.difference(kstatdBPF, emptyBPF, figure, "", "ns", nil)
		out.what = what + ": " + name
		return out
	}
	byTwo := inFlood(floodedByTwo, "N=10, of a flood from two CPUs (bpf_stats)")
	l.terms.shared = byTwo.values.median()
	l.terms.program = t.median(kstatdBPF, ten)
	alone := t.line(kstatdBPF, empty, "", "ns")
	alone.what = "an empty program and the loop around it"
	return []line{
		named(ten, "N=10", atMost(15)),
		named(one, "N=1", atMost(25)),
		named(thousand, "N=1000", nil),
		named(six, "IPv6, N=10", nil),
		inFlood(flooded, "N=10, of a flood (bpf_stats)"),
		byTwo,
		named(same, "two CPUs that do nothing else, one protocol", nil),
		named(different, "two CPUs that do nothing else, a protocol each", nil),
		alone,
	}
}

// publishAfter sets the daemon's counter.
func (d *daemon) publishAfter(n int) error {
	return os.WriteFile(d.file("counter"), []byte(strconv.Itoa(n)+"\n"), 0o644)
}

// program opens a program by name, of those that the daemon has open.
func (d *daemon) program(name string) (*ebpf.Program, error) {
	pids, err := family(d.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			id, err := programID(info)
			if err != nil || id == 0 {
				continue // no program, or closed meanwhile
			}
			p, err := ebpf.NewProgramFromID(id)
			if err != nil {
				return nil, fmt.Errorf("open program %d: %w", id, err)
			}
			if is, err := p.Info(); err == nil && is.Name == name {
				return p, nil
			}
			p.Close()
		}
	}
	return nil, fmt.Errorf("kstatd has no program %q open", name)
}

// programID finds prog_id in what /proc tells of a descriptor.
func programID(info string) (ebpf.ProgramID, error) {
	f, err := os.Open(info)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "prog_id:"); ok {
			id, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
			return ebpf.ProgramID(id), err
		}
	}
	return 0, nil
}

// perRun runs a program on a CPU. The kernel tells whole nanoseconds.
func perRun(p *ebpf.Program, packet []byte, cpu int) (float64, error) {
	const repeat = 1_000_000
	var each time.Duration
	err := onCPU(cpu, func() (err error) {
		_, each, err = p.Benchmark(packet, repeat, nil)
		return err
	})
	return float64(each.Nanoseconds()), err
}

// onTwoCPUs runs a program on both at once and answers the mean.
func onTwoCPUs(p *ebpf.Program, packets ...[]byte) (float64, error) {
	type result struct {
		ns  float64
		err error
	}
	ended := make(chan result, len(packets))
	for cpu, packet := range packets {
		go func() {
			ns, err := perRun(p, packet, cpu)
			ended <- result{ns, err}
		}()
	}
	var sum float64
	var errs []error
	for range packets {
		r := <-ended
		sum += r.ns
		errs = append(errs, r.err)
	}
	return sum / float64(len(packets)), errors.Join(errs...)
}

func attach(p *ebpf.Program) (link.Link, error) {
	l, err := link.AttachNetfilter(link.NetfilterOptions{
		Program: p, ProtocolFamily: link.NetfilterProtoIPv4, Hook: link.NetfilterInetPostRouting, Priority: 99,
	})
	if err != nil {
		return nil, fmt.Errorf("attach program: %w", err)
	}
	return l, nil
}

// whileSent answers how long a program ran per packet of a flood, by the kernel's own clock, whose reading is in it.
func (l *lab) whileSent(ctx context.Context, p *ebpf.Program, cpus ...int) (float64, error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return 0, fmt.Errorf("enable bpf_stats: %w", err)
	}
	defer stats.Close()
	before, err := p.Stats()
	if err != nil {
		return 0, err
	}
	if _, err := l.burstFrom(ctx, l.flooding*3/10, cpus...); err != nil {
		return 0, err
	}
	after, err := p.Stats()
	if err != nil {
		return 0, err
	}
	runs := after.RunCount - before.RunCount
	if runs == 0 {
		return 0, errors.New("the program did not run")
	}
	return float64(after.Runtime-before.Runtime) / float64(runs) / float64(time.Nanosecond), nil
}
