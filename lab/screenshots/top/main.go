// Top takes the pictures of kstat top in docs/images: it runs a kstatd in a
// network of its own, sends packets for a while, and draws what tmux has on the
// screen of a kstat top.
//
//	go run ./lab/screenshots/top -bin bin -o docs/images
//
// It wants tmux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"kstat/lab/sandbox"
	"kstat/lab/screenshots/studio"
	"kstat/lab/traffic"
)

const (
	columns = 100
	lines   = 28
	samples = 95 // that are waited for
)

func main() {
	bin := flag.String("bin", "bin", "`folder` of kstatd and kstat")
	out := flag.String("o", "docs/images", "write the pictures into `folder`")
	interval := flag.Duration("interval", time.Second, "what kstat top has for an interval, 95 of which it takes")
	flag.Parse()
	studio.Main(func(ctx context.Context) error { return run(ctx, *bin, *out, *interval) })
}

// run takes all pictures. When ctx ends before that, it clears away what it has
// begun.
func run(ctx context.Context, bin, out string, interval time.Duration) (err error) {
	if err := sandbox.Missing(sandbox.FUSE, sandbox.IPv6, sandbox.NFQueue, sandbox.NFTables); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kstat-screenshots-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	stage := &stage{bin: bin, dir: dir, mount: "/run/kstat", interval: interval}
	defer stage.end()
	if err := stage.begin(); err != nil {
		return err
	}
	if err := stage.perform(ctx); err != nil {
		return err
	}
	for _, t := range stage.terminals {
		text, err := t.tmux("capture-pane", "-e", "-p").Output()
		if err == nil {
			err = os.WriteFile(filepath.Join(out, t.name+".svg"), draw(string(text), t.columns, t.lines, t.light), 0o644)
		}
		if err != nil {
			return fmt.Errorf("picture %s: %w", t.name, err)
		}
	}
	return nil
}

// stage is the daemon and the terminals that look at it.
type stage struct {
	bin, dir, mount string
	interval        time.Duration
	running         []*exec.Cmd
	terminals       []*terminal
}

// terminal is one of tmux's.
type terminal struct {
	name           string
	socket         string
	columns, lines int
	light          bool
}

func (t *terminal) tmux(args ...string) *exec.Cmd {
	cmd := sandbox.Command("tmux", append([]string{"-u", "-S", t.socket, "-f", "/dev/null"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "COLORTERM=truecolor"}
	return cmd
}

// begin starts everything.
func (s *stage) begin() error {
	daemon := sandbox.Command(filepath.Join(s.bin, "kstatd"), "--mount", s.mount, "--start")
	if err := s.start(daemon); err != nil {
		return err
	}
	if err := await("the tree", func() bool { return exec.Command("test", "-e", s.mount+"/nout").Run() == nil }); err != nil {
		return err
	}
	kstat, err := filepath.Abs(filepath.Join(s.bin, "kstat"))
	if err != nil {
		return err
	}
	for _, t := range []*terminal{
		{name: "top", columns: columns, lines: lines},
		{name: "top-light", columns: columns, lines: lines, light: true},
		{name: "top-narrow", columns: 40, lines: 10},
	} {
		t.socket = filepath.Join(s.dir, t.name)
		if err := s.start(t.tmux("-D")); err != nil {
			return err
		}
		if err := await("tmux", func() bool { _, err := os.Stat(t.socket); return err == nil }); err != nil {
			return err
		}
		background := "bg=#1c1c1c"
		if t.light {
			background = "bg=#ffffff"
		}
		for _, command := range [][]string{
			{"new-session", "-d", "-s", "empty"}, // there is no option without a session
			{"set-option", "-g", "window-style", background},
			{"new-session", "-d", "-s", "top", "-x", strconv.Itoa(t.columns), "-y", strconv.Itoa(t.lines),
				kstat + " top --interval " + s.interval.String()},
			{"kill-session", "-t", "empty"},
		} {
			if text, err := t.tmux(command...).CombinedOutput(); err != nil {
				return fmt.Errorf("tmux %q: %w: %s", command, err, text)
			}
		}
		s.terminals = append(s.terminals, t)
	}
	return nil
}

func (s *stage) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	s.running = append(s.running, cmd)
	return nil
}

// end ends what begin has started.
func (s *stage) end() {
	for _, t := range s.terminals {
		_ = t.tmux("kill-server").Run()
	}
	for _, cmd := range s.running {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
}

// await waits for something that takes a moment.
func await(what string, ready func() bool) error {
	for end := time.Now().Add(10 * time.Second); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s does not come", what)
		}
	}
	return nil
}

// perform sends packets as time goes by: waves of TCP, steady UDP, pings now
// and then.
func (s *stage) perform(ctx context.Context) error {
	lo4, lo6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	sink, err := traffic.UDPSink(lo4)
	if err != nil {
		return err
	}
	defer sink.Close()
	port4, err := traffic.ClosedPort(lo4)
	if err != nil {
		return err
	}
	port6, err := traffic.ClosedPort(lo6)
	if err != nil {
		return err
	}
	for i := range samples {
		// In the middle between two looks, which are when the clock is a
		// multiple of the interval.
		now := time.Now()
		select {
		case <-time.After(now.Truncate(s.interval).Add(s.interval * 3 / 2).Sub(now)):
		case <-ctx.Done():
			return errors.New("interrupted")
		}
		x := float64(i)
		wave := 40 + 30*math.Sin(x/9) + 14*math.Sin(x/2.3)
		if i%37 > 30 {
			wave *= 2
		}
		work := []error{
			traffic.TCPConnect(port4, int(wave)),
			traffic.TCPConnect(port6, int(8+6*math.Cos(x/14))),
			traffic.UDP(sink.AddrPort, int(20+5*math.Sin(x/5)), 400),
		}
		if i%5 == 0 {
			work = append(work, traffic.Ping(lo4, 2), traffic.Ping(lo6, 1))
		}
		if err := errors.Join(work...); err != nil {
			return err
		}
	}
	time.Sleep(s.interval * 3 / 4)
	return nil
}

// cell is a place of the screen.
type cell struct {
	text   string
	fg, bg string // nothing: the terminal's own
	bold   bool
}

// draw makes an SVG of what capture-pane -e gives. Blocks are drawn, and not
// written, so that no font has a part in them.
func draw(text string, columns, lines int, light bool) []byte {
	const width, height, margin = 8, 17, 14
	paper, ink := "#1c1c1c", "#d0d0d0"
	if light {
		paper, ink = "#ffffff", "#303030"
	}
	var b strings.Builder
	w, h := columns*width+2*margin, lines*height+2*margin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="kstat top">`+"\n", w, h, w, h)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="%s" stroke="#808080" stroke-opacity=".4"/>`+"\n", paper)
	fmt.Fprintf(&b, `<g font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="13.3">`+"\n")
	for y, row := range parse(text) {
		top := margin + y*height
		if n := len(row); n > 0 && row[n-1].bg != "" { // tmux keeps no blanks there
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", margin+width, top, (columns-1)*width, height, row[n-1].bg)
		}
		for x := 0; x < len(row); {
			end := x + 1
			for end < len(row) && sameStyle(row[x], row[end]) && block(row[x].text) == block(row[end].text) {
				end++
			}
			c, left := row[x], margin+x*width
			run := ""
			for _, c := range row[x:end] {
				run += c.text
			}
			color := c.fg
			if color == "" {
				color = ink
			}
			if c.bg != "" {
				fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", left, top, (end-x)*width, height, c.bg)
			}
			if eighths := block(c.text); eighths > 0 {
				full := float64(height*eighths) / 8
				fmt.Fprintf(&b, `<rect x="%d" y="%g" width="%d" height="%g" fill="%s"/>`+"\n", left, float64(top+height)-full, (end-x)*width, full, color)
				run = ""
			}
			weight := ""
			if c.bold {
				weight = ` font-weight="bold"`
			}
			column := 0
			for _, word := range strings.SplitAfter(run, " ") { // browsers fold blanks
				n := len([]rune(word))
				if word = strings.TrimSuffix(word, " "); word != "" {
					fmt.Fprintf(&b, `<text x="%d" y="%d" textLength="%d" fill="%s"%s>%s</text>`+"\n",
						left+column*width, top+13, len([]rune(word))*width, color, weight, escape.Replace(word))
				}
				column += n
			}
			x = end
		}
	}
	b.WriteString("</g>\n</svg>\n")
	return []byte(b.String())
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func sameStyle(a, b cell) bool {
	a.text, b.text = "", ""
	return a == b
}

// block returns how many eighths of its cell one of ▁ to █ fills, or 0.
func block(text string) int {
	runes := []rune(text)
	if len(runes) == 1 && runes[0] >= '▁' && runes[0] <= '█' {
		return int(runes[0]-'▁') + 1
	}
	return 0
}

// parse reads lines with SGR sequences into cells.
func parse(text string) (rows [][]cell) {
	var pen cell
	for line := range strings.Lines(text) {
		var row []cell
		line = strings.TrimSuffix(line, "\n")
		for line != "" {
			if rest, ok := strings.CutPrefix(line, "\x1b["); ok {
				codes, after, _ := strings.Cut(rest, "m")
				pen.sgr(codes)
				line = after
				continue
			}
			r := []rune(line)[0]
			c := pen
			c.text = string(r)
			row = append(row, c)
			line = line[len(c.text):]
		}
		rows = append(rows, row)
	}
	return rows
}

// palette returns a colour of the 256 that terminals have, from the 17th on,
// which are all that tmux gives here.
func palette(index int) string {
	if index >= 232 {
		grey := 8 + 10*(index-232)
		return fmt.Sprintf("#%02x%02[1]x%02[1]x", grey)
	}
	level := func(n int) int {
		if n == 0 {
			return 0
		}
		return 55 + 40*n
	}
	index -= 16
	return fmt.Sprintf("#%02x%02x%02x", level(index/36), level(index/6%6), level(index%6))
}

// sgr takes the codes of one sequence.
func (c *cell) sgr(codes string) {
	numbers := strings.FieldsFunc(codes, func(r rune) bool { return r == ';' || r == ':' })
	if len(numbers) == 0 {
		*c = cell{}
	}
	for i := 0; i < len(numbers); i++ {
		switch n, _ := strconv.Atoi(numbers[i]); n {
		case 0:
			*c = cell{}
		case 1:
			c.bold = true
		case 22:
			c.bold = false
		case 39:
			c.fg = ""
		case 49:
			c.bg = ""
		case 38, 48:
			if i+2 >= len(numbers) || numbers[i+1] != "5" {
				continue
			}
			index, _ := strconv.Atoi(numbers[i+2])
			if n == 38 {
				c.fg = palette(index)
			} else {
				c.bg = palette(index)
			}
			i += 2
		}
	}
}
