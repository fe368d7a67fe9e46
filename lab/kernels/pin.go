package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	debian   = "http://deb.debian.org/debian"
	security = "http://deb.debian.org/debian-security"
	ubuntu   = "http://archive.ubuntu.com/ubuntu"
)

// tools are the packages that the tests use in the machine, from Debian 12.
var tools = []string{
	"bash", "coreutils", "curl", "dash", "diffutils", "e2fsprogs", "findutils", "gawk", "grep", "iproute2", "iptables", "kmod", "login", "mount", "nftables", "passwd",
	"procps", "psmisc", "python3-minimal", "sed", "strace", "sudo", "tcpdump", "tshark", "util-linux",
}

// an entry is a package in an index.
type entry struct{ name, version, depends, provides, file, sha256, base string }

// repin writes anew what is pinned: of each kernel the newest that its suite has, and the tools with all they depend on.
func repin(path string) error {
	var out strings.Builder
	out.WriteString("# Written by: go run ./lab/kernels -pin\n# kernel or tools-ARCH, sha256, address\n")
	line := func(name string, e entry) {
		fmt.Fprintf(&out, "%s %s %s/%s\n", name, e.sha256, e.base, e.file)
	}
	for _, k := range kernels {
		all, err := index(k.base, k.suite, k.arch)
		if err != nil {
			return err
		}
		image := newest(all, regexp.MustCompile(`^linux-image-(?:unsigned-)?(`+k.release+`)$`))
		if image == nil {
			return fmt.Errorf("%s: no linux-image-%s in %s", k.name, k.release, k.suite)
		}
		release := regexp.MustCompile(k.release + `$`).FindString(image.name)
		line(k.name, *image)
		for _, part := range []string{"base", "binary", "modules"} {
			if e, ok := all["linux-"+part+"-"+release]; ok {
				line(k.name, e)
			}
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		all, err := index(debian, "bookworm", arch)
		if err != nil {
			return err
		}
		for _, name := range tools {
			if _, ok := all[name]; !ok {
				return fmt.Errorf("bookworm has no %s for %s", name, arch)
			}
		}
		for _, e := range closure(all, tools) {
			line("tools-"+arch, e)
		}
	}
	return os.WriteFile(path, []byte(out.String()), 0o644)
}

// index is what a suite has in main, by name; of several versions the newest.
func index(base, suite, arch string) (map[string]entry, error) {
	url := fmt.Sprintf("%s/dists/%s/main/binary-%s/Packages.xz", base, suite, arch)
	fmt.Println("read", url)
	body, err := get(context.Background(), url)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	defer body.Close()
	xz := exec.Command("xz", "-dc")
	xz.Stdin = body
	text, err := xz.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: xz: %w", url, err)
	}
	all := map[string]entry{}
	e := entry{base: base}
	for s := bufio.NewReader(strings.NewReader(string(text))); ; {
		text, err := s.ReadString('\n')
		key, value, _ := strings.Cut(strings.TrimSpace(text), ": ")
		switch key {
		case "Package":
			e.name = value
		case "Version":
			e.version = value
		case "Depends", "Pre-Depends":
			e.depends += "," + value
		case "Provides":
			e.provides = value
		case "Filename":
			e.file = value
		case "SHA256":
			e.sha256 = value
		case "":
			if old, ok := all[e.name]; e.name != "" && (!ok || compare(e.version, old.version) > 0) {
				all[e.name] = e
			}
			e = entry{base: base}
		}
		if err == io.EOF {
			return all, nil
		}
	}
}

// newest is the package of the highest version whose name fits.
func newest(all map[string]entry, name *regexp.Regexp) *entry {
	var best *entry
	for _, e := range all {
		if name.MatchString(e.name) && (best == nil || compare(e.version, best.version) > 0) {
			best = &e
		}
	}
	return best
}

var digits = regexp.MustCompile(`\d+`)

// compare orders versions by the numbers in them, which is enough for kernels.
func compare(a, b string) int {
	return slices.CompareFunc(digits.FindAllString(a, -1), digits.FindAllString(b, -1), func(a, b string) int {
		x, _ := strconv.Atoi(a)
		y, _ := strconv.Atoi(b)
		return cmp.Compare(x, y)
	})
}

// unneeded are for the installation of others.
var unneeded = []string{"adduser", "debconf", "usrmerge"}

// closure is what these packages need, themselves among it, the first of alternatives.
func closure(all map[string]entry, names []string) []entry {
	provider := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for p := range strings.SplitSeq(all[name].provides, ",") {
			if p, _, _ := strings.Cut(strings.TrimSpace(p), " "); p != "" && provider[p] == "" {
				provider[p] = name
			}
		}
	}
	found := map[string]entry{}
	for queue := slices.Clone(names); len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		if _, ok := all[name]; !ok {
			name = provider[name]
		}
		e, ok := all[name]
		if _, done := found[name]; done || !ok || slices.Contains(unneeded, name) {
			continue
		}
		found[name] = e
		for d := range strings.SplitSeq(e.depends, ",") {
			first, _, _ := strings.Cut(strings.TrimSpace(d), "|")
			first, _, _ = strings.Cut(strings.TrimSpace(first), " ")
			if first, _, _ = strings.Cut(first, ":"); first != "" {
				queue = append(queue, first)
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b entry) int { return strings.Compare(a.name, b.name) })
}
