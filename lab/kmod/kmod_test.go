package kmod

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kstat/lab/sandbox"
)

// trials are calls of kmod's tools, with what kmod 30 says. They run in $W, a
// directory with the files that chdir makes. $R is the fake's root, $V the
// kernel's release, and ; a space in an argument.
var trials = []struct {
	call   string
	state  string        // of the module: "" is not loaded
	errno  syscall.Errno // of what the kernel is asked to do
	status int
	out    string
	err    string
	asked  []string // what the kernel was asked to do
	ours   string   // why it is not compared with the real tool
}{
	{call: "insmod kstat.ko", asked: []string{`insert ""`}},
	{call: "insmod ./kstat.ko start=1 counter=5", asked: []string{`insert "start=1 counter=5"`}},
	{call: "insmod -f -s -p kstat.ko foo", asked: []string{`insert "foo"`}},
	{call: "insmod start=1 kstat.ko", status: 1, err: "insmod: ERROR: could not load module start=1: No such file or directory\n"},
	{call: "insmod named.o", asked: []string{`insert ""`}},
	{call: "insmod kstat.ko", errno: syscall.EEXIST, status: 1, err: "insmod: ERROR: could not insert module kstat.ko: File exists\n", asked: []string{`insert ""`}},
	{call: "insmod kstat.ko start=7", errno: syscall.EINVAL, status: 1, err: "insmod: ERROR: could not insert module kstat.ko: Invalid parameters\n", asked: []string{`insert "start=7"`}},
	{call: "insmod kstat.ko", errno: syscall.EPERM, status: 1, err: "insmod: ERROR: could not insert module kstat.ko: Operation not permitted\n", asked: []string{`insert ""`}},
	{call: "insmod kstat.ko", errno: syscall.ENOENT, status: 1, err: "insmod: ERROR: could not insert module kstat.ko: Unknown symbol in module\n", asked: []string{`insert ""`}},
	{call: "insmod kstat.ko", errno: syscall.ENOEXEC, status: 1, err: "insmod: ERROR: could not insert module kstat.ko: Invalid module format\n", asked: []string{`insert ""`}},
	{call: "insmod kstat.ko", errno: syscall.ESRCH, status: 1, err: "insmod: ERROR: could not insert module kstat.ko: Module has wrong symbol version\n", asked: []string{`insert ""`}},
	{call: "insmod kstat.ko", errno: syscall.EBUSY, status: 1, err: "insmod: ERROR: could not insert module kstat.ko: Device or resource busy\n", asked: []string{`insert ""`}},
	{call: "insmod dir/kstat.ko", status: 1, err: "insmod: ERROR: could not insert module dir/kstat.ko: Is a directory\n"},
	{call: "insmod nowhere/kstat.ko", status: 1, err: "insmod: ERROR: could not load module nowhere/kstat.ko: No such file or directory\n"},
	{call: "insmod kstat", status: 1, err: "insmod: ERROR: could not load module kstat: No such file or directory\n"},
	{call: "insmod kstat.ko/x", status: 1, err: "insmod: ERROR: could not load module kstat.ko/x: Not a directory\n"},
	{call: "insmod", status: 1, err: "insmod: ERROR: missing filename.\n"},
	{call: "insmod -", status: 1, err: "insmod: ERROR: this tool does not support loading from stdin!\n"},
	{call: "/sbin/insmod -x kstat.ko", status: 1, err: "/sbin/insmod: invalid option -- 'x'\n"},
	{call: "insmod --bogus kstat.ko", status: 1, err: "insmod: unrecognized option '--bogus'\n"},
	{call: "insmod -v --force kstat.ko", asked: []string{`insert ""`}, ours: "options of kmod 34"},
	{call: "insmod other.ko", status: 1, err: "insmod: ERROR: could not insert module other.ko: Operation not permitted\n", ours: "a foreign module, and no real insmod"},
	{call: "insmod empty/kstat.ko", asked: []string{`insert ""`}, ours: "kmod would want something in it"},
	{call: "insmod /lib/modules/$V/extra/kstat.ko start=1", asked: []string{`insert "start=1"`}, ours: "installed without a file"},

	{call: "rmmod kstat", state: "loaded", asked: []string{"delete"}},
	{call: "rmmod kstat.ko", state: "loaded", asked: []string{"delete"}},
	{call: "rmmod ./kstat.ko", state: "loaded", asked: []string{"delete"}},
	{call: "rmmod gone.ko", state: "loaded", status: 1, err: "rmmod: ERROR: Module gone is not currently loaded\n"},
	{call: "rmmod -sv kstat", state: "loaded", asked: []string{"delete"}},
	{call: "rmmod kstat kstat", state: "loaded", asked: []string{"delete"}, status: 1, err: "rmmod: ERROR: Module kstat is not currently loaded\n", ours: "the real one deletes nothing here"},
	{call: "rmmod kstat", status: 1, err: "rmmod: ERROR: Module kstat is not currently loaded\n"},
	{call: "rmmod kstat.ko.xz a-b", status: 1, err: "rmmod: ERROR: Module kstat is not currently loaded\nrmmod: ERROR: Module a_b is not currently loaded\n"},
	{call: "rmmod nowhere/kstat.ko", state: "loaded", status: 1, err: "rmmod: ERROR: Module nowhere/kstat is not currently loaded\n"},
	{call: "rmmod kstat", state: "used", status: 1, err: "rmmod: ERROR: Module kstat is in use\n"},
	{call: "rmmod kstat", state: "held", status: 1, err: "rmmod: ERROR: Module kstat is in use by: holder\n"},
	{call: "rmmod kstat", state: "forever", status: 1, err: "rmmod: ERROR: Module unloading is not supported\n"},
	{call: "rmmod -f kstat", state: "used", asked: []string{"delete"}},
	{call: "rmmod --force kstat", errno: syscall.ENOENT, asked: []string{"delete"}, status: 1, err: "rmmod: ERROR: could not remove 'kstat': No such file or directory\nrmmod: ERROR: could not remove module kstat: No such file or directory\n"},
	{call: "rmmod ./kstat.ko", state: "loaded", errno: syscall.EPERM, asked: []string{"delete"}, status: 1, err: "rmmod: ERROR: could not remove 'kstat': Operation not permitted\nrmmod: ERROR: could not remove module ./kstat.ko: Operation not permitted\n"},
	{call: "rmmod kstat", state: "loaded", errno: syscall.EBUSY, asked: []string{"delete"}, status: 1, err: "rmmod: ERROR: could not remove 'kstat': Device or resource busy\nrmmod: ERROR: could not remove module kstat: Device or resource busy\n"},
	{call: "rmmod", status: 1, err: "rmmod: ERROR: missing module name.\n"},
	{call: "rmmod -w kstat", state: "loaded", status: 1, err: "rmmod: ERROR: unexpected getopt_long() value 'w'.\n"},
	{call: "rmmod --ver --force=1 kstat", status: 1, err: "rmmod: option '--ver' is ambiguous; possibilities: '--verbose' '--version'\n"},
	{call: "rmmod --force=1 kstat", status: 1, err: "rmmod: option '--force' doesn't allow an argument\n"},

	{call: "modprobe -d $R kstat", asked: []string{`insert ""`}},
	{call: "modprobe -d $R kstat start=1 counter=5", asked: []string{`insert "start=1 counter=5"`}},
	{call: "modprobe -d $R kstat", state: "loaded"},
	{call: "modprobe -d $R --first-time kstat", state: "loaded", status: 1, err: "modprobe: ERROR: could not insert 'kstat': Module already in kernel\n"},
	{call: "modprobe -d $R kstat", errno: syscall.EEXIST, asked: []string{`insert ""`}},
	{call: "modprobe -d $R --first-time kstat", errno: syscall.EEXIST, asked: []string{`insert ""`}, status: 1, err: "modprobe: ERROR: could not insert 'kstat': Module already in kernel\n"},
	{call: "modprobe -d $R kstat start=7", errno: syscall.EINVAL, asked: []string{`insert "start=7"`}, status: 1, err: "modprobe: ERROR: could not insert 'kstat': Invalid argument\n"},
	{call: "modprobe -d $R kstat", errno: syscall.ENOENT, asked: []string{`insert ""`}, status: 1, err: "modprobe: ERROR: could not insert 'kstat': Unknown symbol in module, or unknown parameter (see dmesg)\n"},
	{call: "modprobe -d $R kstat", errno: syscall.EPERM, asked: []string{`insert ""`}, status: 1, err: "modprobe: ERROR: could not insert 'kstat': Operation not permitted\n"},
	{call: "modprobe -q -d $R kstat", errno: syscall.EPERM, asked: []string{`insert ""`}, status: 1},
	{call: "modprobe -v -d $R kstat start=1", asked: []string{`insert "start=1"`}, out: "insmod $R/lib/modules/$V/extra/kstat.ko start=1\n"},
	{call: "modprobe -v -d $R kstat", state: "loaded"},
	{call: "modprobe -nv -d $R kstat", out: "insmod $R/lib/modules/$V/extra/kstat.ko \n"},
	{call: "modprobe -n -d $R kstat"},
	{call: "modprobe --dry-run --first-time -d $R kstat", state: "loaded", status: 1, err: "modprobe: ERROR: could not insert 'kstat': Module already in kernel\n"},
	{call: "modprobe -D -d $R kstat start=1", state: "loaded", out: "insmod $R/lib/modules/$V/extra/kstat.ko start=1\n"},
	{call: "modprobe --show-depends --dirname=$R kstat", out: "insmod $R/lib/modules/$V/extra/kstat.ko \n"},
	{call: "modprobe -nv -d $R kstat a=b;c d=\"e;f\" g;h 'i=j;k' l='m;n'", out: "insmod $R/lib/modules/$V/extra/kstat.ko a=\"b c\" d=\"e f\" g h 'i=\"j k'\" l='m n'\n"},
	{call: "insmod kstat.ko a=b;c", asked: []string{`insert "a=b c"`}},
	{call: "modprobe -R -d $R kstat", out: "kstat\n"},
	{call: "modprobe -a -d $R kstat gone", asked: []string{`insert ""`}, status: 1, err: "modprobe: WARNING: Module gone not found in directory $R/lib/modules/$V\n"},
	{call: "modprobe -d $R -a gone kstat", asked: []string{`insert ""`}, status: 1, err: "modprobe: WARNING: Module gone not found in directory $R/lib/modules/$V\n"},
	{call: "modprobe -d $R gone kstat", status: 1, err: "modprobe: FATAL: Module gone not found in directory $R/lib/modules/$V\n"},
	{call: "modprobe -q -d $R gone", status: 1},
	{call: "modprobe -d $R kstat.ko", status: 1, err: "modprobe: FATAL: Module kstat.ko not found in directory $R/lib/modules/$V\n"},
	{call: "modprobe -d $R ./kstat.ko", status: 1, err: "modprobe: FATAL: Module ./kstat.ko not found in directory $R/lib/modules/$V\n", ours: "kmod 31 takes paths"},
	{call: "modprobe -r -d $R kstat", state: "loaded", asked: []string{"delete"}},
	{call: "modprobe -d $R -rv kstat", state: "loaded", asked: []string{"delete"}, out: "rmmod kstat\n"},
	{call: "modprobe -d $R -rnv kstat", state: "loaded", out: "rmmod kstat\n"},
	{call: "modprobe -d $R --remove kstat"},
	{call: "modprobe -d $R -r --first-time kstat", status: 1, err: "modprobe: FATAL: Module kstat is not in kernel.\n"},
	{call: "modprobe -d $R -ra --first-time kstat", status: 1, err: "modprobe: WARNING: Module kstat is not in kernel.\n"},
	{call: "modprobe -d $R -r kstat", state: "used", status: 1, err: "modprobe: FATAL: Module kstat is in use.\n"},
	{call: "modprobe -d $R -r -w 5 kstat", state: "used", asked: []string{"delete"}},
	{call: "modprobe -d $R -r kstat", state: "loaded", errno: syscall.EPERM, asked: []string{"delete"}, status: 1, err: "modprobe: ERROR: could not remove 'kstat': Operation not permitted\n"},
	{call: "modprobe -d $R -r kstat gone", state: "loaded", errno: syscall.EPERM, asked: []string{"delete"}, status: 1, err: "modprobe: ERROR: could not remove 'kstat': Operation not permitted\nmodprobe: FATAL: Module gone not found.\n"},
	{call: "modprobe -d $R -r gone kstat", state: "loaded", status: 1, err: "modprobe: FATAL: Module gone not found.\n"},
	{call: "modprobe -d $R -qr gone kstat", state: "loaded", asked: []string{"delete"}, status: 1},
	{call: "modprobe -d $R -r kstat gone", state: "loaded", asked: []string{"delete"}, status: 1, err: "modprobe: FATAL: Module gone not found.\n"},
	{call: "modprobe", status: 1, err: "modprobe: ERROR: missing parameters. See -h.\n"},
	{call: "modprobe -w x kstat", status: 1, err: "modprobe: ERROR: unexpected wait value 'x'.\n"},
	{call: "modprobe -w", status: 1, err: "modprobe: option requires an argument -- 'w'\n"},
	{call: "modprobe --wait", status: 1, err: "modprobe: option '--wait' requires an argument\n"},
	{call: "modprobe --re kstat", status: 1, err: "modprobe: option '--re' is ambiguous; possibilities: '--remove' '--remove-dependencies' '--remove-holders' '--resolve-alias'\n"},
	{call: "modprobe --show-c=1", status: 1, err: "modprobe: option '--show-config' doesn't allow an argument\n"},

	{call: "modinfo kstat.ko", out: "filename:       $W/kstat.ko\nversion:        1\ndescription:    Stand-in for the kstat module in kstat run; holds no code\nauthor:         The kstat authors\nlicense:        Dual MIT/GPL\ndepends:        \nname:           kstat\nvermagic:       $V stand-in \nparm:           start:1 while packets are counted, 0 while not (int)\nparm:           counter:publish after this many packets (uint)\n"},
	{call: "modinfo -b $R kstat", out: "filename:       $R/lib/modules/$V/extra/kstat.ko\nversion:        1\ndescription:    Stand-in for the kstat module in kstat run; holds no code\nauthor:         The kstat authors\nlicense:        Dual MIT/GPL\ndepends:        \nname:           kstat\nvermagic:       $V stand-in \nparm:           start:1 while packets are counted, 0 while not (int)\nparm:           counter:publish after this many packets (uint)\n"},
	{call: "modinfo -0 kstat.ko", out: "filename:       $W/kstat.ko\x00version=1\x00description=Stand-in for the kstat module in kstat run; holds no code\x00author=The kstat authors\x00license=Dual MIT/GPL\x00depends=\x00name=kstat\x00vermagic=$V stand-in \x00parm:           start:1 while packets are counted, 0 while not (int)\x00parm:           counter:publish after this many packets (uint)\x00"},
	{call: "modinfo -p kstat.ko", out: "start:1 while packets are counted, 0 while not (int)\ncounter:publish after this many packets (uint)\n"},
	{call: "modinfo odd/kstat.ko", out: "filename:       $W/odd/kstat.ko\nlone:           \na-very-long-key-of-modinfo:           x=y\nparm:           typed:int\nparm:           told:what it is\nparm:           both:second (bool)\n", err: "modinfo: ERROR: Found invalid \"parm=none\": missing ':'\n"},
	{call: "modinfo -F parm odd/kstat.ko", out: "typed: (int)\ntold:what it is\nboth:second (bool)\n", err: "modinfo: ERROR: Found invalid \"parm=none\": missing ':'\n"},
	{call: "modinfo -F parmtype odd/kstat.ko", out: "both:bool\ntyped:int\n"},
	{call: "modinfo -a kstat.ko", out: "The kstat authors\n"},
	{call: "modinfo -d kstat.ko", out: "Stand-in for the kstat module in kstat run; holds no code\n"},
	{call: "modinfo -l -0 kstat.ko", out: "Dual MIT/GPL\x00"},
	{call: "modinfo -n ./kstat.ko", out: "$W/./kstat.ko\n"},
	{call: "modinfo -F vermagic -b $R kstat", out: "$V stand-in \n"},
	{call: "modinfo -F nothing kstat.ko"},
	{call: "modinfo --field=name -m -b $R kstat", out: "kstat\n"},
	{call: "modinfo empty/kstat.ko", out: "filename:       $W/empty/kstat.ko\n", status: 1, err: "modinfo: ERROR: could not get modinfo from 'kstat': Invalid argument\n"},
	{call: "modinfo text/kstat.ko", out: "filename:       $W/text/kstat.ko\n", status: 1, err: "modinfo: ERROR: could not get modinfo from 'kstat': Exec format error\n"},
	{call: "modinfo bare/kstat.ko", out: "filename:       $W/bare/kstat.ko\n", status: 1, err: "modinfo: ERROR: could not get modinfo from 'kstat': No such file or directory\n"},
	{call: "modinfo gone.ko kstat.ko -l", out: "Dual MIT/GPL\n", status: 1, err: "modinfo: ERROR: Module gone.ko not found.\n"},
	{call: "modinfo -m gone", status: 1, err: "modinfo: ERROR: Module name gone not found.\n"},
	{call: "modinfo -F name /lib/modules/$V/extra/kstat.ko", out: "kstat\n", ours: "installed without a file"},
	{call: "modinfo packed/broken.ko.gz", out: "filename:       $W/packed/broken.ko.gz\n", status: 1, err: "modinfo: ERROR: could not get modinfo from 'broken': Invalid argument\n", ours: "Debian's is built without zlib"},
	{call: "modinfo packed/kstat.ko.gz -l", out: "Dual MIT/GPL\n", ours: "Debian's is built without zlib"},
	{call: "modinfo", status: 1, err: "modinfo: ERROR: missing module or filename.\n"},
	{call: "modinfo -F", status: 1, err: "modinfo: option requires an argument -- 'F'\n"},

	{call: "lsmod", out: "Module                  Size  Used by\n"},
	{call: "lsmod", state: "loaded", out: "Module                  Size  Used by\nkstat                  16384  0\na_name_of_twenty_one_ 1234567890  3 kstat\n"},
	{call: "lsmod", state: "held", out: "Module                  Size  Used by\nkstat                  16384  1 holder\na_name_of_twenty_one_ 1234567890  3 kstat\n"},
	{call: "/sbin/lsmod x", status: 1, err: "Usage: /sbin/lsmod\n"},
	{call: "kmod list", state: "held", out: "Module                  Size  Used by\nkstat                  16384  1 holder\na_name_of_twenty_one_ 1234567890  3 kstat\n"},
	{call: "kmod list x", status: 1, err: "Usage: list\n"},
	{call: "kmod -x", status: 1, err: "kmod: invalid option -- 'x'\n"},
	{call: "kmod insmod kstat.ko", status: 1, out: "Usage: kmod [options] command [command_options]; the commands are help, list and static-nodes\n", err: "invalid command 'insmod'\n", ours: "a usage text"},
	{call: "kmod", status: 1, out: "Usage: kmod [options] command [command_options]; the commands are help, list and static-nodes\n", err: "missing command\n", ours: "a usage text"},
	{call: "insmod --help", out: "Usage: insmod [options] filename [args]\n", ours: "a usage text"},
	{call: "modprobe -V", out: "kmod version 30\n(as kstat stands in for it)\n", ours: "names kstat"},
	{call: "modprobe -c", status: 1, err: "modprobe: this query needs the modprobe of this machine, and it has none\n", ours: "no real tool"},
	{call: "depmod", ours: "no real tool"},
	{call: "lsblk", status: 1, err: "lsblk: not a tool that kstat stands in for; those are depmod, dmesg, insmod, kmod, lsmod, modinfo, modprobe, rmmod, sudo\n", ours: "no tool of kmod's"},
}

func TestWords(t *testing.T) {
	w := chdir(t)
	for _, tt := range trials {
		t.Run(tt.call+" "+tt.state, func(t *testing.T) {
			f := newFake(t)
			f.errno = tt.errno
			f.setUp(t, tt.state)
			expand := strings.NewReplacer("$R", f.root, "$V", kernelRelease(), "$W", w).Replace
			args := words(expand(tt.call))
			want := outcome{tt.status, expand(tt.out), expand(tt.err)}
			if got := f.run(args[0], args[1:]...); got != want {
				t.Errorf("got %v\nwant %v", got, want)
			}
			if !slices.Equal(f.calls, tt.asked) {
				t.Errorf("the kernel was asked for %q, want %q", f.calls, tt.asked)
			}
		})
	}
}

// TestWordsOfKmod holds the table against the real tools.
func TestWordsOfKmod(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	needKmod(t)
	w := chdir(t)
	for _, tt := range trials {
		if tt.ours != "" {
			continue
		}
		t.Run(tt.call+" "+tt.state, func(t *testing.T) {
			f := newFake(t)
			f.errno = tt.errno
			f.setUp(t, tt.state)
			expand := strings.NewReplacer("$R", f.root, "$V", kernelRelease(), "$W", w).Replace
			if strings.Contains(tt.call, "$R") {
				f.install(t)
			}
			args := words(expand(tt.call))
			got := f.runReal(t, needReal(t, filepath.Base(args[0])), args[0], args[1:]...)
			got.err = origin.ReplaceAllString(got.err, "")
			if want := (outcome{tt.status, expand(tt.out), expand(tt.err)}); got != want {
				t.Errorf("the real tool: %v\nthe table: %v", got, want)
			}
		})
	}
}

// words splits a call of the table.
func words(call string) []string {
	args := strings.Fields(call)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], ";", " ")
	}
	return args
}

// chdir makes a directory with files to name, goes there, and returns it.
func chdir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	m := machines["amd64"]
	modinfo := func(s ...string) []byte {
		return m.relocatable([]section{{".modinfo", progbits, cStrings(s...)}})
	}
	files := map[string][]byte{
		"kstat.ko":            Object(),
		"named.o":             modinfo("license=GPL", "name=kstat"),
		"other.ko":            modinfo("license=GPL", "name=other"),
		"dir/kstat.ko/x":      nil,
		"empty/kstat.ko":      nil,
		"text/kstat.ko":       []byte("obj-m += kstat.o\n"),
		"bare/kstat.ko":       m.relocatable(nil),
		"odd/kstat.ko":        modinfo("lone", "a-very-long-key-of-modinfo=x=y", "", "parm=both:first", "parm=none", "parmtype=both:bool", "parm=told:what it is", "parmtype=typed:int", "parm=both:second"),
		"packed/kstat.ko.gz":  gzipped(t, Object()),
		"packed/broken.ko.gz": {0x1f, 0x8b, 8, 0, 0, 0, 0, 0},
	}
	for name, data := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var progbits = elf.Section64{Type: uint32(elf.SHT_PROGBITS), Addralign: 1}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// setUp brings the module into a state, and lists it and another.
func (f *fake) setUp(t *testing.T, state string) {
	t.Helper()
	var err error
	switch state {
	case "loaded":
		err = f.load("0")
	case "used":
		err = f.load("2")
	case "held":
		err = f.load("1", "holder")
	case "forever":
		if err = f.load("0"); err == nil {
			err = os.Remove(filepath.Join(f.root, "sys/module/kstat/refcnt"))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	list := ""
	if state != "" {
		list = "kstat 16384 0 - Live 0x0000000000000000 (O)\na_name_of_twenty_one_ 4096 3 - Live 0x0000000000000000\n"
		other := filepath.Join(f.root, "sys/module/a_name_of_twenty_one_")
		for name, text := range map[string]string{"initstate": "live", "refcnt": "3", "coresize": "1234567890", "holders/kstat": ""} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(other, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(other, name), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(f.root, "proc/modules"), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
}

// install puts the stand-in where the real modprobe finds it.
func (f *fake) install(t *testing.T) {
	t.Helper()
	path := modulesDir(f.root, "") + installedAs
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, Object(), 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command(needReal(t, "depmod"), "-b", f.root).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v\n%s", err, text)
	}
}
