package sandbox

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netns"
)

// A Network is a network namespace of its own, in which there is nothing but
// lo. There can be any number.
type Network struct{ ns netns.NsHandle }

// OwnNetwork is [NewNetwork] for a test, which it fails on an error. The
// network is closed when the test ends.
func OwnNetwork(tb testing.TB) *Network {
	tb.Helper()
	n, err := NewNetwork()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// NewNetwork makes a network. Outside a sandbox it does nothing but return the
// error of [Missing].
func NewNetwork() (*Network, error) {
	if err := Missing(Namespaces); err != nil {
		return nil, err
	}
	ns, err := newNetwork()
	if err != nil {
		return nil, fmt.Errorf("make a network: %w", err)
	}
	n := &Network{ns}
	if err := n.Do(loopbackUp); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Do calls f in the network, as [Peer.Do] does at the peer.
func (n *Network) Do(f func() error) error { return inNamespace(n.ns, f) }

// Close gives up the network, which ends with its last process and socket.
func (n *Network) Close() error { return n.ns.Close() }
