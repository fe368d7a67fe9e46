package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// inKernel is the row of what counting in the kernel costs a sender that does nothing but send. A packet takes it some
// 2 µs, so that 1 % is 20 ns: floods are short and many, for the machine must be the same for both sides of a ratio.
func inKernel(ctx context.Context, l *lab) []line {
	const rate, typical, cost, astray = "rate", "typical", "cost", "astray"
	const what, byBatch = "sender's rate", "sender's rate by its median batch"
	peers := []string{none, emptyBPF, kstatdBPF, nftCounter, nftSet, nfacct, tracepoint, kprobe, kfunc}
	t := l.rounds(ctx, "in the kernel", 3*l.numRounds, l.peerSubjects(func(ctx context.Context, c consumer) (sample, error) {
		got, err := l.flood(ctx, c, l.flooding/5, fullSpeed)
		if err != nil {
			return nil, err
		}
		return sample{
			rate:    got.offered(),
			typical: 1e9 / got.burst.typicalCost(),
			cost:    got.burst.typicalCost(),
			astray:  float64(int64(got.sent - got.counted)),
		}, nil
	}, peers...)...)

	exact := t.line(kstatdBPF, astray, "sent − counted, flooded from one CPU", "packets")
	exact.target, exact.must = exactly(0), true
	lines := []line{
		t.ratio(kstatdBPF, none, rate, what, atLeast(0.97)),
		t.ratio(kstatdBPF, none, typical, byBatch, atLeast(0.97)),
		t.ratio(kstatdBPF, nftSet, rate, what, atLeast(1)),
		t.ratio(kstatdBPF, nftSet, typical, byBatch, atLeast(1)),
		exact,
		t.ratio(kstatdBPF, emptyBPF, typical, byBatch, nil),
	}
	for _, peer := range peers[1:] {
		if peer != kstatdBPF {
			lines = append(lines, t.ratio(peer, none, typical, byBatch, nil))
		}
	}
	for _, peer := range peers[1:] {
		lines = append(lines, t.difference(peer, none, cost, "added to a packet that is sent", "ns", nil))
	}
	for _, peer := range peers {
		lines = append(lines, t.line(peer, rate, what, "packets/s"))
	}
	l.terms.hook = t.difference(emptyBPF, none, cost, "", "", nil).values.median()
	for i := range lines { // a distribution may have none of them
		for _, peer := range []string{nfacct, tracepoint, kprobe, kfunc} {
			lines[i].optional = lines[i].optional || lines[i].missing != nil && lines[i].missing == t.failed[peer]
		}
	}
	return lines
}

// addCounting lets rules count by protocol, or for "nft counter" alone.
func addCounting(peer string) (consumer, error) {
	rules := counterRule
	read := func() (uint64, error) { return seen(peerTable) }
	switch peer {
	case nftSet:
		rules, read = setRule, setPackets
	case nfacct:
		rules, read = acctRules, acctPackets
	}
	if err := addChain(rules); err != nil {
		return nil, fmt.Errorf("add rules of %s: %w", peer, err)
	}
	return ruleset{peer, read}, nil
}

// ruleset is a peer that is rules and nothing else.
type ruleset struct {
	peer string
	read func() (uint64, error)
}

func (r ruleset) tally() (tally, error) {
	n, err := r.read()
	return tally{counted: n}, err
}

func (r ruleset) stop() error {
	err := removeRule()
	if r.peer == nfacct {
		err = errors.Join(err, deleteAccts())
	}
	return err
}

// counterRule is one named counter, for all protocols.
func counterRule(conn *nftables.Conn, table *nftables.Table) ([][]expr.Any, error) {
	conn.AddObj(&nftables.NamedObj{Table: table, Name: seenCounter, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	return [][]expr.Any{{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: seenCounter}}}, nil
}

const protocolSet = "protos"

// setRule is: update @protos { meta l4proto counter }
func setRule(conn *nftables.Conn, table *nftables.Table) ([][]expr.Any, error) {
	set := &nftables.Set{Table: table, Name: protocolSet, KeyType: nftables.TypeInetProto, Dynamic: true, Size: 256}
	if err := conn.AddSet(set, nil); err != nil {
		return nil, err
	}
	return [][]expr.Any{{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Dynset{SrcRegKey: 1, SetName: protocolSet, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}},
	}}, nil
}

// setPackets adds up the counters in the set.
func setPackets() (uint64, error) {
	conn, err := nftables.New()
	if err != nil {
		return 0, fmt.Errorf("read set: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: peerTable}
	elements, err := conn.GetSetElements(&nftables.Set{Table: table, Name: protocolSet, KeyType: nftables.TypeInetProto})
	if err != nil {
		return 0, fmt.Errorf("read set: %w", err)
	}
	var sum uint64
	for _, e := range elements {
		if e.Counter != nil {
			sum += e.Counter.Packets
		}
	}
	return sum, nil
}

// accts are the objects of nfacct, which has no way to make one for a protocol that it did not expect.
var accts = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP, "ipv6-icmp": unix.IPPROTO_ICMPV6}

// From linux/netfilter/nfnetlink_acct.h.
const (
	nfnlMsgAcctNew = 0
	nfnlMsgAcctGet = 1
	nfnlMsgAcctDel = 3
	nfacctName     = 1
	nfacctPackets  = 2
)

// acctRules is a rule for each object, through nft_compat: meta l4proto tcp match nfacct tcp.
func acctRules(*nftables.Conn, *nftables.Table) ([][]expr.Any, error) {
	var rules [][]expr.Any
	for name, protocol := range accts {
		if _, err := askAcct(nfnlMsgAcctNew, netlink.Create, name); err != nil {
			return nil, errors.Join(err, deleteAccts())
		}
		info := make(xt.Unknown, 40) // struct xt_nfacct_match_info: a name and a pointer
		copy(info, name)
		rules = append(rules, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
			&expr.Match{Name: "nfacct", Info: &info},
		})
	}
	return rules, nil
}

// askAcct sends one request about an object, or about all.
func askAcct(kind, flags netlink.HeaderFlags, name string) ([]netlink.Message, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("nfacct: %w", err)
	}
	defer conn.Close()
	e := netlink.NewAttributeEncoder()
	if name != "" {
		e.String(nfacctName, name)
	}
	attrs, err := e.Encode()
	if err != nil {
		return nil, fmt.Errorf("nfacct: %w", err)
	}
	if flags != netlink.Dump {
		flags |= netlink.Acknowledge
	}
	got, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_ACCT<<8 | netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append(make([]byte, 4), attrs...), // struct nfgenmsg
	})
	if err != nil {
		return nil, fmt.Errorf("nfacct %s: %w", name, err)
	}
	return got, nil
}

func deleteAccts() error {
	var errs []error
	for name := range accts {
		if _, err := askAcct(nfnlMsgAcctDel, 0, name); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func acctPackets() (uint64, error) {
	got, err := askAcct(nfnlMsgAcctGet, netlink.Dump, "")
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, m := range got {
		d, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("nfacct: %w", err)
		}
		d.ByteOrder = binary.BigEndian
		for d.Next() {
			if d.Type() == nfacctPackets {
				sum += d.Uint64()
			}
		}
		if err := d.Err(); err != nil {
			return 0, fmt.Errorf("nfacct: %w", err)
		}
	}
	return sum, nil
}

// complaint is the line that begins with ERROR, which is not the last one.
func (p *process) complaint(err error) error {
	for l := range strings.Lines(p.errors.String()) {
		if strings.Contains(l, "ERROR: ") && !strings.Contains(l, "RLIMIT_MEMLOCK") {
			_, l, _ = strings.Cut(l, "ERROR: ")
			return errors.New("bpftrace: " + strings.TrimSpace(l))
		}
	}
	return err
}

// loadEmpty loads a netfilter program that accepts, and that is all.
func loadEmpty() (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.Netfilter, AttachType: ebpf.AttachNetfilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}, // NF_ACCEPT
	})
	if err != nil {
		return nil, fmt.Errorf("load empty program: %w", err)
	}
	return p, nil
}

func attachEmpty() (consumer, error) {
	p, err := loadEmpty()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	l, err := attach(p)
	if err != nil {
		return nil, err
	}
	return absent{l.Close}, nil
}

// oneLiners count by protocol on the whole host: what is given to a device (there is no tracepoint nearer to the hook), or
// what goes to POSTROUTING.
var oneLiners = map[string]string{
	tracepoint: `tracepoint:net:net_dev_queue {
		$skb = (struct sk_buff *)args->skbaddr;
		@[((struct iphdr *)($skb->head + $skb->network_header))->protocol] = count(); }`,
	kprobe: `kprobe:ip_output {
		$skb = (struct sk_buff *)arg2;
		@[((struct iphdr *)($skb->head + $skb->network_header))->protocol] = count(); }`,
	kfunc: `kfunc:ip_output {
		@[((struct iphdr *)(args->skb->head + args->skb->network_header))->protocol] = count(); }`,
}

func (l *lab) startBpftrace(ctx context.Context, peer string) (consumer, error) {
	path, err := exec.LookPath("bpftrace")
	if err != nil {
		return nil, err
	}
	// Until the namespace ends.
	err = unix.Mount("bench", "/sys/kernel/tracing", "tracefs", 0, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount tracefs: %w", err)
	}
	// Probes are attached one after the other: when the clock ticks for the second time, all are.
	p, err := start(ctx, l.consumerCPU, nil, path, "-e", oneLiners[peer]+` interval:ms:50 { printf("tick\n"); }`)
	if err != nil {
		return nil, err
	}
	for ticks := 0; ticks < 2; {
		text, err := p.line(patience)
		if err != nil {
			return nil, p.complaint(err)
		}
		if text == "tick" {
			ticks++
		}
	}
	return absent{p.insist}, nil
}

// insist stops a process that notices a signal only while it waits.
func (p *process) insist() error {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	go func() {
		for {
			select {
			case <-p.ended:
				return
			case <-again.C:
				_ = p.cmd.Process.Signal(syscall.SIGTERM)
			}
		}
	}()
	return p.stop()
}
