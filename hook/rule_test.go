package hook

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

// fakeKernel answers nftables transactions as a kernel with other parts would.
// It stands in for the kernels that this machine is not: one with nft's queue
// expression, one without nft_compat, one where the table is somebody else's.
type fakeKernel struct {
	lacks   []string // names of expressions and targets that it does not have
	refuses string   // a target that it does not have in family inet
	loads   []string // names that it has when it has refused them once
	taken   []string // tables that belong to somebody else
	tables  []string // tables of the transactions that it accepted
	rule    []byte   // the rules of the last transaction, one behind the other
}

func (k *fakeKernel) dial(request []netlink.Message) ([]netlink.Message, error) {
	var table string
	for i, m := range request {
		refuse := func(errno unix.Errno) ([]netlink.Message, error) {
			return nltest.Error(int(errno), request[i:i+1])
		}
		switch m.Header.Type {
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE:
			attrs, err := netlink.UnmarshalAttributes(m.Data[nfgenmsgLen:])
			if err != nil {
				return nil, err
			}
			k.rule = nil
			table = strings.TrimRight(string(attrs[0].Data), "\x00")
			if slices.Contains(k.taken, table) {
				return refuse(unix.EPERM)
			}
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE:
			k.rule = append(k.rule, m.Data...)
			for _, name := range k.lacks {
				if bytes.Contains(m.Data, []byte(name+"\x00")) {
					return refuse(unix.ENOENT)
				}
			}
			if k.refuses != "" && bytes.Contains(m.Data, []byte(k.refuses+"\x00")) {
				return refuse(unix.EOPNOTSUPP)
			}
			for i, name := range k.loads {
				if bytes.Contains(m.Data, []byte(name+"\x00")) {
					k.loads = slices.Delete(k.loads, i, i+1)
					return refuse(unix.ENOENT)
				}
			}
		}
	}
	if table != "" {
		k.tables = append(k.tables, table)
	}
	return nil, nil
}

func (k *fakeKernel) add(t *testing.T, c Config) error {
	t.Helper()
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r, err := addRule(c, nftables.WithTestDial(k.dial))
	if err == nil {
		if err := r.conn.CloseLasting(); err != nil {
			t.Error(err)
		}
	}
	return err
}

// attributeOf returns the value of a netlink attribute of 2 bytes or more, in
// the form in which it is sent.
func attributeOf(t *testing.T, kind uint16, data ...byte) []byte {
	t.Helper()
	b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: kind, Data: data}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestQueueExpression: a kernel with nft's queue expression gets that, with
// the numbers of the queues and the bypass flag. This machine's kernel has no
// such expression, so the kernel is a fake one; the sandboxed tests exercise
// the NFQUEUE target on the real one.
func TestQueueExpression(t *testing.T) {
	for _, test := range []struct {
		config       Config
		total, flags byte
	}{
		{Config{Point: Postrouting, Queue: 0x1234}, 1, 1},
		{Config{Point: Postrouting, Queue: 0x1234, Queues: 3}, 3, 3}, // and fan-out over CPUs
	} {
		var k fakeKernel
		if err := k.add(t, test.config); err != nil {
			t.Fatal(err)
		}
		for what, want := range map[string][]byte{
			"the expression":   attributeOf(t, unix.NFTA_EXPR_NAME, []byte("queue\x00")...),
			"the first number": attributeOf(t, unix.NFTA_QUEUE_NUM, 0x12, 0x34),
			"how many queues":  attributeOf(t, unix.NFTA_QUEUE_TOTAL, 0, test.total),
			"the flags":        attributeOf(t, unix.NFTA_QUEUE_FLAGS, 0, test.flags),
			"the counter":      []byte("seen"),
			"the set":          []byte("armed\x00"),
			"what passes":      []byte("unarmed"),
		} {
			if !bytes.Contains(k.rule, want) {
				t.Errorf("%+v: the rule lacks %s: no %x in %x", test.config, what, want, k.rule)
			}
		}
		if bytes.Contains(k.rule, []byte("NFQUEUE")) {
			t.Error("the rule has a target beside the expression")
		}
	}
}

func TestQueueTarget(t *testing.T) {
	k := fakeKernel{lacks: []string{"queue"}}
	if err := k.add(t, Config{Point: Postrouting, Queue: 0x1234, Queues: 2}); err != nil {
		t.Fatal(err)
	}
	info := attributeOf(t, unix.NFTA_TARGET_INFO, 0x34, 0x12, 2, 0, 3, 0, 0, 0)
	if !bytes.Contains(k.rule, []byte("NFQUEUE\x00")) || !bytes.Contains(k.rule, info) {
		t.Errorf("the rule lacks the target: no %x in %x", info, k.rule)
	}
}

// TestQueueTargetLoaded: the module of the target is there when it has been
// asked for.
func TestQueueTargetLoaded(t *testing.T) {
	k := fakeKernel{lacks: []string{"queue"}, loads: []string{"NFQUEUE"}}
	if err := k.add(t, Config{Point: Postrouting}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(k.rule, []byte("NFQUEUE\x00")) {
		t.Errorf("the rule lacks the target: %x", k.rule)
	}
}

func TestNoWayToQueue(t *testing.T) {
	for _, k := range []fakeKernel{
		{lacks: []string{"queue", "NFQUEUE"}},
		{lacks: []string{"queue"}, refuses: "NFQUEUE"},
	} {
		err := k.add(t, Config{Point: Postrouting})
		if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "nft_queue") {
			t.Errorf("got %v, want EOPNOTSUPP and what to load", err)
		}
	}
}

func TestTableOfAnotherKstatd(t *testing.T) {
	k := fakeKernel{taken: []string{"kstat"}}
	if err := k.add(t, Config{Point: Postrouting, Queue: 7}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(k.tables, []string{"kstat-7"}) {
		t.Errorf("tables %q, want kstat-7", k.tables)
	}
	k = fakeKernel{taken: []string{"kstat", "kstat-7"}}
	if err := k.add(t, Config{Point: Postrouting, Queue: 7}); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want EPERM", err)
	}
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]Config{
		"queues behind the last": {Queue: 65535, Queues: 2},
		"negative queues":        {Queues: -1},
		"too many queues":        {Queues: MaxQueues + 1},
		"queue too long":         {QueueLen: MaxQueueLen + 1},
	} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, c := range []Config{{Queue: 65535}, {Queue: 65536 - MaxQueues, Queues: MaxQueues}} {
		if _, err := c.withDefaults(); err != nil {
			t.Errorf("the last queues: %v", err)
		}
	}
	for _, name := range pointNames {
		if p, err := ParsePoint(name); err != nil || p.String() != name {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
	if _, err := ParsePoint("POSTROUTING"); err == nil || !strings.Contains(err.Error(), "postrouting") {
		t.Errorf("a hook that is none: got %v, want the names", err)
	}
	for _, name := range familyNames {
		if f, err := ParseFamilies(name); err != nil || f.String() != name {
			t.Errorf("%s: got %v, %v", name, f, err)
		}
	}
}

// TestRulePort: the rule's socket has no port that a socket for a single request
// can have had, whose end would be that of the table.
func TestRulePort(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables, sandbox.NFQueue)
	r, err := addRule(Config{Point: Postrouting, Queues: 1})
	must(t, err)
	defer r.remove()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	must(t, err)
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: uint32(os.Getpid())}); err != nil {
		t.Error("the port of the process id is not free:", err)
	}
}
