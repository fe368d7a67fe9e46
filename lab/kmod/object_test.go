package kmod

import (
	"bytes"
	"debug/elf"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The stand-in is a good relocatable file for every machine, and says there
// what it is.
func TestObject(t *testing.T) {
	for _, arch := range append(slices.Sorted(maps.Keys(machines)), "386") {
		data := object(arch, "6.18.0-test")
		f, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		m := machines[arch]
		if f.Class != elf.ELFCLASS64 || f.Type != elf.ET_REL || f.Machine != m.id || m.order != nil && f.ByteOrder != m.order {
			t.Errorf("%s: %+v", arch, f.FileHeader)
		}
		for _, s := range f.Sections[1:] {
			if s.Flags&elf.SHF_EXECINSTR != 0 || s.Size == 0 || s.Addralign > 0 && s.Offset%s.Addralign != 0 {
				t.Errorf("%s: section %+v", arch, s.SectionHeader)
			}
		}
		if symbols, err := f.Symbols(); err != nil || len(symbols) != 0 {
			t.Errorf("%s: symbols %v, %v", arch, symbols, err)
		}
		note, err := f.Section(".comment").Data()
		if err != nil || string(note) != objectNote+"\x00" {
			t.Errorf("%s: .comment %q, %v", arch, note, err)
		}
		fields, err := parseModinfo(bytes.NewReader(data))
		if err != nil || !slices.Contains(fields, field{"name", "kstat"}) || !slices.Contains(fields, field{"vermagic", "6.18.0-test stand-in "}) {
			t.Errorf("%s: fields %v, %v", arch, fields, err)
		}
	}
	if !bytes.Equal(Object(), object(runtime.GOARCH, kernelRelease())) {
		t.Error("Object is not of this machine")
	}
}

// The programs that people look into files with find nothing wrong in it.
func TestObjectTools(t *testing.T) {
	for _, arch := range slices.Sorted(maps.Keys(machines)) {
		path := filepath.Join(t.TempDir(), "kstat.ko")
		if err := os.WriteFile(path, object(arch, "6.18.0-test"), 0o644); err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		cmd := exec.Command(needReal(t, "readelf"), "-aW", "-p", ".modinfo", "-p", ".comment", path)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil || errs.Len() > 0 || bytes.Contains(out, []byte("orrupt")) {
			t.Errorf("%s: readelf: %v\n%s%s", arch, err, &errs, out)
		}
		for _, want := range []string{"REL (Relocatable file)", "name=kstat", objectNote[:40]} {
			if !bytes.Contains(out, []byte(want)) {
				t.Errorf("%s: readelf does not show %q:\n%s", arch, want, out)
			}
		}
		out, err = exec.Command(needReal(t, "file"), "-b", path).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "relocatable") {
			t.Errorf("%s: file: %v\n%s", arch, err, out)
		}
	}
}

// Whatever a file holds, modinfo comes to an end.
func FuzzModinfo(f *testing.F) {
	// Small ones: Go spends its time on making large ones smaller.
	f.Add(machines["amd64"].relocatable([]section{{".modinfo", progbits, cStrings("a=b", "name=kstat")}}))
	f.Add(machines["s390x"].relocatable(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		fields, err := parseModinfo(bytes.NewReader(data))
		for _, f := range fields {
			if strings.Contains(f.key+f.value, "\x00") {
				t.Errorf("%q", f)
			}
		}
		if err != nil && fields != nil {
			t.Errorf("%v and %v", fields, err)
		}
	})
}
