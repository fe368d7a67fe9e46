package trace

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"kstat/stats"
)

// Options say what is shown.
type Options struct {
	Filter Filter       // nil lets all pass
	Names  *stats.Names // of protocols, as the daemon has them
	Count  uint64       // end after so many packets; 0: never
	Color  bool         // of lines
}

// Summary is what there was.
type Summary struct {
	Seen   uint64 // packets
	Shown  uint64 // of those
	Missed uint64 // beside them
}

// String says it to people.
func (s Summary) String() string {
	of := ""
	if s.Seen != s.Shown {
		of = fmt.Sprintf(" of %d", s.Seen)
	}
	packets := "packets"
	if s.Shown == 1 && of == "" {
		packets = "packet"
	}
	return fmt.Sprintf("%d %s shown%s, %d missed", s.Shown, packets, of, s.Missed)
}

// Lines shows what trace_pipe gives, in columns, until its end, which is the
// end of the daemon, or of ctx. Neither is an error. Whoever reads in may be left
// in that.
func Lines(ctx context.Context, in io.Reader, out io.Writer, o Options) (s Summary, err error) {
	columns, numbers := newColumns(out, o.Color), newNumbers(o.Names)
	err = each(ctx, in, func(text []byte) ([]byte, bool, error) {
		for {
			at := bytes.IndexByte(text, '\n') + 1
			if at == 0 {
				return text, false, columns.out.Flush()
			}
			l, ok := cutLine(text[:at])
			text = text[at:]
			if !ok {
				err := errors.New("a line that trace_pipe does not have: is this one, and of this version?")
				return nil, true, errors.Join(err, columns.out.Flush())
			}
			if l.missed > 0 {
				s.Missed += l.missed
				columns.show(&l)
				continue
			}
			s.Seen++
			if o.Filter != nil {
				if h := numbers.header(&l); !o.Filter(&h) {
					continue
				}
			}
			columns.show(&l)
			if s.Shown++; s.Shown == o.Count {
				return nil, true, columns.out.Flush()
			}
		}
	})
	return s, err
}

// Blocks copies what trace.pcapng gives, less the packets that are not to be
// shown, until its end, or that of ctx, as [Lines] does.
func Blocks(ctx context.Context, in io.Reader, out io.Writer, o Options) (s Summary, err error) {
	to := bufio.NewWriterSize(out, 1<<16)
	err = each(ctx, in, func(text []byte) ([]byte, bool, error) {
		for {
			block, rest, err := cutBlock(text)
			if err != nil || block == nil {
				return rest, false, errors.Join(err, to.Flush())
			}
			text = rest
			if n, ok := lostIn(block); ok {
				s.Missed = n
			}
			h, packet := packetIn(block)
			if packet {
				if s.Seen++; o.Filter != nil && !o.Filter(&h) {
					continue
				}
				s.Shown++
			}
			if _, err := to.Write(block); err != nil {
				return nil, true, err
			}
			if packet && s.Shown == o.Count {
				return nil, true, to.Flush()
			}
		}
	})
	return s, err
}

// each reads pieces, and hands each to use behind what that has left of the
// one before, until use says that it is enough.
func each(ctx context.Context, in io.Reader, use func(text []byte) (left []byte, enough bool, err error)) error {
	type piece struct {
		text []byte
		err  error
	}
	pieces, free := make(chan piece), make(chan []byte, 2)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range cap(free) {
		free <- make([]byte, 1<<17)
	}
	go func() {
		for {
			var buffer []byte
			select {
			case buffer = <-free:
			case <-ctx.Done():
				return
			}
			n, err := in.Read(buffer[:cap(buffer)])
			select {
			case pieces <- piece{buffer[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	var left []byte
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-pieces:
			text := append(left, p.text...)
			rest, enough, err := use(text)
			if enough || err != nil {
				return err
			}
			left = append(left[:0], rest...)
			free <- p.text
			switch {
			case errors.Is(p.err, io.EOF):
				return nil
			case p.err != nil:
				return p.err
			}
		}
	}
}
