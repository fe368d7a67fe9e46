// Soak runs kstatd for hours, in namespaces of its own, at a steady share of
// the rate that it can take, and looks whether anything grows.
//
//	go run ./lab/soak -kstatd bin/kstatd -hours 1
//
// It prints a line a minute, and at the end the slope of the memory in use. It
// exits with 1 if that is more than 1 MiB an hour, if descriptors or threads
// have grown, if a worker was restarted, or if a packet is unaccounted for.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kstat/fs"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

func main() {
	kstatd := flag.String("kstatd", "bin/kstatd", "the daemon's `binary`")
	hours := flag.Float64("hours", 1, "how long")
	share := flag.Float64("share", 0.8, "the share of the sender's full speed")
	flag.Parse()
	inside, status, err := sandbox.Reexec()
	if err == nil && inside {
		err = soak(*kstatd, time.Duration(*hours*float64(time.Hour)), *share)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		status = 1
	}
	os.Exit(status)
}

// The limits.
const (
	maxSlope  = 1.0             // MiB an hour
	warmUp    = 5 * time.Minute // at most half of the time, is not looked at
	memoryMax = 64 << 20
)

// sample is what is looked at once a minute.
type sample struct {
	at                  time.Duration
	memory              float64 // MiB resident, both processes
	descriptors, thread int
}

func soak(kstatd string, length time.Duration, share float64) (err error) {
	if err := sandbox.Missing(sandbox.NFQueue, sandbox.NFTables, sandbox.FUSE); err != nil {
		return err
	}
	base, err := os.MkdirTemp("", "kstat-soak-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(base)) }()
	peer, err := sandbox.NewPeer()
	if err != nil {
		return err
	}
	defer peer.Close()
	d, err := startDaemon(kstatd, filepath.Join(base, "kstat"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()

	to := netip.AddrPortFrom(peer.Void4, 9)
	full, err := fullSpeed(to)
	if err != nil {
		return err
	}
	rate := full.perSecond * share
	fmt.Printf("%v at %.0f packets/s, %.0f%% of what the sender can do through kstatd\n", length, rate, share*100)

	sent := full.packets
	every := min(time.Minute, length/20)
	var samples []sample
	began := time.Now()
	for next := every; time.Since(began) < length; {
		behind := rate*time.Since(began).Seconds() - float64(sent-full.packets)
		if behind < 200 {
			time.Sleep(time.Millisecond)
		} else if err := traffic.UDP(to, 200, 10); err != nil {
			return err
		} else {
			sent += 200
		}
		if now := time.Since(began); now >= next {
			next += every
			s, err := d.sample(now)
			if err != nil {
				return err
			}
			samples = append(samples, s)
			fmt.Printf("%8v  %6.2f MiB  %3d descriptors  %3d threads  %d packets\n",
				now.Round(time.Second), s.memory, s.descriptors, s.thread, sent)
		}
	}
	return d.judge(samples, sent)
}

// speed is how many packets went in a short while.
type speed struct {
	packets   uint64
	perSecond float64
}

func fullSpeed(to netip.AddrPort) (speed, error) {
	var s speed
	began := time.Now()
	for time.Since(began) < 3*time.Second {
		if err := traffic.UDP(to, 1000, 10); err != nil {
			return s, err
		}
		s.packets += 1000
	}
	s.perSecond = float64(s.packets) / time.Since(began).Seconds()
	return s, nil
}

// judge compares the end with what should be.
func (d *daemon) judge(samples []sample, sent uint64) error {
	if err := os.WriteFile(filepath.Join(d.dir, "start"), []byte("0"), 0); err != nil {
		return err
	}
	doc, err := d.document()
	if err != nil {
		return err
	}
	end := samples[len(samples)-1].at
	for samples[0].at < min(warmUp, end/2) {
		samples = samples[1:]
	}
	first, last := samples[0], samples[len(samples)-1]
	slope := slopePerHour(samples)
	refused, err := d.refused()
	if err != nil {
		return err
	}
	fmt.Printf("memory grows by %.2f MiB an hour of a limit of %d MiB (%s); %d packets sent, %d counted, %d uncounted\n",
		slope, memoryMax>>20, refused, sent, doc.Live.Packets, doc.Uncounted)
	var errs []error
	if slope > maxSlope {
		errs = append(errs, fmt.Errorf("memory grows by %.2f MiB an hour, more than %v", slope, maxSlope))
	}
	if last.descriptors > first.descriptors || last.thread > first.thread+2 {
		errs = append(errs, fmt.Errorf("%d descriptors and %d threads became %d and %d", first.descriptors, first.thread, last.descriptors, last.thread))
	}
	if doc.Restarts > 0 {
		errs = append(errs, fmt.Errorf("%d workers died", doc.Restarts))
	}
	if doc.Live.Packets+doc.Uncounted != sent {
		errs = append(errs, fmt.Errorf("of %d packets %d were counted and %d not", sent, doc.Live.Packets, doc.Uncounted))
	}
	return errors.Join(errs...)
}

// slopePerHour is the least-squares slope of the memory.
func slopePerHour(samples []sample) float64 {
	var n, x, y, xx, xy float64
	for _, s := range samples {
		h := s.at.Hours()
		n, x, y, xx, xy = n+1, x+h, y+s.memory, xx+h*h, xy+h*s.memory
	}
	if d := n*xx - x*x; d != 0 {
		return (n*xy - x*y) / d
	}
	return 0
}

// daemon is the kstatd under test.
type daemon struct {
	dir    string
	group  string // its memory control group
	signal func(os.Signal) error
	wait   func() error
	pids   []int // supervisor and worker
}

func startDaemon(kstatd, dir string) (*daemon, error) {
	group, err := memoryGroup()
	if err != nil {
		return nil, err
	}
	// The shell joins the group, so that everything the daemon ever has is charged to it.
	cmd := sandbox.Command("/bin/sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group, kstatd, "--mount", dir, "--start")
	cmd.Stderr = os.Stderr
	manager, err := sandbox.StartReady(cmd)
	if err != nil {
		return nil, err
	}
	defer manager.Close()
	d := &daemon{dir: dir, group: group, signal: cmd.Process.Signal, wait: cmd.Wait, pids: []int{cmd.Process.Pid}}
	d.pids = append(d.pids, sandbox.Children(cmd.Process.Pid)...)
	return d, nil
}

func (d *daemon) stop() error {
	return errors.Join(d.signal(syscall.SIGTERM), d.wait(), os.Remove(d.group))
}

// memoryGroup makes a control group that may use memoryMax bytes, page cache and
// kernel memory included, in the hierarchy of either version.
func memoryGroup() (string, error) {
	root, limit := "/sys/fs/cgroup", "memory.max"
	if _, err := os.Stat(root + "/memory/memory.limit_in_bytes"); err == nil {
		root, limit = root+"/memory", "memory.limit_in_bytes"
	}
	dir, err := os.MkdirTemp(root, "kstat-soak-")
	if err != nil {
		return "", fmt.Errorf("make a memory control group: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(memoryMax)), 0o644); err != nil {
		return "", errors.Join(fmt.Errorf("limit the memory: %w", err), os.Remove(dir))
	}
	return dir, nil
}

// refused is how often the group had no memory to give, and had to reclaim or kill.
func (d *daemon) refused() (string, error) {
	for _, name := range []string{"memory.failcnt", "memory.events"} {
		if text, err := os.ReadFile(filepath.Join(d.group, name)); err == nil {
			return name + ": " + strings.Join(strings.Fields(string(text)), " "), nil
		}
	}
	return "", fmt.Errorf("%s does not say how often memory was refused", d.group)
}

func (d *daemon) document() (doc fs.Document, err error) {
	text, err := os.ReadFile(filepath.Join(d.dir, "stats.json"))
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	return doc, err
}

func (d *daemon) sample(at time.Duration) (sample, error) {
	s := sample{at: at}
	for _, pid := range d.pids {
		proc := fmt.Sprintf("/proc/%d/", pid)
		status, err := os.ReadFile(proc + "status")
		if err != nil {
			return s, err
		}
		for line := range strings.Lines(string(status)) {
			f := strings.Fields(line)
			switch {
			case len(f) < 2:
			case f[0] == "VmRSS:":
				kib, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					return s, err
				}
				s.memory += kib / 1024
			case f[0] == "Threads:":
				n, err := strconv.Atoi(f[1])
				if err != nil {
					return s, err
				}
				s.thread += n
			}
		}
		fds, err := os.ReadDir(proc + "fd")
		if err != nil {
			return s, err
		}
		s.descriptors += len(fds)
	}
	if s.memory*(1<<20) > memoryMax {
		return s, fmt.Errorf("%.1f MiB in use, more than %d", s.memory, memoryMax>>20)
	}
	return s, nil
}
