package hook

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"kstat/stats"
)

// packetMessage returns an NFQNL_MSG_PACKET as the kernel sends it, made by
// mdlayher/netlink.
func packetMessage(tb testing.TB, family byte, attrs ...netlink.Attribute) []byte {
	tb.Helper()
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		tb.Fatal(err)
	}
	body := append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...)
	m, err := netlink.Message{
		Header: netlink.Header{Length: uint32(unix.NLMSG_HDRLEN + (len(body)+3)&^3), Type: msgPacket, Sequence: 7},
		Data:   body,
	}.MarshalBinary()
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func packetHdr(id uint32) netlink.Attribute {
	return netlink.Attribute{Type: attrPacketHdr, Data: append(binary.BigEndian.AppendUint32(nil, id), 8, 0, 4)}
}

func payload(data []byte) netlink.Attribute { return netlink.Attribute{Type: attrPayload, Data: data} }

func capLen(n uint32) netlink.Attribute {
	return netlink.Attribute{Type: attrCapLen, Data: binary.BigEndian.AppendUint32(nil, n)}
}

func TestParsePacket(t *testing.T) {
	mark := netlink.Attribute{Type: 3, Data: []byte{0, 0, 0, 9}}
	class := func(f stats.Family, p stats.Protocol) stats.Class { return stats.ClassOf(f, p) }
	for _, test := range []struct {
		name    string
		message []byte
		id      uint32
		want    stats.Packet
		ok      bool
	}{
		{"v4", packetMessage(t, unix.AF_INET, packetHdr(1), mark, payload(v4(5, 6))), 1, stats.Packet{Class: class(stats.IPv4, 6), Bytes: 20}, true},
		{"v6", packetMessage(t, unix.AF_INET6, packetHdr(1<<32-1), payload(v6(58))), 1<<32 - 1, stats.Packet{Class: class(stats.IPv6, 58), Bytes: 40}, true},
		{"longer than the capture", packetMessage(t, unix.AF_INET, packetHdr(2), payload(v4(5, 6)), capLen(65536)), 2, stats.Packet{Class: class(stats.IPv4, 6), Bytes: 65536}, true},
		{"length before payload", packetMessage(t, unix.AF_INET, capLen(1500), packetHdr(2), payload(v4(5, 6))), 2, stats.Packet{Class: class(stats.IPv4, 6), Bytes: 1500}, true},
		{"payload not a multiple of 4", packetMessage(t, unix.AF_INET, packetHdr(3), payload(append(v4(5, 17), 1)), mark), 3, stats.Packet{Class: class(stats.IPv4, 17), Bytes: 21}, true},
		{"no payload", packetMessage(t, unix.AF_INET, packetHdr(4)), 4, stats.Packet{Class: class(stats.IPv4, stats.Other)}, true},
		{"no id", packetMessage(t, unix.AF_INET, payload(v4(5, 6))), 0, stats.Packet{Class: class(stats.IPv4, 6), Bytes: 20}, false},
		{"no attribute", packetMessage(t, unix.AF_INET), 0, stats.Packet{Class: class(stats.IPv4, stats.Other)}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, body, rest, ok := cut(test.message)
			if !ok || h.kind != msgPacket || h.sequence != 7 || len(rest) != 0 {
				t.Fatalf("cut: %+v, %d bytes behind, %v", h, len(rest), ok)
			}
			id, ok := packetID(body)
			packet := parsePacket(body)
			if id != test.id || packet != test.want || ok != test.ok {
				t.Errorf("got %d, %+v, %v; want %d, %+v, %v", id, packet, ok, test.id, test.want, test.ok)
			}
		})
	}
}

func TestCut(t *testing.T) {
	one := packetMessage(t, unix.AF_INET, packetHdr(1), payload(v4(5, 6)))
	two := append(append([]byte(nil), one...), one...)
	_, _, rest, ok := cut(two)
	if !ok || len(rest) != len(one) {
		t.Errorf("the first of two messages: %v, %d bytes behind it, want %d", ok, len(rest), len(one))
	}
	for name, datagram := range map[string][]byte{
		"empty":                  nil,
		"short header":           one[:15],
		"length above datagram":  one[:len(one)-1],
		"length below a header":  {15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"length of almost 2**32": {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if _, _, _, ok := cut(datagram); ok {
			t.Errorf("%s: taken for a message", name)
		}
	}
}

// TestRequests compares the messages that are built by hand with what
// mdlayher/netlink builds.
func TestRequests(t *testing.T) {
	verdict := newVerdict(515)
	setVerdictID(&verdict, 0xfffffffe)
	attr, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: attrVerdictHdr, Data: []byte{0, 0, 0, nfAccept, 0xff, 0xff, 0xff, 0xfe}}})
	if err != nil {
		t.Fatal(err)
	}
	compare := func(name string, got []byte, want netlink.Message) {
		t.Helper()
		text, err := want.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(text) {
			t.Errorf("%s: got %x, want %x", name, got, text)
		}
	}
	compare("verdict", verdict[:], netlink.Message{
		Header: netlink.Header{Length: verdictLen, Type: msgVerdictBatch, Flags: netlink.Request},
		Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 515 >> 8, 515 & 0xff}, attr...),
	})
	marker := newMarker(77)
	compare("marker", marker[:], netlink.Message{
		Header: netlink.Header{Length: unix.NLMSG_HDRLEN, Type: netlink.Noop, Flags: netlink.Request | netlink.Acknowledge, Sequence: 77},
	})
}

// TestAccept: whatever number of packets there is, verdicts of a few accept them
// all, up to the last one and no further.
func TestAccept(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	s := &socket{fd: pair[0], notify: func(err error) { t.Error(err) }}
	for i := range s.verdicts {
		s.verdicts[i] = newVerdict(515)
	}
	next := uint32(1<<32 - 100) // ids wrap
	for n := 1; n <= batchLen; n++ {
		var want []uint32
		ids := s.ids[:n]
		for i := range ids {
			ids[i] = next
			if (i+1)%acceptLen == 0 || i == n-1 {
				want = append(want, next)
			}
			next++
		}
		s.accept(ids)
		sent := make([]byte, 4096)
		size, err := unix.Read(pair[1], sent)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for sent = sent[:size]; len(sent) > 0; {
			h, body, rest, ok := cut(sent)
			if !ok || h.kind != msgVerdictBatch || len(body) != verdictLen-unix.NLMSG_HDRLEN {
				t.Fatalf("%d packets: no verdict: %x", n, sent)
			}
			got = append(got, binary.BigEndian.Uint32(body[len(body)-4:]))
			sent = rest
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d packets: accepted up to %d, want %d", n, got, want)
		}
	}
}

// FuzzParsePacket compares the walk over attributes with mdlayher/netlink's.
// It must not read past the message, whatever that holds.
func FuzzParsePacket(f *testing.F) {
	f.Add(packetMessage(f, unix.AF_INET, packetHdr(1), payload(v4(5, 6)), capLen(9999)))
	f.Add(packetMessage(f, unix.AF_INET6, packetHdr(1), payload(v6(6)))[:40])
	f.Fuzz(func(t *testing.T, datagram []byte) {
		for {
			h, body, rest, ok := cut(datagram)
			if !ok {
				return
			}
			if int(h.length) > len(datagram) || len(rest) >= len(datagram) {
				t.Fatalf("message of %d bytes in %d, %d behind it", h.length, len(datagram), len(rest))
			}
			datagram = rest
			id, ok := packetID(body)
			if len(body) < nfgenmsgLen {
				continue
			}
			packet := parsePacket(body)
			attrs, err := netlink.UnmarshalAttributes(body[nfgenmsgLen:])
			if err != nil || !wellFormed(body[nfgenmsgLen:]) {
				continue // ours takes what comes before the broken attribute
			}
			var wantID, wantLen uint32
			var wantOK, capped bool
			var data []byte
			for _, a := range attrs {
				a.Type &= attrMask
				switch {
				case a.Type == attrPacketHdr && len(a.Data) >= 4 && !wantOK:
					wantID, wantOK = binary.BigEndian.Uint32(a.Data), true
				case a.Type == attrPayload:
					data = a.Data
				case a.Type == attrCapLen && len(a.Data) >= 4:
					wantLen, capped = binary.BigEndian.Uint32(a.Data), true
				}
			}
			if !capped {
				wantLen = uint32(len(data))
			}
			family := stats.IPv4
			if body[0] == unix.AF_INET6 {
				family = stats.IPv6
			}
			want := stats.Packet{Class: Classify(family, data), Bytes: wantLen}
			if id != wantID || ok != wantOK || packet != want {
				t.Errorf("%x: got %d, %v, %+v; netlink says %d, %v, %+v", body, id, ok, packet, wantID, wantOK, want)
			}
		}
	})
}

// wellFormed reports whether every attribute is at least as long as its
// header. mdlayher/netlink lets shorter ones pass.
func wellFormed(attrs []byte) bool {
	for len(attrs) >= attrLen {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < attrLen || size > len(attrs) {
			return false
		}
		attrs = attrs[min(align(size), len(attrs)):]
	}
	return true
}

func BenchmarkParsePacket(b *testing.B) {
	message := packetMessage(b, unix.AF_INET, packetHdr(1), netlink.Attribute{Type: 3, Data: make([]byte, 4)},
		netlink.Attribute{Type: 4, Data: make([]byte, 16)}, netlink.Attribute{Type: 5, Data: make([]byte, 4)}, payload(v4(5, 6)), capLen(1500))
	for b.Loop() {
		_, body, _, _ := cut(message)
		parsePacket(body)
	}
}
