package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"kstat/hook"
	"kstat/lab/world"
	"kstat/stats"
)

// The ways to write a rule that queues, as a probe names them.
const (
	wayQueue  = "nft's queue expression"
	wayTarget = "the iptables target NFQUEUE, by nft_compat"
)

func tryNFQueue(v *visit) finding {
	a, user, err := v.probe("nfqueue", v.patience(), unix.CLONE_NEWNET)
	switch {
	case errors.Is(err, errHung):
		return v.noAnswer()
	case isRefused(err):
		return v.refused(err)
	case err != nil:
		return v.noQueue(err)
	}
	f := fine("a packet went through a queue and back, by %s", a.Facts["way"])
	f = f.with(
		"tried in a network namespace of its own"+map[bool]string{true: ", as root of a user namespace"}[user],
		wayQueue+": "+a.Facts[wayQueue],
		wayTarget+": "+a.Facts[wayTarget],
		"a table with an owner: "+a.Facts["owner"])
	if a.Facts["owner"] != "kept from others" {
		f.status, f.found = Warn, f.found+"; but "+a.Facts["owner"]
	}
	return f
}

// noQueue explains why NFQUEUE does not work in a namespace of its own.
func (v *visit) noQueue(err error) finding {
	f := failure("%v", err)
	switch text := err.Error(); {
	case strings.Contains(text, "neither nft's queue expression"):
		return f.by(v.sudo("modprobe nft_queue || ")+v.sudo("modprobe -a nft_compat xt_NFQUEUE"), "load what can write the rule")
	case strings.Contains(text, "no NFQUEUE"):
		return f.by(v.sudo("modprobe nfnetlink_queue"), "load NFQUEUE; a kernel without that module must be built with CONFIG_NETFILTER_NETLINK_QUEUE")
	case strings.Contains(text, "no nftables"):
		return f.by(v.sudo("modprobe nf_tables"), "load nftables, of Linux 5.12 or newer")
	case errors.Is(err, unix.EPERM) && v.self.uid != 0:
		return v.permit(f)
	}
	return f
}

// hold starts an engine of a kind in this network namespace, which is the
// probe's own, calls f while it counts, and stops it.
func hold(kind hook.Kind, f func(*stats.Table) error) (err error) {
	if err := world.LoopbackUp(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	c := hook.Config{Engine: kind, Point: hook.Postrouting, Log: slog.New(slog.DiscardHandler)}
	holding, err := hook.Hold(c)
	if err != nil {
		return err
	}
	defer holding.Close()
	table, err := holding.Table(make([]byte, stats.LedgerSize))
	if err != nil {
		return err
	}
	engine, err := holding.New(c, table)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }() // which renews the rule, and closes the engine
	defer func() {
		end()
		err = errors.Join(err, <-ended)
	}()
	if err := engine.Start(); err != nil {
		return err
	}
	if err := f(table); err != nil {
		return err
	}
	if err := engine.Stop(); err != nil {
		return err
	}
	switch n, err := engine.Uncounted(); {
	case err != nil:
		return err
	case n != 0:
		return fmt.Errorf("%d packets were not counted", n)
	}
	return nil
}

// patience is what a probe is told: how long a packet may take to come back.
func (v *visit) patience() string { return (v.Limit / 2).String() }

// passes sends a datagram to ourselves, and wants it to arrive before the
// patience is at its end, and to be counted.
func passes(table *stats.Table, patience string) error {
	limit, err := time.ParseDuration(patience)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer conn.Close()
	before := table.Counted()
	if _, err := conn.WriteTo([]byte("kstat doctor"), conn.LocalAddr()); err != nil {
		return fmt.Errorf("send a packet: %w", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	if _, _, err := conn.ReadFrom(make([]byte, 64)); err != nil {
		return fmt.Errorf("a packet was sent and did not come back: %w", err)
	}
	if table.Counted() == before {
		return errors.New("a packet came back that was not counted")
	}
	return nil
}

// probeNFQueue counts a packet with the engine that kstatd has.
func probeNFQueue(patience string) (a answer, err error) {
	a.Facts = make(map[string]string)
	err = hold(hook.KindNFQueue, func(table *stats.Table) error {
		if err := passes(table, patience); err != nil {
			return err
		}
		way, err := wayInUse()
		a.Facts["way"] = way
		a.Facts["owner"] = ownership()
		return err
	})
	if err == nil {
		a.Facts[wayQueue] = tryWay(&expr.Queue{Num: 1, Total: 1, Flag: expr.QueueFlagBypass})
		info := make(xt.Unknown, 8) // struct xt_NFQ_info_v3
		binary.NativeEndian.PutUint16(info[0:], 1)
		binary.NativeEndian.PutUint16(info[2:], 1)
		binary.NativeEndian.PutUint16(info[4:], uint16(expr.QueueFlagBypass))
		a.Facts[wayTarget] = tryWay(&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info})
	}
	return a, err
}

// wayInUse says by what the engine's rule queues.
func wayInUse() (string, error) {
	rules, err := readRules()
	if err != nil {
		return "", err
	}
	for _, r := range rules {
		for _, q := range r.queues {
			return q.way, nil
		}
	}
	return "", errors.New("the rule that queues cannot be seen")
}

// ownership tries to delete the engine's table with another socket.
func ownership() string {
	conn, err := nftables.New()
	if err == nil {
		conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "kstat"})
		err = conn.Flush()
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return "kept from others"
	case err != nil:
		return fmt.Sprintf("cannot be told: %v", err)
	}
	return "others can delete it"
}

// tryWay adds a rule to a chain that no packet passes, and takes it away.
func tryWay(queue expr.Any) string {
	conn, err := nftables.New()
	if err != nil {
		return err.Error()
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "way"})
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: "way"})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{queue}})
	switch err := conn.Flush(); {
	case errors.Is(err, unix.ENOENT):
		return "not in this kernel"
	case err != nil:
		return err.Error()
	}
	conn.DelTable(table)
	_ = conn.Flush()
	return "works"
}

// lookAtQueue says who has the queue numbers.
func lookAtQueue(v *visit) (all []finding) {
	count := max(v.Queues, 1)
	for i := range count {
		number := v.Queue + uint16(i)
		who, kstatd := hook.QueueHolder(number)
		title := fmt.Sprintf("queue %d", number)
		switch {
		case who == "":
		case kstatd:
			f := warning("a kstatd has it, %s", who).
				by(fmt.Sprintf("%s --queue %d --mount /run/kstat2", v.sudo("kstatd"), v.freeQueue()), "nothing, for that one; a second kstatd takes another number")
			f.title = title
			all = append(all, f)
		default:
			f := failure("held by %s", who).
				by(fmt.Sprintf("%s --queue %d", v.sudo("kstatd"), v.freeQueue()), "end that, or take another number")
			f.title = title
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		last := ""
		if count > 1 {
			last = fmt.Sprintf(" to %d", int(v.Queue)+count-1)
		}
		f := fine("%d%s: free", v.Queue, last)
		if v.self.uid != 0 || v.self.nested {
			f.found = fmt.Sprintf("%d%s: no kstatd has it; whether others do, only root of the host can see", v.Queue, last)
		}
		all = append(all, f)
	}
	return all
}

// freeQueue returns the first number from which on as many are free as are
// wanted, and used by none of some rules; 0 stands for none.
func (v *visit) freeQueue(rules ...aRule) uint16 {
	run := 0
	for n := range 1024 {
		who, _ := hook.QueueHolder(uint16(n))
		if who != "" || slices.ContainsFunc(rules, func(r aRule) bool { return r.uses(uint16(n), 1) }) {
			run = 0
			continue
		}
		if run++; run == max(v.Queues, 1) {
			return uint16(n - run + 1)
		}
	}
	return 0
}

// aRule is a rule of somebody's that matters to us.
type aRule struct {
	table, chain string // "inet filter", "output"
	base         bool   // the chain is at a hook
	hook         nftables.ChainHook
	priority     nftables.ChainPriority
	drops        bool
	queues       []queued
}

// queued says where packets go.
type queued struct {
	first, total uint16
	way          string
}

// familyName returns a family as nft spells it.
func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyARP:
		return "arp"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyNetdev:
		return "netdev"
	}
	return fmt.Sprint(byte(f))
}

// ruleLimit is how many chains are looked at: those of a firewall are few, those
// of a cluster's node are thousands.
const ruleLimit = 500

// readRules lists the rules of this network namespace that queue or drop, and
// base chains whose policy is to drop.
func readRules() (all []aRule, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for i, c := range chains {
		if i == ruleLimit {
			return all, fmt.Errorf("there are %d chains, and %d were looked at", len(chains), ruleLimit)
		}
		r := aRule{table: familyName(c.Table.Family) + " " + c.Table.Name, chain: c.Name}
		if c.Hooknum != nil && c.Priority != nil {
			r.base, r.hook, r.priority = true, *c.Hooknum, *c.Priority
		}
		r.drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue // it has gone meanwhile
			}
			return all, fmt.Errorf("rules of table %s: %w", r.table, err)
		}
		for _, rule := range rules {
			for _, e := range rule.Exprs {
				r.read(e)
			}
		}
		if r.drops || len(r.queues) > 0 {
			all = append(all, r)
		}
	}
	return all, nil
}

// read takes note of an expression.
func (r *aRule) read(e expr.Any) {
	switch e := e.(type) {
	case *expr.Verdict:
		r.drops = r.drops || e.Kind == expr.VerdictDrop
	case *expr.Queue:
		r.queues = append(r.queues, queued{e.Num, max(e.Total, 1), wayQueue})
	case *expr.Target:
		info, ok := e.Info.(*xt.Unknown)
		if e.Name != "NFQUEUE" || !ok || len(*info) < 2 {
			return
		}
		q := queued{first: binary.NativeEndian.Uint16(*info), total: 1, way: wayTarget} // struct xt_NFQ_info and those that followed
		if e.Rev > 0 && len(*info) >= 4 {
			q.total = max(binary.NativeEndian.Uint16((*info)[2:]), 1)
		}
		r.queues = append(r.queues, q)
	}
}

// uses reports whether the rule sends packets to a queue.
func (r *aRule) uses(first uint16, count int) bool {
	return slices.ContainsFunc(r.queues, func(q queued) bool {
		return int(q.first) < int(first)+count && int(first) < int(q.first)+int(q.total)
	})
}

// lookAtRules looks for rules of others that come in our way.
func lookAtRules(v *visit) []finding {
	if !v.netns {
		return []finding{skipped("takes CAP_NET_ADMIN")}
	}
	rules, err := readRules()
	var all []finding
	var before []string
	queueing := 0
	for _, r := range rules {
		if name, ok := strings.CutPrefix(r.table, "inet "); ok && ownTable(name) {
			continue
		}
		queueing += len(r.queues)
		where := fmt.Sprintf("table %s, chain %s", r.table, r.chain)
		if r.uses(v.Queue, max(v.Queues, 1)) {
			all = append(all, warning("%s, sends packets to queue %d as well: they would be counted", where, v.Queue).
				by(fmt.Sprintf("%s --queue %d", v.sudo("kstatd"), v.freeQueue(rules...)), "take a number that no rule has"))
		}
		if r.base && r.hook == *nftables.ChainHookPostrouting && r.priority < 99 && (r.drops || len(r.queues) > 0) {
			before = append(before, fmt.Sprintf("%s, comes before kstatd at postrouting (priority %d): what it drops is not counted", where, r.priority))
		}
	}
	if err != nil {
		all = append(all, warning("not all could be looked at: %v", err).by(v.sudo("nft list ruleset | grep queue"), "look for queue %d yourself", v.Queue))
	}
	if len(all) == 0 {
		f := fine("none uses queue %d", v.Queue)
		if queueing > 0 {
			f.found += fmt.Sprintf("; %d use others", queueing)
		}
		if len(before) > 0 {
			f.found += "; some may drop packets before they are counted"
		}
		all = append(all, f.with(before...))
	}
	for _, file := range []string{"/proc/self/net/ip_tables_names", "/proc/self/net/ip6_tables_names"} {
		if names := strings.Fields(content(file)); len(names) > 0 {
			all[0] = all[0].with("iptables-legacy has tables, whose rules cannot be seen from here: " + strings.Join(names, ", "))
		}
	}
	return all
}

// ownTable reports whether a name is one that kstatd gives its table.
func ownTable(name string) bool {
	number, ok := strings.CutPrefix(name, "kstat-")
	if !ok {
		return name == "kstat"
	}
	_, err := strconv.ParseUint(number, 10, 16)
	return err == nil
}

// lookAtTables looks for tables that have our names and are nobody's.
func lookAtTables(v *visit) (all []finding) {
	if !v.netns {
		return []finding{skipped("takes CAP_NET_ADMIN")}
	}
	conn, err := nftables.New()
	var tables []*nftables.Table
	if err == nil {
		tables, err = conn.ListTablesOfFamily(nftables.TableFamilyINet)
	}
	if err != nil {
		return []finding{warning("tables cannot be listed: %v", err).by(v.sudo("modprobe nf_tables"), "load nftables")}
	}
	owned := 0
	for _, t := range tables {
		switch {
		case !ownTable(t.Name):
		case t.Owner != 0:
			owned++
		default:
			f := warning("somebody has made a table of that name, without an owner; kstatd takes the name kstat-%d then", v.Queue)
			if t.Name != "kstat" {
				f = warning("somebody has made a table of that name, without an owner")
			}
			f = f.by(v.sudo("nft delete table inet "+t.Name), "delete it")
			f.title = "table inet " + t.Name
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		f := fine("none is left behind")
		if owned > 0 {
			f = fine("a kstatd's, and its alone")
		}
		all = append(all, f)
	}
	return all
}

// packetMemory is what a packet of 1,500 bytes takes while it waits (its
// truesize), and messageMemory what its message to the daemon takes.
const packetMemory, messageMemory = 2304, 1280

// lookAtMemory looks whether a full queue would fit.
func lookAtMemory(v *visit) []finding {
	length := uint64(v.QueueLen)
	if length == 0 {
		length = hook.DefaultQueueLen
	}
	need := length * (packetMemory + messageMemory) * uint64(max(v.Queues, 1))
	var available uint64
	for _, line := range lines("/proc/meminfo") {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			_, _ = fmt.Sscan(rest, &available)
			available <<= 10
		}
	}
	f := fine("a full queue of %d packets takes about %d MiB, %d MiB are available", length, need>>20, available>>20)
	if available > 0 && need > available/2 {
		f.status = Warn
		f = f.by(fmt.Sprintf("%s --queue-len %d", v.sudo("kstatd"), max(available/8/(packetMemory+messageMemory), 1)), "take a shorter queue")
	}
	limit, _ := strconv.ParseUint(content("/proc/sys/net/core/rmem_max"), 10, 64)
	switch {
	case limit == 0: // not to be seen in a network namespace
	case v.self.nested:
		f = f.with(fmt.Sprintf("net.core.rmem_max is %d, which limits the socket here, in a user namespace: a burst may pass uncounted sooner", limit))
	default:
		f = f.with(fmt.Sprintf("net.core.rmem_max is %d; kstatd may set more, with CAP_NET_ADMIN", limit))
	}
	return []finding{f}
}

// lookAtManagers names what else writes rules.
func lookAtManagers(*visit) finding {
	var found []string
	for _, p := range processes() {
		if slices.Contains([]string{"firewalld", "dockerd", "ufw", "kube-proxy", "fail2ban-server", "crowdsec-firewa"}, p.name) && !slices.Contains(found, p.name) {
			found = append(found, p.name)
		}
	}
	for _, line := range lines("/etc/ufw/ufw.conf") {
		if strings.TrimSpace(line) == "ENABLED=yes" {
			found = append(found, "ufw")
		}
	}
	if len(found) == 0 {
		return fine("none seen")
	}
	return fine("%s; a reload flushes rules, but not a table with an owner, as kstatd's is", strings.Join(found, ", "))
}

func lookAtBPFKernel(v *visit) finding {
	if v.kernel.before(6, 4) {
		return failure("Linux %s has no BPF programs at netfilter hooks; 6.4 has", v.kernel.release).
			by(v.sudo("kstatd --engine nfqueue"), "boot Linux 6.4 or newer (Debian 13 has 6.12), or take the other engine")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return failure("the kernel does not know its own types: %v", err).
			by(v.sudo("kstatd --engine nfqueue"), "boot a kernel with CONFIG_DEBUG_INFO_BTF, mount /sys, or take the other engine")
	}
	return fine("Linux %s, with type information (BTF)", v.kernel.release).
		with("kernel.unprivileged_bpf_disabled is " + content("/proc/sys/kernel/unprivileged_bpf_disabled") + ", which does not matter: programs of this kind take root")
}

// lacksForBPF says what the rights to load programs lack, "" if nothing.
func (v *visit) lacksForBPF() string {
	if v.self.nested {
		return "in a user namespace nobody may load such programs"
	}
	if v.self.has(unix.CAP_SYS_ADMIN) && v.self.has(unix.CAP_NET_ADMIN) {
		return ""
	}
	missing := v.self.missing(
		capability{unix.CAP_BPF, "CAP_BPF", "to load programs"},
		capability{unix.CAP_PERFMON, "CAP_PERFMON", "to read packets by pointers"},
		capability{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "to attach them"})
	if len(missing) == 0 {
		return ""
	}
	return "missing: " + strings.Join(missing, ", ")
}

func lookAtBPFCapabilities(v *visit) finding {
	lack := v.lacksForBPF()
	switch {
	case lack == "":
		return fine("all that are needed")
	case v.self.nested:
		return failure("%s", lack).by("kstatd --engine nfqueue", "run it as the host's root, or take the other engine")
	}
	if v.self.uid == 0 {
		return failure("%s", lack).by("kstatd --engine nfqueue", "give it those, or take the other engine, if that works")
	}
	return failure("%s", lack).by("sudo kstatd --engine bpf", "run it as root")
}

func tryBPF(v *visit) finding {
	if lack := v.lacksForBPF(); lack != "" {
		return skipped("not tried: %s", lack)
	}
	_, err := v.start("bpf", v.patience(), unix.CLONE_NEWNET)
	switch {
	case errors.Is(err, errHung):
		return v.noAnswer()
	case isRefused(err):
		return skipped("not tried: %v", err)
	case err != nil:
		return failure("%v", err).by(v.sudo("kstatd --engine nfqueue"), "take the other engine")
	}
	return fine("loaded, attached at postrouting, and a packet was counted").with("tried in a network namespace of its own")
}

// probeBPF counts a packet with the other engine that kstatd has.
func probeBPF(patience string) (answer, error) {
	return answer{}, hold(hook.KindBPF, func(table *stats.Table) error { return passes(table, patience) })
}
