package hook

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

const (
	tableName = "kstat"
	// seenName is the counter in the rule. It is an object of the table, and
	// not a part of the rule, so that it can be read when the rule is gone.
	seenName = "seen"
	// priority puts the rule behind filters and before source NAT
	// (NF_IP_PRI_NAT_SRC is 100): what is counted is what will leave, under
	// the addresses that it was sent with.
	priority = 99
)

// arphrdLoopback is the type of a loopback device, ARPHRD_LOOPBACK.
const arphrdLoopback = unix.ARPHRD_LOOPBACK

// rule is the nftables rule that queues packets, in a table that belongs to
// our netlink socket: others cannot change it, `nft flush ruleset` passes it
// by, and the kernel removes it when the socket closes, however that comes
// about.
type rule struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

// addRule adds table, chain, counter and rule in one transaction. From its
// return on every packet at the hook is queued.
//
// The queue is reached by nft's own queue expression, or by the NFQUEUE target
// of iptables through nft_compat on a kernel that was built without that. The
// table is called kstat, or kstat-QUEUE beside another kstatd's.
func addRule(c Config, options ...nftables.ConnOption) (*rule, error) {
	conn, err := nftables.New(append(options, nftables.AsLasting())...)
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	r := &rule{conn: conn}
	for _, name := range []string{tableName, fmt.Sprintf("%s-%d", tableName, c.Queue)} {
		err = r.add(c, name)
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		conn.CloseLasting()
		return nil, err
	}
	return r, nil
}

func (r *rule) add(c Config, table string) error {
	var err error
	for _, queue := range []expr.Any{queueExpr(c), queueTarget(c)} {
		if err = r.addWith(c, table, queue); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("this kernel has neither nft's queue expression nor the NFQUEUE target: "+
			"load or build nft_queue, or nft_compat and xt_NFQUEUE (%w)", unix.EOPNOTSUPP)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("table inet %s: this kernel has no nftables, or none with owned tables (Linux 5.12 has): %w",
			table, unix.EOPNOTSUPP)
	case err != nil:
		return fmt.Errorf("table inet %s: %w", table, err)
	}
	return nil
}

func (r *rule) addWith(c Config, table string, queue expr.Any) error {
	r.table = r.conn.CreateTable(&nftables.Table{
		Family: nftables.TableFamilyINet,
		Name:   table,
		Flags:  nftables.TableFlagOwner,
	})
	r.conn.AddObj(&nftables.NamedObj{
		Table: r.table,
		Name:  seenName,
		Type:  nftables.ObjTypeCounter,
		Obj:   &expr.Counter{},
	})
	accept := nftables.ChainPolicyAccept
	r.chain = r.conn.AddChain(&nftables.Chain{
		Table:    r.table,
		Name:     c.Point.String(),
		Type:     nftables.ChainTypeFilter,
		Hooknum:  c.Point.hooknum(),
		Priority: nftables.ChainPriorityRef(priority),
		Policy:   &accept,
	})
	r.conn.AddRule(&nftables.Rule{
		Table: r.table,
		Chain: r.chain,
		Exprs: append(match(c), &expr.Objref{Type: int(nftables.ObjTypeCounter), Name: seenName}, queue),
	})
	return r.conn.Flush()
}

// match returns the expressions that choose the packets to be counted.
func match(c Config) []expr.Any {
	var m []expr.Any
	compare := func(key expr.MetaKey, op expr.CmpOp, value []byte) {
		m = append(m, &expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: value})
	}
	switch c.Families {
	case OnlyIPv4:
		compare(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})
	case OnlyIPv6:
		compare(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV6})
	}
	if c.ExcludeLoopback {
		key := expr.MetaKeyOIFTYPE
		if c.Point.incoming() {
			key = expr.MetaKeyIIFTYPE
		}
		compare(key, expr.CmpOpNeq, binaryutil.NativeEndian.PutUint16(arphrdLoopback))
	}
	return m
}

// queueExpr is nft's queue expression. Bypass lets packets pass while nobody
// is bound to the queue; fan-out takes the queue by the CPU.
func queueExpr(c Config) expr.Any {
	flags := expr.QueueFlagBypass
	if c.Queues > 1 {
		flags |= expr.QueueFlagFanout
	}
	return &expr.Queue{Num: c.Queue, Total: uint16(c.Queues), Flag: flags}
}

// queueTarget is the same as iptables' target NFQUEUE, revision 3: struct
// xt_NFQ_info_v3 of include/uapi/linux/netfilter/xt_NFQUEUE.h, whose flags
// have the same values.
func queueTarget(c Config) expr.Any {
	flags := expr.QueueFlagBypass
	if c.Queues > 1 {
		flags |= expr.QueueFlagFanout
	}
	info := make(xt.Unknown, 8) // padded to 8 bytes
	binary.NativeEndian.PutUint16(info[0:], c.Queue)
	binary.NativeEndian.PutUint16(info[2:], uint16(c.Queues))
	binary.NativeEndian.PutUint16(info[4:], uint16(flags))
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}

// seen returns how many packets the rule has queued, or would have, since it
// was added.
func (r *rule) seen() (uint64, error) {
	object, err := r.conn.GetObject(&nftables.NamedObj{Table: r.table, Name: seenName, Type: nftables.ObjTypeCounter})
	if err != nil {
		return 0, fmt.Errorf("counter of table inet %s: %w", r.table.Name, err)
	}
	switch o := object.(type) {
	case *nftables.NamedObj:
		if counter, ok := o.Obj.(*expr.Counter); ok {
			return counter.Packets, nil
		}
	case *nftables.CounterObj:
		return o.Packets, nil
	}
	return 0, fmt.Errorf("counter of table inet %s is %T: %w", r.table.Name, object, unix.EPROTO)
}

// disarm deletes the rule and leaves table, chain and counter. A CPU may still
// be inside the rule when it returns.
func (r *rule) disarm() error {
	r.conn.FlushChain(r.chain)
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("delete rule of table inet %s: %w", r.table.Name, err)
	}
	return nil
}

// remove deletes the table, with all that is in it.
func (r *rule) remove() error {
	r.conn.DelTable(r.table)
	err := r.conn.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	// The kernel deletes what is left with the socket.
	return errors.Join(err, r.conn.CloseLasting())
}
