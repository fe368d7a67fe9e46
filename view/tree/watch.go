package tree

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// Publications is an open watch file. It is for one goroutine.
type Publications struct {
	tree  Tree
	file  *os.File
	lines *bufio.Reader
}

// Publication is a line of watch.
type Publication struct {
	// Missed is how many publications this reader was too slow for. If it is
	// not 0, there is nothing else.
	Missed uint64

	Number uint64 // since the daemon started, from 1
	NOut   uint64 // published packets of TCP
	Total  uint64 // published packets of all protocols
	Time   time.Time
}

// Watch opens watch: what is published from now on can be read.
func (t Tree) Watch() (*Publications, error) {
	var f *os.File
	var err error
	unsignalled(func() { f, err = os.Open(t.Path("watch")) })
	if err != nil {
		return nil, t.explain(err)
	}
	return &Publications{tree: t, file: f, lines: bufio.NewReader(f)}, nil
}

// Next waits for a publication. After the daemon's end it returns [io.EOF].
func (p *Publications) Next() (Publication, error) {
	var line string
	var err error
	unsignalled(func() { line, err = p.lines.ReadString('\n') })
	switch {
	case err == io.EOF && line == "":
		return Publication{}, io.EOF
	case errors.Is(err, syscall.EIO): // what a read gets that had just begun
		return Publication{}, fmt.Errorf("%s: %w (%w)", p.tree.dir, ErrDead, syscall.EIO)
	case err != nil:
		return Publication{}, p.tree.explain(err)
	}
	return parsePublication(line)
}

// parsePublication reads a line. Columns behind those that are known are
// passed over.
func parsePublication(line string) (p Publication, err error) {
	if strings.HasPrefix(line, "missed ") {
		if _, err = fmt.Sscanf(line, "missed %d\n", &p.Missed); err == nil && p.Missed > 0 {
			return p, nil
		}
		return Publication{}, fmt.Errorf("watch says %q, which is not understood", line)
	}
	var nanoseconds int64
	if _, err = fmt.Sscan(line, &p.Number, &p.NOut, &p.Total, &nanoseconds); err != nil {
		return Publication{}, fmt.Errorf("watch says %q, which is not understood", line)
	}
	p.Time = time.Unix(0, nanoseconds)
	return p, nil
}

// Close ends the watch.
func (p *Publications) Close() error { return p.file.Close() }
