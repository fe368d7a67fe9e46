package header_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"kstat/trace/header"
)

// uppers are headers of TCP and UDP, some of which make no sense.
func uppers(t testing.TB) (all [][]byte) {
	add := func(layer gopacket.SerializableLayer, change func(b []byte)) {
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, layer, gopacket.Payload("payload")); err != nil {
			t.Fatal(err)
		}
		packet := bytes.Clone(b.Bytes())
		change(packet)
		all = append(all, packet)
	}
	as := func([]byte) {}
	set := func(at int, to ...byte) func([]byte) { return func(b []byte) { copy(b[at:], to) } }
	option := func(kind layers.TCPOptionKind, data ...byte) layers.TCPOption {
		return layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: data}
	}
	nop, end := layers.TCPOption{OptionType: 1, OptionLength: 1}, layers.TCPOption{OptionType: 0, OptionLength: 1}
	tcp := layers.TCP{SrcPort: 40000, DstPort: 40001, Seq: 0x01020304, Ack: 0xfffefdfc, Window: 0x8001, Urgent: 0x1234}
	add(&tcp, as)
	for flag := range 9 { // one at a time
		add(&tcp, func(b []byte) { binary.BigEndian.PutUint16(b[12:], 5<<12|1<<flag) })
	}
	for offset := range byte(16) {
		add(&tcp, set(12, offset<<4|0xf, 0xff))
	}
	for _, options := range [][]layers.TCPOption{
		{option(2, 5, 180), option(4), option(8, 0, 0, 0, 1, 0, 0, 0, 2), nop, option(3, 7)},
		{nop, nop, option(5, 1, 2, 3, 4, 1, 2, 3, 5)},
		{option(200, 1, 2), end, option(2, 5, 180)},
		{end},
	} {
		tcp.Options = options
		add(&tcp, as)
		for length := range byte(12) { // of the first option
			add(&tcp, set(21, length))
		}
	}
	for _, length := range []byte{0, 1, 7, 8, 9, 15, 16, 255} {
		add(&layers.UDP{SrcPort: 40000, DstPort: 40001}, set(4, 0, length))
	}
	return all
}

// compare holds what is read in a header to what gopacket reads.
func compare(t *testing.T, b []byte) {
	t.Helper()
	var tcp layers.TCP
	err := tcp.DecodeFromBytes(b, gopacket.NilDecodeFeedback)
	ours, ok := header.ParseTCP(b)
	if ok != (err == nil) {
		t.Fatalf("%x: TCP %v, gopacket says %v", b, ok, err)
	}
	if ok {
		flags := uint16(0)
		for i, set := range []bool{tcp.FIN, tcp.SYN, tcp.RST, tcp.PSH, tcp.ACK, tcp.URG, tcp.ECE, tcp.CWR, tcp.NS} {
			if set {
				flags |= 1 << i
			}
		}
		if ours.Seq != tcp.Seq || ours.Ack != tcp.Ack || ours.Flags != flags || ours.Window != tcp.Window || ours.Urgent != tcp.Urgent || ours.Size != 4*int(tcp.DataOffset) {
			t.Errorf("%x: %+v, gopacket has %+v", b, ours, tcp)
		}
		options := ours.Options
		for _, theirs := range tcp.Options {
			kind, data, rest, ok := header.Option(options)
			if !ok || kind != byte(theirs.OptionType) || !bytes.Equal(data, theirs.OptionData) {
				t.Fatalf("%x: option %d %x %v, gopacket has %v", b, kind, data, ok, theirs)
			}
			options = rest
		}
		if len(options) > 0 {
			t.Errorf("%x: gopacket does not have the options %x", b, options)
		}
	}
	var udp layers.UDP
	err = udp.DecodeFromBytes(b, gopacket.NilDecodeFeedback)
	length, ok := header.ParseUDP(b)
	if ok != (err == nil) || ok && length != int(udp.Length) {
		t.Errorf("%x: UDP of %d bytes %v, gopacket has %d, %v", b, length, ok, udp.Length, err)
	}
}

// TestUpper: headers, and the beginnings of them, are what gopacket makes of them.
func TestUpper(t *testing.T) {
	for _, b := range uppers(t) {
		for n := range len(b) + 1 {
			compare(t, b[:n])
		}
	}
}

func FuzzUpper(f *testing.F) {
	for _, b := range uppers(f) {
		f.Add(b)
	}
	f.Fuzz(compare)
}
