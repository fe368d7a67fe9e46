// Package traffic sends known numbers of packets.
//
// Each function says in its comment what passes the POSTROUTING hook of the
// sender's network namespace: over lo, where the receiver and its answers are
// in that same namespace, and over a cable (see kstat/lab/sandbox.Veth), where
// the answers leave another one and only arrive in ours.
//
//	              over lo                    over a cable
//	TCPConnect    2k TCP (k SYN, k RST)      k TCP
//	Connect       3k TCP (a handshake)       (it is for lo)
//	Reset         k TCP (RST)                (it is for lo)
//	UDP           k UDP                      k UDP
//	Datagrams     k UDP, which have arrived  (it is for lo)
//	Ping          2k ICMP or ICMPv6          k ICMP or ICMPv6
//	Raw           k of the protocol          k of the protocol
//	RawIPv4Packet 1, and what answers it     1
//	RawIPv6Packet 1, and what answers it     1
//	Echo          1 UDP per exchange         (it is for lo)
//	Stream        TCP, as many as it takes   TCP, as many as it takes
//
// The figures are exact in a namespace without other traffic, as long as no
// packet is dropped on its way. They are complete when the function returns:
// no packet of it is yet to reach the hook. Whoever waits for an answer
// checks that nothing was sent twice.
//
// All run in the calling thread's network namespace, so within
// sandbox.Peer.Do they send from the peer. Raw sockets need CAP_NET_RAW,
// which every sandbox has.
//
// Package kstat/lab/packets makes packets for RawIPv4Packet and RawIPv6Packet,
// well-formed and not, each with the protocol it is to be counted under.
package traffic
