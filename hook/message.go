package hook

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"kstat/stats"
)

// What nfnetlink_queue sends and takes: include/uapi/linux/netfilter/nfnetlink.h
// and nfnetlink_queue.h.
const (
	msgPacket       = unix.NFNL_SUBSYS_QUEUE << 8   // NFQNL_MSG_PACKET, 0
	msgConfig       = unix.NFNL_SUBSYS_QUEUE<<8 | 2 // NFQNL_MSG_CONFIG
	msgVerdictBatch = unix.NFNL_SUBSYS_QUEUE<<8 | 3 // NFQNL_MSG_VERDICT_BATCH

	nfAccept = 1 // NF_ACCEPT, include/uapi/linux/netfilter.h

	attrConfigCmd = 1 // NFQA_CFG_CMD, struct nfqnl_msg_config_cmd
	cmdUnbind     = 2 // NFQNL_CFG_CMD_UNBIND

	attrPacketHdr  = 1  // NFQA_PACKET_HDR, struct nfqnl_msg_packet_hdr
	attrVerdictHdr = 2  // NFQA_VERDICT_HDR, struct nfqnl_msg_verdict_hdr
	attrInDevice   = 5  // NFQA_IFINDEX_INDEV
	attrOutDevice  = 6  // NFQA_IFINDEX_OUTDEV
	attrPayload    = 10 // NFQA_PAYLOAD, the packet from its network header on
	attrCapLen     = 13 // NFQA_CAP_LEN, the packet's length if payload is less

	nfgenmsgLen = 4
	nlmsgerrLen = 4 + unix.NLMSG_HDRLEN // struct nlmsgerr: errno, header of the request
	attrLen     = 4
	attrMask    = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// header is a struct nlmsghdr, in the host's byte order.
type header struct {
	length, sequence uint32
	kind             uint16
}

// cut takes the first message off datagram: its header, what follows the
// header, and the messages behind it. It reports false if there is no whole
// message.
func cut(datagram []byte) (h header, body, rest []byte, ok bool) {
	if len(datagram) < unix.NLMSG_HDRLEN {
		return header{}, nil, nil, false
	}
	h = header{
		length:   binary.NativeEndian.Uint32(datagram[0:]),
		kind:     binary.NativeEndian.Uint16(datagram[4:]),
		sequence: binary.NativeEndian.Uint32(datagram[8:]),
	}
	if h.length < unix.NLMSG_HDRLEN || uint64(h.length) > uint64(len(datagram)) {
		return header{}, nil, nil, false
	}
	end := int(h.length)
	return h, datagram[unix.NLMSG_HDRLEN:end], datagram[min(align(end), len(datagram)):], true
}

// align rounds up to the 4 bytes at which netlink messages and attributes
// begin.
func align(n int) int { return (n + 3) &^ 3 }

// attribute takes the first attribute off attrs: its type without flags, its
// value, and the attributes behind it. It reports false if there is no whole
// one.
func attribute(attrs []byte) (kind uint16, value, rest []byte, ok bool) {
	if len(attrs) < attrLen {
		return 0, nil, nil, false
	}
	size := int(binary.NativeEndian.Uint16(attrs))
	if size < attrLen || size > len(attrs) {
		return 0, nil, nil, false
	}
	kind = binary.NativeEndian.Uint16(attrs[2:]) & attrMask
	return kind, attrs[attrLen:size], attrs[min(align(size), len(attrs)):], true
}

// packetID returns the id in the body of an NFQNL_MSG_PACKET, without which
// the packet cannot be answered. The kernel puts it first.
func packetID(body []byte) (id uint32, ok bool) {
	if len(body) < nfgenmsgLen {
		return 0, false
	}
	for attrs := body[nfgenmsgLen:]; ; {
		kind, value, rest, ok := attribute(attrs)
		switch {
		case !ok:
			return 0, false
		case kind == attrPacketHdr && len(value) >= 4:
			return binary.BigEndian.Uint32(value), true
		}
		attrs = rest
	}
}

// parsePacket reads from the body of an NFQNL_MSG_PACKET, which is at least a
// nfgenmsg, what there is to count.
func parsePacket(body []byte) stats.Packet {
	family := stats.IPv4
	if body[0] == unix.AF_INET6 { // nfgen_family
		family = stats.IPv6
	}
	var payload []byte
	var length uint32
	capped := false
	for attrs := body[nfgenmsgLen:]; ; {
		kind, value, rest, ok := attribute(attrs)
		if !ok {
			break
		}
		switch {
		case kind == attrPayload:
			payload = value
		case kind == attrCapLen && len(value) >= 4:
			length, capped = binary.BigEndian.Uint32(value), true
		}
		attrs = rest
	}
	if !capped {
		length = uint32(len(payload))
	}
	return stats.Packet{Class: Classify(family, payload), Bytes: length}
}

// verdictLen is the size of a verdict message: header, nfgenmsg and one
// attribute of two words.
const verdictLen = unix.NLMSG_HDRLEN + nfgenmsgLen + attrLen + 8

// newVerdict returns an NFQNL_MSG_VERDICT_BATCH that accepts the packets of
// queue up to an id, which [setVerdictID] puts in. No acknowledgement is asked
// for; an error comes with sequence number 0.
func newVerdict(queue uint16) (m [verdictLen]byte) {
	binary.NativeEndian.PutUint32(m[0:], verdictLen)
	binary.NativeEndian.PutUint16(m[4:], msgVerdictBatch)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	m[16], m[17] = unix.AF_UNSPEC, unix.NFNETLINK_V0
	binary.BigEndian.PutUint16(m[18:], queue) // res_id
	binary.NativeEndian.PutUint16(m[20:], attrLen+8)
	binary.NativeEndian.PutUint16(m[22:], attrVerdictHdr)
	binary.BigEndian.PutUint32(m[24:], nfAccept)
	return m
}

func setVerdictID(m *[verdictLen]byte, id uint32) {
	binary.BigEndian.PutUint32(m[28:], id)
}

// newMarker returns a message that does nothing but be acknowledged, with the
// given sequence number.
func newMarker(sequence uint32) (m [unix.NLMSG_HDRLEN]byte) {
	binary.NativeEndian.PutUint32(m[0:], unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint16(m[4:], unix.NLMSG_NOOP)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(m[8:], sequence)
	return m
}
