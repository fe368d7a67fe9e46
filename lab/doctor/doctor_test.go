package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/sys/unix"

	"kstat/hook"
	"kstat/lab/sandbox"
	"kstat/lab/traffic"
	"kstat/lab/world"
	"kstat/stats"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What else this test binary can be, by the value of asWhat.
const (
	asWhat    = "KSTAT_TEST_AS"
	asDoctor  = "doctor"  // examines by the Config that is its argument, and writes JSON
	asHolder  = "holder"  // binds queue 0 and waits
	asSeccomp = "seccomp" // is asDoctor behind a filter that refuses namespaces
)

func TestMain(m *testing.M) {
	world.Main()
	Main()
	switch os.Getenv(asWhat) {
	case asSeccomp:
		if err := refuseNamespaces(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fallthrough
	case asDoctor:
		var c Config
		err := json.Unmarshal([]byte(os.Args[1]), &c)
		if err == nil {
			err = Examine(context.Background(), c).WriteJSON(os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case asHolder:
		holdQueue()
	}
	sandbox.Main(m)
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// room is a place of its own for a doctor, within the sandbox: a process in
// further namespaces, which others enter.
type room struct {
	t       testing.TB
	pid     int
	flags   []string // of nsenter
	program string   // this test binary, where any user may execute it
	dir     string   // open to all, with a directory mnt in it; everybody's working directory
}

// newRoom makes a room of new namespaces, given as CLONE_NEW… flags, and runs a
// shell script there.
func newRoom(t testing.TB, namespaces uintptr, script string) *room {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.Root) // who is any user that a test wants
	r := &room{t: t}
	var err error
	r.dir, err = os.MkdirTemp("", "kstat-doctor-")
	must(t, err, os.Chmod(r.dir, 0o755), os.Mkdir(filepath.Join(r.dir, "mnt"), 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(r.dir)) })
	r.program = filepath.Join(r.dir, "doctor.test")
	binary, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.WriteFile(r.program, binary, 0o755))

	cmd := sandbox.Command("sh", "-c", "set -e\n"+script+"\necho there; exec cat")
	cmd.SysProcAttr.Cloneflags = namespaces
	if namespaces&unix.CLONE_NEWUSER != 0 {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: sandbox.Nobody, HostID: sandbox.Nobody, Size: 1}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		r.flags = append(r.flags, "-U")
	}
	if namespaces&unix.CLONE_NEWNS != 0 {
		r.flags = append(r.flags, "-m")
	}
	if namespaces&unix.CLONE_NEWNET != 0 {
		r.flags = append(r.flags, "-n")
	}
	cmd.Dir = r.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	t.Cleanup(func() { must(t, stdin.Close(), cmd.Wait()) })
	if said, err := io.ReadAll(io.LimitReader(stdout, 6)); err != nil || string(said) != "there\n" {
		t.Fatalf("the room's script: %q, %v, %s", said, err, &stderr)
	}
	r.pid = cmd.Process.Pid
	return r
}

// command is one that runs in the room as a user.
func (r *room) command(uid int, args ...string) *exec.Cmd {
	id := strconv.Itoa(uid)
	enter := append([]string{"-t", strconv.Itoa(r.pid)}, r.flags...)
	enter = append(enter, "--", "setpriv", "--reuid="+id, "--regid="+id, "--clear-groups",
		"sh", "-c", `cd "$0" && exec "$@"`, r.dir)
	return sandbox.Command("nsenter", append(enter, args...)...)
}

// examine has a doctor look at the room.
func (r *room) examine(uid int, c Config) *Report {
	r.t.Helper()
	return r.examineAs(asDoctor, uid, c)
}

func (r *room) examineAs(what string, uid int, c Config) *Report {
	r.t.Helper()
	if c.Limit == 0 {
		c.Limit = 20 * time.Second // the race detector and a busy machine take their time
	}
	text, err := json.Marshal(c)
	must(r.t, err)
	cmd := r.command(uid, r.program, string(text))
	cmd.Env = append(os.Environ(), asWhat+"="+what)
	return decode(r.t, output(r.t, cmd))
}

// shell runs a command as the room's root. A user's sudo is that.
func (r *room) shell(line string) {
	r.t.Helper()
	output(r.t, r.command(0, "sh", "-c", strings.ReplaceAll(line, "sudo ", "")))
}

func output(t testing.TB, cmd *exec.Cmd) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%q: %v\n%s%s", cmd.Args, err, &stdout, &stderr)
	}
	return stdout.Bytes()
}

// decode reads a report, and holds it to the schema.
func decode(t testing.TB, text []byte) *Report {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(JSONSchema()))
	must(t, err)
	c := jsonschema.NewCompiler()
	must(t, c.AddResource("report.schema.json", document))
	schema, err := c.Compile("report.schema.json")
	must(t, err)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	must(t, err)
	if err := schema.Validate(value); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	r := new(Report)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	must(t, d.Decode(r))
	return r
}

// find returns the only check of an id.
func find(t testing.TB, r *Report, id string) Check {
	t.Helper()
	var all []Check
	for _, c := range r.Checks {
		// Nobody cannot tell that a kstatd is in another network.
		if c.ID == id && !strings.HasPrefix(c.Title, "kstatd, pid") {
			all = append(all, c)
		}
	}
	if len(all) != 1 {
		t.Fatalf("%d checks %q: %+v", len(all), id, all)
	}
	return all[0]
}

// want checks how a check ended, and that what it found matches.
func want(t testing.TB, r *Report, id string, status Status, found string) Check {
	t.Helper()
	c := find(t, r, id)
	if c.Status != status || !regexp.MustCompile("^"+found+"$").MatchString(c.Found) {
		t.Fatalf("%s: %s %q, want %s %q", id, c.Status, c.Found, status, found)
	}
	return c
}

// works checks the verdict on a feature.
func works(t testing.TB, r *Report, f Feature, status Status, because ...string) {
	t.Helper()
	for _, v := range r.Features {
		if v.ID == f {
			if v.Status != status || !slices.Equal(v.Because, because) {
				t.Errorf("%s: %s because of %q, want %s because of %q", f, v.Status, v.Because, status, because)
			}
			return
		}
	}
	t.Errorf("no verdict on %s", f)
}

// mended runs a check's command, and wants the check to be fine after it.
func (r *room) mended(uid int, c Config, check Check, command string) {
	r.t.Helper()
	if check.Command != command {
		r.t.Errorf("%s is mended by %q, want %q", check.ID, check.Command, command)
	}
	r.shell(check.Command)
	want(r.t, r.examine(uid, c), check.ID, OK, ".*")
}

func needAll(t testing.TB) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue, sandbox.NFTables, sandbox.FUSE, sandbox.BPF, sandbox.Root)
}

var masks = []struct{ pattern, with string }{
	{`Linux \S+ on \S+`, "Linux 6.18.0 on x86_64"},
	{`Linux \d\S+,`, "Linux 6.18.0,"},
	{`by (nft's queue expression|the iptables target NFQUEUE, by nft_compat)`, "by nft's queue expression"},
	{`\d+ MiB are`, "1000 MiB are"},
	{`/tmp/kstat-doctor-\d+`, "/home/me/kstat"},
	{`a container \(.*\)|a seccomp filter`, "none seen"},
	{`: can be opened.*`, "can be opened"},
}

// The text of a machine on which all is well, what differs between machines
// masked.
func TestHealthy(t *testing.T) {
	needAll(t)
	room := newRoom(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS, "mount -t tmpfs none /run")
	r := room.examine(0, Config{})
	for _, f := range Features() {
		if f == Service {
			works(t, r, f, Skip, "service")
		} else {
			works(t, r, f, OK)
		}
	}
	if !r.OK {
		t.Error("not everything is said to work")
	}
	for i := range r.Checks {
		c := &r.Checks[i]
		for _, m := range masks {
			c.Found = regexp.MustCompile(m.pattern).ReplaceAllString(c.Found, m.with)
		}
		switch c.ID { // what a machine is like
		case "fuse-device":
			c.Found, _, _ = strings.Cut(c.Found, ";")
		case "tools":
			c.Found = "sudo, kmod and dmesg are there"
		case "firewall", "proc", "confinement", "mount-namespace":
			c.Found, c.Status, c.Mend = "as usual", OK, ""
		}
	}
	for name, s := range map[string]Screen{
		"healthy.txt":       {Unicode: true},
		"healthy-ascii.txt": {},
	} {
		var b bytes.Buffer
		must(t, r.WriteText(&b, s, false))
		golden(t, name, b.Bytes())
	}
}

// The table of docs/doctor.md is that of the checks. With -update it is written
// anew.
func TestPage(t *testing.T) {
	const path, begin, end = "../../docs/doctor.md", "<!-- checks: begin -->\n", "<!-- checks: end -->"
	table := "| check | title | features |\n|---|---|---|\n"
	group := ""
	for _, c := range checks() {
		if c.group != group {
			group = c.group
			table += "| | **" + group + "** | |\n"
		}
		var names []string
		for _, f := range c.features {
			names = append(names, string(f))
		}
		table += fmt.Sprintf("| `%s` | %s | %s |\n", c.id, c.title, strings.Join(names, ", "))
	}
	text, err := os.ReadFile(path)
	must(t, err)
	head, rest, ok1 := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	switch {
	case !ok1 || !ok2:
		t.Fatalf("%s has no place for the checks", path)
	case old != table && *update:
		must(t, os.WriteFile(path, []byte(head+begin+table+end+tail), 0o666))
	case old != table:
		t.Errorf("the table of %s is not what is checked; go test ./lab/doctor -run Page -update writes it anew", path)
	}
	for _, f := range Features() {
		if !strings.Contains(string(text), "`"+string(f)+"`") {
			t.Errorf("%s does not explain %s", path, f)
		}
	}
}

// Every form of the text, of a report that is made up.
func TestText(t *testing.T) {
	r := &Report{Checks: []Check{
		{ID: "a", Group: "one", Title: "a thing", Status: OK, Found: "is there", Details: []string{"and this is more of it"}, Features: []Feature{NFQueue}},
		{ID: "b", Group: "one", Title: "a\x1b[31mnother", Status: Fail, Found: "held by pid 7 (\x1b]0;evil\a), which is long enough to be broken into two lines, or even into three of them", Mend: "end it", Command: "kill 7 # a command is never broken, however long it is, so that a person can copy it", Features: []Feature{NFQueue}},
		{ID: "c", Group: "two", Title: "a thing of which the title is longer than the column", Status: Warn, Found: "odd", Mend: "nothing"},
		{ID: "bpf", Group: "two", Title: "proof", Status: Skip, Found: "not tried", Features: []Feature{BPF}},
	}}
	r.judge([]Feature{NFQueue, BPF, FUSE})
	var b bytes.Buffer
	for _, s := range []Screen{{}, {Columns: 50, Unicode: true}, {Columns: 200, Color: true, Unicode: true}} {
		must(t, r.WriteText(&b, s, s.Color))
		b.WriteString("\n----\n")
	}
	golden(t, "text.txt", b.Bytes())
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, got, 0o666))
	}
	wanted, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, wanted) {
		t.Errorf("%s is not what is written:\n%s", path, got)
	}
}

// As nobody, in user namespaces: the kernel's abilities show, and so do the
// rights that lack.
func TestNobody(t *testing.T) {
	needAll(t)
	room := newRoom(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS, "mount -t tmpfs none /dev; mknod -m 600 /dev/fuse c 10 229; mknod -m 666 /dev/null c 1 3")
	r := room.examine(sandbox.Nobody, Config{})
	want(t, r, "nfqueue", OK, "a packet went through a queue and back, by .*")
	want(t, r, "capabilities", Fail, `missing: CAP_NET_ADMIN \(to queue packets\), CAP_SYS_ADMIN \(to mount\)`)
	want(t, r, "bpf-capabilities", Fail, "missing: CAP_BPF .*CAP_PERFMON .*CAP_NET_ADMIN .*")
	want(t, r, "bpf", Skip, "not tried: missing: .*")
	want(t, r, "rules", Skip, "takes CAP_NET_ADMIN")
	want(t, r, "namespaces", OK, "can be made")
	works(t, r, NFQueue, Fail, "capabilities")
	works(t, r, BPF, Fail, "capabilities", "bpf-capabilities")
	works(t, r, Run, Fail, "fuse-device", "world")
	works(t, r, RunRoot, Skip, "world-root")
	want(t, r, "world", Fail, "open /dev/fuse: permission denied; .*")
	closed := want(t, r, "fuse-device", Fail, `this user may not open it \(mode 0600\)`)
	room.mended(sandbox.Nobody, Config{}, closed, "sudo chmod 666 /dev/fuse")
	r = room.examine(sandbox.Nobody, Config{Features: []Feature{Run}})
	want(t, r, "fuse", OK, "works")
	want(t, r, "world", OK, "two TCP packets were sent in there, and nout said 2")
	works(t, r, Run, OK)
	if !r.OK {
		t.Error("what was asked for works, and the report is not ok")
	}
}

func TestDevice(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.FUSE, sandbox.Root)
	for _, c := range []struct{ name, script, found, mend string }{
		{"missing", "mount -t tmpfs none /dev", "it is not there, although the kernel has FUSE", "mknod -m 666 /dev/fuse c 10 229"},
		{"covered", "mount --bind /dev/null /dev/fuse", "something else is mounted over it", "umount /dev/fuse"},
		{"other", "mount -t tmpfs none /dev; mknod /dev/fuse c 1 3", "it is something else", "rm -f /dev/fuse && mknod -m 666 /dev/fuse c 10 229"},
	} {
		t.Run(c.name, func(t *testing.T) {
			room := newRoom(t, unix.CLONE_NEWNS, c.script)
			asked := Config{Features: []Feature{FUSE}}
			r := room.examine(0, asked)
			works(t, r, FUSE, Fail, "fuse-device")
			want(t, r, "fuse", Skip, "not tried: .*")
			room.mended(0, asked, want(t, r, "fuse-device", Fail, c.found), c.mend)
			works(t, room.examine(0, asked), FUSE, OK)
		})
	}
}

// A directory that cannot be made, and one that can.
func TestMountPoint(t *testing.T) {
	room := newRoom(t, unix.CLONE_NEWNS, "mount -t tmpfs -o ro none /run; mount -t tmpfs none /dev/shm; ln -s /tmp mnt/link")
	for _, c := range []struct {
		dir, found, mend string
		status           Status
	}{
		{"/run/kstat", "/run/kstat cannot be made: read-only file system", "kstatd --mount /dev/shm/kstat", Fail},
		{"/dev/shm/kstat", "/dev/shm/kstat: can be made", "", OK},
		{"/dev/shm", "mount point /dev/shm: a tmpfs file system is mounted there: device or resource busy", "kstatd --mount /run/kstat2", Fail},
		{"mnt/link", "mount point .*/mnt/link: it is a symbolic link; .*", "kstatd --mount /run/kstat2", Fail},
		{"", ".*/mnt/kstat: can be made", "", OK},
	} {
		r := room.examine(0, Config{Features: []Feature{NFQueue}, Mount: c.dir})
		if check := want(t, r, "mount-point", c.status, c.found); check.Command != c.mend {
			t.Errorf("%s is mended by %q, want %q", c.dir, check.Command, c.mend)
		}
	}
}

func TestNoUserNamespaces(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue, sandbox.Root)
	needTool(t, "sysctl")
	room := newRoom(t, unix.CLONE_NEWUSER|unix.CLONE_NEWNET, "echo 0 >/proc/sys/user/max_user_namespaces")
	asked := Config{Features: []Feature{Run}}
	r := room.examine(sandbox.Nobody, asked)
	for _, id := range []string{"namespaces", "nfqueue"} {
		want(t, r, id, Fail, "new namespaces are refused: user.max_user_namespaces is 0")
	}
	if c := want(t, r, "world", Fail, "new namespaces are refused: .*"); c.Command != find(t, r, "namespaces").Command {
		t.Errorf("a world is mended by %q", c.Command)
	}
	room.mended(sandbox.Nobody, asked, find(t, r, "namespaces"), "sudo sysctl -w user.max_user_namespaces=10000")
}

func needTool(t testing.TB, name string) {
	t.Helper()
	if hasTool(name) {
		return
	}
	sandbox.Lack(t, fmt.Errorf("%s is not installed", name))
}

// refuseNamespaces makes clone(2) refuse them, as the seccomp filters of
// containers do.
func refuseNamespaces() error {
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUSER | unix.CLONE_NEWPID
	low := uint32(16) // offsetof(struct seccomp_data, args[0])
	if [2]byte(unsafe.Slice((*byte)(unsafe.Pointer(&[]uint16{1}[0])), 2))[0] == 0 {
		low += 4
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jt: 0, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: low},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: namespaces, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x00050000 | uint32(unix.EPERM)}, // SECCOMP_RET_ERRNO
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000},                      // SECCOMP_RET_ALLOW
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const all = 1 // SECCOMP_FILTER_FLAG_TSYNC
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, 1, all, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return nil
}

func TestSeccomp(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.Root)
	room := newRoom(t, unix.CLONE_NEWNET, "")
	r := room.examineAs(asSeccomp, sandbox.Nobody, Config{})
	want(t, r, "confinement", Warn, ".*a seccomp filter, no_new_privs.*: sudo gives no rights here")
	c := want(t, r, "namespaces", Fail, "new namespaces are refused: .*operation not permitted")
	if c.Mend == "" {
		t.Error("nothing is said that would mend it")
	}
	want(t, r, "nfqueue", Fail, "new namespaces are refused: .*operation not permitted")
	want(t, r, "world", Fail, "new namespaces are refused: .*")
}

// holdQueue binds queue 0, as another program, and waits until it is killed.
func holdQueue() {
	_ = os.WriteFile("/proc/self/comm", []byte("an-ids"), 0)
	e, err := hook.New(hook.Config{Point: hook.Forward}, stats.NewTable()) // what it binds is not reserved
	if err == nil {
		err = e.Start()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("bound")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func TestQueueTaken(t *testing.T) {
	needAll(t)
	room := newRoom(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS, "")
	asked := Config{Features: []Feature{NFQueue}}
	works(t, room.examine(0, asked), NFQueue, OK)
	cmd := room.command(0, room.program)
	cmd.Env = append(os.Environ(), asWhat+"="+asHolder)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	defer func() { must(t, stdin.Close(), cmd.Wait()) }()
	said := make([]byte, 100)
	if n, err := stdout.Read(said); err != nil || string(said[:n]) != "bound\n" {
		t.Fatalf("%q, %v", said[:n], err)
	}
	r := room.examine(0, asked)
	c := want(t, r, "queue", Fail, fmt.Sprintf(`held by pid %d \(an-ids\)`, cmd.Process.Pid))
	if c.Command != "kstatd --queue 1" {
		t.Errorf("it is mended by %q", c.Command)
	}
	works(t, r, NFQueue, Fail, "queue")
	asked.Queue = 1 // as the mend says
	works(t, room.examine(0, asked), NFQueue, OK)
	d := newDaemon(t, room, "--queue", "1", "--start")
	want(t, room.examine(0, asked), "kstatd", OK, fmt.Sprintf("well: pid %d, engine nfqueue, counting", d.pid))
	d.end()
}

// daemon is a kstatd that runs in a room.
type daemon struct {
	room *room
	cmd  *exec.Cmd
	pid  int
	dir  string
}

// newDaemon starts a kstatd, built from this tree, on mnt/kstat of the room.
func newDaemon(t testing.TB, r *room, args ...string) *daemon {
	t.Helper()
	program := filepath.Join(r.dir, "kstatd")
	if _, err := os.Stat(program); err != nil {
		build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "../../cmd/kstatd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		output(t, build)
	}
	d := &daemon{room: r, dir: filepath.Join(r.dir, "mnt/kstat")}
	d.cmd = r.command(0, append([]string{program, "--mount", d.dir}, args...)...)
	stderr, err := d.cmd.StderrPipe()
	must(t, err, d.cmd.Start())
	t.Cleanup(d.kill)
	d.pid = d.cmd.Process.Pid // nsenter and setpriv become it
	var said []byte
	for buffer := make([]byte, 4096); !bytes.Contains(said, []byte("msg=ready")); {
		n, err := stderr.Read(buffer)
		said = append(said, buffer[:n]...)
		if err != nil {
			t.Fatalf("kstatd: %v: %s", err, said)
		}
	}
	go io.Copy(io.Discard, stderr)
	return d
}

func (d *daemon) kill() {
	if d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
	}
}

func (d *daemon) end() {
	d.room.t.Helper()
	must(d.room.t, d.cmd.Process.Signal(unix.SIGTERM), d.cmd.Wait())
}

// workers returns the numbers of its workers.
func (d *daemon) workers() (pids []int) {
	for _, p := range processes() {
		if p.parent == d.pid {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// A process that has ended since the list was made is not said to run.
func TestNearby(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	must(t, err, cmd.Start())
	p := process{pid: cmd.Process.Pid}
	if !p.nearby() {
		t.Error("a process of ours is not nearby")
	}
	must(t, stdin.Close())
	must(t, unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)) // a zombie by now
	if p.nearby() {
		t.Error("a zombie is nearby")
	}
	must(t, cmd.Wait())
	if p.nearby() {
		t.Error("what was is nearby")
	}
}

// A kstatd that runs, one that is stopped by a signal, and what is left of one
// that was killed.
func TestDaemon(t *testing.T) {
	needAll(t)
	room := newRoom(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS, "mount -t tmpfs none /run; ip link set lo up 2>/dev/null || :")
	d := newDaemon(t, room, "--start")
	asked := Config{Features: []Feature{NFQueue, FUSE}}
	r := room.examine(0, asked)
	well := fmt.Sprintf("well: pid %d, engine nfqueue, counting", d.pid)
	if c := want(t, r, "kstatd", OK, well); c.Title != "kstatd on "+d.dir {
		t.Errorf("title %q", c.Title)
	}
	want(t, r, "queue", Warn, fmt.Sprintf(`a kstatd has it, pid %d \(kstatd\)`, d.pid))
	want(t, r, "table", OK, "a kstatd's, and its alone")
	want(t, r, "mount-point", Warn, regexp.QuoteMeta(d.dir)+fmt.Sprintf(": pid %d has it", d.pid))
	works(t, r, NFQueue, OK)
	// Of root's socket another user sees only that it is there.
	want(t, room.examine(sandbox.Nobody, asked), "kstatd", OK, well)

	must(t, sandbox.Stop(append([]int{d.pid}, d.workers()...)...))
	hurry := asked
	hurry.Limit = 8 * time.Second // of which a tenth is to find out why there is no answer, on a busy machine
	for _, uid := range []int{0, sandbox.Nobody} {
		r = room.examine(uid, hurry)
		c := want(t, r, "kstatd", Fail, fmt.Sprintf(`hung: stopped by a signal \(pid %d\), no answer within 7.2s`, d.pid))
		if uid == 0 {
			if r.OK {
				t.Error("a kstatd is hung, and the report is ok")
			}
			continue
		}
		inside := *room
		inside.dir = d.dir
		want(t, inside.examine(0, hurry), "kstatd", Fail, "hung: .*")
		room.mended(0, asked, c, fmt.Sprintf("sudo kill -CONT %d %d", d.pid, d.workers()[0]))
	}

	// Without a worker, which nobody replaces.
	must(t, sandbox.Stop(d.pid), unix.Kill(d.workers()[0], unix.SIGKILL))
	awaitDead(t, room, d.dir)
	for _, uid := range []int{sandbox.Nobody, 0} {
		r = room.examine(uid, asked)
		c := want(t, r, "kstatd", Fail, fmt.Sprintf(`without a worker: pid %d, which should start one, is stopped by a signal`, d.pid))
		if uid == 0 {
			room.shell(c.Command)
			room.shell("until cat " + d.dir + "/nout >/dev/null 2>&1; do :; done")
		}
	}
	want(t, room.examine(0, asked), "kstatd", OK, well)

	d.kill()
	awaitDead(t, room, d.dir)
	r = room.examine(sandbox.Nobody, asked)
	want(t, r, "kstatd", Warn, "dead: its daemon is gone, and every access fails")
	r = room.examine(0, asked)
	want(t, r, "mount-point", OK, ".*: a tree is mounted there, see below")
	room.mended(0, asked, want(t, r, "kstatd", Warn, "dead: .*"), "umount -l "+d.dir)
	r = room.examine(0, asked)
	want(t, r, "kstatd", OK, "none runs")
	want(t, r, "mount-point", OK, ".*(left by a kstatd that was killed; the next one takes it over|: empty)")

	must(t, os.Remove(d.dir), os.Mkdir(d.dir, 0o755), os.WriteFile(filepath.Join(d.dir, "precious"), nil, 0o644))
	r = room.examine(0, asked)
	if c := want(t, r, "mount-point", Fail, ".*: the directory is not empty"); c.Command != "kstatd --mount "+d.dir+"2" {
		t.Errorf("it is mended by %q", c.Command)
	}
	works(t, r, NFQueue, Fail, "mount-point")
}

// awaitDead waits until a killed daemon's worker is gone, too, and the tree
// dead.
func awaitDead(t testing.TB, r *room, dir string) {
	t.Helper()
	output(t, r.command(0, "sh", "-c", `while ls "$0" >/dev/null 2>&1; do :; done`, dir))
}

func TestTables(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables, sandbox.NFQueue)
	needTool(t, "nft")
	room := newRoom(t, unix.CLONE_NEWNET, "nft add table inet kstat; nft add table inet kstats; nft add table ip kstat")
	asked := Config{Features: []Feature{NFQueue}}
	c := want(t, room.examine(0, asked), "table", Warn, "somebody has made a table of that name, without an owner; kstatd takes the name kstat-0 then")
	room.mended(0, asked, c, "nft delete table inet kstat")
}

// within calls f on a thread that is in the room's network namespace.
func (r *room) within(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // and leave it alive: rooms live as long as the thread that made them
	back, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer back.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", r.pid))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	return errors.Join(err, unix.Setns(int(back.Fd()), unix.CLONE_NEWNET))
}

func TestRules(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFTables, sandbox.NFQueue)
	room := newRoom(t, unix.CLONE_NEWNET, "")
	must(t, room.within(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "ids"})
		chain := conn.AddChain(&nftables.Chain{
			Table: table, Name: "out", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(-5),
		})
		for _, number := range []byte{0, 1, 2} {
			info := xt.Unknown{number, 0, 1, 0, 1, 0, 0, 0}
			if !littleEndian() {
				info = xt.Unknown{0, number, 0, 1, 0, 1, 0, 0}
			}
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}}})
		}
		return conn.Flush()
	}))
	asked := Config{Features: []Feature{NFQueue}}
	r := room.examine(0, asked)
	c := want(t, r, "rules", Warn, "table ip ids, chain out, sends packets to queue 0 as well: they would be counted")
	if c.Command != "kstatd --queue 3" {
		t.Errorf("it is mended by %q", c.Command)
	}
	asked.Queue = 3
	c = want(t, room.examine(0, asked), "rules", OK, "none uses queue 3; 3 use others; some may drop packets before they are counted")
	if len(c.Details) == 0 || !strings.Contains(c.Details[0], "table ip ids, chain out, comes before kstatd at postrouting (priority -5)") {
		t.Errorf("details %q", c.Details)
	}
}

func littleEndian() bool {
	one := uint16(1)
	return *(*byte)(unsafe.Pointer(&one)) == 1
}

// Without /proc nearly nothing can be told, and the first line says so.
func TestNoProc(t *testing.T) {
	room := newRoom(t, unix.CLONE_NEWNS, "")
	text, err := json.Marshal(Config{Limit: 20 * time.Second})
	must(t, err)
	cmd := room.command(0, "unshare", "-m", "sh", "-c", `umount -l /proc && exec "$@"`, "sh", room.program, string(text))
	cmd.Env = append(os.Environ(), asWhat+"="+asDoctor)
	r := decode(t, output(t, cmd))
	if c := want(t, r, "kernel", Fail, "there is no /proc, .*"); c.Command != "mount -t proc proc /proc" {
		t.Errorf("it is mended by %q", c.Command)
	}
	if r.OK {
		t.Error("the report is ok")
	}
}

// playSystemctl is what a room does for a systemctl that says what /run/unit
// has: there is no systemd to ask in a sandbox.
const playSystemctl = `
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/bin
printf '#!/bin/sh\ncat /run/unit\n' >/run/bin/systemctl
chmod 755 /run/bin/systemctl`

func TestPort(t *testing.T) {
	room := newRoom(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS, playSystemctl)
	t.Setenv("PATH", "/run/bin:"+os.Getenv("PATH"))
	room.shell("echo ActiveState=inactive >/run/unit")
	listen := func(network, address string) {
		var l net.Listener
		must(t, room.within(func() (err error) {
			l, err = net.Listen(network, address)
			return err
		}))
		t.Cleanup(func() { must(t, l.Close()) })
	}
	listen("tcp4", "0.0.0.0:9469")
	asked := Config{Features: []Feature{Metrics}}
	r := room.examine(0, asked)
	c := want(t, r, "port", Fail, fmt.Sprintf(`9469: taken by pid %d \(.*\)`, os.Getpid()))
	if c.Command != "kstatd --listen 127.0.0.1:9470" {
		t.Errorf("it is mended by %q", c.Command)
	}
	if works(t, r, Metrics, Fail, "port"); r.OK {
		t.Error("the report is ok")
	}
	room.shell("printf 'ActiveState=active\\nListen=127.0.0.1:9469 (Stream)\\n' >/run/unit")
	want(t, room.examine(0, asked), "port", OK, "9469: systemd's, for kstatd.socket")

	must(t, room.within(world.LoopbackUp))
	listen("tcp", "127.0.0.2:9470")
	listen("tcp6", "[::1]:9470")
	listen("tcp", ":9471")
	for port, status := range map[uint16]Status{9470: OK, 9471: Fail} {
		asked.Port = port
		works(t, room.examine(0, asked), Metrics, status, map[Status][]string{Fail: {"port"}}[status]...)
	}
}

func TestUnit(t *testing.T) {
	room := newRoom(t, unix.CLONE_NEWNS, playSystemctl)
	t.Setenv("PATH", "/run/bin:"+os.Getenv("PATH"))
	asked := Config{Features: []Feature{Service}}
	say := func(lines string) *Report {
		room.shell("printf '" + lines + "' >/run/unit")
		return room.examine(0, asked)
	}
	want(t, say(`LoadState=not-found\n`), "service", Skip, "there is no kstatd.service; .*")
	want(t, say(`LoadState=loaded\nActiveState=active\nPrivateTmp=no\nProcSubset=all\nProtectProc=default\nReadOnlyPaths=\n`), "service", OK, "kstatd.service is active, and hides nothing")
	c := want(t, say(`LoadState=loaded\nActiveState=active\nPrivateTmp=yes\nProtectSystem=strict\n`), "service", Fail,
		"kstatd.service would hide the tree from everybody else: PrivateTmp=yes, ProtectSystem=strict")
	if c.Command != "systemctl edit kstatd.service" || c.Mend != "say there, below [Service]: PrivateTmp=no ProtectSystem=no" {
		t.Errorf("it is mended by %q, %q", c.Command, c.Mend)
	}
}

// A chroot, whose root is no mount point.
func TestChroot(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces, sandbox.FUSE, sandbox.Root)
	room := newRoom(t, unix.CLONE_NEWNS, `
mount -t tmpfs none /mnt
mkdir /mnt/root
for d in bin sbin lib lib64 usr etc proc sys dev tmp run; do
	[ -d /$d ] || continue
	mkdir /mnt/root/$d
	mount --rbind /$d /mnt/root/$d
done`)
	text, err := json.Marshal(Config{Features: []Feature{Run, FUSE}, Limit: 20 * time.Second})
	must(t, err)
	examine := func() *Report {
		cmd := room.command(0, "chroot", "/mnt/root", room.program, string(text))
		cmd.Env = append(os.Environ(), asWhat+"="+asDoctor)
		return decode(t, output(t, cmd))
	}
	r := examine()
	c := want(t, r, "root", Fail, "it is no mount point, as in a chroot: .*")
	want(t, r, "fuse", Skip, "not tried: the root directory is no mount point, .*")
	want(t, r, "world", Fail, "the root directory is no mount point, .*")
	works(t, r, Run, Fail, "root", "world")
	bind, ok := strings.CutSuffix(c.Mend, " before chroot DIR")
	if !ok {
		t.Fatalf("it is mended by %q", c.Mend)
	}
	room.shell(strings.ReplaceAll(bind, "DIR", "/mnt/root"))
	// What was mounted below is covered by now: bind it again.
	room.shell("for d in bin sbin lib lib64 usr etc proc sys dev tmp run; do [ -d /mnt/root/$d ] && mount --rbind /$d /mnt/root/$d || :; done")
	r = examine()
	want(t, r, "root", OK, "a mount point")
	want(t, r, "world", OK, "two TCP .*")
}

// It leaves rules, mounts, settings and processes as they were, and a kstatd
// that counts beside it counts every packet.
func TestChangesNothing(t *testing.T) {
	needAll(t)
	needTool(t, "nft")
	room := newRoom(t, unix.CLONE_NEWNET|unix.CLONE_NEWNS, "")
	must(t, room.within(world.LoopbackUp))
	d := newDaemon(t, room, "--start", "--counter", "1")
	state := func() string {
		// The table's elements expire all the time: terse leaves them out, and so counters.
		text := output(t, room.command(0, "sh", "-c", `
nft -t list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'
cat /proc/self/mountinfo
sysctl -a 2>/dev/null | grep -E '^(user|net\.(core|ipv4\.conf|netfilter)|kernel\.(unprivileged|apparmor|yama))' | sort
cat /proc/self/net/netfilter/nfnetlink_queue | awk '{ print $1, $2 }'
cut -d ' ' -f 8 /proc/self/net/unix | grep ^@ | sort; ls -A mnt`))
		return string(text)
	}
	before := state()
	const each, rounds = 500, 3
	sent := make(chan error, 1)
	go func() {
		sent <- room.within(func() error {
			s, err := traffic.UDPSink(netip.MustParseAddr("127.0.0.1"))
			if err != nil {
				return err
			}
			return errors.Join(traffic.UDP(s.AddrPort, each*rounds, 32), s.Close())
		})
	}()
	for range rounds {
		r := room.examine(0, Config{})
		if c := find(t, r, "kstatd"); c.Status != OK {
			t.Errorf("%+v", c)
		}
		if limit := content("/proc/sys/net/core/rmem_max"); !strings.Contains(strings.Join(find(t, r, "memory").Details, ""), limit) {
			t.Errorf("%+v, want %q in it", find(t, r, "memory"), limit)
		}
	}
	must(t, <-sent)
	if after := state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	got := output(t, room.command(0, "cat", d.dir+"/proto/udp/packets", d.dir+"/uncounted"))
	if wanted := fmt.Sprintf("%d\n0\n", each*rounds); string(got) != wanted {
		t.Errorf("kstatd has counted %q, want %q", got, wanted)
	}
	d.end()
	for _, p := range processes() { // a probe is where the doctor was
		if dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid)); dir == room.dir && p.pid != room.pid {
			t.Errorf("process %d, %s, is left", p.pid, p.name)
		}
	}
}
