package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
	"strings"
)

// Object returns a stand-in for kstat.ko, in this machine's format: what
// modinfo, insmod and a person want to see of a module, and no code. No kernel
// loads it, as it has no .gnu.linkonce.this_module, which is the module itself.
func Object() []byte { return object(runtime.GOARCH, kernelRelease()) }

// Version is the module's, as its file and sysfs say.
const Version = "1"

const objectNote = "Not a kernel module, but a stand-in for kstat.ko: it holds no code. Inside kstat run, insmod and modprobe take it for the module."

// machine is how an architecture of Go's says in ELF what it is.
type machine struct {
	id    elf.Machine
	order binary.ByteOrder
	flags uint32
}

var machines = map[string]machine{
	"amd64":    {elf.EM_X86_64, binary.LittleEndian, 0},
	"arm64":    {elf.EM_AARCH64, binary.LittleEndian, 0},
	"loong64":  {elf.EM_LOONGARCH, binary.LittleEndian, 0x43}, // EF_LOONGARCH_OBJABI_V1, LP64D
	"mips64":   {elf.EM_MIPS, binary.BigEndian, 0x80000000},   // EF_MIPS_ARCH_64R2
	"mips64le": {elf.EM_MIPS, binary.LittleEndian, 0x80000000},
	"ppc64":    {elf.EM_PPC64, binary.BigEndian, 1}, // the ELF ABI's version
	"ppc64le":  {elf.EM_PPC64, binary.LittleEndian, 2},
	"riscv64":  {elf.EM_RISCV, binary.LittleEndian, 0},
	"s390x":    {elf.EM_S390, binary.BigEndian, 0},
}

// object makes the stand-in for an architecture and a kernel. Where Go runs on
// 32 bits, or on what is not listed, it belongs to no machine.
func object(arch, release string) []byte {
	m, known := machines[arch]
	if !known {
		m = machine{elf.EM_NONE, binary.LittleEndian, 0}
	}
	modinfo := cStrings(
		"version="+Version,
		"description=Stand-in for the kstat module in kstat run; holds no code",
		"author=The kstat authors",
		"license=Dual MIT/GPL",
		"parm=counter:publish after this many packets",
		"parmtype=counter:uint",
		"parm=start:1 while packets are counted, 0 while not",
		"parmtype=start:int",
		"depends=",
		"name="+module,
		"vermagic="+release+" stand-in ",
	)
	return m.relocatable([]section{
		{".modinfo", elf.Section64{Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Addralign: 1}, modinfo},
		{".comment", elf.Section64{Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_MERGE | elf.SHF_STRINGS), Addralign: 1, Entsize: 1}, cStrings(objectNote)},
		// One symbol, which every table begins with, and its empty name.
		{".symtab", elf.Section64{Type: uint32(elf.SHT_SYMTAB), Link: 4, Info: 1, Addralign: 8, Entsize: elf.Sym64Size}, make([]byte, elf.Sym64Size)},
		{".strtab", elf.Section64{Type: uint32(elf.SHT_STRTAB), Addralign: 1}, []byte{0}},
	})
}

// section is a section to be written: the header less its name, place and size.
type section struct {
	name   string
	header elf.Section64
	data   []byte
}

// relocatable lays out a file: the header, the sections' contents, the names
// of the sections, and the table of the sections, which the null section begins.
func (m machine) relocatable(sections []section) []byte {
	sections = append(sections, section{".shstrtab", elf.Section64{Type: uint32(elf.SHT_STRTAB), Addralign: 1}, nil})
	names := []byte{0}
	headers := make([]elf.Section64, 1, 1+len(sections))
	for _, s := range sections {
		s.header.Name = uint32(len(names))
		names = append(names, s.name+"\x00"...)
		headers = append(headers, s.header)
	}
	sections[len(sections)-1].data = names

	header := elf.Header64{
		Ident:     [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:      uint16(elf.ET_REL),
		Machine:   uint16(m.id),
		Version:   uint32(elf.EV_CURRENT),
		Flags:     m.flags,
		Ehsize:    uint16(binary.Size(elf.Header64{})),
		Shentsize: uint16(binary.Size(elf.Section64{})),
		Shnum:     uint16(len(headers)),
		Shstrndx:  uint16(len(headers) - 1),
	}
	if m.order == binary.BigEndian {
		header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}

	var body bytes.Buffer
	at := func() uint64 { return uint64(header.Ehsize) + uint64(body.Len()) }
	align := func(n uint64) { body.Write(make([]byte, -at()&(n-1))) }
	for i, s := range sections {
		align(s.header.Addralign)
		headers[i+1].Off, headers[i+1].Size = at(), uint64(len(s.data))
		body.Write(s.data)
	}
	align(8)
	header.Shoff = at()

	var file bytes.Buffer
	// A Buffer takes everything, and these are structs of fixed size.
	_ = binary.Write(&file, m.order, header)
	file.Write(body.Bytes())
	_ = binary.Write(&file, m.order, headers)
	return file.Bytes()
}

// cStrings puts a NUL behind each string.
func cStrings(s ...string) []byte { return []byte(strings.Join(s, "\x00") + "\x00") }
