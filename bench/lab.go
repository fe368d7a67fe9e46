package main

import (
	"flag"
	"fmt"
	"regexp"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	trafficCPU  = 0 // what makes the packets
	consumerCPU = 1 // what counts them
)

// options is the command line.
type options struct {
	kstatd    string
	kstat     string
	output    string
	readme    string
	rows      *regexp.Regexp
	numRounds int
	flooding  time.Duration // of one flood, or stream
	pings     int           // round trips a round
	reads     int           // reads of nout a round
	queueLen  int
	counter   int
	quick     bool
	inside    string // set by the outer bench alone: the directory of tools
}

func parse(args []string) (options, error) {
	var o options
	var rows string
	var floods float64
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.kstatd, "kstatd", "bin/kstatd", "the daemon's `binary`")
	f.StringVar(&o.kstat, "kstat", "bin/kstat", "the tool's `binary`")
	f.StringVar(&o.output, "o", "", "write the report to this `file` too")
	f.StringVar(&o.readme, "readme", "", "put the table of targets into this `file`, between the markers that it has")
	f.StringVar(&rows, "rows", ".", "measure the rows whose names match a `regexp`: "+rowNames())
	f.IntVar(&o.numRounds, "rounds", 7, "interleaved rounds")
	f.Float64Var(&floods, "seconds", 1, "length of one flood or stream")
	f.IntVar(&o.pings, "pings", 3000, "round trips a round")
	f.IntVar(&o.reads, "reads", 5000, "reads of nout a round")
	f.IntVar(&o.queueLen, "queue-len", 8192, "packets that a queue holds, for every consumer")
	f.IntVar(&o.counter, "counter", 10, "kstatd publishes after this many packets")
	f.BoolVar(&o.quick, "quick", false, "3 rounds of half a second: to see that it works, not for figures")
	f.StringVar(&o.inside, "inside", "", "for the bench itself")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("what is %q?", f.Arg(0))
	}
	re, err := compile(rows)
	if err != nil {
		return o, err
	}
	o.rows = re
	if o.quick {
		o.numRounds, floods, o.pings, o.reads = 3, 0.5, 1000, 1000
	}
	if o.numRounds < 1 || floods <= 0 || o.pings < 1 || o.reads < 1 {
		return o, fmt.Errorf("-rounds, -seconds, -pings and -reads must be positive")
	}
	o.flooding = time.Duration(floods * float64(time.Second))
	return o, nil
}

// lab is the place where the rows are measured: fresh network and mount namespaces that end with the bench.
type lab struct {
	options
	tools       tools
	dir         string // for mount points and sockets
	consumerCPU int    // or anyCPU
	sink        int    // the port that blasters send to
	plots       map[string]*plot
	terms       terms
}

// newLab furnishes the namespaces that the outer bench made.
func newLab(opt options) (*lab, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	// The daemon's locks and sockets are not those of one that serves the host.
	if err := unix.Mount("bench", "/run", "tmpfs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount /run: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	sink, err := openSink()
	if err != nil {
		return nil, err
	}
	return &lab{options: opt, tools: tools(opt.inside), dir: opt.inside, consumerCPU: consumerCPU, sink: sink, plots: make(map[string]*plot)}, nil
}
