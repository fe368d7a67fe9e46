package main

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// packages are those whose tests run in the machine, but for some.
var packages = []struct {
	name string
	left []left
}{
	{"stats", nil},
	{"fs", nil},
	{"hook", []left{
		{"TestAllocsPerPacket", "counts what is allocated each quarter of a second, too, in which an emulated processor takes few packets"},
	}},
	{"cmd/kstatd", []left{
		{"TestFaultStartUp", "traces a hundred starts: ten minutes where it is emulated"},
		{"TestFaultStartUpCalls", "traces one, which takes longer than its watchdogs wait"},
		{"TestFleet", "wants Prometheus and VictoriaMetrics"},
		{"TestPromtool", "wants Prometheus"},
		{"TestPage", "wants Chromium"},
	}},
}

// left is a test that is left out, and why.
type left struct{ test, why string }

// stories are the README's demo, and that of a person, by each engine. The first is told without nft's queue expression.
func stories(k kernel) []step {
	of := func(name string, args ...string) step {
		return step{Package: "story/" + name, Test: "Story", Dir: "/", Args: args, Timeout: 3 * time.Minute}
	}
	tell := func(name string, args ...string) step {
		return of(name, append([]string{"/init", "-story"}, args...)...)
	}
	steps := []step{
		of("nfqueue-by-target", "sh", "-ec", `trap 'rm /etc/modprobe.d/none.conf' EXIT
echo "install nft_queue /bin/false" > /etc/modprobe.d/none.conf
! test -e /sys/module/nft_queue
/init -story nfqueue nfqueue `+k.target),
		tell("nfqueue", "nfqueue", "nfqueue", "nft_queue"),
	}
	engines := []string{"nfqueue", "auto"}
	if k.bpf {
		engines = append(engines, "bpf")
		steps = append(steps, tell("bpf", "bpf", "bpf"), tell("auto", "auto", "bpf"), of("bpf-often", "/init", "-often", "30", "-story", "bpf", "bpf"))
	} else {
		steps = append(steps, tell("bpf-refused", "bpf"), tell("auto", "auto", "nfqueue", "nft_queue"))
	}
	for _, engine := range engines {
		steps = append(steps, of("demo-"+engine, "demo", "-kstatd", "/usr/local/sbin/kstatd", "-engine", engine))
	}
	return steps
}

// build builds everything for the kernel's architecture, and returns what is to be run and the files for it.
func build(dir string, k kernel, o options) ([]step, map[string]string, error) {
	gobuild := func(args ...string) error {
		cmd := exec.Command("tools/go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+k.arch)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	if err := gobuild("build", "-trimpath", "-o", dir+"/", "cmd/test2json", "./cmd/kstatd", "./cmd/kstat", "./lab/demo", "./lab/kernels"); err != nil {
		return nil, nil, err
	}
	files := map[string]string{"usr/local/bin/test2json": dir + "/test2json", "usr/local/sbin/kstatd": dir + "/kstatd", "usr/local/bin/kstat": dir + "/kstat", "usr/local/bin/demo": dir + "/demo"}
	files["init"] = dir + "/kernels"
	listed, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(listed), "\x00"), "\x00") {
		files["src/"+name] = name
	}
	var todo []step
	asked := strings.Split(o.packages, ",")
	if o.packages == "" || slices.Contains(asked, "story") {
		todo = append(todo, stories(k)...)
	}
	for _, p := range packages {
		if o.packages != "" && !slices.Contains(asked, p.name) {
			continue
		}
		name := filepath.Join(dir, path.Base(p.name)+".test")
		if err := gobuild("test", "-c", "-trimpath", "-o", name, "./"+p.name); err != nil {
			return nil, nil, err
		}
		inside := "src/" + p.name + "/" + path.Base(p.name) + ".test"
		files[inside] = name
		args := []string{"./" + path.Base(inside), "-test.v=test2json", "-test.timeout=20m", "-test.run=" + o.run}
		var skip []string
		for _, l := range p.left {
			fmt.Printf("left out: %s %s: %s\n", p.name, l.test, l.why)
			skip = append(skip, l.test)
		}
		if skip != nil {
			args = append(args, "-test.skip=^("+strings.Join(skip, "|")+")$")
		}
		todo = append(todo, step{Package: p.name, Dir: "/src/" + p.name, Args: args, Timeout: 21 * time.Minute})
	}
	return todo, files, nil
}
