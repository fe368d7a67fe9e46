package sandbox

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
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
