package mutant

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/stats"
)

// Mutant is a module with a fault.
type Mutant struct {
	Name  string
	Fault string // what it does, in a few words
	make  func(*module) error
}

// All returns all mutants.
func All() []Mutant { return mutants }

// Names returns the names of all mutants.
func Names() []string {
	names := make([]string, len(mutants))
	for i, m := range mutants {
		names[i] = m.Name
	}
	return names
}

// Apply returns the three files of a module that has the named fault. Call it
// once for each tree, when the module is loaded, and do not serve the tree's
// own nout, counter and start beside them.
func Apply(name string, t *fs.Tree) (nout, counter, start fs.File, err error) {
	for _, mutant := range mutants {
		if mutant.Name == name {
			m := &module{tree: t, nout: t.File("nout"), counter: t.File("counter"), start: t.File("start")}
			err := mutant.make(m)
			return m.nout, m.counter, m.start, err
		}
	}
	err = fmt.Errorf("no mutant %q: take one of %s", name, strings.Join(Names(), ", "))
	return nout, counter, start, err
}

// mutants is in the order in which help shows it: what is counted, when it is
// published, how it is shown, what is taken.
var mutants = []Mutant{
	{"udp-as-tcp", "counts UDP as TCP", func(m *module) error {
		m.show(func(r stats.Row) bool {
			return r.Class.Protocol() == stats.TCP || r.Class.Protocol() == unix.IPPROTO_UDP
		})
		return nil
	}},
	{"counts-everything", "counts packets of every protocol", func(m *module) error {
		m.show(func(stats.Row) bool { return true })
		return nil
	}},
	{"ipv4-only", "leaves IPv6 out", func(m *module) error {
		m.show(func(r stats.Row) bool { return r.Class == stats.ClassOf(stats.IPv4, stats.TCP) })
		return nil
	}},
	{"counts-before-start", "counts from insmod on, until the first stop", (*module).countBeforeStart},
	{"never-stops", "goes on counting when start is 0 again", (*module).neverStop},
	{"forgets-on-stop", "begins at 0 again when it is stopped", func(m *module) error {
		restart, write := m.restartable(), m.start.Write
		m.start.Write = func(text []byte) error {
			err := write(text)
			if !m.tree.Engine.Started() {
				restart()
			}
			return err
		}
		return nil
	}},
	{"never-publishes", "leaves nout at 0", func(m *module) error {
		m.nout.Read = func() ([]byte, error) { return []byte("0\n"), nil }
		return nil
	}},
	{"ignores-counter", "publishes at once, whatever counter is", func(m *module) error {
		m.nout.Read = line(m.live)
		return nil
	}},
	{"always-ten", "publishes after every 10 packets, whatever counter is", func(m *module) error {
		m.counter = twin(m.tree).File("counter")
		return nil
	}},
	{"off-by-one", "publishes one packet late", (*module).publishLate},
	{"tcp-only", "publishes after so many TCP packets, other protocols not counted", (*module).publishTCP},
	{"late-lowering", "publishes with the next packet when counter is lowered, not at once", (*module).lowerLate},
	{"resets-on-counter", "begins at 0 again when counter is written", func(m *module) error {
		restart, write := m.restartable(), m.counter.Write
		m.counter.Write = func(text []byte) error {
			defer restart()
			return write(text)
		}
		return nil
	}},
	{"decreases", "shows one packet less at every second read", func(m *module) error {
		var reads atomic.Uint64
		m.nout.Read = line(func() uint64 {
			n := m.published()
			return n - min(n, reads.Add(1)%2)
		})
		return nil
	}},
	{"wraps", "counts in a byte, from 255 on to 0", func(m *module) error {
		m.nout.Read = line(func() uint64 { return m.published() % 256 })
		return nil
	}},
	{"no-newline", "ends no text with a newline", func(m *module) error {
		for _, f := range []*fs.File{&m.nout, &m.counter, &m.start} {
			change(f, func(text string) string { return strings.TrimSuffix(text, "\n") })
		}
		return nil
	}},
	{"labelled", "writes words before the number in nout", func(m *module) error {
		change(&m.nout, func(text string) string { return "TCP packets: " + text })
		return nil
	}},
	{"accepts-junk", "takes any text for counter and start, and ignores what is no number", func(m *module) error {
		m.answerJunk(nil)
		return nil
	}},
	{"wrong-errno", "refuses junk with EFAULT", func(m *module) error {
		m.answerJunk(unix.EFAULT)
		return nil
	}},
	{"half-refuses", "refuses junk, but has set counter to 1 or stopped by then", func(m *module) error {
		for file, value := range map[*fs.File]string{&m.counter: "1", &m.start: "0"} {
			write := file.Write
			file.Write = func(text []byte) error {
				err := write(text)
				if err != nil {
					err = errors.Join(err, write([]byte(value)))
				}
				return err
			}
		}
		return nil
	}},
	{"atoi", "takes the digits that a text begins with", (*module).atoi},
	{"octal", "takes 010 for 8 and 0x10 for 16 in counter", func(m *module) error {
		write := m.counter.Write
		m.counter.Write = func(text []byte) error {
			n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 32)
			if err != nil {
				return unix.EINVAL
			}
			return write(strconv.AppendUint(nil, n, 10))
		}
		return nil
	}},
	{"any-start", "takes any number for start, as a plain parameter of type int", (*module).anyStart},
	{"world-writable", "lets everybody write counter and start", func(m *module) error {
		m.counter.Mode, m.start.Mode = 0o666, 0o666
		return nil
	}},
	{"writable-nout", "takes a write to nout, and begins at 0 again", func(m *module) error {
		restart := m.restartable()
		m.nout.Mode = 0o644
		m.nout.Write = func([]byte) error {
			restart()
			return nil
		}
		return nil
	}},
}
