package hook

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// route makes gateway the way to a host, in the calling thread's namespace.
func route(host, gateway netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{
		Dst: &net.IPNet{IP: host.AsSlice(), Mask: net.CIDRMask(host.BitLen(), host.BitLen())},
		Gw:  gateway.AsSlice(),
	})
}
