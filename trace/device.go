package trace

import (
	"net"
	"strconv"

	"kstat/stats"
)

// devices are the names of network devices, as of when each was asked for first.
type devices map[uint32]string

// name returns the name of a device; its number, if it is gone.
func (d devices) name(index uint32) string {
	if name, ok := d[index]; ok {
		return name
	}
	name := "if" + strconv.FormatUint(uint64(index), 10)
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		name = i.Name
	}
	d[index] = name
	return name
}

// deviceOf returns the device that a packet leaves by, or has come in by if it
// has none yet. 0 is none.
func deviceOf(s *stats.Sighting) (index uint32, out bool) {
	if s.Out != 0 {
		return s.Out, true
	}
	return s.In, false
}
