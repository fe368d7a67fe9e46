//go:build !race

package packaging

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"kstat/lab/sandbox"
)

// TestReproducible: another folder, and another compilation of everything that
// is ours, give the same bytes.
func TestReproducible(t *testing.T) {
	first := packages(t)
	elsewhere := copied(t)

	// The modules' objects may come from the cache: it is one folder for both
	// builds. Ours may not, or the first build would be compared with itself.
	env := func(name string) string {
		return strings.TrimSpace(output(t, sandbox.Command("../../tools/go", "env", name)))
	}
	cache, changes := overlay(t, env("GOCACHE"))
	list := sandbox.Command("../../tools/go", "list", "-trimpath", "-buildvcs=false", "-deps", "-export", "-f",
		`{{with .Module}}{{if .Main}}{{$.Export}}{{end}}{{end}}`, "kstat/cmd/kstat", "kstat/cmd/kstatd")
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0")
	objects := strings.Fields(output(t, list))
	if len(objects) < 10 {
		t.Fatalf("%d packages of ours in the cache: %q", len(objects), objects)
	}
	for i, object := range objects {
		relative, err := filepath.Rel(env("GOCACHE"), object)
		must(t, err, os.Remove(filepath.Join(cache, relative)))
		objects[i] = relative
	}

	second := filepath.Join(t.TempDir(), "dist")
	// Nor does somebody else's environment make a difference.
	theirs := []string{"GOCACHE=" + cache, "CGO_ENABLED=1", "GOAMD64=v3", "GOFLAGS=-tags=none", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8", "GOMAXPROCS=3"}
	if said, err := releasing(elsewhere, second, "packages", theirs...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, object := range objects {
		if info, err := os.Lstat(filepath.Join(changes, object)); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s was not compiled again: %v", object, err)
		}
	}
	want, err := os.ReadFile(filepath.Join(first, "SHA256SUMS"))
	must(t, err)
	got, err := os.ReadFile(filepath.Join(second, "SHA256SUMS"))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("built elsewhere:\n%s\nhere:\n%s", got, want)
	}
	if lines := strings.Count(string(want), "\n"); lines != 4 {
		t.Errorf("%d files, want a .deb, an .rpm and two lists:\n%s", lines, want)
	}
	check := sandbox.Command("sha256sum", "--check", "--quiet", "SHA256SUMS")
	check.Dir = second
	output(t, check)
	entries, err := os.ReadDir(second)
	must(t, err)
	if len(entries) != 5 {
		t.Errorf("%v is there, want SHA256SUMS and what is in it", entries)
	}
}

// unpacked returns what is in the .deb.
func unpacked(t testing.TB) string {
	t.Helper()
	need(t, "dpkg:/usr/bin/dpkg-deb")
	dir := t.TempDir()
	output(t, sandbox.Command("dpkg-deb", "-x", debFile(t), dir))
	return dir
}

func TestStatic(t *testing.T) {
	root := unpacked(t)
	for _, program := range []string{"usr/bin/kstat", "usr/sbin/kstatd"} {
		file, err := elf.Open(filepath.Join(root, program))
		must(t, err)
		for _, p := range file.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s has %v: it is not static", program, p.Type)
			}
		}
		must(t, file.Close())
		info, err := buildinfo.ReadFile(filepath.Join(root, program))
		must(t, err)
		for _, want := range []string{"CGO_ENABLED=0", "-trimpath=true"} {
			key, value, _ := strings.Cut(want, "=")
			if !slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == key && s.Value == value }) {
				t.Errorf("%s was built without %s: %v", program, want, info.Settings)
			}
		}
		name := filepath.Base(program)
		if got := output(t, sandbox.Command(filepath.Join(root, program), "--version")); got != name+" "+release+"\n" {
			t.Errorf("%s --version: %q", program, got)
		}
		body, err := os.ReadFile(filepath.Join(root, program))
		must(t, err)
		here, err := filepath.Abs(checkout)
		must(t, err)
		if bytes.Contains(body, []byte(here+"/")) {
			t.Errorf("%s has %s in it", program, here)
		}
	}
}

// TestSBOM: the list of what is in a program is what the program says of
// itself, in CycloneDX's form, and has nothing that changes from run to run.
func TestSBOM(t *testing.T) {
	root := unpacked(t)
	where := sandbox.Command("../../tools/go", "list", "-modfile=tools/package/go.mod", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go")
	where.Dir = checkout
	where.Path, _ = filepath.Abs("../../tools/go")
	schemas := filepath.Join(strings.TrimSpace(output(t, where)), "schema")
	compiler := jsonschema.NewCompiler()
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		text, err := os.ReadFile(filepath.Join(schemas, file))
		must(t, err)
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		must(t, err, compiler.AddResource("http://cyclonedx.org/schema/"+name, document))
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	must(t, err)

	notices := strings.Split(output(t, sandbox.Command("zcat", filepath.Join(root, "usr/share/doc/kstatd/modules.txt.gz"))), "\n=== ")
	licensed := func(module string) bool {
		return slices.ContainsFunc(notices, func(s string) bool {
			title, text, _ := strings.Cut(s, "\n")
			return title == module && strings.Contains(text, "opyright") && len(text) > 500
		})
	}
	for name, program := range map[string]string{"kstat": "usr/bin/kstat", "kstatd": "usr/sbin/kstatd"} {
		text, err := os.ReadFile(only(t, filepath.Join(packages(t), name+"-"+release+"-linux-*.cdx.json")))
		must(t, err)
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		must(t, err, schema.Validate(document))
		var bom struct {
			SerialNumber string
			Metadata     struct {
				Timestamp  string
				Component  struct{ Name, Version string }
				Properties []struct{ Name, Value string }
			}
			Components []struct{ Name, Version string }
		}
		must(t, json.Unmarshal(text, &bom))
		if bom.SerialNumber != "" || bom.Metadata.Timestamp != "" {
			t.Errorf("%s: serial number %q, time %q: not the same twice", name, bom.SerialNumber, bom.Metadata.Timestamp)
		}
		if c := bom.Metadata.Component; c.Name != "kstat" || c.Version != release {
			t.Errorf("%s: a list of %v, want kstat %s", name, c, release)
		}
		info, err := buildinfo.ReadFile(filepath.Join(root, program))
		must(t, err)
		want := []string{"std " + info.GoVersion}
		for _, module := range info.Deps {
			want = append(want, module.Path+" "+module.Version)
			if !licensed(module.Path + "@" + module.Version) {
				t.Errorf("modules.txt.gz has no license of %s", module.Path)
			}
		}
		var got []string
		for _, c := range bom.Components {
			got = append(got, c.Name+" "+c.Version)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, and the program says %q", name, got, want)
		}
		body, err := os.ReadFile(filepath.Join(root, program))
		must(t, err)
		sum := fmt.Sprintf("%x", sha256.Sum256(body))
		if !slices.ContainsFunc(bom.Metadata.Properties, func(p struct{ Name, Value string }) bool {
			return p.Name == "cdx:gomod:binary:hash:SHA-256" && p.Value == sum
		}) {
			t.Errorf("%s: the list is not that of the packaged program, %s: %v", name, sum, bom.Metadata.Properties)
		}
	}
}

// tree lists files, links and what is empty, below a folder.
func tree(t testing.TB, root string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			name, _ := filepath.Rel(root, path)
			names = append(names, name)
		}
		return nil
	}))
	return names
}

// TestInstall: make uninstall takes away what make install has put, and
// nothing else.
func TestInstall(t *testing.T) {
	need(t, "make:/usr/bin/make", "man-db:/usr/bin/man")
	dir := copied(t)
	root := filepath.Join(t.TempDir(), "root")
	theirs := []string{"opt/k/bin/other", "opt/k/share/doc/kstatd/mine", "opt/k/share/man/man1/other.1"}
	for _, name := range theirs {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755), os.WriteFile(filepath.Join(root, name), nil, 0o644))
	}
	run := func(target string) {
		t.Helper()
		cmd := sandbox.Command("make", "-s", target, "DESTDIR="+root, "PREFIX=/opt/k", "VERSION="+release)
		cmd.Dir = dir
		output(t, cmd)
	}
	run("install")
	installed := tree(t, root)
	for _, name := range []string{
		"opt/k/bin/kstat", "opt/k/sbin/kstatd", "opt/k/lib/systemd/system/kstatd.service", "opt/k/lib/tmpfiles.d/kstatd.conf",
		"opt/k/share/man/man1/kstat.1", "opt/k/share/man/man1/kstat-run.1", "opt/k/share/man/man5/kstat.5", "opt/k/share/man/man8/kstatd.8",
		"opt/k/share/bash-completion/completions/kstatd", "opt/k/share/zsh/site-functions/_kstat", "opt/k/share/fish/vendor_completions.d/kstat.fish",
		"opt/k/share/doc/kstatd/README.md", "opt/k/share/doc/kstatd/docs/contract.md",
	} {
		if !slices.Contains(installed, name) {
			t.Errorf("%s is not installed, but %q", name, installed)
		}
	}
	if got := output(t, sandbox.Command(filepath.Join(root, "opt/k/sbin/kstatd"), "--version")); got != "kstatd "+release+"\n" {
		t.Errorf("kstatd --version: %q", got)
	}
	unit, err := os.ReadFile(filepath.Join(root, "opt/k/lib/systemd/system/kstatd.service"))
	must(t, err)
	for _, line := range []string{"\nExecStart=/opt/k/sbin/kstatd --mount /run/kstat $KSTATD_FLAGS\n", " file:/opt/k/share/doc/kstatd/README.md\n"} {
		if !strings.Contains(string(unit), line) {
			t.Errorf("the unit lacks %q:\n%s", line, unit)
		}
	}
	find := sandbox.Command("man", "-w", "5", "kstat")
	find.Env = append(os.Environ(), "MANPATH="+filepath.Join(root, "opt/k/share/man"))
	if got, want := output(t, find), filepath.Join(root, "opt/k/share/man/man5/kstat.5")+"\n"; got != want {
		t.Errorf("man finds %q, want %q", got, want)
	}

	brokenLinks(t, filepath.Join(root, "opt/k/share/doc/kstatd"))

	run("uninstall")
	if left := tree(t, root); !slices.Equal(left, theirs) {
		t.Errorf("left: %q, want %q", left, theirs)
	}
}

// brokenLinks follows the links between installed texts.
func brokenLinks(t testing.TB, root string) {
	t.Helper()
	links := 0
	for _, name := range tree(t, root) {
		if filepath.Ext(name) != ".md" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		must(t, err)
		for _, found := range regexp.MustCompile(`\]\(([^)#\s]+)`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), found[1])); err != nil {
				t.Errorf("%s leads to %s, which is not installed", name, found[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("%d links in all", links)
	}
}

// TestReleaseRefused: what git does not know cannot be released, and no folder
// is emptied for it.
func TestReleaseRefused(t *testing.T) {
	dir := copied(t)
	dist := filepath.Join(t.TempDir(), "dist")
	refused := func(says, what string, more ...string) {
		t.Helper()
		cmd := releasing(dir, dist, what, more...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		if status := cmd.ProcessState.ExitCode(); status != 1 || stderr.String() != says+"\n" {
			t.Errorf("%v: %s; want status 1 and %s", err, stderr.Bytes(), says)
		}
	}
	refused("release: this is no checkout that git knows, so it has no version: name one, as in make release VERSION=v0.1.0", "all", "VERSION=")

	git := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(output(t, sandbox.Command("git", append([]string{"-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=e@localhost", "-C", dir}, args...)...)))
	}
	git("init", "-q")
	git("add", "-A")
	git("commit", "-q", "-m", "all")
	git("-c", "tag.gpgsign=false", "tag", "v7.0.0")
	must(t, os.WriteFile(filepath.Join(dir, "cmd/kstatd/more.go"), []byte("package main\n"), 0o644))
	refused("release: the checkout is not its commit (v7.0.0): commit, stash or remove ?? cmd/kstatd/more.go", "all", "VERSION=")
	must(t, os.Remove(filepath.Join(dir, "cmd/kstatd/more.go")), os.WriteFile(filepath.Join(dir, "LICENSE"), nil, 0o644))
	refused("release: the checkout is not its commit (v7.0.0-dirty): commit, stash or remove  M LICENSE", "all", "VERSION=")

	must(t, os.Mkdir(dist, 0o755), os.WriteFile(filepath.Join(dist, "mine"), nil, 0o644))
	refused("release: DIST="+dist+" is not empty: name another folder, or remove what is in it", "packages")
	if got := tree(t, dist); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("in %s: %q", dist, got)
	}
}
