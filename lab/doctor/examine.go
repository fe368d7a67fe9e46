package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
)

// What kstatd takes at most.
const (
	MaxQueues   = hook.MaxQueues
	MaxQueueLen = hook.MaxQueueLen
)

// Config says what is to be examined: the flags that kstatd would be given.
type Config struct {
	Features []Feature // none means all
	Mount    string    // "" means kstatd's default
	Queue    uint16
	Queues   int    // 0 means 1
	QueueLen uint32 // 0 means kstatd's default
	Port     uint16 // of the metrics; 0 means 9469

	// Limit is how long a check may take, and as all go on side by side, all of
	// them. 0 means 1.7 seconds.
	Limit time.Duration

	Version string // of kstat
}

// visit is one examination of a machine. Its fields are not written any more
// once the checks go on.
type visit struct {
	Config
	ctx     context.Context
	self    self
	kernel  kernel
	netns   bool // we may look at the rules here: CAP_NET_ADMIN
	asked   func(Feature) bool
	mounted []mounted
	mountsE error
}

// finding is what a check came to.
type finding struct {
	status   Status
	found    string
	details  []string
	mend     string
	command  string
	title    string    // instead of the check's
	features []Feature // instead of the check's, if not nil
}

func fine(format string, args ...any) finding {
	return finding{status: OK, found: fmt.Sprintf(format, args...)}
}
func warning(format string, args ...any) finding {
	return finding{status: Warn, found: fmt.Sprintf(format, args...)}
}
func failure(format string, args ...any) finding {
	return finding{status: Fail, found: fmt.Sprintf(format, args...)}
}
func skipped(format string, args ...any) finding {
	return finding{status: Skip, found: fmt.Sprintf(format, args...)}
}

// by adds what to do, and the command that does it, which may be "".
func (f finding) by(command, format string, args ...any) finding {
	f.command, f.mend = command, fmt.Sprintf(format, args...)
	return f
}

// with adds details.
func (f finding) with(lines ...string) finding {
	f.details = append(f.details, lines...)
	return f
}

// check is one thing to look at.
type check struct {
	id, group, title string
	features         []Feature
	try              func(*visit) []finding
	// proof says that the features cannot be taken to work if there is no
	// answer in time.
	proof bool
}

// noAnswer is what there is to say if something was not done in time.
func (v *visit) noAnswer() finding {
	return failure("no answer within %v", v.Limit).by("kstat doctor --limit 10s", "if the machine is busy, give it more time")
}

// one makes a check's function of one that always finds one thing.
func one(f func(*visit) finding) func(*visit) []finding {
	return func(v *visit) []finding { return []finding{f(v)} }
}

// The groups, in the order in which they are shown.
const (
	groupHost    = "kernel and user"
	groupPackets = "packets to user space (NFQUEUE)"
	groupBPF     = "counting in the kernel (BPF)"
	groupFiles   = "files (FUSE)"
	groupRun     = "private worlds (kstat run)"
	groupService = "around it"
)

// checks returns the table of checks.
func checks() []check {
	return []check{
		{"kernel", groupHost, "kernel", []Feature{NFQueue, BPF, FUSE, Run, RunRoot, Metrics, Service}, one(lookAtKernel), false},
		{"user", groupHost, "user", nil, one(lookAtUser), false},
		{"capabilities", groupHost, "capabilities", []Feature{NFQueue, BPF}, one(lookAtCapabilities), false},
		{"confinement", groupHost, "confinement", nil, one(lookAtConfinement), false},

		{"nfqueue", groupPackets, "a packet, queued", []Feature{NFQueue, Run, Service}, one(tryNFQueue), true},
		{"queue", groupPackets, "queue number", []Feature{NFQueue, Service}, lookAtQueue, false},
		{"rules", groupPackets, "rules of others", []Feature{NFQueue}, lookAtRules, false},
		{"table", groupPackets, "table inet kstat", []Feature{NFQueue}, lookAtTables, false},
		{"memory", groupPackets, "room for packets", []Feature{NFQueue}, lookAtMemory, false},
		{"firewall", groupPackets, "firewall managers", nil, one(lookAtManagers), false},

		{"bpf-kernel", groupBPF, "program type", []Feature{BPF}, one(lookAtBPFKernel), false},
		{"bpf-capabilities", groupBPF, "capabilities for BPF", []Feature{BPF}, one(lookAtBPFCapabilities), false},
		{"bpf", groupBPF, "a program, attached", []Feature{BPF}, one(tryBPF), true},

		{"fuse-device", groupFiles, "/dev/fuse", []Feature{NFQueue, BPF, FUSE, Run, RunRoot, Service}, one(lookAtDevice), false},
		{"fuse", groupFiles, "a tree, mounted and read", []Feature{NFQueue, BPF, FUSE, Run, Service}, one(tryFUSE), true},
		{"mount-point", groupFiles, "mount point", []Feature{NFQueue, BPF}, one(lookAtMountPoint), false},
		{"kstatd", groupFiles, "kstatd", []Feature{NFQueue, BPF, FUSE}, lookAtDaemons, false},
		{"mount-namespace", groupFiles, "mount namespace", nil, one(lookAtMountNamespace), false},

		{"namespaces", groupRun, "user namespaces", []Feature{Run}, one(lookAtNamespaces), false},
		{"root", groupRun, "root directory", []Feature{Run, RunRoot}, one(lookAtRoot), false},
		{"proc", groupRun, "/proc", nil, one(lookAtProc), false},
		{"tools", groupRun, "tools", nil, one(lookAtTools), false},
		{"module", groupRun, "module kstat", nil, one(lookAtModule), false},
		{"world", groupRun, "a world, entered", []Feature{Run, RunRoot}, one(tryWorld), true},
		{"world-root", groupRun, "a world, as root", []Feature{RunRoot}, tryWorldAsRoot, false},

		{"port", groupService, "port", []Feature{Metrics}, one(lookAtPort), false},
		{"service", groupService, "systemd unit", []Feature{Service}, one(lookAtUnit), false},
	}
}

// usualLimit leaves some of two seconds to start and to write in.
const usualLimit = 1700 * time.Millisecond

// Examine looks at the machine. It takes little longer than its limit, whatever
// it finds.
func Examine(ctx context.Context, c Config) *Report {
	began := time.Now()
	if c.Limit == 0 {
		c.Limit = usualLimit
	}
	ctx, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	v := newVisit(ctx, c)
	r := &Report{
		Schema: Schema, Version: c.Version,
		Kernel: v.kernel.release, Machine: v.kernel.machine, UID: v.self.uid,
		Checks: []Check{},
	}
	var wanted []check
	for _, c := range checks() {
		if len(v.Features) == 0 || slices.ContainsFunc(c.features, v.asked) || v.related(c) {
			wanted = append(wanted, c)
		}
	}
	results := make([][]Check, len(wanted))
	var all sync.WaitGroup
	for i := range wanted {
		all.Go(func() { results[i] = v.carryOut(&wanted[i]) })
	}
	all.Wait()
	r.Checks = append(r.Checks, slices.Concat(results...)...)
	r.judge(v.Features)
	r.Seconds = time.Since(began).Seconds()
	return r
}

func newVisit(ctx context.Context, c Config) *visit {
	v := &visit{Config: c, ctx: ctx, self: readSelf(), kernel: readKernel()}
	v.asked = func(f Feature) bool { return slices.Contains(v.Features, f) }
	v.netns = v.self.has(unix.CAP_NET_ADMIN)
	v.mounted, v.mountsE = readMounts()
	if v.Mount == "" {
		v.Mount = v.defaultMount()
	}
	return v
}

// related reports whether a check that no feature depends on should be seen by
// who asked for some: those of the same group, and of the host.
func (v *visit) related(c check) bool {
	if len(c.features) > 0 {
		return false
	}
	switch c.group {
	case groupHost:
		return true
	case groupPackets:
		return v.asked(NFQueue)
	case groupFiles:
		return v.asked(FUSE) || v.asked(NFQueue) || v.asked(BPF)
	case groupRun:
		return v.asked(Run) || v.asked(RunRoot)
	}
	return false
}

// carryOut carries out a check, and does not wait for one that hangs.
func (v *visit) carryOut(c *check) (all []Check) {
	began := time.Now()
	answer := make(chan []finding, 1)
	go func() { answer <- c.try(v) }()
	var found []finding
	select {
	case found = <-answer:
	case <-time.After(v.Limit + 100*time.Millisecond): // longer than the probes, who say more
		f := v.noAnswer()
		if !c.proof {
			f.status = Warn
		}
		found = []finding{f}
	}
	for _, f := range found {
		needed := c.features
		if f.features != nil {
			needed = f.features
		}
		title := c.title
		if f.title != "" {
			title = f.title
		}
		all = append(all, Check{
			ID: c.id, Group: c.group, Title: title, Status: f.status, Found: f.found, Details: f.details,
			Mend: f.mend, Command: f.command, Features: append([]Feature{}, needed...), Seconds: time.Since(began).Seconds(),
		})
	}
	return all
}

// sudo puts sudo before a command that takes root.
func (v *visit) sudo(command string) string {
	if v.self.uid == 0 {
		return command
	}
	return "sudo " + command
}

// defaultMount is where a kstatd that is started here mounts: mnt/kstat in a
// checkout, else /run/kstat. Neither what is mounted on mnt is asked nor a tree
// that the working directory is in, as by [os.Getwd]: either may hang.
func (v *visit) defaultMount() string {
	const usual = "/run/kstat"
	dir, err := os.Readlink("/proc/self/cwd")
	if err != nil {
		return usual
	}
	for _, m := range v.mounted {
		if m.dir == dir+"/mnt" || m.fstype == fs.FSType && (dir == m.dir || strings.HasPrefix(dir, m.dir+"/")) {
			return usual
		}
	}
	if info, err := os.Lstat("mnt"); err == nil && info.IsDir() {
		return "mnt/kstat"
	}
	return usual
}
