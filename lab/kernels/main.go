// Kernels tries kstatd on kernels other than this machine's: it boots each of them in a virtual machine that has Debian's tools,
// runs the project's own tests in there, and shows what passed.
//
//	go run ./lab/kernels 6.12-amd64 6.12-arm64
//
// It needs qemu and dpkg-deb, but not root. It exits with 1 if anything failed, or did not come to its end.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	cache, accel, packages, run, summary, boot string
	timeout                                    time.Duration
}

func main() {
	if os.Getpid() == 1 {
		fmt.Println(up)
		guest()
	}
	var o options
	cache, _ := os.UserCacheDir()
	flag.StringVar(&o.cache, "cache", filepath.Join(cache, "kstat-kernels"), "where packages are kept: a `directory`")
	flag.StringVar(&o.accel, "accel", "auto", "what `runs` the machine: auto, kvm, or tcg, which emulates it")
	flag.StringVar(&o.packages, "packages", "", "only these `packages` of the plan, by commas")
	flag.StringVar(&o.run, "run", "", "only the tests that match this `expression`")
	flag.StringVar(&o.summary, "summary", "bin/summary", "the `program` that counts")
	flag.StringVar(&o.boot, "boot", "", "boot this one `kernel` and print what go test -json prints")
	flag.DurationVar(&o.timeout, "timeout", time.Hour, "how long a machine may run")
	again := flag.Bool("pin", false, "write anew which packages are used, from what the mirrors have now")
	often := flag.Int("often", 0, "instead of all that, start it `N` times")
	told := flag.Bool("story", false, "tell the story of ENGINE, which TAKES one, BY a module (in the machine)")
	inside := flag.Bool("steps", false, "run the steps (in the machine)")
	flag.Parse()
	err := func() error {
		switch {
		case *inside:
			return steps()
		case *told:
			s := story{flag.Arg(0), flag.Arg(1), flag.Arg(2)}
			if *often > 0 {
				return s.often(*often)
			}
			return s.tell()
		case *again:
			return repin("lab/kernels/pins")
		case o.boot != "":
			return boot(o)
		}
		return all(o, flag.Args())
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// find returns the kernel of that name.
func find(name string) (kernel, error) {
	var names []string
	for _, k := range kernels {
		if k.name == name {
			return k, nil
		}
		names = append(names, k.name)
	}
	return kernel{}, fmt.Errorf("no kernel %s: there are %s", name, strings.Join(names, ", "))
}

// account is the summary's last line.
var account = regexp.MustCompile(`(?m)^(\d+) passed, (\d+) failed, (\d+) skipped\n\z`)

// all tries one kernel after the other, and prints a table. Each is tried by a process of its own, whose results the summary counts.
func all(o options, names []string) error {
	if len(names) == 0 {
		for _, k := range kernels {
			names = append(names, k.name)
		}
	}
	for _, name := range names {
		if _, err := find(name); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var bad []string
	table := fmt.Sprintf("%-16s %6s %6s %7s %8s\n", "kernel", "passed", "failed", "skipped", "seconds")
	for _, name := range names {
		fmt.Printf("\n=== %s\n", name)
		began := time.Now()
		cmd := exec.Command(o.summary, self, "-boot", name, "-cache", o.cache, "-accel", o.accel, "-packages", o.packages, "-run", o.run, "-timeout", o.timeout.String())
		var text strings.Builder
		cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &text), os.Stderr
		err := cmd.Run()
		counts := account.FindStringSubmatch(text.String())
		if counts == nil {
			counts = []string{"", "-", "-", "-"}
			err = errors.Join(err, errors.New("nothing was counted"))
		}
		table += fmt.Sprintf("%-16s %6s %6s %7s %8.0f\n", name, counts[1], counts[2], counts[3], time.Since(began).Seconds())
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", name, err))
		}
	}
	fmt.Printf("\n%s", table)
	if bad != nil {
		return errors.New(strings.Join(bad, "; "))
	}
	return nil
}

// boot boots one.
func boot(o options) (err error) {
	k, err := find(o.boot)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "kstat-kernels-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	debs, err := fetch(o.cache, k.name)
	if err != nil {
		return err
	}
	more, err := fetch(o.cache, "tools-"+k.arch)
	if err != nil {
		return err
	}
	fmt.Println("build for", k.arch)
	todo, files, err := build(filepath.Join(dir, "bin"), k, o)
	if err != nil {
		return err
	}
	text, err := json.Marshal(todo)
	if err != nil {
		return err
	}
	texts := map[string]string{
		plan:         string(text),
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\ntcpdump:x:101:101::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"etc/group":  "root:x:0:\ntcpdump:x:101:\nnogroup:x:65534:\n",
		"etc/hosts":  "127.0.0.1 localhost\n::1 localhost\n",
	}
	boot, initrd, err := assemble(dir, filepath.Join(dir, "bin/kernels"), append(debs, more...), files, texts)
	if err != nil {
		return err
	}
	fmt.Println("boot", filepath.Base(debs[0]))
	m := machine{arch: k.arch, kernel: boot, initrd: initrd, console: filepath.Join(o.cache, k.name+".console"), timeout: o.timeout}
	return m.run(ctx, o.accel, os.Stdout)
}
