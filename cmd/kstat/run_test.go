package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/doctor"
	"kstat/lab/kmod"
	"kstat/lab/sandbox"
	"kstat/lab/world"
)

// asTool makes this test binary the tool, as do the names of the world's tools.
const asTool = "KSTAT_TEST_AS_TOOL"

func TestMain(m *testing.M) {
	world.Main()
	doctor.Main()
	if os.Getenv(asTool) != "" || slices.Contains(kmod.Tools(), filepath.Base(os.Args[0])) {
		main()
	}
	sandbox.Main(m, sandbox.After(removeBinaries))
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// ours marks the processes of this test: all that lives in a world has its
// environment.
var ours = asTool + "=" + strconv.Itoa(os.Getpid())

// tool returns a kstat that does not run yet.
func tool(args ...string) *exec.Cmd {
	cmd := sandbox.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), ours)
	return cmd
}

// outcome is what a command came to.
type outcome struct {
	status         int
	stdout, stderr string
}

// end runs a command to its end.
func end(t testing.TB, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func needWorld(t testing.TB) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue, sandbox.NFTables, sandbox.FUSE)
}

func TestRunStatus(t *testing.T) {
	needWorld(t)
	for _, c := range []struct {
		args   []string
		want   outcome
		prefix bool // of stderr
	}{
		{args: []string{"true"}},
		{args: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}, want: outcome{7, "out\n", "err\n"}},
		{args: []string{"sh", "-c", "kill -KILL $$"}, want: outcome{status: 128 + 9}},
		{args: []string{"sh", "-c", "kill -TERM $$"}, want: outcome{status: 128 + 15}},
		{args: []string{"sh", "-c", "sleep 100 & exit 3"}, want: outcome{status: 3}},
		{args: []string{"no-such-command"}, want: outcome{127, "", "kstat run: no-such-command: command not found\n"}},
		{args: []string{"/no/such/command"}, want: outcome{127, "", "kstat run: /no/such/command: command not found\n"}},
		{args: []string{"/etc/passwd"}, want: outcome{126, "", "kstat run: /etc/passwd: permission denied\n"}},
		{args: []string{"--", "sh", "-c", "echo $# $0", "a b", "c"}, want: outcome{0, "1 a b\n", ""}},
		{args: nil, want: outcome{2, "", "kstat run: no command is given"}, prefix: true},
		{args: []string{"--net", "other", "true"}, want: outcome{2, "", "kstat run: "}, prefix: true},
		{args: []string{"--counter", "0", "true"}, want: outcome{2, "", "kstat run: "}, prefix: true},
		{args: []string{"--hook", "nowhere", "true"}, want: outcome{2, "", "kstat run: "}, prefix: true},
		{args: []string{"--mutant", "perfect", "true"}, want: outcome{2, "", "kstat run: "}, prefix: true},
	} {
		got := end(t, tool(append([]string{"run"}, c.args...)...))
		if c.prefix && strings.HasPrefix(got.stderr, c.want.stderr) && strings.Count(got.stderr, "\n") == 1 {
			got.stderr = c.want.stderr
		}
		if got != c.want {
			t.Errorf("kstat run %q: %+v, want %+v", c.args, got, c.want)
		}
	}
}

// script runs a shell script in a world, and wants what it prints and status 0.
func script(t testing.TB, flags []string, text, want string) {
	t.Helper()
	needWorld(t)
	args := append(append([]string{"run"}, flags...), "sh", "-euc", text)
	if got := end(t, tool(args...)); got != (outcome{stdout: want}) {
		t.Errorf("kstat run %q of\n%s\nstatus %d, standard error %q, standard output:\n%s\nwant:\n%s", flags, text, got.status, got.stderr, got.stdout, want)
	}
}

func TestRunFlags(t *testing.T) {
	const show = `cat /proc/kstat/counter /sys/module/kstat/parameters/start $KSTAT_MOUNT/hook; echo $KSTAT_MOUNT`
	script(t, []string{"--loaded"}, show, "10\n0\npostrouting\n/run/kstat\n")
	script(t, []string{"--start"}, show, "10\n1\npostrouting\n/run/kstat\n")
	script(t, []string{"--counter", "7", "--hook", "output"}, show, "7\n0\noutput\n/run/kstat\n")
	script(t, nil, `test ! -e /proc/kstat -a ! -e /sys/module/kstat -a -z "$(ls -A /run/kstat)"; ! grep kstat /proc/modules`, "")
}

// A world has the file watch, too, and rmmod ends it.
func TestRunWatch(t *testing.T) {
	script(t, []string{"--start", "--counter", "2"}, `
lines=$(mktemp)
cat $KSTAT_MOUNT/watch >$lines & cat=$!
until ls -l /proc/$cat/fd 2>/dev/null | grep -q watch; do :; done
bash -c 'for i in 1 2; do echo >/dev/tcp/127.0.0.1/9; done' 2>/dev/null || :
rmmod kstat
wait $cat
cut -d ' ' -f 1-3 $lines
rm $lines
`, "1 2 2\n2 4 4\n")
}

// A world has the traces, too, in the words of tcpdump, and rmmod ends them.
func TestRunTrace(t *testing.T) {
	sandbox.Need(t, sandbox.IPv6)
	tcpdump := sandbox.Program(t, "tcpdump")
	script(t, []string{"--start"}, `
lines=$(mktemp) stream=$(mktemp)
cat $KSTAT_MOUNT/trace_pipe >$lines & one=$!
cat $KSTAT_MOUNT/trace.pcapng >$stream & two=$!
until ls -l /proc/$one/fd 2>/dev/null | grep -q trace_pipe; do :; done
until ls -l /proc/$two/fd 2>/dev/null | grep -q trace.pcapng; do :; done
bash -c 'echo >/dev/tcp/127.0.0.1/9; echo >/dev/udp/127.0.0.1/9; echo >/dev/udp/::1/9' 2>/dev/null || :
until [ $(wc -l <$lines) = 6 ]; do :; done
rmmod kstat
wait
export LC_ALL=C
sed -E 's/^[0-9:.]{15} //; s/\.[0-9]{2,}//; s/(seq|ack|win) [0-9]+/\1 N/g; s/options \[.*\]/options [...]/' $lines | sort
`+tcpdump+` -nSr $stream 2>/dev/null | cmp - $lines
rm $lines $stream
`, `lo    Out IP 127.0.0.1 > 127.0.0.1.9: Flags [S], seq N, win N, options [...], length 0
lo    Out IP 127.0.0.1 > 127.0.0.1.9: UDP, length 1
lo    Out IP 127.0.0.1 > 127.0.0.1: ICMP 127.0.0.1 udp port 9 unreachable, length 37
lo    Out IP 127.0.0.1.9 > 127.0.0.1: Flags [R.], seq N, ack N, win N, length 0
lo    Out IP6 ::1 > ::1.9: UDP, length 1
lo    Out IP6 ::1 > ::1: ICMP6, destination unreachable, unreachable port, ::1 udp port 9, length 57
`)
}

// The module's files exist from insmod to rmmod, and are new each time.
func TestRunModule(t *testing.T) {
	needWorld(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "kstat.ko"), nil, 0o644))
	t.Chdir(dir)
	script(t, nil, `
there() { ls -d /proc/kstat/nout /sys/module/kstat/initstate /run/kstat/nout 2>/dev/null | wc -l; grep -c '^kstat 16384 0 - Live 0x0000000000000000' /proc/modules || :; }
there
insmod kstat.ko
there
echo 3 >/proc/kstat/counter
cat /run/kstat/counter
sudo rmmod kstat
there
sudo /sbin/insmod ./kstat.ko counter=5 start=1
cat /proc/kstat/counter /sys/module/kstat/parameters/start
lsmod | grep kstat
modprobe -r kstat
there
`, `0
0
3
1
3
0
0
5
1
kstat                  16384  0
0
0
`)
}

// Modes and owners can be changed until rmmod, as procfs and sysfs let root do,
// and those of folders are theirs. The tree keeps its own.
func TestRunModes(t *testing.T) {
	script(t, []string{"--loaded"}, `
cd /proc/kstat
parameters=/sys/module/kstat/parameters
stat -c %a . /sys/module /sys/module/kstat $parameters
chmod -R a+w . $parameters
stat -c '%a %u' . counter nout $parameters/start
(echo 1 >nout) 2>/dev/null || echo read-only
cd /
chmod 666 $KSTAT_MOUNT/counter $KSTAT_MOUNT 2>/dev/null || stat -c %a $KSTAT_MOUNT $KSTAT_MOUNT/counter
rmmod kstat
modprobe kstat
stat -c %a /proc/kstat /proc/kstat/counter $parameters/start
`, `555
755
755
755
777 0
666 0
666 0
666 0
read-only
555
644
555
644
644
`)
}

// Whom a file is given to by root may write it, and nobody else may.
func TestRunOwners(t *testing.T) {
	sandbox.Need(t, sandbox.Root)
	script(t, []string{"--loaded"}, `
as() { setpriv --reuid $1 --regid $1 --clear-groups sh -c "$2" 2>/dev/null && echo done || echo refused; }
chown 65534 /proc/kstat/counter
as 65534 'echo 3 >/proc/kstat/counter'
as 65533 'echo 4 >/proc/kstat/counter'
as 65534 'chmod 666 /proc/kstat/counter'
as 65533 'echo 5 >/proc/kstat/counter'
as 65533 'chmod 644 /proc/kstat/counter'
as 65533 'chmod 666 /sys/module/kstat/parameters/start'
stat -c '%a %u' /proc/kstat/counter
cat /proc/kstat/counter
`, "done\nrefused\ndone\ndone\nrefused\nrefused\n666 65534\n5\n")
}

// Programs that look closely at /proc find what they look for.
func TestRunPrograms(t *testing.T) {
	exe, err := os.Executable()
	must(t, err)
	for _, c := range []struct{ program, script, want string }{
		{"ps", `ps -o comm= -p $$; ps -e -o comm= | head -n 1`, "sh\nkstat-init\n"},
		{"top", `top -b -n 1 | grep -c kstat-i`, "1\n"},
		{"python3", `python3 -c 'import os; print(os.cpu_count() == len(os.sched_getaffinity(0)), os.readlink("/proc/self") == str(os.getpid()), os.path.samefile("/proc/self/exe", "/proc/%d/exe" % os.getpid()))'`, "True True True\n"},
		{"python3", `modprobe kstat counter=3; t=$(mktemp); for f in /proc/kstat/counter /sys/module/kstat/parameters/start; do python3 -c 'import shutil, sys; shutil.copyfile(*sys.argv[1:])' $f $t; cat $t; done; rm $t`, "3\n0\n"}, // by sendfile(2), if it can
		{"bash", `bash -c 'cat <(echo one) <(echo two)'`, "one\ntwo\n"},
		{"java", `java -XshowSettings:system -version 2>&1 | grep -c -e '^openjdk version' -e '^java version'`, "1\n"},
		{"sh", exe + ` ko | head -c 4 | od -An -c`, " 177   E   L   F\n"}, // a Go program
		{"sh", `echo 1 >/proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward; grep -c lo: /proc/net/dev; ls /sys/class/net`, "1\n1\nlo\n"},
		{"sh", `readlink -f /proc/self/cwd | grep -c .; wc -l </proc/self/status | grep -c .; test -d /proc/1 -a -r /proc/cpuinfo -a ! -e /proc/999999`, "1\n1\n"},
		{"sh", `for p in /proc/[0-9]*; do cat $p/comm; done | sort | uniq -c | grep -c kstat-init`, "1\n"},
	} {
		t.Run(c.program, func(t *testing.T) {
			if _, err := exec.LookPath(c.program); err != nil {
				if os.Getenv("KSTAT_REQUIRE") == "1" && c.program != "java" { // 200 MB
					t.Fatal(err)
				}
				t.Skip(err)
			}
			script(t, nil, c.script, c.want)
		})
	}
}

func TestRunNested(t *testing.T) {
	exe, err := os.Executable()
	must(t, err)
	script(t, []string{"--counter", "3"}, `
cat /proc/kstat/counter
`+exe+` run --counter 4 sh -c '
	cat /proc/kstat/counter; lsmod | grep -c kstat; rmmod kstat; ls -d /proc/kstat 2>&1 || :'
cat /proc/kstat/counter`, "3\n4\n1\nls: cannot access '/proc/kstat': No such file or directory\n3\n")
}

// A command has the descriptors that it would have had without a world, the
// environment and the limits.
func TestRunInherits(t *testing.T) {
	needWorld(t)
	const show = `ls -l /proc/self/fd | wc -l; ulimit -n; pwd; env | grep -v -e ^KSTAT_ -e ^PATH= -e ^_=; umask; cat`
	run := func(cmd *exec.Cmd) outcome {
		cmd.Dir, cmd.Stdin = "/usr", strings.NewReader("input")
		cmd.Env = append(os.Environ(), ours, "ODD=a b\nc")
		return end(t, cmd)
	}
	want := run(sandbox.Command("sh", "-c", show))
	if got := run(tool("run", "sh", "-c", show)); got != want {
		t.Errorf("inside: %+v\noutside: %+v", got, want)
	}
}

// An ordinary user's PATH has no directory with insmod, nor has cron's.
func TestRunPath(t *testing.T) {
	needWorld(t)
	for _, c := range []struct{ path, want string }{
		{"PATH=/usr/bin:/bin", "/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin\n0\n"},
		{"PATH=/sbin:/usr/sbin:/bin:/usr/bin:/usr/local/bin:/usr/local/sbin", "/sbin:/usr/sbin:/bin:/usr/bin:/usr/local/bin:/usr/local/sbin\n0\n"},
		{"PATH=", "/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin\n0\n"},
	} {
		cmd := tool("run", "sh", "-euc", `echo $PATH; modprobe kstat; cat /proc/kstat/nout; rmmod kstat`)
		cmd.Env = append(os.Environ(), ours, c.path)
		if got := end(t, cmd); got != (outcome{stdout: c.want}) {
			t.Errorf("%s: %+v, want %q", c.path, got, c.want)
		}
	}
}

// Who has a network of his own names its namespaces by himself.
func TestRunNamedNetworks(t *testing.T) {
	needWorld(t)
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount("/run", unix.MNT_DETACH)) }()
	const theirs, ours = "/run/netns/theirs", "/run/netns/ours"
	must(t, os.Mkdir("/run/netns", 0o555), os.WriteFile(theirs, nil, 0o444))
	script(t, nil, "ls -A /run/netns; touch "+ours+"; ls -A /run/netns", "ours\n")
	if _, err := os.Stat(ours); err == nil {
		t.Error("the host has the world's name")
	}
	if sandbox.Missing(sandbox.Root) == nil {
		script(t, []string{"--net", "host"}, "ls -A /run/netns", "theirs\n")
	}
}

// A command's directory is the caller's, also one without a name.
func TestRunDirectory(t *testing.T) {
	needWorld(t)
	base := t.TempDir()
	odd := filepath.Join(base, "caf\xe9")
	must(t, os.Mkdir(odd, 0o755))
	for _, c := range []struct{ enter, want string }{
		{"cd " + odd, odd + "\n"},
		{"mkdir gone; cd gone; rmdir ../gone", ""},
		{"cd /usr/bin", "/usr/bin\n"},
		{"cd /run", "/run\n"},
		{"cd /proc/sys/net", "/proc/sys/net\n"},
		{"cd /sys/module", "/sys/module\n"},
	} {
		cmd := sandbox.Command("sh", "-c", c.enter+`; exec "$0" run sh -c 'pwd -P 2>/dev/null; ls -A | grep -q . || echo empty' 2>/dev/null`, "/proc/self/exe")
		exe, err := os.Executable()
		must(t, err)
		cmd.Args[len(cmd.Args)-1] = exe
		cmd.Dir, cmd.Env = base, append(os.Environ(), ours)
		got := end(t, cmd)
		if got.status != 0 || !strings.HasPrefix(got.stdout, c.want) || strings.HasPrefix(got.stdout, "/\n") {
			t.Errorf("%s: %+v, want %q", c.enter, got, c.want)
		}
	}
}

// Arguments are bytes, and as many as execve(2) takes.
func TestRunArguments(t *testing.T) {
	needWorld(t)
	if got := end(t, tool("run", "printf", "%s", "\xff\x01\n")); got != (outcome{stdout: "\xff\x01\n"}) {
		t.Errorf("%+v", got)
	}
	many := make([]string, 100_000)
	for i := range many {
		many[i] = "1000000000"
	}
	if got := end(t, tool(append([]string{"run", "sh", "-c", "echo $#", "x"}, many...)...)); got != (outcome{stdout: "100000\n"}) {
		t.Errorf("%+v", got)
	}
}

// The caller's descriptors are the command's, under their numbers, and end with
// it.
func TestRunDescriptors(t *testing.T) {
	needWorld(t)
	var files []*os.File
	for n := range 6 {
		r, w, err := os.Pipe()
		must(t, err)
		_, err = fmt.Fprintf(w, "%d\n", n)
		must(t, err, w.Close())
		files = append(files, r)
	}
	ended, open, err := os.Pipe()
	must(t, err)
	cmd := tool("run", "sh", "-c", "for fd in 3 4 5 6 7 8; do cat <&$fd; done; exec 9>&-; echo closed; read wait")
	cmd.ExtraFiles = append(files, open)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start(), open.Close())
	text := make([]byte, 64)
	n := 0
	for !strings.HasSuffix(string(text[:n]), "closed\n") {
		more, err := out.Read(text[n:])
		must(t, err)
		n += more
	}
	if want := "0\n1\n2\n3\n4\n5\nclosed\n"; string(text[:n]) != want {
		t.Errorf("%q, want %q", text[:n], want)
	}
	must(t, stdin.Close())
	_ = cmd.Wait() // read has failed
	if n, err := ended.Read(text); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, f := range append(files, ended) {
		must(t, f.Close())
	}
}

// A command that has left the process group gets the group's signals from init.
func TestRunSignalBeyondGroup(t *testing.T) {
	needWorld(t)
	cmd := tool("run", "setsid", "--wait", "sh", "-c", "trap 'echo got it; exit' TERM; echo ready; while :; do sleep 0.02; done")
	cmd.SysProcAttr.Setpgid = true
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	text := make([]byte, 64)
	_, err = out.Read(text)
	must(t, err)
	// setsid(1) itself is in a group of its own now if it was the leader; it
	// dies of the signal, and the world with it.
	must(t, unix.Kill(-cmd.Process.Pid, unix.SIGTERM))
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(sandbox.AwaitLimit):
		must(t, cmd.Process.Kill())
		t.Error("the signal for the group did not reach the command")
	}
}

// A shell that has been the terminal's foreground gives it back.
func TestRunTerminalGoesBack(t *testing.T) {
	needWorld(t)
	p := openTerminal(t)
	defer p.ours.Close()
	exe, err := os.Executable()
	must(t, err)
	cmd := sandbox.Command("bash", "-c", "PS1='inside> ' "+exe+` run bash --norc -i; read line; echo "got $line"`)
	cmd.Env = append(os.Environ(), ours, "TERM=dumb")
	p.start(cmd)
	p.await("inside> ")
	p.write("exit\n")
	time.Sleep(300 * time.Millisecond)
	p.write("a line\n")
	p.await("got a line")
	_ = cmd.Wait()
}

// Two worlds in the host's network that are loaded and stopped do not take each
// other's queue.
func TestRunHostNetTwice(t *testing.T) {
	needWorld(t)
	var g sync.WaitGroup
	for range 2 {
		g.Go(func() {
			script(t, []string{"--net", "host", "--loaded"}, `
sleep 0.5
echo 1 >/sys/module/kstat/parameters/start
sleep 0.5
cat /sys/module/kstat/parameters/start`, "1\n")
		})
	}
	g.Wait()
}

// What a removed module's open files say, procfs and sysfs say, too.
func TestRunRemovedWhileOpen(t *testing.T) {
	needWorld(t)
	if _, err := exec.LookPath("python3"); err != nil {
		sandbox.Need(t, sandbox.Namespaces)
		t.Skip(err)
	}
	script(t, []string{"--loaded"}, `exec python3 - <<'end'
import errno, os, subprocess
files = {name: os.open(name, flags) for name, flags in (
    ("/proc/kstat/nout", os.O_RDONLY), ("/proc/kstat/counter", os.O_RDWR), ("/sys/module/kstat/parameters/start", os.O_RDWR))}
part = os.open("/proc/kstat/nout", os.O_RDONLY)
os.read(part, 1)
subprocess.run(["rmmod", "kstat"], check=True)
files["the rest of nout"] = part
for name, fd in files.items():
    for what, call in ("read", lambda: os.read(fd, 10)), ("write", lambda: os.write(fd, b"1")):
        try:
            call()
            print(what, name, "works")
        except OSError as e:
            print(what, name, errno.errorcode[e.errno])
end
`, `read /proc/kstat/nout EIO
write /proc/kstat/nout EBADF
read /proc/kstat/counter EIO
write /proc/kstat/counter EIO
read /sys/module/kstat/parameters/start ENODEV
write /sys/module/kstat/parameters/start ENODEV
read the rest of nout EIO
write the rest of nout EBADF
`)
}

// What lasts in /proc is itself, and this program cannot be changed under the
// name of kmod.
func TestRunIsReal(t *testing.T) {
	script(t, nil, `
readlink -f /proc/sys/kernel/hostname /proc/cpuinfo
find /proc -maxdepth 1 -type l -name '[a-z]*' | sort
cmp /proc/sys/kernel/ostype /proc/.kstat/proc/sys/kernel/ostype
stat -c %F /proc/meminfo /proc/sys
chmod 4777 /proc/.kstat/tools/kstat 2>&1 | grep -c 'Read-only file system'`,
		`/proc/sys/kernel/hostname
/proc/cpuinfo
/proc/mounts
/proc/net
/proc/self
/proc/thread-self
regular empty file
directory
1
`)
}

// Two worlds do not know of each other, nor of the packets of the other.
func TestRunTwo(t *testing.T) {
	needWorld(t)
	var g sync.WaitGroup
	for n := 1; n <= 2; n++ {
		g.Go(func() {
			script(t, []string{"--start", "--counter", "1"}, fmt.Sprintf(`
for i in $(seq %d); do bash -c 'echo >/dev/tcp/127.0.0.1/9' 2>/dev/null || :; done
sleep 0.2
cat /proc/kstat/nout`, n*5), fmt.Sprintf("%d\n", n*10))
		})
	}
	g.Wait()
}

// With the network of the host, a world counts what the host sends, and leaves
// no rule.
func TestRunHostNet(t *testing.T) {
	script(t, []string{"--net", "host", "--start", "--counter", "1"}, `
bash -c 'echo >/dev/tcp/127.0.0.1/9' 2>/dev/null || :
cat /proc/kstat/nout`, "2\n")
	tables, err := sandbox.Tables("kstat")
	must(t, err)
	if len(tables) != 0 {
		t.Errorf("left: %v", tables)
	}
}

// An ordinary user is root in his world, where user namespaces are allowed and
// /dev/fuse is open to him.
func TestRunAsUser(t *testing.T) {
	needWorld(t)
	sandbox.Need(t, sandbox.Root)
	// The test binary is in a directory that only root may enter.
	dir, err := os.MkdirTemp("", "kstat-user-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	exe := filepath.Join(dir, "kstat")
	text, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.Chmod(dir, 0o755), os.WriteFile(exe, text, 0o755))
	openFUSE(t, dir)

	cmd := sandbox.AsUser(sandbox.Command(exe, "run", "--start", "--counter", "1", "sh", "-euc", `
id -u
bash -c 'echo >/dev/tcp/127.0.0.1/9' 2>/dev/null || :
cat /proc/kstat/nout
sudo rmmod kstat
! sudo -n rmmod kstat 2>&1
ls /sys/class/net
! touch /usr/bin/kstat-was-here 2>/dev/null`), sandbox.Nobody)
	cmd.Env = append(os.Environ(), ours)
	want := outcome{stdout: "0\n2\nrmmod: ERROR: Module kstat is not currently loaded\nlo\n"}
	if got := end(t, cmd); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}

	cmd = sandbox.AsUser(sandbox.Command(exe, "run", "--net", "host", "true"), sandbox.Nobody)
	cmd.Env = append(os.Environ(), ours)
	if got := end(t, cmd); got.status != 125 || !strings.HasPrefix(got.stderr, "kstat run: --net host needs root") {
		t.Errorf("--net host as an ordinary user: %+v", got)
	}
	must(t, os.Chmod(filepath.Join(dir, "fuse"), 0o600))
	cmd = sandbox.AsUser(sandbox.Command(exe, "run", "true"), sandbox.Nobody)
	cmd.Env = append(os.Environ(), ours)
	if got := end(t, cmd); got.status != 125 || !strings.HasPrefix(got.stderr, "kstat run: open /dev/fuse: permission denied; chmod 666") {
		t.Errorf("without /dev/fuse: %+v", got)
	}
}

// Where the host has no kmod, or one program under all names, the tools appear
// all the same, and nothing else changes its name.
func TestRunWithoutKmod(t *testing.T) {
	needWorld(t)
	layer := t.TempDir()
	must(t, unix.Mount("tmpfs", layer, "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(layer, unix.MNT_DETACH)) }()
	for _, dir := range []string{"/usr/bin", "/usr/sbin"} {
		upper, work := layer+dir+".upper", layer+dir+".work"
		must(t, os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755))
		must(t, unix.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)))
		defer func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
		for _, name := range kmod.Tools() {
			if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	must(t, os.Symlink("/usr/bin/env", "/usr/sbin/insmod")) // as BusyBox has it
	must(t, os.WriteFile(layer+"/kstat.ko", nil, 0o644))
	t.Chdir(layer)
	script(t, nil, `
sudo insmod kstat.ko
/usr/bin/lsmod | grep -c kstat
/sbin/rmmod kstat
dmesg | grep -c 'kstat: unloaded'
env true
ls -l /usr/bin/env >/dev/null`, "1\n1\n")
}

// Where /bin and /usr/bin are two directories, the tools appear in both.
func TestRunSeparateBin(t *testing.T) {
	needWorld(t)
	sandbox.Need(t, sandbox.Root)
	world := t.TempDir()
	must(t, unix.Mount(world, world, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(world, unix.MNT_DETACH)) })
	for _, dir := range []string{"bin", "sbin", "usr", "proc", "sys", "run", "dev", "tmp", "lib", "lib64"} {
		must(t, os.Mkdir(filepath.Join(world, dir), 0o755))
	}
	bind := func(from, to string) {
		must(t, unix.Mount(from, filepath.Join(world, to), "", unix.MS_BIND|unix.MS_REC, ""))
		t.Cleanup(func() { must(t, unix.Unmount(filepath.Join(world, to), unix.MNT_DETACH)) })
	}
	for _, dir := range []string{"usr", "proc", "sys", "dev", "lib", "lib64"} {
		bind("/"+dir, dir)
	}
	for _, link := range []string{"bin/insmod", "sbin/lsmod", "bin/dmesg", "bin/lsmod"} { // one program under all names
		must(t, os.Symlink("/usr/bin/env", filepath.Join(world, link)))
	}
	must(t, os.Symlink("/usr/bin/bash", filepath.Join(world, "bin/sh")))
	exe, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.WriteFile(filepath.Join(world, "tmp/kstat"), exe, 0o755))
	cmd := tool()
	cmd.Path, cmd.Args = "/tmp/kstat", []string{"kstat", "run", "--loaded", "sh", "-c", "for dir in /usr/bin /sbin /bin; do $dir/lsmod | tail -n +2; done; rmmod kstat"}
	cmd.SysProcAttr.Chroot, cmd.Dir = world, "/tmp"
	if got := end(t, cmd); got != (outcome{stdout: strings.Repeat("kstat                  16384  0\n", 3)}) {
		t.Errorf("%+v", got)
	}
}

// Whoever has his own mount point says so.
func TestRunMount(t *testing.T) {
	needWorld(t)
	dir := t.TempDir()
	t.Setenv("KSTAT_MOUNT", dir)
	script(t, []string{"--loaded"}, "echo $KSTAT_MOUNT; cat "+dir+"/counter; test ! -e /run/kstat", dir+"\n10\n")
	for _, none := range []string{dir + "/none", "/run/none/kstat", "/etc/passwd"} {
		t.Setenv("KSTAT_MOUNT", none)
		if got := end(t, tool("run", "true")); got.status != 125 || !strings.HasPrefix(got.stderr, "kstat run: KSTAT_MOUNT is "+none) {
			t.Errorf("%+v", got)
		}
	}
	if _, err := os.Stat("/run/none"); err == nil {
		t.Error("/run/none was made")
	}
}

// signalled is a script that counts the signals that it gets.
const signalled = `
n=0
trap 'n=$((n+1)); echo signal $n' INT TERM USR1 HUP
echo ready
while [ ! -e stop ]; do sleep 0.02; done
echo $n in all`

// expectLines returns a function that compares the next line of a command.
func expectLines(t *testing.T, out io.Reader) func(want string) {
	lines := bufio.NewScanner(out)
	return func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("the command said %q, want %q", lines.Text(), want)
		}
	}
}

// A signal for kstat is one for the command.
func TestRunSignal(t *testing.T) {
	needWorld(t)
	for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGHUP} {
		cmd := tool("run", "sh", "-c", signalled)
		cmd.Dir = t.TempDir()
		out, err := cmd.StdoutPipe()
		must(t, err, cmd.Start())
		expect := expectLines(t, out)
		expect("ready")
		for n := range 2 { // not at once: two signals may become one, as signals do
			must(t, cmd.Process.Signal(s))
			expect(fmt.Sprint("signal ", n+1))
		}
		time.Sleep(100 * time.Millisecond) // for one too many
		must(t, os.WriteFile(filepath.Join(cmd.Dir, "stop"), nil, 0o644))
		expect("2 in all")
		must(t, cmd.Wait())
	}
}

// A signal is none too early: the command ends of it, or never begins.
func TestRunSignalEarly(t *testing.T) {
	needWorld(t)
	for delay := time.Duration(0); delay < 60*time.Millisecond; delay += 2 * time.Millisecond {
		cmd := tool("run", "sleep", "1000")
		must(t, cmd.Start())
		time.Sleep(delay)
		must(t, cmd.Process.Signal(unix.SIGTERM))
		overdue := time.AfterFunc(sandbox.AwaitLimit, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		overdue.Stop()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.ExitStatus() != 128+15 && status.Signal() != unix.SIGTERM {
			t.Errorf("SIGTERM after %v: %v", delay, cmd.ProcessState)
		}
	}
}

// terminal is a pseudo-terminal.
type terminal struct {
	t            *testing.T
	ours, theirs *os.File
	seen         bytes.Buffer
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	ours, theirs := sandbox.Terminal(t)
	return &terminal{t: t, ours: ours, theirs: theirs}
}

// start starts a command as a terminal's window does.
func (p *terminal) start(cmd *exec.Cmd) {
	p.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.theirs, p.theirs, p.theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	must(p.t, cmd.Start(), p.theirs.Close())
}

func (p *terminal) write(text string) {
	p.t.Helper()
	_, err := p.ours.WriteString(text)
	must(p.t, err)
}

// await reads until the terminal has shown a text, and forgets all up to that.
func (p *terminal) await(text string) {
	p.t.Helper()
	buffer := make([]byte, 4096)
	must(p.t, p.ours.SetReadDeadline(time.Now().Add(sandbox.AwaitLimit)))
	for !strings.Contains(p.seen.String(), text) {
		n, err := p.ours.Read(buffer)
		p.seen.Write(buffer[:n])
		if err != nil {
			p.t.Fatalf("%v, awaiting %q; the terminal shows:\n%s", err, text, p.seen.String())
		}
	}
	p.seen.Next(strings.Index(p.seen.String(), text) + len(text))
}

// A key is one signal for the command, although the terminal sends it to kstat,
// too.
func TestRunTerminalKey(t *testing.T) {
	needWorld(t)
	p := openTerminal(t)
	defer p.ours.Close()
	cmd := tool("run", "sh", "-c", signalled)
	cmd.Dir = t.TempDir()
	p.start(cmd)
	p.await("ready")
	for n := range 2 {
		p.write("\x03")
		p.await(fmt.Sprint("signal ", n+1))
	}
	time.Sleep(100 * time.Millisecond) // for one too many
	must(t, os.WriteFile(filepath.Join(cmd.Dir, "stop"), nil, 0o644))
	p.await("\n2 in all")
	must(t, cmd.Wait())
}

// A shell in a world stops jobs and goes on with them, and can be stopped itself
// by the shell outside.
func TestRunJobControl(t *testing.T) {
	needWorld(t)
	// It says what is not in its command line, which the terminal shows as well.
	const job = `sh -c 'trap "echo go""es on" CONT; sleep 100 & echo be""gins; while :; do wait; done'`
	p := openTerminal(t)
	defer p.ours.Close()
	cmd := sandbox.Command("bash", "--norc", "--noprofile", "-i")
	cmd.Env = append(os.Environ(), ours, "PS1=outside> ", "TERM=dumb")
	exe, err := os.Executable()
	must(t, err)
	p.start(cmd)
	p.await("outside> ")
	p.write("PS1='inside> ' " + exe + " run bash --norc --noprofile -i\n")
	p.await("inside> ")
	p.write(job + "\n")
	p.await("begins")
	p.write("\x1a")
	p.await("Stopped")
	p.await("inside> ")
	p.write("jobs\n")
	p.await("Stopped")
	p.await("inside> ")
	p.write("fg\n")
	p.await("goes on")
	p.write("\x03")
	p.await("inside> ")
	p.write("exit 5\n")
	p.await("outside> ")
	p.write("echo status $?\n")
	p.await("status 5")

	p.write(exe + " run " + job + "\n")
	p.await("begins")
	p.write("\x1a")
	p.await("Stopped")
	p.await("outside> ")
	p.write("fg\n")
	p.await("goes on")
	p.write("\x03")
	p.await("outside> ")
	p.write("echo status $?\n")
	p.await("status 130")
	p.write("exit\n")
	_ = cmd.Wait()
}

// left is what worlds could leave behind on the host.
func left(t testing.TB) []string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	all := strings.Split(string(info), "\n")
	for _, pattern := range []string{"/proc/[0-9]*/environ", "/run/*"} {
		paths, err := filepath.Glob(pattern)
		must(t, err)
		for _, path := range paths {
			if filepath.Base(path) != "environ" {
				all = append(all, path)
			} else if text, _ := os.ReadFile(path); slices.Contains(strings.Split(string(text), "\x00"), ours) {
				all = append(all, path)
			}
		}
	}
	return all
}

// gone fails if, a moment later, there is something that was not there before.
func gone(t testing.TB, before []string) {
	t.Helper()
	var more []string
	for end := time.Now().Add(sandbox.AwaitLimit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		more = slices.DeleteFunc(left(t), func(s string) bool { return slices.Contains(before, s) })
		if len(more) == 0 {
			return
		}
	}
	t.Errorf("left behind: %q", more)
}

// inWorld starts a command in a world that says where its PID 1 is, as the host
// numbers it, and waits.
func inWorld(t *testing.T, args ...string) (cmd *exec.Cmd, init int) {
	t.Helper()
	needWorld(t)
	cmd = tool(append([]string{"run"}, args...)...)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	_, err = out.Read(make([]byte, 64))
	must(t, err)
	return cmd, childOf(t, cmd.Process.Pid)
}

// waiting is a command that loads the network, has children that would outlive
// it, and waits.
var waiting = []string{"--start", "bash", "-c", `
setsid sleep 1000 &
while :; do echo >/dev/udp/127.0.0.1/9; done 2>/dev/null &
echo ready
wait`}

func TestFaultRunKilled(t *testing.T) {
	needWorld(t)
	before := left(t)
	for name, kill := range map[string]func(cmd *exec.Cmd, init int) (want int){
		"the command": func(cmd *exec.Cmd, init int) int {
			must(t, unix.Kill(childOf(t, init), unix.SIGKILL))
			return 128 + 9
		},
		"the daemon": func(cmd *exec.Cmd, init int) int {
			must(t, unix.Kill(init, unix.SIGKILL))
			return 125
		},
		"kstat": func(cmd *exec.Cmd, init int) int {
			must(t, cmd.Process.Kill())
			return -1
		},
		"kstat, gently": func(cmd *exec.Cmd, init int) int {
			must(t, cmd.Process.Signal(unix.SIGTERM))
			return 128 + 15
		},
	} {
		cmd, init := inWorld(t, waiting...)
		want := kill(cmd, init)
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s is killed: status %d, want %d", name, got, want)
		}
		gone(t, before)
	}
}

// childOf returns the first child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	if children := sandbox.Children(pid); len(children) > 0 {
		return children[0]
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

// A machine that is so busy that init does not run for a while does not keep
// packets from being counted.
func TestRunStarved(t *testing.T) {
	needWorld(t)
	cmd := tool("run", "--start", "bash", "-c", `
echo ready
read
for i in {1..20}; do echo >/dev/udp/127.0.0.1/9; done
echo sent
read
echo 1 >/proc/kstat/counter
cat /run/kstat/proto/udp/packets /run/kstat/uncounted`)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	expect := expectLines(t, out)
	next := func() { _, err := io.WriteString(in, "\n"); must(t, err) }
	expect("ready")
	init := childOf(t, cmd.Process.Pid)
	must(t, sandbox.Stop(init))
	time.Sleep(1500 * time.Millisecond) // kstatd would let packets pass after a second
	next()
	expect("sent")
	must(t, unix.Kill(init, unix.SIGCONT))
	next()
	expect("20")
	expect("0")
	must(t, cmd.Wait())
}

// PID 1 of the world is safe from those who live in it.
func TestFaultRunInitFromInside(t *testing.T) {
	script(t, []string{"--loaded"}, `
kill -9 1
kill -TERM 1
kill -INT 1
cat /proc/kstat/counter`, "10\n")
}

func TestFaultRunHangup(t *testing.T) {
	needWorld(t)
	before := left(t)
	p := openTerminal(t)
	cmd := tool(append([]string{"run"}, waiting...)...)
	p.start(cmd)
	p.await("ready")
	must(t, p.ours.Close())
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+1 {
		t.Errorf("status %d, want 129", got)
	}
	gone(t, before)
}

// Run after run, nothing is left, and no run fails. KSTAT_RUNS says how many.
func TestFaultRunMany(t *testing.T) {
	needWorld(t)
	runs := 60
	if os.Getenv("KSTAT_FAULTS") == "full" {
		runs = 2_000
	}
	if n, err := strconv.Atoi(os.Getenv("KSTAT_RUNS")); err == nil {
		runs = n
	}
	before := left(t)
	began := time.Now()
	var g sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() {
			for range runs / runtime.GOMAXPROCS(0) {
				if got := end(t, tool("run", "--start", "cat", "/proc/kstat/nout")); got != (outcome{stdout: "0\n"}) {
					t.Errorf("%+v", got)
					return
				}
			}
		})
	}
	g.Wait()
	gone(t, before)
	t.Logf("%d runs in %v", runs, time.Since(began).Round(time.Second))
}
