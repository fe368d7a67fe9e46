package hook

import (
	"encoding/binary"
	"sync"
	"time"

	"kstat/stats"
)

// tracing shows the packets of all queues of an engine to its [Tracer].
type tracing struct {
	table  *stats.Table
	tracer Tracer
	mu     sync.Mutex // held from before a batch is counted until it was shown
}

// begin locks, if somebody traces.
func (t *tracing) begin() bool {
	if !t.table.Traced() {
		return false
	}
	t.mu.Lock()
	return true
}

// show shows a batch of messages. Their time is that of the batch: when they
// were counted.
func (t *tracing) show(before uint64, bodies [][]byte, packets []stats.Packet, seen []stats.Sighting) {
	now := time.Now().UnixNano()
	for i, body := range bodies {
		seen[i] = sightingOf(body)
		seen[i].Number, seen[i].Packet, seen[i].Time = before+uint64(i)+1, packets[i], now
	}
	t.tracer.Trace(seen)
}

// sightingOf reads from the body of an NFQNL_MSG_PACKET what [parsePacket] does
// not.
func sightingOf(body []byte) (s stats.Sighting) {
	for attrs := body[nfgenmsgLen:]; ; {
		kind, value, rest, ok := attribute(attrs)
		if !ok {
			return s
		}
		switch {
		case kind == attrPayload:
			s.Head = value[:min(len(value), copyRange)]
		case kind == attrInDevice && len(value) >= 4:
			s.In = binary.BigEndian.Uint32(value)
		case kind == attrOutDevice && len(value) >= 4:
			s.Out = binary.BigEndian.Uint32(value)
		}
		attrs = rest
	}
}
