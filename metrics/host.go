package metrics

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
)

// byOwnName returns a handler that refuses requests which have come over
// loopback for a name that may be a stranger's. A web page can make its own name
// point to 127.0.0.1, whereupon its browser takes the answers for the page's own
// (DNS rebinding). Nothing but the name tells such a request: it has no Origin,
// and Sec-Fetch-Site is for https and localhost alone.
//
// Over another address any name will do, for a scraper's target, or a proxy,
// may have many. A Unix socket is out of a page's reach.
func byOwnName(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if name := (&url.URL{Host: r.Host}).Hostname(); local != nil && local.IP.IsLoopback() && !ownName(name) {
			http.Error(w, fmt.Sprintf("%q may be another host's name: over loopback ask for an address, localhost or this host's name; a proxy may use a Unix socket", name),
				http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ownName reports whether a name cannot be a stranger's: it is an address, none
// at all, without a dot, of the top level that is loopback's (RFC 6761), or this
// host's.
func ownName(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if _, err := netip.ParseAddr(name); err == nil || !strings.Contains(name, ".") || strings.HasSuffix(name, ".localhost") {
		return true
	}
	host, err := os.Hostname()
	return err == nil && (strings.EqualFold(name, host) || isAlias(name, strings.ToLower(host)))
}

// isAlias reports whether hosts(5) has a name in one line with this host's, as
// Debian has "127.0.1.1 host.domain host": by the former it is reached over
// loopback. Who blocks strangers' names there has other lines for them.
func isAlias(name, host string) bool {
	f, err := os.Open("/etc/hosts")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); { // it may have a hundred thousand
		line, _, _ := strings.Cut(strings.ToLower(lines.Text()), "#")
		if names := strings.Fields(line); slices.Contains(names, name) && slices.Contains(names, host) {
			return true
		}
	}
	return false
}
