package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tables returns the names of the nftables tables of this namespace that begin
// with prefix, in the kernel's order.
func Tables(prefix string) (names []string, err error) {
	tables, err := listTables()
	for _, t := range tables {
		if strings.HasPrefix(t.Name, prefix) {
			names = append(names, t.Name)
		}
	}
	return names, err
}

func listTables() ([]*nftables.Table, error) {
	var tables []*nftables.Table
	conn, err := nftables.New()
	if err == nil {
		tables, err = conn.ListTables()
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	return tables, nil
}

// Hooked reports whether anything, a base chain of nftables or a BPF program,
// is at the POSTROUTING hook of this namespace with a priority. It needs [BPF]:
// the kernel refuses to attach a program of that priority beside another, and
// that is the only way to see one. If nothing is there, looking makes the kernel
// drop what is queued anywhere in the namespace (nf_queue_nf_hook_drop).
func Hooked(priority int32) (bool, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.Netfilter,
		AttachType:   ebpf.AttachNetfilter,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}, // NF_ACCEPT
	})
	if err != nil {
		return false, fmt.Errorf("look at the hook: %w", err)
	}
	defer program.Close()
	l, err := link.AttachNetfilter(link.NetfilterOptions{
		Program:        program,
		ProtocolFamily: link.NetfilterProtoIPv4,
		Hook:           link.NetfilterInetPostRouting,
		Priority:       priority,
	})
	switch {
	case errors.Is(err, unix.EBUSY):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look at the hook: %w", err)
	}
	return false, l.Close()
}

// FlushRuleset does what `nft flush ruleset` does: it deletes every table of
// this namespace that nobody owns.
func FlushRuleset() error {
	conn, err := nftables.New()
	if err == nil {
		conn.FlushRuleset()
		err = conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("flush ruleset: %w", err)
	}
	return nil
}

// Route makes gateway the way to a host, in the calling thread's namespace.
func Route(host, gateway netip.Addr) error {
	err := netlink.RouteAdd(&netlink.Route{
		Dst: &net.IPNet{IP: host.AsSlice(), Mask: net.CIDRMask(host.BitLen(), host.BitLen())},
		Gw:  gateway.AsSlice(),
	})
	if err != nil {
		return fmt.Errorf("route to %s by %s: %w", host, gateway, err)
	}
	return nil
}
