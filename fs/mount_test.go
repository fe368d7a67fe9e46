package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kstat/lab/sandbox"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func mountsOn(t *testing.T, dir string) (n int) {
	t.Helper()
	all, err := Mounts()
	must(t, err)
	for _, e := range all {
		if e.Dir == dir {
			n++
		}
	}
	return n
}

// TestMountPointComesAndGoes: a directory that was missing is made and
// removed, one that was there stays.
func TestMountPointComesAndGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kstat")
	for _, before := range []bool{false, true} {
		if before {
			must(t, os.Mkdir(dir, 0o700))
		}
		s := serveOn(t, dir)
		s.expect("nout", "0\n")
		if last := s.end(unix.SIGTERM); last != "ended: <nil>" {
			t.Error("the server's end:", last)
		}
		if exists(dir) != before || mountsOn(t, dir) != 0 {
			t.Errorf("directory there before: %v, afterwards: %v, with %d mounts", before, exists(dir), mountsOn(t, dir))
		}
	}
}

func TestMountShows(t *testing.T) {
	s := serve(t)
	text, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, s.dir) {
			continue
		}
		for _, part := range []string{" - fuse.kstatd kstat ", "nosuid", "nodev", "noexec", "allow_other", "default_permissions"} {
			if !strings.Contains(line, part) {
				t.Errorf("the mount lacks %q: %s", part, line)
			}
		}
		return
	}
	t.Error("no mount")
}

// TestRefusedMountPoints: what is there stays as it is.
func TestRefusedMountPoints(t *testing.T) {
	base := t.TempDir()
	path := func(name string) string { return filepath.Join(base, name) }
	must(t,
		os.Mkdir(path("directory"), 0o755),
		os.Symlink("directory", path("link")),
		os.Symlink("nowhere", path("dangling")),
		os.WriteFile(path("file"), nil, 0o644),
		os.Mkdir(path("full"), 0o755),
		os.WriteFile(path("full/.hidden"), nil, 0o644),
		os.Mkdir(path("foreign"), 0o755))
	for name, want := range map[string]string{
		"link":           "symbolic link",
		"dangling":       "symbolic link",
		"file":           "not a directory",
		"full":           "not empty",
		"foreign":        "tmpfs",
		"missing/parent": "parent directory cannot be used, make it first",
		"file/below":     "not a directory",
	} {
		t.Run(name, func(t *testing.T) {
			sandbox.Need(t, sandbox.Namespaces, sandbox.FUSE)
			if name == "foreign" {
				must(t, unix.Mount("tmpfs", path("foreign"), "tmpfs", 0, ""))
				defer unix.Unmount(path("foreign"), 0)
			}
			said := refused(t, path(name))
			if !strings.HasPrefix(said, "mount: ") || !strings.Contains(said, want) || !strings.Contains(said, path(name)) {
				t.Errorf("got %q, want the path and %q", said, want)
			}
			if name == "foreign" && mountsOn(t, path("foreign")) != 1 {
				t.Error("the foreign mount is not as it was")
			}
		})
	}
	if !exists(path("full/.hidden")) || !exists(path("file")) || exists(path("nowhere")) || exists(path("missing")) {
		t.Error("a refusal changed something")
	}
	// A symbolic link further up is nobody's business.
	must(t, os.Symlink(base, path("up")))
	serveOn(t, path("up/directory")).expect("nout", "0\n")
}

// TestSecondServer: it is refused, names the first, and does not disturb it,
// be it alive or hung.
func TestSecondServer(t *testing.T) {
	s := serve(t)
	pid := fmt.Sprintf("pid %d ", s.cmd.Process.Pid)
	for _, hung := range []bool{false, true} {
		if hung {
			must(t, sandbox.Stop(s.cmd.Process.Pid))
		}
		said := refused(t, s.dir)
		if !strings.Contains(said, "another kstatd") || !strings.Contains(said, pid) {
			t.Errorf("hung %v: got %q, want %q", hung, said, pid)
		}
	}
	must(t, s.cmd.Process.Signal(unix.SIGCONT))
	s.expect("nout", "0\n")
	if n := mountsOn(t, s.dir); n != 1 {
		t.Errorf("%d mounts, want 1", n)
	}
}

// TestKilledServer: what it leaves is a dead mount and its directory. The next
// one clears that away, and removes the directory at its own end, though it
// was there.
func TestKilledServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kstat")
	for range 3 {
		s := serveOn(t, dir)
		s.expect("nout", "0\n")
		s.end(unix.SIGKILL)
		if _, err := os.ReadFile(s.path("nout")); !errors.Is(err, unix.ENOTCONN) {
			t.Fatalf("after SIGKILL: got %v, want ENOTCONN", err)
		}
	}
	s := serveOn(t, dir)
	s.expect("nout", "0\n")
	if n := mountsOn(t, dir); n != 1 {
		t.Errorf("%d mounts, want 1", n)
	}
	s.end(unix.SIGTERM)
	if exists(dir) {
		t.Error("the directory of a killed server was left")
	}
}

// TestStrayFiles: what a shell writes into the bare directory of a tree that is
// just being replaced does not stand in the way of the next start, or of the
// end. What somebody else has put there does.
func TestStrayFiles(t *testing.T) {
	sandbox.Need(t, sandbox.Namespaces)
	dir := filepath.Join(t.TempDir(), "kstat")
	stray := func(name string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte("1\n"), 0o644)) }
	m, err := Lock(dir)
	must(t, err)
	stray("start")
	stray("counter")
	must(t, m.under.Close()) // as a killed one would
	m, err = Lock(dir)
	must(t, err)
	stray("reset")
	must(t, m.Close())
	if exists(dir) {
		t.Error("the directory is still there")
	}

	m, err = Lock(dir)
	must(t, err)
	stray("nout") // no shell could have made that by writing to the tree
	must(t, m.under.Close())
	if _, err := Lock(dir); !errors.Is(err, unix.ENOTEMPTY) || !exists(filepath.Join(dir, "nout")) {
		t.Errorf("a stranger's file: got %v, want ENOTEMPTY and the file", err)
	}
}

// TestUnmountedByAnother: the server notices, and ends.
func TestUnmountedByAnother(t *testing.T) {
	s := serve(t)
	must(t, unix.Unmount(s.dir, 0))
	last := ""
	for s.stdout.Scan() {
		last = s.stdout.Text()
	}
	s.waited = true
	must(t, s.cmd.Wait())
	if !strings.Contains(last, ErrUnmounted.Error()) || exists(s.dir) {
		t.Errorf("got %q, directory there: %v", last, exists(s.dir))
	}
}

// TestMountedOver: what somebody mounts on top stays.
func TestMountedOver(t *testing.T) {
	s := serve(t)
	must(t, unix.Mount("tmpfs", s.dir, "tmpfs", 0, ""))
	s.tell("hurry")
	last := s.end(unix.SIGTERM)
	if !strings.Contains(last, "another file system") || mountsOn(t, s.dir) != 2 {
		t.Errorf("got %q and %d mounts", last, mountsOn(t, s.dir))
	}
	must(t, unix.Unmount(s.dir, 0), unix.Unmount(s.dir, unix.MNT_DETACH), os.Remove(s.dir))
}

// TestOpenFilesDoNotHoldUp: somebody who keeps a file open, or stands in the
// tree, does not keep it.
func TestOpenFilesDoNotHoldUp(t *testing.T) {
	s := serve(t)
	f, err := os.Open(s.path("nout"))
	must(t, err)
	defer f.Close()
	s.tell("hurry")
	began := time.Now()
	if last := s.end(unix.SIGTERM); last != "ended: somebody holds a file" {
		t.Error("the server's end:", last)
	}
	t.Log("ended after", time.Since(began).Round(time.Millisecond))
	if exists(s.dir) {
		t.Error("the directory was left")
	}
	if _, err := f.Read(make([]byte, 8)); err == nil {
		t.Error("the file can still be read")
	}
}

func TestParseMountinfo(t *testing.T) {
	entries, err := parseMountinfo(strings.NewReader(`36 35 98:0 / /a\040b\011c rw,noatime shared:1 master:2 - ext3 /dev/root rw
37 35 0:42 / /back\134slash rw - fuse.kstatd kstat rw,user_id=0
short line
38 35 0:43 / /odd\9 rw -
`))
	must(t, err)
	want := []Mount{{"98:0", "/a b\tc", "ext3"}, {"0:42", `/back\slash`, "fuse.kstatd"}}
	if fmt.Sprint(entries) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", entries, want)
	}
}
