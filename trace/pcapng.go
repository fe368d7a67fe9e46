package trace

import (
	"runtime"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"kstat/stats"
)

// pcapng is packets as tshark reads them: a section, whose interface 0 is
// nobody's and has the number of missed packets, and one more interface for
// each device. Packets begin with the network header (LINKTYPE_RAW).
type pcapng struct {
	out     appender
	writer  *pcapgo.NgWriter
	devices devices
	numbers map[uint32]int // of interfaces, by device
	lost    uint64
}

// appender is a buffer to write to.
type appender struct{ buffer []byte }

func (a *appender) Write(b []byte) (int, error) {
	a.buffer = append(a.buffer, b...)
	return len(b), nil
}

func newPcapng() *pcapng {
	return &pcapng{devices: make(devices), numbers: map[uint32]int{}}
}

func raw(name, description string) pcapgo.NgInterface {
	return pcapgo.NgInterface{
		Name:        name,
		Description: description,
		OS:          runtime.GOOS,
		LinkType:    layers.LinkTypeRaw,
		SnapLength:  Captured,
	}
}

// flush ends what write has written behind buffer. Neither can fail.
func (p *pcapng) flush(buffer []byte, write func() error) []byte {
	p.out.buffer = buffer
	if err := write(); err != nil {
		panic(err)
	}
	if err := p.writer.Flush(); err != nil {
		panic(err)
	}
	buffer, p.out.buffer = p.out.buffer, nil
	return buffer
}

func (p *pcapng) begin(buffer []byte) []byte {
	if p.writer != nil {
		return buffer
	}
	return p.flush(buffer, func() (err error) {
		p.writer, err = pcapgo.NewNgWriterInterface(&p.out, raw("kstat", "packets without a device, and the number of missed ones"),
			pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: "kstatd"}})
		return err
	})
}

func (p *pcapng) packet(buffer []byte, s *stats.Sighting) []byte {
	return p.flush(buffer, func() (err error) {
		device, _ := deviceOf(s)
		number, ok := p.numbers[device]
		if !ok && device != 0 {
			if number, err = p.writer.AddInterface(raw(p.devices.name(device), "")); err != nil {
				return err
			}
			p.numbers[device] = number
		}
		return p.writer.WritePacket(gopacket.CaptureInfo{
			Timestamp:      time.Unix(0, s.Time),
			CaptureLength:  len(s.Head),
			Length:         max(int(s.Bytes), len(s.Head)),
			InterfaceIndex: number,
		}, s.Head)
	})
}

// missed writes the statistics of interface 0: how many have been missed by
// now.
func (p *pcapng) missed(buffer []byte, n uint64) []byte {
	p.lost += n
	return p.flush(buffer, func() error {
		return p.writer.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{
			LastUpdate:      time.Now(),
			PacketsReceived: pcapgo.NgNoValue64,
			PacketsDropped:  p.lost,
		})
	})
}
