package hook

import (
	"context"
	"errors"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch listens to what others do to the host's nftables. If it concerns our
// table, the rule is inspected at once instead of at the next look; and a base
// chain that somebody deletes makes the kernel drop what is queued at that
// moment, which is worth a line. Where it cannot listen, regular looks have to
// do.
func (e *NFQueue) watch(ctx context.Context) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		e.config.Log.Warn("changes of the rules are noticed by looking only", "err", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer conn.Close()
	defer stop()
	chains, err := knownBaseChains()
	if err != nil {
		e.config.Log.Warn("base chains that others delete are not noticed", "err", err)
	}
	for ctx.Err() == nil {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS): // more came than we could read
			e.inspectSoon()
			continue
		case err != nil:
			e.config.Log.Warn("changes of the rules are noticed by looking only, from now on", "err", err)
			return
		}
		for _, m := range messages {
			e.heed(m, chains)
		}
	}
}

// chainKey names a chain.
type chainKey struct {
	family       byte
	table, chain string
}

// knownBaseChains are the base chains that are there. The kernel's word that a
// chain was deleted does not say whether it was one.
func knownBaseChains() (map[chainKey]bool, error) {
	known := make(map[chainKey]bool)
	conn, err := nftables.New()
	if err != nil {
		return known, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return known, err
	}
	for _, c := range chains {
		if c.Hooknum != nil {
			known[chainKey{byte(c.Table.Family), c.Table.Name, c.Name}] = true
		}
	}
	return known, nil
}

// heed looks at one event.
func (e *NFQueue) heed(m netlink.Message, chains map[chainKey]bool) {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenmsgLen {
		return
	}
	attrs, err := netlink.NewAttributeDecoder(m.Data[nfgenmsgLen:])
	if err != nil {
		return
	}
	kind := m.Header.Type & 0xff
	key := chainKey{family: m.Data[0]}
	hooked := false
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_TABLE_NAME: // of chains and rules, too, it is the first
			key.table = attrs.String()
		case unix.NFTA_CHAIN_NAME:
			if kind == unix.NFT_MSG_NEWCHAIN || kind == unix.NFT_MSG_DELCHAIN {
				key.chain = attrs.String()
			}
		case unix.NFTA_CHAIN_HOOK:
			hooked = kind == unix.NFT_MSG_NEWCHAIN
		}
	}
	ours := e.named.Load()
	switch {
	case ours != nil && key.table == *ours && (kind == unix.NFT_MSG_DELTABLE || kind == unix.NFT_MSG_DELCHAIN || kind == unix.NFT_MSG_DELRULE || kind == unix.NFT_MSG_NEWRULE):
		e.inspectSoon()
	case hooked:
		chains[key] = true
	case kind == unix.NFT_MSG_DELCHAIN && chains[key]:
		delete(chains, key)
		if !e.Started() {
			return
		}
		if n := e.flushes.Add(1); n == 1 {
			e.config.Log.Warn("somebody deleted a base chain: the kernel drops what is queued at that moment (counted as queue_flushes, told once)",
				"table", key.table, "chain", key.chain)
		}
	}
}

// inspectSoon makes Run look at the rule.
func (e *NFQueue) inspectSoon() {
	select {
	case e.changed <- struct{}{}:
	default: // it is going to
	}
}
