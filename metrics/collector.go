package metrics

import (
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"kstat/stats"
)

// collector makes the metrics, all of a scrape from one snapshot.
type collector struct {
	source *Source
	descs  []*prometheus.Desc

	packets, bytes, uncounted                   *prometheus.Desc
	queuePackets, queueCapacity, queueDropped   *prometheus.Desc
	flushes, repairs, restarts, gaps, gapOpen   *prometheus.Desc
	started, counter, publications, born, build *prometheus.Desc
}

func newCollector(source *Source) *collector {
	c := &collector{source: source}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc("kstat_"+name, help, labels, nil)
		c.descs = append(c.descs, d)
		return d
	}
	c.packets = desc("packets_total", "Packets that passed the hook and were counted. A super-packet (GSO) is one.", "family", "protocol")
	c.bytes = desc("bytes_total", "Bytes of the counted packets at the network layer, headers included.", "family", "protocol")
	c.uncounted = desc("uncounted_packets_total", "Packets that passed the hook while started and were not counted.")
	c.queuePackets = desc("queue_packets", "Packets in the NFQUEUE that have no answer yet.", "queue")
	c.queueCapacity = desc("queue_capacity_packets", "Packets that the NFQUEUE can hold; what comes on top passes uncounted.", "queue")
	c.queueDropped = desc("queue_dropped_packets_total", "Packets that the kernel dropped in the NFQUEUEs.")
	c.flushes = desc("queue_flushes_total", "Times that somebody deleted a base chain, at which the kernel drops what is queued.")
	c.repairs = desc("rule_repairs_total", "Times that the rule or the program at the hook was gone and was put back.")
	c.restarts = desc("worker_restarts_total", "Times that the process that counts died and was replaced.")
	c.gaps = desc("gaps_total", "Times that counting ceased though it was started.")
	c.gapOpen = desc("gap_open", "1 while counting has ceased though it is started, else 0.")
	c.started = desc("started", "1 while packets are counted, else 0.")
	c.counter = desc("counter", "Packets between two publications, as in the file counter.")
	c.publications = desc("publications_total", "Publications of figures to the files.")
	c.born = desc("start_time_seconds", "When the daemon started and the counters were 0, in seconds since 1970.")
	c.build = desc("build_info", "1; the labels say what runs.", "version", "engine", "hook", "goversion")
	return c
}

var _ prometheus.Collector = (*collector)(nil)

// Describe names all metrics.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

// Collect sends one scrape's worth. What the status tells comes before the
// snapshot: a packet that is uncounted is then in no figure of the same scrape.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetricWithCreatedTimestamp(d, prometheus.CounterValue, float64(value), c.source.Born, labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}

	if status, err := c.source.Status(); err != nil {
		to <- prometheus.NewInvalidMetric(c.uncounted, err)
	} else {
		count(c.uncounted, status.Uncounted)
		count(c.repairs, status.Repairs)
		count(c.flushes, status.Flushes)
		count(c.restarts, status.Restarts)
		count(c.gaps, status.Gaps)
		gauge(c.gapOpen, truth(status.GapOpen))
		if status.Queues != nil {
			count(c.queueDropped, status.Dropped)
		}
		for _, q := range status.Queues {
			number := strconv.Itoa(int(q.Number))
			gauge(c.queuePackets, float64(q.Waiting), number)
			gauge(c.queueCapacity, float64(q.Capacity), number)
		}
	}

	s := c.source.Snapshot()
	for _, row := range withCommon(s.Rows, c.source.Families) {
		family, protocol := row.Class.Family().String(), c.source.Names.Name(row.Class.Protocol())
		count(c.packets, row.Total.Packets, family, protocol)
		count(c.bytes, row.Total.Bytes, family, protocol)
	}
	count(c.publications, s.Publications)
	gauge(c.counter, float64(s.Counter))
	gauge(c.started, truth(c.source.Started()))
	gauge(c.born, float64(c.source.Born.UnixMilli())/1000)
	gauge(c.build, 1, c.source.Version, c.source.Engine, c.source.Hook, runtime.Version())
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// common are the classes that have series from the beginning.
var common = func() (classes []stats.Class) {
	const both = 1<<stats.IPv4 | 1<<stats.IPv6
	for _, c := range []struct {
		protocol stats.Protocol
		families int
	}{ // ascending
		{1, 1 << stats.IPv4},  // ICMP
		{2, 1 << stats.IPv4},  // IGMP
		{4, both},             // IP in IP
		{6, both},             // TCP
		{17, both},            // UDP
		{41, both},            // IPv6 in IP
		{47, both},            // GRE
		{50, both},            // ESP
		{51, both},            // AH
		{58, 1 << stats.IPv6}, // ICMPv6
		{89, both},            // OSPF
		{112, both},           // VRRP
		{132, both},           // SCTP
		{stats.Other, both},
	} {
		for _, family := range []stats.Family{stats.IPv4, stats.IPv6} {
			if c.families&(1<<family) != 0 {
				classes = append(classes, stats.ClassOf(family, c.protocol))
			}
		}
	}
	return classes
}()

// withCommon merges a row of zeros for each common class of the families that
// has none into rows, which are ascending.
func withCommon(rows []stats.Row, families []stats.Family) []stats.Row {
	merged := make([]stats.Row, 0, len(rows)+len(common))
	for _, class := range common {
		for len(rows) > 0 && rows[0].Class < class {
			merged = append(merged, rows[0])
			rows = rows[1:]
		}
		if len(rows) > 0 && rows[0].Class == class {
			continue // it comes next
		}
		for _, family := range families {
			if family == class.Family() {
				merged = append(merged, stats.Row{Class: class})
			}
		}
	}
	return append(merged, rows...)
}
