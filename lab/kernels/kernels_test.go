package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestMachine: a machine is good if its last line has come and it has ended, and only then. A shell script is qemu.
func TestMachine(t *testing.T) {
	for _, test := range []struct {
		name, does string
		accel      string
		want       string // of the error
		passed     string // on
	}{
		{"good", `say up; echo '{"Action":"pass"}'; echo '{"Action":"end"}'`, "tcg", "", `{"Action":"pass"}` + "\n"},
		{"panic", `say up; echo '{"Action":"pass"}'; say Kernel panic`, "tcg", "ended before its last line", `{"Action":"pass"}` + "\n"},
		{"half a line", `say up; printf '{"Action":"en'`, "tcg", "ended before its last line", `{"Action":"en`},
		{"hangs", `say up; exec sleep 60`, "tcg", "hung", ""},
		{"hangs at its end", `say up; echo '{"Action":"end"}'; exec sleep 60`, "tcg", "hung", ""},
		{"qemu fails at its end", `say up; echo '{"Action":"end"}'; exit 3`, "tcg", "exit status 3", ""},
		{"qemu refuses", `echo no such machine >&2; exit 1`, "tcg", "no such machine", ""},
		{"no kvm", `case "$*" in *"-accel kvm"*) echo 'KVM internal error' >&2; exec sleep 60;; esac; say up; echo '{"Action":"end"}'`, "auto", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			m := machine{arch: "arm64", console: filepath.Join(dir, "console"), timeout: time.Minute}
			if strings.Contains(test.want, "hung") {
				m.timeout = time.Second
			}
			program := "qemu-system-aarch64"
			accels := []string{test.accel}
			if test.accel == "auto" {
				accels = []string{"kvm", "tcg"}
			}
			script := fmt.Sprintf("#!/bin/sh\nsay() { echo \"kernels: $*\" >> %s; }\n%s\n", m.console, test.does)
			must(t, os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755))
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			var got bytes.Buffer
			err := m.runBy(t.Context(), accels, &got)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if got.String() != test.passed {
				t.Errorf("passed on %q, want %q", &got, test.passed)
			}
		})
	}
}

// TestAccount: what the summary says last is found, and nothing else is taken for it.
func TestAccount(t *testing.T) {
	for text, want := range map[string]string{
		"ok\n\n12 passed, 0 failed, 1 skipped\n":   "12 0 1",
		"12 passed, 0 failed, 1 skipped\nkilled\n": "",
		"": "",
	} {
		got := ""
		if m := account.FindStringSubmatch(text); m != nil {
			got = strings.Join(m[1:], " ")
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestPins: every kernel and its tools are pinned, to what the table says.
func TestPins(t *testing.T) {
	all, err := pins()
	must(t, err)
	count := map[string]int{}
	for _, p := range all {
		count[p.name]++
	}
	for _, k := range kernels {
		if count[k.name] == 0 || count["tools-"+k.arch] == 0 {
			t.Errorf("%s: nothing is pinned", k.name)
		}
		release := regexp.MustCompile(`linux-image-(unsigned-)?` + k.release + `_.*_` + k.arch + `\.deb$`)
		found := false
		for _, p := range all {
			found = found || p.name == k.name && release.MatchString(p.url)
		}
		if !found {
			t.Errorf("%s: no linux-image-%s is pinned", k.name, k.release)
		}
	}
}

// TestImage: the initramfs is what the kernel's format says, and its second file is the root directory.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	name, init := filepath.Join(dir, "initrd"), filepath.Join(dir, "program")
	must(t, os.WriteFile(init, []byte("a program"), 0o755))
	im, err := newImage(name, init)
	must(t, err)
	must(t, im.write("src/hook/file", 0o640, []byte("text")), im.end())
	text, err := os.ReadFile(name)
	must(t, err)
	files := map[string][]byte{}
	for at := 0; ; {
		h := text[at:]
		if string(h[:6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		number := func(field int) int {
			n, err := strconv.ParseUint(string(h[6+8*field:14+8*field]), 16, 32)
			must(t, err)
			return int(n)
		}
		size, length := number(6), number(11)
		file := string(h[110 : 110+length-1])
		if file == "TRAILER!!!" {
			break
		}
		begin := (at + 110 + length + 3) &^ 3
		files[file] = text[begin : begin+size]
		at = (begin + size + 3) &^ 3
	}
	if string(files["init"]) != "a program" {
		t.Errorf("init is %q", files["init"])
	}
	for r := tar.NewReader(bytes.NewReader(files["root.tar"])); ; {
		h, err := r.Next()
		must(t, err)
		if h.Name == "src/hook/file" {
			got, err := io.ReadAll(r)
			must(t, err)
			if string(got) != "text" || h.Mode != 0o640 {
				t.Errorf("the file is %q, mode %o", got, h.Mode)
			}
			return
		}
	}
}

// TestBootable: a kernel that unpacks itself under EFI is unpacked, another one is left.
func TestBootable(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write([]byte("a kernel"))
	must(t, err, w.Close())
	efi := make([]byte, 64, 64+packed.Len())
	copy(efi, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(efi[8:], 64)
	binary.LittleEndian.PutUint32(efi[12:], uint32(packed.Len()))
	copy(efi[24:], "gzip")
	efi = append(efi, packed.Bytes()...)
	other := bytes.Repeat([]byte("x"), 100)
	for _, test := range []struct{ in, want []byte }{{efi, []byte("a kernel")}, {other, other}, {efi[:len(efi)-1], nil}} {
		got, err := bootable(test.in)
		if !bytes.Equal(got, test.want) || (err != nil) != (test.want == nil) {
			t.Errorf("got %q, %v, want %q", got, err, test.want)
		}
	}
}

// TestPackages: what is to run in a machine exists, and so do the tests that are left out.
func TestPackages(t *testing.T) {
	for _, p := range packages {
		files, err := filepath.Glob("../../" + p.name + "/*_test.go")
		must(t, err)
		var all []byte
		for _, f := range files {
			text, err := os.ReadFile(f)
			must(t, err)
			all = append(all, text...)
		}
		if all == nil {
			t.Errorf("%s has no tests", p.name)
		}
		for _, l := range p.left {
			if !bytes.Contains(all, []byte("\nfunc "+l.test+"(")) {
				t.Errorf("%s has no %s", p.name, l.test)
			}
		}
	}
}
