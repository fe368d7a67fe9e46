package hook

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-16 -strip llvm-strip-16 count bpf/count.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu
//go:generate sh -c "sha256sum bpf/count.c count_bpf* >bpf/SHA256SUMS"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"kstat/stats"
)

// BPF is the engine whose packets are counted where they are, by programs in
// the kernel (bpf/count.c). A process only attaches and detaches them, and
// reads the figures in memory that it shares with them.
type BPF struct {
	config  Config
	holding *programs
	table   *stats.Table

	mu     sync.Mutex // held for the length of a transition, or a look
	places []place    // one per family; none when stopped
	closed bool

	// started mirrors that there are places, for those who must not wait.
	started atomic.Bool
	repairs atomic.Uint64
}

// place is where a program is attached.
type place struct {
	link link.Link
	link.NetfilterOptions
}

// lowestPriority is the last one that is tried: the kernel gives each BPF
// program at a hook a priority of its own, and refuses one that anybody has.
const lowestPriority = priority - 9

// Name returns the engine's name.
func (e *BPF) Name() string { return KindBPF.String() }

// Point returns the name of the hook.
func (e *BPF) Point() string { return e.config.Point.String() }

// Started reports whether packets are being counted. It waits for nobody.
func (e *BPF) Started() bool { return e.started.Load() }

// Start attaches the programs.
func (e *BPF) Start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return ErrClosed
	case e.places != nil:
		return nil
	}
	if err := e.adopt(); err != nil {
		return fmt.Errorf("take over what an earlier process has attached: %w", err)
	}
	if e.places == nil {
		if err := e.attach(); err != nil {
			return errors.Join(err, e.detachLocked())
		}
	}
	e.started.Store(true)
	e.opened()
	return nil
}

// opened tells of the links there are.
func (e *BPF) opened() {
	if e.config.Opened == nil {
		return
	}
	var o Opened
	for i, at := range e.places {
		info, err := at.link.Info()
		if err != nil {
			e.config.Log.Warn("a link without a number", "err", err)
			return
		}
		o.Links[i] = uint32(info.ID)
	}
	e.config.Opened(o)
}

// adopt takes over what an earlier process has attached, and somebody kept:
// no packet has gone by uncounted.
func (e *BPF) adopt() error {
	var places []place
	for _, f := range e.holding.links {
		at, err := e.placeOf(f)
		if err != nil {
			for _, at := range places {
				err = errors.Join(err, at.link.Close(), at.Program.Close())
			}
			return err
		}
		places = append(places, at)
	}
	e.holding.letGo()
	e.places = places
	return nil
}

// placeOf returns where a link is.
func (e *BPF) placeOf(f *os.File) (at place, err error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return place{}, err
	}
	if at.link, err = link.NewFromFD(fd); err != nil {
		return place{}, err
	}
	info, err := at.link.Info()
	if err != nil {
		return place{}, errors.Join(err, at.link.Close())
	}
	is := info.Netfilter()
	program, err := e.holding.counting(is.ProtocolFamily)
	if err != nil {
		return place{}, errors.Join(err, at.link.Close())
	}
	at.NetfilterOptions = link.NetfilterOptions{
		Program: program, ProtocolFamily: is.ProtocolFamily, Hook: is.Hook, Priority: is.Priority,
	}
	return at, nil
}

// attach puts a program per family where the rule of the other engine would
// be.
func (e *BPF) attach() error {
	for _, family := range []link.NetfilterProtocolFamily{link.NetfilterProtoIPv4, link.NetfilterProtoIPv6} {
		if e.config.Families == OnlyIPv4 && family == link.NetfilterProtoIPv6 || e.config.Families == OnlyIPv6 && family == link.NetfilterProtoIPv4 {
			continue
		}
		at, err := e.attachOne(family)
		if err != nil {
			return fmt.Errorf("attach at %v: %w", e.config.Point, err)
		}
		e.places = append(e.places, at)
	}
	return nil
}

func (e *BPF) attachOne(family link.NetfilterProtocolFamily) (at place, err error) {
	program, err := e.holding.counting(family)
	if err != nil {
		return place{}, err
	}
	at.NetfilterOptions = link.NetfilterOptions{Program: program, ProtocolFamily: family, Hook: link.NetfilterInetHook(e.config.Point)}
	for at.Priority = priority; at.Priority >= lowestPriority; at.Priority-- {
		at.link, err = link.AttachNetfilter(at.NetfilterOptions)
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	switch {
	case err == nil:
		return at, nil
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("others have every priority from %d to %d: %w", lowestPriority, priority, unix.EBUSY)
	}
	return place{}, errors.Join(err, program.Close())
}

// inspect looks whether the programs are still attached, and puts back what
// somebody has detached. The kernel does not say so (a link that was detached
// looks as it did before); but as long as a program is there it refuses another
// one of that priority.
func (e *BPF) inspect() {
	if !e.mu.TryLock() {
		return // a start or a stop
	}
	defer e.mu.Unlock()
	for i := range e.places {
		at := &e.places[i]
		l, err := link.AttachNetfilter(at.NetfilterOptions)
		switch {
		case errors.Is(err, unix.EBUSY): // as it should be
		case err != nil:
			e.config.Log.Warn("whether the program is attached cannot be seen", "err", err)
		default:
			at.link.Close()
			at.link = l
			e.config.Log.Warn("the program was detached, and has been attached again", "repairs", e.repairs.Add(1))
			e.opened()
		}
	}
}

// Stop detaches the programs, and waits until no CPU is inside one.
func (e *BPF) Stop() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	return e.detachLocked()
}

// Close stops the engine for good.
func (e *BPF) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return e.detachLocked()
}

func (e *BPF) detachLocked() error {
	if e.places == nil {
		return nil
	}
	awaitIdleQueues()
	var errs []error
	for _, at := range e.places {
		// Somebody may keep the link: to close it would not be enough.
		errs = append(errs, at.link.Detach(), at.link.Close(), at.Program.Close())
	}
	gracePeriod()
	e.places = nil
	if e.started.Load() {
		e.opened()
	}
	e.started.Store(false)
	return errors.Join(errs...)
}

// Uncounted returns 0: what the programs see they count, and what does not
// pass them is none of the hook's.
func (e *BPF) Uncounted() (uint64, error) { return e.config.Before.Uncounted, nil }

// Status returns what there is to tell beside the figures.
func (e *BPF) Status() (Status, error) {
	status := e.config.Before
	status.Repairs = e.repairs.Load()
	return status, nil
}

// Run keeps the programs attached, and passes on what they tell, until ctx
// ends, and then closes the engine. There is nothing else to prove: no packet
// waits for this process.
func (e *BPF) Run(ctx context.Context) error {
	feeds, err := e.holding.feeds(e.config, e.table)
	if err != nil {
		return errors.Join(err, e.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(feeds))
	for _, f := range feeds {
		go func() {
			defer cancel() // else nobody would know
			ended <- f.run()
		}()
	}
	e.keep(ctx)
	err = e.Close()
	for _, f := range feeds {
		err = errors.Join(err, f.end())
	}
	for range feeds {
		err = errors.Join(err, <-ended)
	}
	return err
}

// keep keeps the programs attached until ctx ends.
func (e *BPF) keep(ctx context.Context) {
	tick := time.NewTicker(proveEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n%inspectEvery == 0 {
			e.inspect()
		}
		if e.config.Alive != nil {
			status, _ := e.Status()
			e.config.Alive(status)
		}
	}
}

// programs is the holding of the engine: the programs, and the map that they
// count in. They are in the kernel as long as a process has them open, and
// nothing of them is in any file system.
type programs struct {
	files [bpfFiles]*os.File

	// links are those that are kept, or inherited from somebody who keeps
	// them.
	links []*os.File
	kept  Links
	// counters are the programs that links are kept of.
	counters [2]ebpf.ProgramID
}

// The files of a holding.
const (
	figuresFile = iota
	countIPv4File
	countIPv6File
	setCounterFile
	resetFile
	publicationsFile
	packetsFile
	bpfFiles
)

var bpfFileNames = [bpfFiles]string{"figures", countProgCountIpv4, countProgCountIpv6, countProgSetCounter, countProgReset, countMapPublications, countMapPackets}

func inheritPrograms(files []*os.File) Holding {
	h := new(programs)
	h.links = files[copy(h.files[:], files):]
	return h
}

// holdPrograms loads the programs, which takes CAP_BPF and CAP_PERFMON beside
// CAP_NET_ADMIN, all of them in the first user namespace.
//
// It reads the kernel's types, for which 8 MB are allocated: garbage that is not
// collected during the start, which would wait for that, but given back behind it.
func holdPrograms(c Config) (Holding, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	switch err := features.HaveProgramType(ebpf.Netfilter); {
	case errors.Is(err, ebpf.ErrNotSupported):
		return nil, fmt.Errorf("this kernel has no BPF programs at netfilter hooks (Linux 6.4 has, with CONFIG_NETFILTER_BPF_LINK): "+
			"take --engine nfqueue: %w", unix.EOPNOTSUPP)
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("BPF programs take CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN outside of any user namespace: "+
			"run it as the host's root, or take --engine nfqueue: %w", unix.EPERM)
	case err != nil:
		return nil, fmt.Errorf("BPF programs: %w", err)
	}
	h, err := loadPrograms(c)
	if err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", err)
	}
	time.AfterFunc(time.Second, debug.FreeOSMemory)
	return h, nil
}

func loadPrograms(c Config) (_ *programs, err error) {
	types := btf.NewCache()
	go func() { _, _ = types.Kernel() }() // 10 ms; who needs them waits, and is told what is wrong
	spec, err := loadCount()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		spec.Variables[countVarExcludeLoopback].Set(c.ExcludeLoopback),
		spec.Variables[countVarIncoming].Set(c.Point.incoming()))
	if err != nil {
		return nil, err
	}
	loaded, err := loadAtOnce(spec, types)
	if err != nil {
		return nil, err
	}
	defer loaded.Close()
	h := new(programs)
	for i, name := range bpfFileNames {
		var fd int
		switch i {
		case figuresFile:
			fd = loaded.Maps[".bss"].FD()
		case publicationsFile, packetsFile:
			fd = loaded.Maps[name].FD()
		default:
			fd = loaded.Programs[name].FD()
		}
		if h.files[i], err = duplicate(fd, name); err != nil {
			h.Close()
			return nil, err
		}
	}
	for i, name := range []string{countProgCountIpv4, countProgCountIpv6} {
		info, err := loaded.Programs[name].Info()
		if err != nil {
			h.Close()
			return nil, err
		}
		h.counters[i], _ = info.ID()
	}
	return h, nil
}

// loadAtOnce is ebpf.NewCollection, but that the kernel verifies the programs at
// the same time: that is most of what a start takes.
func loadAtOnce(spec *ebpf.CollectionSpec, types *btf.Cache) (*ebpf.Collection, error) {
	maps := spec.Copy()
	maps.Programs = nil
	all, err := ebpf.NewCollection(maps)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // of all.Programs
	var g errgroup.Group
	for name, program := range spec.Programs {
		one := &ebpf.CollectionSpec{
			Maps:      spec.Maps,
			Programs:  map[string]*ebpf.ProgramSpec{name: program},
			Types:     spec.Types,
			ByteOrder: spec.ByteOrder,
		}
		g.Go(func() error {
			options := ebpf.CollectionOptions{MapReplacements: all.Maps, Cache: types}
			if program.Type == ebpf.Netfilter { // the others look into no type of the kernel's
				// Without those of modules: ours are none of theirs, and cilium/ebpf
				// reads the kernel's through a module's behind no lock.
				var err error
				if options.Programs.KernelTypes, err = types.Kernel(); err != nil {
					return err
				}
			}
			loaded, err := ebpf.NewCollectionWithOptions(one.Copy(), options)
			if err != nil {
				return err
			}
			defer loaded.Close()
			mu.Lock()
			defer mu.Unlock()
			all.Programs[name] = loaded.DetachProgram(name)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		all.Close()
		return nil, err
	}
	return all, nil
}

func (h *programs) Kind() Kind { return KindBPF }

func (h *programs) Files() []*os.File { return slices.Concat(h.files[:], h.links) }

func (h *programs) Keep(links Links) bool {
	if links == h.kept {
		return len(h.links) > 0
	}
	h.letGo()
	for _, id := range links {
		if id == 0 {
			continue
		}
		f, err := h.linkFile(link.ID(id))
		if err != nil { // it has ended
			h.letGo()
			return false
		}
		h.links = append(h.links, f)
	}
	h.kept = links
	return len(h.links) > 0
}

func (h *programs) letGo() {
	for _, f := range h.links {
		f.Close()
	}
	h.links, h.kept = nil, Links{}
}

// linkFile opens a link by its number, which takes CAP_SYS_ADMIN. It must be
// one of ours: the number is the word of a process with less privileges.
func (h *programs) linkFile(id link.ID) (*os.File, error) {
	l, err := link.NewFromID(id)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(h.counters[:], info.Program) {
		return nil, fmt.Errorf("link %d is somebody else's: %w", id, unix.EPERM)
	}
	return duplicate(l.(interface{ FD() int }).FD(), fmt.Sprint("link ", id))
}

// duplicate returns a descriptor of ebpf's as a file.
func duplicate(fd int, name string) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// counting returns the program that counts the packets of a family.
func (h *programs) counting(family link.NetfilterProtocolFamily) (*ebpf.Program, error) {
	f := h.files[countIPv4File]
	if family == link.NetfilterProtoIPv6 {
		f = h.files[countIPv6File]
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	p, err := ebpf.NewProgramFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return p, nil
}

// Table maps the figures, for as long as this process lives.
func (h *programs) Table([]byte) (*stats.Table, error) {
	figures, err := unix.Mmap(int(h.files[figuresFile].Fd()), 0, stats.ViewSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the figures: %w", err)
	}
	return stats.ViewTable(figures, h)
}

func (h *programs) New(c Config, table *stats.Table) (Engine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &BPF{config: c, holding: h, table: table}
	e.repairs.Store(c.Before.Repairs)
	return e, nil
}

func (h *programs) Close() {
	h.letGo()
	for _, f := range h.files {
		f.Close() // nil is no harm
	}
}

// SetCounter makes the kernel publish after n packets.
func (h *programs) SetCounter(n uint32) error { return change(h.files[setCounterFile], n) }

// Reset sets the figures to zero, in the kernel.
func (h *programs) Reset() error { return change(h.files[resetFile], 0) }

// Settle waits until no CPU is inside a program that it had entered before.
func (h *programs) Settle() { gracePeriod() }

// again is what a program returns that could not change the figures, because
// somebody was counting a packet (AGAIN in bpf/count.c).
const again = 1

// change runs a program by hand until it could do its work.
//
// It is the bare system call, because ebpf.Program.Run loads another program
// at first, to see whether the kernel can run one, and a worker may not load.
func change(program *os.File, argument uint32) error {
	var packet [64]byte                 // which the kernel wants
	context := [...]uint32{2: argument} // struct __sk_buff, up to its mark
	attr := struct {                    // union bpf_attr, the part "test"
		program, result               uint32
		packetSize, packetOutSize     uint32
		packet, packetOut             uint64
		repeat, duration              uint32
		contextSize, contextOutSize   uint32
		context, contextOut           uint64
		flags, cpu, batchSize, unused uint32
	}{
		program:     uint32(program.Fd()),
		packetSize:  uint32(len(packet)),
		packet:      uint64(uintptr(unsafe.Pointer(&packet))),
		contextSize: uint32(unsafe.Sizeof(context)),
		context:     uint64(uintptr(unsafe.Pointer(&context))),
	}
	var pin runtime.Pinner // the stack may move, but what is pinned is not on it
	defer pin.Unpin()
	pin.Pin(&packet)
	pin.Pin(&context)
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return fmt.Errorf("run %s: %w", program.Name(), errno)
		case attr.result != again:
			return nil
		}
		runtime.Gosched()
	}
}
