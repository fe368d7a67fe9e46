package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// target is what a figure is meant to reach.
type target struct {
	text string
	met  func(series) bool
}

func atLeast(v float64) *target {
	return &target{"≥ " + format(v), func(s series) bool { return s.median() >= v }}
}

func atMost(v float64) *target {
	return &target{"≤ " + format(v), func(s series) bool { return s.median() <= v }}
}

// exactly asks every round, not the median.
func exactly(v float64) *target {
	return &target{"exactly " + format(v), func(s series) bool { return slices.Min(s) == v && slices.Max(s) == v }}
}

// line is one figure of the report.
type line struct {
	what     string
	unit     string
	values   series
	target   *target // nil: a figure to know
	must     bool    // missing the target is an error, not a matter of time
	missing  error   // why there are no values
	optional bool    // missing is no failure
}

func (l line) measured() bool { return l.missing == nil && len(l.values) > 0 }

func (l line) mark() string {
	switch {
	case !l.measured():
		return "NOT MEASURED"
	case l.target == nil:
		return ""
	case l.target.met(l.values):
		return "pass"
	}
	return "**FAIL**"
}

// cells are the columns after the first.
func (l line) cells() string {
	if !l.measured() {
		reason := "no value"
		if l.missing != nil {
			reason = strings.Join(strings.Fields(l.missing.Error()), " ")
		}
		return fmt.Sprintf("| – | – | NOT MEASURED: %s |", strings.ReplaceAll(reason, "|", `\|`))
	}
	return fmt.Sprintf("| %s | %s–%s | %s |", format(l.values.median()), format(slices.Min(l.values)), format(slices.Max(l.values)), l.unit)
}

type section struct {
	name  string
	lines []line
}

// report is everything that was measured in one run.
type report struct {
	options  options
	command  string
	sections []section
	plots    map[string]*plot // files beside the report, by name
}

// pictures says which section's figures a plot shows.
var pictures = map[string]string{"load": "report", "model": "model"}

func (r report) write(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# kstatd, side by side\n\nMade by `%s`\n\n", r.command)
	writeMachine(&b)
	r.writeConditions(&b)
	fmt.Fprintf(&b, "\n## Targets\n\n%s", r.targets())
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n## %s\n", s.name)
		if p := r.plots[pictures[s.name]]; p != nil {
			fmt.Fprintf(&b, "\n![%s](%s.svg)\n", p.title, pictures[s.name])
		}
		fmt.Fprint(&b, "\n| what | median | min–max | unit |\n| --- | --: | --: | --- |\n")
		for _, l := range s.lines {
			fmt.Fprintf(&b, "| %s %s\n", l.what, l.cells())
		}
	}
	r.writeLimits(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// targets is the table of what is meant to be reached.
func (r report) targets() []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, "| what | target | median | min–max | unit | |\n| --- | --- | --: | --: | --- | --- |\n")
	for _, s := range r.sections {
		for _, l := range s.lines {
			if l.target != nil {
				fmt.Fprintf(&b, "| %s | %s %s %s |\n", l.what, l.target.text, l.cells(), l.mark())
			}
		}
	}
	return b.Bytes()
}

func writeMachine(b *bytes.Buffer) {
	var uts unix.Utsname
	kernel := "unknown"
	if err := unix.Uname(&uts); err == nil {
		kernel = unix.ByteSliceToString(uts.Release[:]) + ", " + unix.ByteSliceToString(uts.Machine[:])
	}
	fmt.Fprintf(b, "| | |\n| --- | --- |\n| CPU | %s, %d cores |\n| kernel | Linux %s |\n| Go | %s |\n| date | %s |\n| load averages at the end | %s |\n",
		cpuModel(), runtime.NumCPU(), kernel, runtime.Version(), time.Now().UTC().Format("2006-01-02 15:04 UTC"), loadAverage())
}

func (r report) writeConditions(b *bytes.Buffer) {
	fmt.Fprintf(b, `
Medians of %d interleaved rounds; a ratio is the median of the per-round ratios. Floods and streams last %v; in the row
in-kernel they last a fifth of that, and there are three times as many rounds; round trips past what counts in the kernel are
measured a fifth at a time, in five times as many rounds. Rounds go one way and the other, and begin with another peer each.
Traffic comes from CPU 0, every consumer is pinned to CPU 1 alike, and a Go consumer runs with GOMAXPROCS=1 then; in the
rows marked "not pinned" consumers are where the scheduler puts them. All have a queue of %d packets, a copy range of
%d bytes, a receive buffer of %d MiB, fail-open and GSO; of these kstatd is told the queue length, the rest is its own
choice. kstatd publishes every %d packets.

A rate is by the clock. "By its median batch" is that of the median of the times for 64 packets: the same, without the moments
in which others on the machine, or a hypervisor, have the CPU. What counts in the kernel runs in that time, for each packet.
`, r.options.numRounds, r.options.flooding, r.options.queueLen, copyRange, readBuffer>>20, r.options.counter)
}

func (r report) writeLimits(b *bytes.Buffer) {
	fmt.Fprint(b, "\n## What was not measured\n\n")
	told := make(map[string]bool)
	for _, s := range r.sections {
		for _, l := range s.lines {
			if l.measured() {
				continue
			}
			reason := "no value"
			if l.missing != nil {
				reason = strings.Join(strings.Fields(l.missing.Error()), " ")
			}
			if !told[reason] { // one peer is in many lines
				fmt.Fprintf(b, "- %s, and what goes with it: %s.\n", l.what, reason)
			}
			told[reason] = true
		}
	}
	fmt.Fprint(b, `- More than two cores, one of them kept for the traffic but in the row scaling: how figures grow with cores, queues and
  line rates is a model (docs/performance.md), and the row model is what it predicts, not a measurement.
- A network card: there is loopback and a veth pair, no interrupts, no offload but GSO. A packet's onward way runs inside the
  consumer's verdict, so on loopback receiving is paid by the consumer's CPU; without a rule the sender's CPU pays.
- Receivers and flows: there is one flow of 46-byte UDP packets whose receiver drops them in a socket filter, IPv4 only. Real
  receivers cost more, which makes any consumer look better than here.
- A machine that nobody pins, but in two rows. On one CPU the Go runtime's poller cannot run beside the sender, which makes
  go-nfqueue as it comes faster than it is otherwise. Not pinned, the scheduler may put a consumer beside the idle sender,
  and a wake-up on the same CPU is cheaper than one across.
- The largest rate without loss, to the last packet: "none uncounted" is what a queue of this length absorbs for the length of
  a flood, so a stall of the machine that is longer than the queue shows as loss, whoever consumes. Where full speed overruns
  a consumer, the rate is searched by bisection in six floods of a quarter of the length: to a sixty-fourth of the offered rate.
- Other machines: this one may be shared, so compare within this run, not with another's.
- A program's cost below a nanosecond: the kernel tells whole ones. Run over and over on one packet its code and the figures are
  in the cache; in a flood (bpf_stats) reading the clock twice is in both sides, and whatever it takes more in one is not told.
- What bpftrace counted: its figures are told at its end and are of the whole host, so only what it costs the sender is here.
- Allocations of the daemon under the flood: they come from a test of package hook in its own process, once, without proofs and inspections, which allocate a thousand objects a second.
- Readers of nout that choose their CPU: at rest they sit on the other one than the server; under the flood they are where the
  scheduler puts them, which may be beside the server, where a wake-up is cheaper. The two are not to be compared.
- User CPU of a consumer that is preempted: more than half a millisecond between two system calls is taken for that, and left out.
- The kernel's memory: its queue and socket buffer are not in what a process has.
- Other rules, conntrack and cgroups on a busy host.
`)
}

// status is the exit status: wrong sums weigh more than missing figures.
func (r report) status() (int, error) {
	var wrong, missing []error
	for _, s := range r.sections {
		for _, l := range s.lines {
			switch {
			case !l.measured() && !l.optional:
				missing = append(missing, fmt.Errorf("not measured: %s", l.what))
			case l.measured() && l.must && !l.target.met(l.values):
				wrong = append(wrong, fmt.Errorf("%s: %v, want %s", l.what, l.values, l.target.text))
			}
		}
	}
	if len(wrong) > 0 {
		return 1, errors.Join(wrong...)
	}
	if len(missing) > 0 {
		return 2, errors.Join(missing...)
	}
	return 0, nil
}

// format gives a figure three digits or whole thousands.
func format(v float64) string {
	abs := max(v, -v)
	switch {
	case abs >= 1000:
		return thousands(int64(v))
	case v == float64(int64(v)):
		return strconv.FormatInt(int64(v), 10)
	case abs >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 0.1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for l := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}
