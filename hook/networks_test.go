package hook

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/stats"
)

// TestNetworks: what is sent through a network arrives, once and as it was sent, and
// each packet is counted as often as it passes the hook: what a tunnel or IPsec wraps
// once more, as what it is wrapped in. Networks that the kernel lacks have no test.
func TestNetworks(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	outer := map[string]uint8{ // what each packet is wrapped in, 0 if in nothing
		"vlan":    0,
		"macvlan": 0,
		"vxlan":   unix.IPPROTO_UDP,
		"gre":     unix.IPPROTO_GRE,
		"ipip":    unix.IPPROTO_IPIP,
		"esp":     unix.IPPROTO_ESP,
	}
	t.Run("which", func(t *testing.T) {
		peer := sandbox.Veth(t)
		for _, network := range slices.Sorted(maps.Keys(outer)) {
			if err := peer.Lacks(t, network); err != nil {
				t.Logf("%s: not tried: %v", network, err)
				delete(outer, network)
			}
		}
		if len(outer) == 0 {
			sandbox.Lack(t, errors.New("needs a network on top of a cable: modprobe macvlan"))
		}
	})
	for _, network := range slices.Sorted(maps.Keys(outer)) {
		outer := outer[network]
		t.Run(network, func(t *testing.T) {
			overEngines(t, func(t *testing.T, c Config) {
				e, table := newEngine(t, c)
				peer := sandbox.Veth(t)
				to := peer.Through(t, network)
				heard, port := -1, 0
				must(t, peer.Do(func() (err error) {
					heard, port, err = datagrams()
					return err
				}))
				defer unix.Close(heard)
				from, _, err := datagrams()
				must(t, err)
				defer unix.Close(from)
				must(t, e.Start())
				const sent = 30
				missing := map[string]bool{}
				for i := range sent {
					text := fmt.Sprintf("%03d%*s", i, i*40, "")
					missing[text] = true
					must(t, unix.Sendto(from, []byte(text), 0, &unix.SockaddrInet4{Addr: to.As4(), Port: port}))
				}
				buffer := make([]byte, 2048)
				for late := time.Now().Add(sandbox.AwaitLimit); len(missing) > 0 && time.Now().Before(late); {
					n, err := unix.Read(heard, buffer)
					switch {
					case err != nil:
						time.Sleep(time.Millisecond)
					case !missing[string(buffer[:n])]:
						t.Fatalf("%.3q has come twice, or was changed", buffer[:n])
					default:
						delete(missing, string(buffer[:n]))
					}
				}
				stop(t, e)
				if len(missing) > 0 {
					t.Errorf("%d of %d have not arrived: %.3q", len(missing), sent, slices.Sorted(maps.Keys(missing)))
				}
				want := map[string]uint64{"udp/ipv4": sent}
				if outer != 0 {
					want[stats.BuiltinNames().Name(stats.Protocol(outer))+"/ipv4"] += sent
				}
				expect(t, e, table, want)
			})
		})
	}
}

// datagrams opens a UDP socket, on a port that the kernel chooses.
func datagrams() (fd, port int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		return -1, 0, errors.Join(err, unix.Close(fd))
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return -1, 0, errors.Join(err, unix.Close(fd))
	}
	return fd, at.(*unix.SockaddrInet4).Port, nil
}
