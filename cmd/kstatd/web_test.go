package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
	"kstat/lab/traffic"
)

// askVia makes a request of a kstatd, at an address as --listen has it.
func askVia(at, method, path string, header ...string) (status int, text string, err error) {
	a, err := parseAddress(at)
	if err != nil {
		return 0, "", err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, a.network, a.name)
		},
	}
	r, err := http.NewRequest(method, "http://kstatd"+path, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), errors.Join(err, answer.Body.Close())
}

// get returns what is at a path.
func get(t *testing.T, at, path string) string {
	t.Helper()
	status, text, err := askVia(at, "GET", path)
	must(t, err)
	if status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", path, status, text)
	}
	return text
}

// sample returns the value of a sample of /metrics, or "".
func sample(t *testing.T, at, name string) string {
	t.Helper()
	for line := range strings.Lines(get(t, at, "/metrics")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func packetsOf(family, protocol string) string {
	return fmt.Sprintf("kstat_packets_total{family=%q,protocol=%q}", family, protocol)
}

// tcpAddress returns where a kstatd that was told port 0 listens.
func (d *running) tcpAddress() string {
	d.t.Helper()
	listen := regexp.MustCompile(`listen=(127\.0\.0\.1:\d+)`)
	var found []string
	sandbox.Await(d.t, "a line that says where it listens", func() bool {
		found = listen.FindStringSubmatch(d.log.String())
		return found != nil
	})
	return found[1]
}

// TestListen: figures over a Unix socket, which adds no packet to them, are
// those that were sent, whatever is written to reset; and the socket goes with
// the daemon.
func TestListen(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		dir, path := mountDir(t), filepath.Join(t.TempDir(), "kstatd.sock")
		at := "unix:" + path
		d := start(t, dir, engine, "--listen", at, "--listen", "127.0.0.1:0")
		expect := func(want map[string]string) {
			t.Helper()
			for name, value := range want {
				if got := sample(t, at, name); got != value {
					t.Errorf("%s: got %q, want %q", name, got, value)
				}
			}
		}
		expect(map[string]string{packetsOf("ipv4", "tcp"): "0", "kstat_started": "0", "kstat_counter": "10", "kstat_publications_total": "0"})
		closed, err := traffic.ClosedPort(lo)
		must(t, err)
		d.write("start", "1")
		must(t, traffic.TCPConnect(closed, 3), traffic.Ping(lo, 4))
		d.write("reset", "1")
		must(t, traffic.TCPConnect(closed, 2))
		expect(map[string]string{
			packetsOf("ipv4", "tcp"):        "10",
			packetsOf("ipv4", "icmp"):       "8",
			"kstat_started":                 "1",
			"kstat_publications_total":      "1",
			"kstat_uncounted_packets_total": "0",
		})
		d.expect("nout", "0\n")
		want := "0"
		_, err = os.ReadFile("/proc/self/net/netfilter/nfnetlink_queue")
		if err != nil || engine == engineFlag+"bpf" {
			want = ""
		}
		expect(map[string]string{`kstat_queue_packets{queue="0"}`: want})
		if got := get(t, at, "/healthz"); got != "ok\n" {
			t.Errorf("healthz says %q", got)
		}
		if got, want := get(t, at, "/stats.json"), d.read("stats.json"); got != want {
			t.Errorf("stats.json over HTTP:\n%s\nin the tree:\n%s", got, want)
		}
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != os.ModeSocket|0o666 {
			t.Errorf("the socket's mode is %v", info.Mode())
		}

		before := sample(t, at, packetsOf("ipv4", "tcp"))
		get(t, d.tcpAddress(), "/healthz") // is traffic as any other
		if after := sample(t, at, packetsOf("ipv4", "tcp")); after == before {
			t.Errorf("a request over TCP was not counted: %s packets before and after", before)
		}
		d.end(unix.SIGTERM)
		nothingLeft(t, dir)
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket was left")
		}
	})
}

// TestMetricsOutliveTheWorker: no counter goes back, and no connection is
// refused, however many workers are killed.
func TestMetricsOutliveTheWorker(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		at := "unix:" + filepath.Join(t.TempDir(), "kstatd.sock")
		d := start(t, mountDir(t), engine, "--start", "--listen", at, "--listen", "127.0.0.1:0")
		address := d.tcpAddress()
		stop, dialled := make(chan struct{}), make(chan error)
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					if n == 0 {
						dialled <- errors.New("nobody dialled")
						return
					}
					dialled <- nil
					return
				default:
				}
				c, err := net.DialTimeout("tcp", address, 10*time.Second)
				if err != nil {
					dialled <- err
					<-stop
					return
				}
				c.Close()
			}
		}()
		born := sample(t, at, "kstat_start_time_seconds")
		for i := range 3 {
			must(t, traffic.Ping(lo, 5))
			before := sample(t, at, packetsOf("ipv4", "icmp"))
			must(t, unix.Kill(d.worker(), unix.SIGKILL))
			after := ""
			sandbox.Await(t, "an answer from the next worker", func() bool {
				status, text, err := askVia(at, "GET", "/metrics")
				if err != nil || status != http.StatusOK { // it died before it had answered
					return false
				}
				after = text
				return strings.Contains(text, fmt.Sprintf("kstat_worker_restarts_total %d\n", i+1))
			})
			want := strconv.Itoa(10 * (i + 1))
			if line := packetsOf("ipv4", "icmp") + " " + want + "\n"; before != want || !strings.Contains(after, line) {
				t.Errorf("round %d: %s packets before, want %s; after it:\n%s", i, before, want, after)
			}
		}
		if now := sample(t, at, "kstat_start_time_seconds"); now != born {
			t.Errorf("started at %s, and after a worker's death at %s", born, now)
		}
		close(stop)
		if err := <-dialled; err != nil {
			t.Error("a connection was refused:", err)
		}
		d.end(unix.SIGTERM)
	})
}

// TestMetricsUnderOverload: while a queue of 4 overflows no counter goes back,
// and at rest every packet is in one of them.
func TestMetricsUnderOverload(t *testing.T) {
	at := "unix:" + filepath.Join(t.TempDir(), "kstatd.sock")
	d := start(t, mountDir(t), "--start", "--queue-len", "4", "--listen", at)
	peer := sandbox.Veth(t)
	const sent = 100_000
	flood := make(chan error, 1)
	go func() { flood <- traffic.UDP(netip.AddrPortFrom(peer.Void4, 9), sent, 10) }()
	var counted, uncounted, scrapes int
	scrape := func() {
		t.Helper()
		figures := map[string]int{}
		for line := range strings.Lines(get(t, at, "/metrics")) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			figures[name], _ = strconv.Atoi(value)
		}
		nowCounted, nowUncounted := figures[packetsOf("ipv4", "udp")], figures["kstat_uncounted_packets_total"]
		if nowCounted < counted || nowUncounted < uncounted || nowCounted+nowUncounted > sent {
			t.Fatalf("of %d packets %d counted, %d uncounted, and before that %d and %d", sent, nowCounted, nowUncounted, counted, uncounted)
		}
		counted, uncounted = nowCounted, nowUncounted
		scrapes++
	}
	for flooding := true; flooding; {
		select {
		case err := <-flood:
			must(t, err)
			flooding = false
		default:
		}
		scrape()
	}
	d.write("start", "0")
	scrape()
	if counted+uncounted != sent || uncounted == 0 {
		t.Errorf("of %d packets %d counted, %d uncounted", sent, counted, uncounted)
	}
	d.expect("uncounted", fmt.Sprintln(uncounted))
	t.Logf("%d scrapes; of %d packets %d counted, %d uncounted", scrapes, sent, counted, uncounted)
	d.end(unix.SIGTERM)
}

// TestUncountedDoesNotGoBack: what was shown once stays, though a worker that
// is killed does not tell the next one all that it has lost.
func TestUncountedDoesNotGoBack(t *testing.T) {
	var s state
	s.record = new(record)
	for _, c := range [][2]uint64{{5, 5}, {3, 5}, {0, 5}, {6, 6}, {6, 6}} {
		if got := raise(&s.shown.uncounted, c[0]); got != c[1] {
			t.Errorf("%d shows as %d, want %d", c[0], got, c[1])
		}
	}
}

// TestHealth: a gap that is open, and a proof that is late.
func TestHealth(t *testing.T) {
	s := state{record: new(record)}
	now := time.Now()
	s.proved.Store(&now)
	s.started.Store(true)
	if err := s.healthy(); err != nil {
		t.Error(err)
	}
	s.beginGap(now)
	if err := s.healthy(); err == nil || !strings.Contains(err.Error(), "packets pass uncounted since 20") {
		t.Error("in a gap:", err)
	}
	s.endGap(now)
	late := now.Add(-time.Minute)
	s.proved.Store(&late)
	if err := s.healthy(); err == nil || !strings.Contains(err.Error(), "no proof for 1m0") {
		t.Error("without a proof:", err)
	}
}

// TestListenTaken: whoever has the address is named, and keeps it; where nobody
// listens nobody is named; what is no socket stays as it is; a socket's file that
// nobody listens on is replaced.
func TestListenTaken(t *testing.T) {
	need(t)
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer holder.Close()
	folder := t.TempDir()
	living, stale, file := filepath.Join(folder, "living"), filepath.Join(folder, "stale"), filepath.Join(folder, "file")
	l, err := net.Listen("unix", living)
	must(t, err)
	defer l.Close()
	must(t, os.WriteFile(file, []byte("mine"), 0o600))
	me := fmt.Sprintf("pid %d ", os.Getpid())
	refused := func(at string, parts ...string) {
		t.Helper()
		dir := mountDir(t)
		began := time.Now()
		status, _, stderr := once(t, "--mount", dir, "--listen", at)
		within(t, "the end of a daemon that cannot listen", time.Since(began), time.Second)
		if status != exitFailure || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: status %d: %s", at, status, stderr)
		}
		for _, part := range append(parts, at) {
			if !strings.Contains(stderr, part) {
				t.Errorf("%s: no %q in: %s", at, part, stderr)
			}
		}
		nothingLeft(t, dir)
	}
	_, port, _ := net.SplitHostPort(holder.Addr().String())
	refused(holder.Addr().String(), me, "choose another address")
	refused(":"+port, me)
	connected, err := net.Dial("tcp", holder.Addr().String())
	must(t, err)
	defer connected.Close()
	refused(connected.LocalAddr().String(), "nobody listens there", "choose another address")
	bound, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(bound)
	must(t, unix.Bind(bound, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	at, err := unix.Getsockname(bound)
	must(t, err)
	refused(fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port), "nobody listens there", "choose another address")
	refused("unix:"+living, me, "choose another path")
	refused("unix:"+file, "something else than a socket")
	refused("unix:"+filepath.Join(folder, "no", "such"), "no such file or directory", "there is no directory "+filepath.Join(folder, "no")+":")
	refused("192.0.2.1:9469", "cannot assign", "does not have that address")
	refused("[fe80::1]:9469", "link-local", "[fe80::1%eth0]:9469")
	for _, all := range []string{":9469", "0.0.0.0:9469"} { // its own is nobody to be ended
		status, _, stderr := once(t, "--mount", mountDir(t), "--listen", all, "--listen", "127.0.0.1:9469")
		if status != exitFailure || !strings.Contains(stderr, "listen on 127.0.0.1:9469: another --listen, or a socket of the service manager, has it already: leave one of them out") {
			t.Errorf("--listen %s, and once more: status %d: %s", all, status, stderr)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
		t.Errorf("the file is %q: %v", text, err)
	}
	if c, err := net.Dial("unix", living); err != nil {
		t.Error("the living socket:", err)
	} else {
		c.Close()
	}

	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())
	dir := mountDir(t)
	d := start(t, dir, "--listen", "unix:"+stale)
	get(t, "unix:"+stale, "/healthz")
	must(t, os.Remove(stale), os.WriteFile(stale, nil, 0o600)) // is not its own to remove
	d.end(unix.SIGTERM)
	nothingLeft(t, dir)
	if _, err := os.Lstat(stale); err != nil {
		t.Error("a file that took the socket's place:", err)
	}
}

// TestParseAddress: what --listen takes.
func TestParseAddress(t *testing.T) {
	for _, good := range []string{"127.0.0.1:9469", "[::1]:9469", ":9469", "0.0.0.0:0", "[::]:65535", "unix:/run/kstatd.sock"} {
		if a, err := parseAddress(good); err != nil || a.String() != good {
			t.Errorf("%q: %v, %v", good, a, err)
		}
	}
	status, _, stderr := once(t, "--listen", "unix:/x", "--listen", "unix:/x")
	if status != exitUsage || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "given twice") {
		t.Errorf("the same twice: status %d: %s", status, stderr)
	}
	for _, bad := range []string{"", ":", "9469", "127.0.0.1", "localhost:9469", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1", "::1:9469", "[::1]",
		"unix:", "unix:kstatd.sock", "unix:@kstatd", "unix:/" + strings.Repeat("x", maxPath), "http://127.0.0.1:9469"} {
		status, _, stderr := once(t, "--listen", bad)
		if status != exitUsage || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "-listen") {
			t.Errorf("%q: status %d: %s", bad, status, stderr)
		}
	}
}

// TestListenAddresses: 0.0.0.0 is all of IPv4, and none of IPv6; no host is all
// of both.
func TestListenAddresses(t *testing.T) {
	for text, want := range map[string]int{"0.0.0.0:0": unix.AF_INET, "127.0.0.1:0": unix.AF_INET, "[::1]:0": unix.AF_INET6, ":0": unix.AF_INET6} {
		a, err := parseAddress(text)
		must(t, err)
		s, err := listen([]address{a})
		must(t, err)
		name, err := unix.Getsockname(int(s.files[0].Fd()))
		must(t, err, s.close())
		family := unix.AF_INET6
		if _, ok := name.(*unix.SockaddrInet4); ok {
			family = unix.AF_INET
		}
		if family != want {
			t.Errorf("%s: family %d, want %d", text, family, want)
		}
	}
}

// TestListenBacklogFull: whoever listens on a Unix socket and accepts nothing
// keeps it.
func TestListenBacklogFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kstatd.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0))
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	_, err = listen([]address{{"unix", path}})
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "does not accept connections") {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// TestSocketActivation: sockets that the service manager has opened are served
// without --listen, by every worker, and stay the manager's.
func TestSocketActivation(t *testing.T) {
	need(t)
	path := filepath.Join(t.TempDir(), "activated.sock")
	var files []*os.File
	var at []string
	for _, a := range []address{{"tcp", "127.0.0.1:0"}, {"unix", path}} {
		l, err := net.Listen(a.network, a.name)
		must(t, err)
		defer l.Close()
		f, err := l.(interface{ File() (*os.File, error) }).File()
		must(t, err)
		defer f.Close()
		files = append(files, f)
		at = append(at, l.Addr().String())
	}
	at[1] = "unix:" + path
	activated := func(dir string, files ...*os.File) *running {
		d := &running{t: t, dir: dir, done: make(chan error, 1)}
		exe, err := os.Readlink("/proc/self/exe")
		must(t, err)
		// LISTEN_PID is the daemon's own.
		d.cmd = sandbox.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=$1 exec "$2" --mount "$3"`, "sh", strconv.Itoa(len(files)), exe, dir)
		d.cmd.Env = append(os.Environ(), asDaemon+"=1")
		d.cmd.ExtraFiles, d.cmd.Stderr = files, &d.log
		must(t, d.cmd.Start())
		go func() { d.done <- d.cmd.Wait() }()
		return d
	}
	dir := mountDir(t)
	d := activated(dir, files...)
	for _, at := range at {
		if text := get(t, at, "/healthz"); text != "ok\n" { // whoever comes early waits
			t.Errorf("%s: %q", at, text)
		}
	}
	must(t, unix.Kill(d.worker(), unix.SIGKILL))
	sandbox.Await(t, "an answer from the next worker", func() bool {
		_, text, err := askVia(at[1], "GET", "/metrics")
		return err == nil && strings.Contains(text, "kstat_worker_restarts_total 1\n")
	})
	d.end(unix.SIGTERM)
	nothingLeft(t, dir)
	if _, err := os.Lstat(path); err != nil {
		t.Error("the service manager's socket:", err)
	}

	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer packets.Close()
	f, err := packets.(*net.UDPConn).File()
	must(t, err)
	defer f.Close()
	d = activated(dir, f)
	err = <-d.done
	if d.cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(d.log.String(), "no socket that listens") {
		t.Errorf("a socket of datagrams: %v: %s", err, d.log.String())
	}
	nothingLeft(t, dir)
}

// TestTokenFile: control takes the token; a file that others may read, or that
// holds none, is refused.
func TestTokenFile(t *testing.T) {
	need(t)
	const secret = "correct-horse-battery"
	folder := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(folder, name)
		must(t, os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode))
		return path
	}
	must(t, unix.Mkfifo(filepath.Join(folder, "fifo"), 0o600))
	for path, part := range map[string]string{
		write("readable", secret, 0o644):                      "chmod 600",
		write("writable", secret, 0o620):                      "chmod 600",
		write("short", "abc\n", 0o600):                        "takes a token of 16",
		write("empty", "", 0o600):                             "takes a token of 16",
		write("long", strings.Repeat("x", maxToken+2), 0o600): "takes a token of 16",
		write("two", secret+" "+secret, 0o600):                "without blanks",
		filepath.Join(folder, "none"):                         "no such file",
		filepath.Join(folder, "fifo"):                         "no regular file",
		folder:                                                "no regular file",
	} {
		dir := mountDir(t)
		status, _, stderr := once(t, "--mount", dir, "--listen", "127.0.0.1:0", "--token-file", path)
		if status != exitFailure || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, path) || !strings.Contains(stderr, part) || strings.Contains(stderr, secret) {
			t.Errorf("%s: status %d, want %q in: %s", path, status, part, stderr)
		}
		nothingLeft(t, dir)
	}

	at := "unix:" + filepath.Join(folder, "sock")
	d := start(t, mountDir(t), "--listen", at, "--token-file", write("good", secret+"\n", 0o440))
	refused := func(header ...string) bool {
		t.Helper()
		status, _, err := askVia(at, "POST", "/control/start", header...)
		must(t, err)
		return status == http.StatusUnauthorized || status == http.StatusForbidden
	}
	for range 2 { // also of the next worker
		if !refused() || !refused("Authorization", "Bearer "+secret+"x") {
			t.Error("a request without the token, or with another, is let in")
		}
		if refused("Authorization", "Bearer "+secret) {
			t.Error("the token is refused")
		}
		restarts := d.document().Restarts
		must(t, unix.Kill(d.worker(), unix.SIGKILL))
		sandbox.Await(t, "the next worker", func() bool {
			_, text, err := askVia(at, "GET", "/metrics")
			return err == nil && strings.Contains(text, fmt.Sprintf("kstat_worker_restarts_total %d\n", restarts+1))
		})
	}
	for _, pid := range []int{d.cmd.Process.Pid, d.worker()} {
		for _, file := range []string{"environ", "cmdline"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			must(t, err)
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s of %d has the token", file, pid)
			}
		}
	}
	d.end(unix.SIGTERM)
}

// TestThousandConnections: a thousand connections that say nothing take a
// bounded number of descriptors, and packets are counted meanwhile, and
// scraped.
func TestThousandConnections(t *testing.T) {
	overEngines(t, func(t *testing.T, engine string) {
		at := "unix:" + filepath.Join(t.TempDir(), "sock")
		d := start(t, mountDir(t), engine, "--start", "--counter", "1", "--listen", at, "--listen", "127.0.0.1:0")
		address, fds := d.tcpAddress(), fmt.Sprintf("/proc/%d/fd", d.worker())
		before, err := os.ReadDir(fds)
		must(t, err)
		most := 0
		for i := range 1000 {
			c, err := net.Dial("tcp", address)
			must(t, err)
			defer c.Close()
			if i%100 == 99 {
				must(t, traffic.Ping(lo, 1))
				d.expect("proto/icmp/packets", fmt.Sprintln((i+1)/100*2))
				if got := sample(t, at, packetsOf("ipv4", "icmp")); got != strconv.Itoa((i+1)/100*2) {
					t.Errorf("after %d connections: %s packets", i+1, got)
				}
				now, err := os.ReadDir(fds)
				must(t, err)
				most = max(most, len(now))
			}
		}
		const limit = 64 + 2 // connections, one that is about to be let in, and one to look at /proc
		t.Logf("descriptors: %d without connections, at most %d with 1000", len(before), most)
		if most > len(before)+limit+8 { // and what serves files at that moment
			t.Errorf("%d descriptors, of which %d without connections", most, len(before))
		}
		d.expect("uncounted", "0\n")
		d.end(unix.SIGTERM)
	})
}
