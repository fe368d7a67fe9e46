package mutant

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/stats"
)

// module is the three files of a tree on their way to be wrong.
type module struct {
	tree                 *fs.Tree
	nout, counter, start fs.File
}

// line is a file's text of a number.
func line(number func() uint64) func() ([]byte, error) {
	return func() ([]byte, error) { return append(strconv.AppendUint(nil, number(), 10), '\n'), nil }
}

// change passes what is read through f.
func change(file *fs.File, f func(string) string) {
	read := file.Read
	file.Read = func() ([]byte, error) {
		text, err := read()
		return []byte(f(string(text))), err
	}
}

// show makes nout the published packets of the classes that are wanted.
func (m *module) show(wanted func(stats.Row) bool) {
	m.nout.Read = line(func() (sum uint64) {
		for _, row := range m.tree.Table.Snapshot().Rows {
			if wanted(row) {
				sum += row.Published.Packets
			}
		}
		return sum
	})
}

// published is what nout should show.
func (m *module) published() uint64 {
	return m.tree.Table.Snapshot().Published(stats.TCP).Packets
}

// live is the TCP packets so far.
func (m *module) live() (sum uint64) {
	for _, row := range m.tree.Table.Snapshot().Rows {
		if row.Class.Protocol() == stats.TCP {
			sum += row.Live.Packets
		}
	}
	return sum
}

// restartable lets nout begin at 0 again, whenever restart is called.
func (m *module) restartable() (restart func()) {
	var base atomic.Uint64
	m.nout.Read = line(func() uint64 { return m.published() - base.Load() })
	return func() { base.Store(m.published()) }
}

// answerJunk makes err, which may be nil, the answer to a write to counter or
// start that should be refused for what it says.
func (m *module) answerJunk(err error) {
	for _, file := range []*fs.File{&m.counter, &m.start} {
		write := file.Write
		file.Write = func(text []byte) error {
			refused := write(text)
			if errors.Is(refused, unix.EINVAL) || errors.Is(refused, unix.ERANGE) {
				return err
			}
			return refused
		}
	}
}

// twin returns a tree that counts nothing: its counter and start take and show
// what is written, and have no effect.
func twin(t *fs.Tree) *fs.Tree {
	idle := *t
	idle.Table, idle.Engine = stats.NewTable(), &pretender{Engine: t.Engine}
	return &idle
}

// pretender is an engine that is started and stopped in name only.
type pretender struct {
	fs.Engine
	started atomic.Bool
}

func (p *pretender) Started() bool { return p.started.Load() }
func (p *pretender) Start() error  { p.started.Store(true); return nil }
func (p *pretender) Stop() error   { p.started.Store(false); return nil }

// countBeforeStart starts at once, and has start show 0.
func (m *module) countBeforeStart() error {
	shown := twin(m.tree).File("start")
	write := m.start.Write
	m.start.Read = shown.Read
	m.start.Write = func(text []byte) error { return errors.Join(write(text), shown.Write(text)) }
	return m.tree.Engine.Start()
}

func (m *module) neverStop() error {
	idle := twin(m.tree)
	m.start = idle.File("start")
	write := m.start.Write
	m.start.Write = func(text []byte) error {
		if err := write(text); err != nil || !idle.Engine.Started() {
			return err
		}
		return m.tree.Engine.Start()
	}
	return nil
}

// publishLate waits for one packet more than counter says.
func (m *module) publishLate() error {
	shown := twin(m.tree)
	m.counter = shown.File("counter")
	write := m.counter.Write
	set := func() error {
		return m.tree.Table.SetCounter(uint32(min(uint64(shown.Table.Counter())+1, math.MaxUint32)))
	}
	m.counter.Write = func(text []byte) error {
		if err := write(text); err != nil {
			return err
		}
		return set()
	}
	return set()
}

// publishTCP publishes by a reckoning of its own, made up when nout is read or
// counter is written.
func (m *module) publishTCP() error {
	shown := twin(m.tree)
	m.counter = shown.File("counter")
	write := m.counter.Write
	var mu sync.Mutex
	var published uint64
	settle := func() {
		every := uint64(shown.Table.Counter())
		published += (m.live() - published) / every * every
	}
	m.nout.Read = line(func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		settle()
		return published
	})
	m.counter.Write = func(text []byte) error {
		mu.Lock()
		defer mu.Unlock()
		settle()
		err := write(text)
		if live := m.live(); live-published >= uint64(shown.Table.Counter()) {
			published = live
		}
		return err
	}
	return nil
}

// lowerLate keeps a counter that would publish from the table until a packet
// has come.
func (m *module) lowerLate() error {
	shown := twin(m.tree)
	m.counter = shown.File("counter")
	write := m.counter.Write
	var mu sync.Mutex
	var at uint64 // packets counted when counter was written
	settle := func() error {
		table, wanted := m.tree.Table, shown.Table.Counter()
		if table.Counter() != wanted && (table.Counted() != at || table.Snapshot().Pending < uint64(wanted)) {
			return table.SetCounter(wanted)
		}
		return nil
	}
	read := m.nout.Read
	m.nout.Read = func() ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if err := settle(); err != nil {
			return nil, err
		}
		return read()
	}
	m.counter.Write = func(text []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if err := errors.Join(settle(), write(text)); err != nil {
			return err
		}
		at = m.tree.Table.Counted()
		return settle()
	}
	return nil
}

// atoi reads numbers as C's atoi does, and takes any but 0 as a start.
func (m *module) atoi() error {
	m.counter.Write = func(text []byte) error {
		n := atoi(text)
		if n <= 0 || n > math.MaxUint32 {
			return unix.EINVAL
		}
		return m.tree.Table.SetCounter(uint32(n))
	}
	m.start.Write = func(text []byte) error {
		if atoi(text) != 0 {
			return m.tree.Engine.Start()
		}
		return m.tree.Engine.Stop()
	}
	return nil
}

func atoi(text []byte) int {
	digits := strings.TrimLeft(string(text), " \t\n\v\f\r")
	sign, rest := 1, digits
	if digits != "" && strings.ContainsRune("+-", rune(digits[0])) {
		rest = digits[1:]
		if digits[0] == '-' {
			sign = -1
		}
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	n, _ := strconv.Atoi(rest[:end]) // 0 without digits, the highest there is with too many
	return sign * n
}

// anyStart shows the number that was written, and counts unless it is 0.
func (m *module) anyStart() error {
	var value atomic.Int64
	m.start.Read = func() ([]byte, error) { return append(strconv.AppendInt(nil, value.Load(), 10), '\n'), nil }
	m.start.Write = func(text []byte) error {
		n, err := strconv.ParseInt(strings.TrimSuffix(string(text), "\n"), 10, 32)
		if err != nil {
			return unix.EINVAL
		}
		act := m.tree.Engine.Stop
		if n != 0 {
			act = m.tree.Engine.Start
		}
		if err := act(); err != nil {
			return err
		}
		value.Store(n)
		return nil
	}
	return nil
}
