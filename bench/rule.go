package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

const (
	peerTable  = "benchpeer" // the peers' rule
	kstatTable = "kstat"     // kstatd's own
	// seenCounter is the named counter in front of the queue, in either table: the truth about what passed.
	seenCounter = "seen"
)

// addRule sends what leaves the namespace through the queue. It must come after the consumer has configured the queue:
// between BIND and the copy mode packets are dropped, bypass or not.
func addRule(queue uint16) error {
	err := addRuleWith(&expr.Queue{Num: queue, Flag: expr.QueueFlagBypass})
	if errors.Is(err, unix.ENOENT) { // CONFIG_NFT_QUEUE is unset
		err = addRuleWith(xtQueue(queue))
	}
	if err != nil {
		return fmt.Errorf("add rule for queue %d: %w", queue, err)
	}
	return nil
}

// xtQueue is the xtables target through nft_compat: struct xt_NFQ_info_v3, padded to 8 bytes.
func xtQueue(queue uint16) expr.Any {
	const bypass = 1 // NFQ_FLAG_BYPASS
	info := make(xt.Unknown, 8)
	binary.NativeEndian.PutUint16(info[0:], queue)
	binary.NativeEndian.PutUint16(info[2:], 1) // queues_total
	binary.NativeEndian.PutUint16(info[4:], bypass)
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}

func addRuleWith(queue expr.Any) error {
	return addChain(func(conn *nftables.Conn, table *nftables.Table) ([][]expr.Any, error) {
		conn.AddObj(&nftables.NamedObj{Table: table, Name: seenCounter, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
		return [][]expr.Any{{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: seenCounter}, queue}}, nil
	})
}

// addChain adds the peers' table with a chain at kstatd's hook, and the rules that make returns.
func addChain(make func(*nftables.Conn, *nftables.Table) ([][]expr.Any, error)) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: peerTable})
	chain := conn.AddChain(&nftables.Chain{
		Name: "out", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityFilter,
	})
	rules, err := make(conn, table)
	if err != nil {
		return err
	}
	for _, exprs := range rules {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	return conn.Flush()
}

// removeRule flushes the namespace's queues with the chain; the queue should be empty by then.
func removeRule() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("remove rule: %w", err)
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: peerTable})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove rule: %w", err)
	}
	return nil
}

// seen answers how many packets came to the rule of a table.
func seen(table string) (uint64, error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("read counter of table %s: %w", table, err)
	}
	objs, err := conn.GetNamedObjects(&nftables.Table{Family: nftables.TableFamilyINet, Name: table})
	if err != nil {
		return 0, fmt.Errorf("read counter of table %s: %w", table, err)
	}
	for _, o := range objs {
		named, ok := o.(*nftables.NamedObj)
		if !ok || named.Name != seenCounter {
			continue
		}
		if c, ok := named.Obj.(*expr.Counter); ok {
			return c.Packets, nil
		}
	}
	return 0, fmt.Errorf("no counter %q in table inet %s", seenCounter, table)
}

// waiting answers how many packets the kernel holds in the namespace's queues; kstatd may use several.
func waiting() (int, error) {
	text, err := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
	if err != nil {
		return 0, fmt.Errorf("read queues: %w", err)
	}
	total := 0
	for l := range strings.Lines(string(text)) {
		var number, portid, n int
		if _, err := fmt.Sscan(l, &number, &portid, &n); err != nil {
			return 0, fmt.Errorf("parse queue %q: %w", l, err)
		}
		total += n
	}
	return total, nil
}
