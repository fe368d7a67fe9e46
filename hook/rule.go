package hook

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	tableName = "kstat"
	// seenName is the counter in the rule that queues, unarmedName that of
	// the rule behind it, which packets reach that were not queued. They are
	// objects of the table, and not parts of the rules, so that they can be
	// read when the rules are gone.
	seenName    = "seen"
	unarmedName = "unarmed"
	// armedName is the set of the families whose packets are queued. Its
	// elements time out.
	armedName = "armed"
	// sharedName is the chain for connections that are not confirmed.
	sharedName = "shared"
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
//
//	table inet kstat {
//		set armed { type nf_proto; flags timeout; elements = { ipv4 expires 1s, ipv6 expires 1s } }
//		chain postrouting {
//			type filter hook postrouting priority 99
//			ct status & confirmed == 0 jump shared
//			meta pkttype host meta nfproto @armed counter name "seen" queue to 0 bypass
//			counter name "unarmed"
//		}
//		chain shared {
//			ct direction reply counter name "unarmed" accept
//			meta nfproto ipv4 fib daddr type broadcast-multicast counter name "unarmed" accept
//		}
//	}
//
// The set is a dead-man's switch: [rule.arm] must renew it, or the rule stops
// to match. What pkttype is for, [notFlooded] says. The jump, and where it
// goes, are there only where connections are tracked: see [rule.spareShared].
type rule struct {
	conn   *nftables.Conn
	table  *nftables.Table
	chain  *nftables.Chain
	armed  *nftables.Set
	elems  []nftables.SetElement
	shared bool // it has the jump
}

// addRule adds table, chain, counter and rule in one transaction. From its
// return on every packet at the hook is queued.
//
// The queue is reached by nft's own queue expression, or by the NFQUEUE target
// of iptables through nft_compat on a kernel that was built without that. The
// table is called kstat, or kstat-QUEUE beside another kstatd's.
func addRule(c Config, options ...nftables.ConnOption) (*rule, error) {
	release := holdPort()
	conn, err := nftables.New(append(options, nftables.AsLasting())...)
	release()
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	r := &rule{conn: conn, elems: armedElements(c)}
	for _, name := range []string{tableName, fallbackName(c)} {
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

// holdPort has the netlink port that the kernel gives a process's socket first,
// its process id, until release is called: what is opened meanwhile gets one at
// random, which no other socket of ours has had.
//
// The kernel deletes an owner's tables some time after a socket of its port has
// closed, and lets another socket have the port before that: a socket that was
// opened while one for a single request closed lost its table, once in 500.
func holdPort() (release func()) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return func() {} // whoever needs a socket will say so
	}
	self := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: uint32(os.Getpid())}
	for range 10 {
		if unix.Bind(fd, self) != unix.EADDRINUSE {
			break
		}
		time.Sleep(100 * time.Microsecond) // it is for a single request, or stays, which is as good
	}
	return func() { unix.Close(fd) }
}

// fallbackName is what our table is called if another kstatd has the name.
func fallbackName(c Config) string { return fmt.Sprintf("%s-%d", tableName, c.Queue) }

func (r *rule) add(c Config, table string) error {
	err := r.addWith(c, table, queueExpr(c))
	without := errors.Is(err, unix.ENOENT) // nft's queue expression
	if without {
		err = r.addWith(c, table, queueTarget(c))
	}
	if errors.Is(err, unix.ENOENT) && requestTarget() == nil {
		err = r.addWith(c, table, queueTarget(c))
	}
	switch {
	case errors.Is(err, unix.ENOENT), without && errors.Is(err, unix.EOPNOTSUPP):
		// EOPNOTSUPP: Linux 6.8 and what copied a fix of its had no targets in
		// tables of family inet, until 7e0f122c6591
		return fmt.Errorf("this kernel has neither nft's queue expression nor the NFQUEUE target: "+
			"load or build nft_queue, or nft_compat and xt_NFQUEUE (%w)", unix.EOPNOTSUPP)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("table inet %s: this kernel has no nftables, or none with owned tables (Linux 5.12 has): %w (%w)",
			table, unix.EOPNOTSUPP, err)
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
	for _, name := range []string{seenName, unarmedName} {
		r.conn.AddObj(&nftables.NamedObj{
			Table: r.table,
			Name:  name,
			Type:  nftables.ObjTypeCounter,
			Obj:   &expr.Counter{},
		})
	}
	r.armed = &nftables.Set{
		Table:      r.table,
		Name:       armedName,
		KeyType:    nftables.TypeNFProto,
		HasTimeout: true,
	}
	if err := r.conn.AddSet(r.armed, r.elems); err != nil {
		return err
	}
	accept := nftables.ChainPolicyAccept
	r.chain = r.conn.AddChain(&nftables.Chain{
		Table:    r.table,
		Name:     c.Point.String(),
		Type:     nftables.ChainTypeFilter,
		Hooknum:  c.Point.hooknum(),
		Priority: nftables.ChainPriorityRef(priority),
		Policy:   &accept,
	})
	count := func(name string) expr.Any {
		return &expr.Objref{Type: int(nftables.ObjTypeCounter), Name: name}
	}
	for _, does := range [][]expr.Any{
		append(notFlooded(c),
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: r.armed.Name, SetID: r.armed.ID},
			count(seenName),
			queue,
		),
		{count(unarmedName)},
	} {
		r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: append(match(c), does...)})
	}
	return r.conn.Flush()
}

// confirmed is IPS_CONFIRMED, replying IP_CT_DIR_REPLY, of
// linux/netfilter/nf_conntrack_common.h and nf_conntrack_tuple_common.h.
const (
	confirmed = 1 << 3
	replying  = 1
)

// spareShared lets packets pass of a connection that is not confirmed yet and has
// another one: the kernel drops these instead of queueing them, as it does with
// [notFlooded]. They are
//
//   - what the kernel itself answers to the first packet of a connection: a REJECT,
//     "time exceeded", "packet too big". It is given that packet's connection
//     (nf_ct_attach).
//   - of a broadcast or an IPv4 multicast of this host's own the copy that comes back
//     to it (ip_mc_output). The one that leaves is behind it, finds the connection
//     confirmed, and is queued.
//
// The rules have expressions of conntrack's, which turn tracking on where it is off.
// So the caller sees to it that [connections] have become more.
func (r *rule) spareShared(c Config) error {
	matches := [][]expr.Any{answers()}
	if c.Point == Postrouting { // before, there is no copy yet
		matches = append(matches, comingBack())
	}
	err := r.spare(c, matches...)
	if errors.Is(err, unix.ENOENT) && len(matches) > 1 { // a kernel without fib
		err = r.spare(c, matches[0])
	}
	if err != nil {
		return fmt.Errorf("spare shared connections in table inet %s: %w", r.table.Name, err)
	}
	r.shared = true
	return nil
}

// spare has packets of connections that are not confirmed pass, and count as
// unarmed, if one of the matches does.
func (r *rule) spare(c Config, matches ...[]expr.Any) error {
	chain := r.conn.AddChain(&nftables.Chain{Table: r.table, Name: sharedName})
	for _, m := range matches {
		r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: append(m,
			&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: unarmedName},
			&expr.Verdict{Kind: expr.VerdictAccept},
		)})
	}
	r.conn.InsertRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: append(match(c),
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(confirmed), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name},
	)})
	return r.conn.Flush()
}

func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{replying}},
	}
}

func comingBack() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, // of IPv4 nothing else is between them
			FromData: binaryutil.NativeEndian.PutUint32(unix.RTN_BROADCAST), ToData: binaryutil.NativeEndian.PutUint32(unix.RTN_MULTICAST)},
	}
}

// connections returns how many connections are tracked in this network namespace.
// Those that are left when tracking has been turned off become fewer only.
func connections() (n uint64) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err == nil {
		n, _ = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	}
	return n
}

// arm lets packets be queued for another while ([Config.Armed]). An element is taken out and
// put in again, in one transaction: before Linux 6.12, adding one that is
// there does not give it more time.
func (r *rule) arm() error {
	err := errors.Join(
		r.conn.SetAddElements(r.armed, r.elems),
		r.conn.SetDeleteElements(r.armed, r.elems),
		r.conn.SetAddElements(r.armed, r.elems))
	if err == nil {
		err = r.conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("renew the rule of table inet %s: %w", r.table.Name, err)
	}
	return nil
}

// armedElements are the elements of the set, for the families that are
// counted.
func armedElements(c Config) (elems []nftables.SetElement) {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		if c.Families == OnlyIPv4 && family == unix.NFPROTO_IPV6 || c.Families == OnlyIPv6 && family == unix.NFPROTO_IPV4 {
			continue
		}
		elems = append(elems, nftables.SetElement{Key: []byte{family}, Timeout: c.Armed})
	}
	return elems
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

// notFlooded returns the expressions that leave out what came in as a broadcast or
// a multicast and is forwarded, by a bridge or a multicast router: copies, one per
// device. Where connections are tracked they share one that is not confirmed, and
// the kernel drops such a packet instead of queueing it (nf_ct_drop_unconfirmed in
// net/netfilter/nfnetlink_queue.c).
func notFlooded(c Config) []expr.Any {
	if c.Point != Forward && c.Point != Postrouting {
		return nil // there is no copy yet
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.PACKET_HOST}},
	}
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

// requestTarget has the kernel load the target's module, if there is one. A
// table of family inet does not: the module that nft_compat asks for there has
// no name (xt_prefix in net/netfilter/x_tables.c). Asking which revisions there
// are for IPv4 does, as iptables(8) asks. The kernel has loaded it when the
// question is sent; the answer does not matter.
func requestTarget() error {
	question, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_COMPAT_NAME, Data: []byte("NFQUEUE\x00")},
		{Type: unix.NFTA_COMPAT_REV, Data: []byte{0, 0, 0, 3}},
		{Type: unix.NFTA_COMPAT_TYPE, Data: []byte{0, 0, 0, 1}}, // a target
	})
	if err != nil {
		return err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	_, err = conn.Send(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFT_COMPAT << 8, Flags: netlink.Request}, // NFNL_MSG_COMPAT_GET is 0
		Data:   append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, question...),                        // struct nfgenmsg
	})
	return errors.Join(err, conn.Close())
}

// Counters reads the counters of a kstatd's table, which anybody with
// CAP_NET_ADMIN may: how many packets were queued, or would have been, and how
// many passed because nobody had proved to read them, both since the rule was
// added. It waits for nobody's transaction.
func Counters(table string) (seen, unarmed uint64, err error) {
	conn, err := nftables.New() // with a socket of its own for each request
	if err != nil {
		return 0, 0, fmt.Errorf("counters of table inet %s: %w", table, err)
	}
	objects, err := conn.GetNamedObjects(&nftables.Table{Family: nftables.TableFamilyINet, Name: table})
	if err != nil {
		return 0, 0, fmt.Errorf("counters of table inet %s: %w", table, err)
	}
	found := 0
	for _, object := range objects {
		named, _ := object.(*nftables.NamedObj)
		if named == nil {
			continue
		}
		counter, ok := named.Obj.(*expr.Counter)
		switch {
		case ok && named.Name == seenName:
			seen = counter.Packets
			found++
		case ok && named.Name == unarmedName:
			unarmed = counter.Packets
			found++
		}
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("counters of table inet %s: %w", table, unix.ENOENT)
	}
	return seen, unarmed, nil
}

// intact reports whether chain and rules are all there.
func (r *rule) intact() error {
	want := 2
	if r.shared {
		want++
	}
	rules, err := r.conn.GetRules(r.table, r.chain)
	switch {
	case err != nil:
		return fmt.Errorf("rules of table inet %s: %w", r.table.Name, err)
	case len(rules) != want:
		return fmt.Errorf("table inet %s has %d rules of ours, not %d: %w", r.table.Name, len(rules), want, unix.ENOENT)
	}
	return nil
}

// disarm deletes the rules and leaves table, chains and counters. A CPU may
// still be inside a rule when it returns. What is in the other chain stays as well:
// should it be the last that has connections tracked, the end of that makes the
// kernel drop what is queued.
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
