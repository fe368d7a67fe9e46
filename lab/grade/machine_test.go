package grade

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kstat/fs"
	"kstat/hook"
	"kstat/lab/mutant"
	"kstat/lab/sandbox"
	"kstat/stats"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(machineDir); dir != "" {
		runMachine(dir, os.Getenv(machineFault))
		return
	}
	sandbox.Main(m)
}

// A tree must not be read by the process that serves it, and a target is loaded
// and unloaded by shell commands. So a test starts this test binary once more,
// as a machine whose module kstat is loaded by `echo load > control`.
const (
	machineDir   = "KSTAT_TEST_MACHINE" // where it has control, answer and kstat/
	machineFault = "KSTAT_TEST_FAULT"   // the mutant that is loaded, "" for none
)

// runMachine is the serving process. It ends with its standard input.
func runMachine(dir, fault string) {
	control, err := os.OpenFile(filepath.Join(dir, "control"), os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	m := machine{point: filepath.Join(dir, "kstat"), fault: fault}
	go func() {
		for lines := bufio.NewScanner(control); lines.Scan(); {
			said := "ok"
			if err := m.obey(lines.Text()); err != nil {
				said = err.Error()
			}
			if err := os.WriteFile(filepath.Join(dir, "answer"), []byte(said+"\n"), 0); err != nil {
				panic(err)
			}
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := m.obey("unload"); err != nil && err != unix.ENOENT {
		panic(err)
	}
}

type machine struct {
	point, fault string

	mu     sync.Mutex
	unload func() error // nil when it is not loaded
}

func (m *machine) obey(command string) (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case command == "load" && m.unload != nil:
		return unix.EEXIST
	case command == "load":
		m.unload, err = load(m.point, m.fault)
	case m.unload == nil:
		return unix.ENOENT
	default:
		err = m.unload()
		m.unload = nil
	}
	return err
}

// load is insmod.
func load(point, fault string) (unload func() error, err error) {
	table := stats.NewTable()
	log := slog.New(slog.DiscardHandler)
	engine, err := hook.New(hook.Config{Log: log, Point: hook.Postrouting}, table)
	if err != nil {
		return nil, err
	}
	tree := &fs.Tree{Table: table, Engine: engine, Names: stats.BuiltinNames(), Log: log}
	files := folder{tree.File("nout"), tree.File("counter"), tree.File("start")}
	if fault != "" {
		if files[0], files[1], files[2], err = mutant.Apply(fault, tree); err != nil {
			return nil, err
		}
	}
	mount, err := fs.Lock(point)
	if err != nil {
		return nil, err
	}
	connection, err := mount.Mount()
	if err != nil {
		return nil, errors.Join(err, mount.Close())
	}
	fd, err := unix.Dup(int(connection.Fd())) // go-fuse's own
	if err = errors.Join(err, connection.Close()); err != nil {
		return nil, errors.Join(err, mount.Close())
	}
	server, err := gofs.Mount(fmt.Sprintf("/dev/fd/%d", fd), &folderNode{files: files}, &gofs.Options{
		NullPermissions: true,
		MountOptions:    fuse.MountOptions{DisableXAttrs: true},
	})
	if err != nil {
		return nil, errors.Join(err, mount.Close())
	}

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var ended error
	running.Go(func() { ended = engine.Run(ctx) })
	return func() error {
		cancel()
		running.Wait()
		err := errors.Join(ended, mount.Unmount())
		server.Wait()
		return errors.Join(err, mount.Close())
	}, nil
}

// folder is the files of a module, all in one place.
type folder []fs.File

type folderNode struct {
	gofs.Inode
	files folder
}

func (n *folderNode) OnAdd(ctx context.Context) {
	for _, f := range n.files {
		n.AddChild(f.Name, n.NewPersistentInode(ctx, fs.NewNode(f), gofs.StableAttr{Mode: fuse.S_IFREG}), false)
	}
}

func (n *folderNode) Getattr(_ context.Context, _ gofs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o555
	return 0
}

// startMachine starts a machine with a module that has the fault, or none, and
// returns it as a target.
func startMachine(t *testing.T, fault string) Target {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue, sandbox.NFTables, sandbox.FUSE, sandbox.IPv6)
	dir, err := os.MkdirTemp("", "kstat-test-")
	must(t, err)
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Chmod(dir, 0o755), unix.Mkfifo(path("control"), 0o600), unix.Mkfifo(path("answer"), 0o600))

	cmd := sandbox.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), machineDir+"="+dir, machineFault+"="+fault)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err, cmd.Start())
	t.Cleanup(func() {
		must(t, stdin.Close(), cmd.Wait(), os.RemoveAll(dir))
	})

	tell := func(command string) string {
		return fmt.Sprintf(`echo %s > %s; said=$(cat %s); echo "$said"; [ "$said" = ok ]`, command, path("control"), path("answer"))
	}
	return Target{
		Nout: path("kstat/nout"), Counter: path("kstat/counter"), Start: path("kstat/start"),
		Load: tell("load"), Unload: tell("unload"),
		Alone: true,
		Name:  "the test's machine",
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// patience is for what is sure to come.
const patience = 10 * time.Second
