package traffic

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// figures are packets by family and protocol, as "4/6" (IPv4, TCP); those of any
// protocol, with none known included, are "4" and "6". Zeros are left out.
type figures map[string]uint64

// truth is a chain of counters at the POSTROUTING hook of a namespace: what the
// kernel itself says about what passes.
type truth struct {
	t     *testing.T
	chain *nftables.Chain
	rules []string // what each rule counts, in order
	do    func(func() error) error
}

// here calls f; it stands for the test's own namespace.
func here(f func() error) error { return f() }

// watch installs a truth where do takes it. It goes when the test ends.
func watch(t *testing.T, do func(func() error) error) *truth {
	t.Helper()
	w := &truth{t: t, do: do}
	table := &nftables.Table{Name: "truth", Family: nftables.TableFamilyINet}
	w.must(func(c *nftables.Conn) error {
		c.AddTable(table)
		w.chain = c.AddChain(&nftables.Chain{
			Name:     "postrouting",
			Table:    table,
			Type:     nftables.ChainTypeFilter,
			Hooknum:  nftables.ChainHookPostrouting,
			Priority: nftables.ChainPriorityFirst,
		})
		for _, version := range []int{4, 6} {
			family := map[int]byte{4: unix.NFPROTO_IPV4, 6: unix.NFPROTO_IPV6}[version]
			w.count(c, fmt.Sprint(version), is(expr.MetaKeyNFPROTO, family))
			for protocol := range 256 {
				w.count(c, fmt.Sprintf("%d/%d", version, protocol),
					is(expr.MetaKeyNFPROTO, family), is(expr.MetaKeyL4PROTO, byte(protocol)))
			}
		}
		return c.Flush()
	})
	t.Cleanup(func() {
		w.must(func(c *nftables.Conn) error {
			c.DelTable(table)
			return c.Flush()
		})
	})
	return w
}

// in returns the truth for a subtest.
func (w *truth) in(t *testing.T) *truth {
	sub := *w
	sub.t = t
	return &sub
}

// is matches packets by one byte of what nft calls meta.
func is(key expr.MetaKey, value byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}},
	}
}

func (w *truth) count(c *nftables.Conn, name string, matches ...[]expr.Any) {
	var all []expr.Any
	for _, m := range matches {
		all = append(all, m...)
	}
	c.AddRule(&nftables.Rule{Table: w.chain.Table, Chain: w.chain, Exprs: append(all, &expr.Counter{})})
	w.rules = append(w.rules, name)
}

func (w *truth) must(f func(*nftables.Conn) error) {
	w.t.Helper()
	err := w.do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		return f(c)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// read returns all figures that are not 0.
func (w *truth) read() figures {
	w.t.Helper()
	f := figures{}
	w.must(func(c *nftables.Conn) error {
		rules, err := c.GetRules(w.chain.Table, w.chain)
		if err != nil {
			return err
		}
		for i, r := range rules {
			n := r.Exprs[len(r.Exprs)-1].(*expr.Counter).Packets
			if n > 0 {
				f[w.rules[i]] = n
			}
		}
		return nil
	})
	return f
}

// during returns what f has added.
func (w *truth) during(f func() error) figures {
	w.t.Helper()
	before := w.read()
	if err := f(); err != nil {
		w.t.Error(err)
	}
	added := w.read()
	maps.DeleteFunc(added, func(name string, n uint64) bool { return n == before[name] })
	for name := range added {
		added[name] -= before[name]
	}
	return added
}

// expect fails the test if f adds anything else than want.
func (w *truth) expect(want figures, f func() error) {
	w.t.Helper()
	if got := w.during(f); !maps.Equal(got, want) {
		w.t.Errorf("POSTROUTING saw %v, want %v", got, want)
	}
}

// of is n packets of one protocol, and of nothing else.
func of(version, protocol int, n uint64) figures {
	return figures{fmt.Sprint(version): n, fmt.Sprintf("%d/%d", version, protocol): n}
}
