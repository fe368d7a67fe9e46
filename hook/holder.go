package hook

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Who holds what: the answers for a person whose start was refused. They are
// best effort; what cannot be found out is left out of the sentence.

// Unseen is the holder of whom nothing can be found out, as in a user namespace.
const Unseen = "a process that this one may not see"

// queueFile lists the queues of this network namespace: number, netlink port
// of the holder, packets waiting, …. Root of the first user namespace may read
// it.
const queueFile = "/proc/thread-self/net/netfilter/nfnetlink_queue"

// QueueHolder says who has a queue number in this network namespace, "" if
// nobody can be seen to, and whether that is a kstatd, which has reserved it.
// It changes nothing, so that a kstatd that starts just then is not refused.
func QueueHolder(queue uint16) (who string, kstatd bool) {
	if who, reserved := unixHolder(reservationName(queue)); reserved {
		return who, true
	}
	return queueHolder(queue), false
}

// queueHolder says who is bound to queue, as "pid 12 (name)", or "" if nobody
// can be seen to be.
func queueHolder(queue uint16) string {
	for _, f := range table(queueFile) {
		if len(f) >= 2 && f[0] == strconv.Itoa(int(queue)) {
			return portHolder(f[1])
		}
	}
	return ""
}

// queueRow is what queueFile says of one queue.
type queueRow struct {
	number  int
	waiting int    // packets without an answer, whether read or not
	dropped uint64 // since the queue was bound: it was full, or could not be read
}

// queueTable is what queueFile says of the queues of this network namespace,
// those of others included.
type queueTable struct {
	rows []queueRow
	seen bool // they may be seen here
}

// readQueues reads it.
func readQueues() queueTable {
	f, err := os.Open(queueFile)
	if err != nil {
		return queueTable{}
	}
	defer f.Close()
	return queueTable{parseQueueRows(f), true}
}

// parseQueueRows reads queueFile (net/netfilter/nfnetlink_queue.c, seq_show).
func parseQueueRows(text io.Reader) (rows []queueRow) {
	for _, f := range fields(text) {
		if len(f) < 7 { // number portid waiting copy_mode copy_range dropped user_dropped …
			continue
		}
		var r queueRow
		r.number, _ = strconv.Atoi(f[0])
		r.waiting, _ = strconv.Atoi(f[2])
		for _, column := range f[5:7] {
			n, _ := strconv.ParseUint(column, 10, 64)
			r.dropped += n
		}
		rows = append(rows, r)
	}
	return rows
}

// waiting returns how many packets those queues hold that choose approves of.
func (t queueTable) waiting(choose func(queue int) bool) (n int) {
	for _, r := range t.rows {
		if choose(r.number) {
			n += r.waiting
		}
	}
	return n
}

// dropped returns how many packets those queues have dropped that choose
// approves of.
func (t queueTable) dropped(choose func(queue int) bool) (n uint64) {
	for _, r := range t.rows {
		if choose(r.number) {
			n += r.dropped
		}
	}
	return n
}

// portHolder says who has the netlink port.
func portHolder(port string) string {
	netfilter := strconv.Itoa(unix.NETLINK_NETFILTER)
	for _, f := range table("/proc/thread-self/net/netlink") { // sk Eth Pid Groups … Inode
		if len(f) >= 10 && f[1] == netfilter && f[2] == port {
			if who := SocketHolder(f[9]); who != "" {
				return who
			}
		}
	}
	// The first netlink socket of a process gets the process's number
	// (netlink_autobind), and this may be read without privileges.
	if name, err := os.ReadFile("/proc/" + port + "/comm"); err == nil {
		return fmt.Sprintf("netlink port %s, as a rule that of pid %s (%s)", port, port, bytes.TrimSpace(name))
	}
	return "a process with netlink port " + port
}

// unixHolder says who has the abstract Unix socket of a name, which begins
// with an @, and whether there is one.
func unixHolder(name string) (who string, exists bool) {
	for _, f := range table("/proc/thread-self/net/unix") { // Num … Inode Path
		if len(f) >= 8 && f[7] == name {
			if who := SocketHolder(f[6]); who != "" {
				return who, true
			}
			exists = true
		}
	}
	return Unseen, exists
}

// SocketHolder looks for the process that has the socket of an inode open, and
// returns it as "pid 12 (name)", or "" if none can be seen.
func SocketHolder(inode string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == "socket:["+inode+"]" {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("pid %s (%s)", pid, bytes.TrimSpace(name))
		}
	}
	return ""
}

// table reads a file of /proc into lines and fields; none if it cannot be
// read.
func table(path string) (rows [][]string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	return fields(f)
}

func fields(r io.Reader) (rows [][]string) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		rows = append(rows, strings.Fields(lines.Text()))
	}
	return rows
}
