package metrics_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/stats"
)

// TestNames: over loopback a request for a name that may be a stranger's is
// refused, whatever is asked for; over other ways none is.
func TestNames(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	peer, err := sandbox.NewPeer()
	must(t, err)
	defer peer.Close()
	const host, alias = "node.test", "node.example"
	before, err := os.Hostname()
	must(t, err, unix.Sethostname([]byte(host))) // of the sandbox
	defer func() { must(t, unix.Sethostname([]byte(before))) }()
	hosts := filepath.Join(t.TempDir(), "hosts")
	must(t, os.WriteFile(hosts, []byte("127.0.1.1\tNode.Example "+host+" # evil.example\n0.0.0.0 ads.example\n"), 0o644), // as Debian has it
		unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount("/etc/hosts", unix.MNT_DETACH)) }()
	ask := func(l net.Listener, name, path string) (status int, text string) {
		t.Helper()
		s := serveAt(t, sourceOf(stats.NewTable()), nil, l)
		defer s.end()
		client := http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, l.Addr().Network(), l.Addr().String())
			},
		}}
		r, err := http.NewRequest("GET", "http://kstat"+path, nil)
		must(t, err)
		r.Host = name
		a, err := client.Do(r)
		must(t, err)
		defer a.Body.Close()
		body := make([]byte, 1000)
		n, _ := a.Body.Read(body)
		return a.StatusCode, string(body[:n])
	}
	listen := func(network, address string) net.Listener {
		t.Helper()
		l, err := net.Listen(network, address)
		must(t, err)
		return l
	}
	strange := []string{"evil.example", "evil.example:9469", "EVIL.example.", "127.0.0.1.evil.example", "localhost.evil.example", "xn--lcalhost-x0a.example", host + ".evil.example", alias + ".evil.example", "ads.example"}
	for _, loopback := range []string{"127.0.0.1:0", "127.0.1.1:0", "[::1]:0", ":0"} {
		for _, name := range []string{
			"127.0.0.1", "127.0.0.1:9469", "[::1]", "[::1]:9469", "192.0.2.1:9469", "0.0.0.0", "localhost", "LocalHost:9469", "localhost.", "a.localhost:80",
			"kstat", host, strings.ToUpper(host) + ":9469", alias, alias + ".:9469",
		} {
			if status, text := ask(listen("tcp", loopback), name, "/metrics"); status != http.StatusOK {
				t.Errorf("at %s, for %s: %d %s", loopback, name, status, text)
			}
		}
		for _, name := range strange {
			for _, path := range []string{"/metrics", "/", "/stats.json", "/events", "/healthz", "/control/start"} {
				status, text := ask(listen("tcp", loopback), name, path)
				if status != http.StatusMisdirectedRequest || strings.Count(text, "\n") != 1 || !strings.Contains(text, "another host's name") {
					t.Errorf("at %s, for %s: %d %s", loopback, name, status, text)
				}
			}
		}
	}
	for _, name := range strange {
		for _, l := range []net.Listener{listen("tcp", net.JoinHostPort(peer.Own4.String(), "0")), listen("unix", filepath.Join(t.TempDir(), "socket"))} {
			if status, text := ask(l, name, "/metrics"); status != http.StatusOK {
				t.Errorf("at %v, for %s: %d %s", l.Addr(), name, status, text)
			}
		}
	}
}
