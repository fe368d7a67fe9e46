package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
)

// An image is what a machine boots from: an initramfs of two files, /init and /root.tar, which is unpacked by init. Files on a
// rootfs cannot be all that files are: nothing can be mounted in the place of it.
type image struct {
	file  *os.File
	begin int64 // of root.tar's header
	root  *tar.Writer
	made  map[string]bool // directories
}

// newImage begins an image with this program as its init.
func newImage(name, init string) (*image, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(init)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	im := &image{file: f, made: map[string]bool{}}
	if _, err = f.WriteString(header("init", 0o100755, int64(len(program)))); err == nil {
		_, err = f.Write(program)
	}
	if err == nil {
		im.begin, err = im.pad()
	}
	if err == nil {
		_, err = f.WriteString(header("root.tar", 0o100644, 0))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	im.root = tar.NewWriter(f)
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "root", "etc", "var/tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"} {
		if err := im.dir(dir); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := im.link(name, "usr/"+name); err != nil {
			return nil, err
		}
	}
	return im, nil
}

// header is that of a file in a cpio archive of the format newc: see the kernel's driver-api/early-userspace/buffer-format.rst.
func header(name string, mode, size int64) string {
	h := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", 1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	return h + strings.Repeat("\x00", -len(h)&3)
}

// pad fills up to a multiple of 4 bytes, and returns where that is.
func (im *image) pad() (int64, error) {
	at, err := im.file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = im.file.Write(make([]byte, -at&3))
	}
	return at + -at&3, err
}

// end completes the image.
func (im *image) end() error {
	err := im.root.Close()
	var at int64
	if err == nil {
		at, err = im.file.Seek(0, io.SeekEnd)
	}
	if err == nil {
		_, err = im.file.WriteAt([]byte(header("root.tar", 0o100644, at-im.begin-int64(len(header("root.tar", 0, 0))))), im.begin)
	}
	if err == nil {
		_, err = im.pad()
	}
	if err == nil {
		_, err = im.file.WriteString(header("TRAILER!!!", 0, 0))
	}
	return errors.Join(err, im.file.Close())
}

// dir makes a directory and those above it.
func (im *image) dir(name string) error {
	if name == "." || name == "/" || im.made[name] {
		return nil
	}
	if err := im.dir(path.Dir(name)); err != nil {
		return err
	}
	im.made[name] = true
	mode := int64(0o755)
	if name == "tmp" || name == "var/tmp" {
		mode = 0o1777
	}
	return im.root.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

func (im *image) link(name, target string) error {
	if err := im.dir(path.Dir(name)); err != nil {
		return err
	}
	return im.root.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

func (im *image) write(name string, mode int64, text []byte) error {
	if err := im.dir(path.Dir(name)); err != nil {
		return err
	}
	if err := im.root.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text))}); err != nil {
		return err
	}
	_, err := im.root.Write(text)
	return err
}

// copy puts a file of this machine's there.
func (im *image) copy(name, from string) error {
	if target, err := os.Readlink(from); err == nil {
		return im.link(name, target)
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return im.write(name, int64(info.Mode().Perm()), text)
}

// wanted are the modules that a test or the machine may ask for, by their own names or those above them.
var wanted = regexp.MustCompile(`^usr/lib/modules/[^/]+/(modules\.[^/]*$|kernel/(net/(?:netfilter|ipv4|ipv6|core|sched|802|8021q|llc|bridge|bpf|xfrm)/|lib/|crypto/|fs/(fuse|overlayfs|squashfs|ext4|jbd2)/|fs/mbcache|drivers/(virtio|char|block/(loop|virtio_blk)|net/(veth|dummy|ifb|tun|virtio_net|net_failover|bonding|macvlan|vxlan))|drivers/tty/serial/|drivers/firmware/|net/core/))`)

// unpack adds what is in a Debian package and is wanted, with everything below /usr as Debian 12 has it, and returns the kernel
// if there is one in it.
func (im *image) unpack(deb string) (kernel []byte, err error) {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cmd.Wait()) }()
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, out)
			return kernel, err
		}
		if err != nil {
			return nil, err
		}
		name := merged(h.Name)
		switch {
		case strings.HasPrefix(name, "boot/vmlinuz-"), path.Base(name) == "vmlinuz" && strings.HasPrefix(name, "usr/lib/modules/"):
			if kernel, err = io.ReadAll(r); err != nil {
				return nil, err
			}
			continue
		case strings.HasPrefix(name, "boot/"), strings.HasPrefix(name, "usr/share/doc/"), strings.HasPrefix(name, "usr/share/man/"),
			strings.HasPrefix(name, "usr/share/locale/"), strings.HasPrefix(name, "usr/lib/modules/") && !wanted.MatchString(name):
			continue
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = im.dir(name)
		case tar.TypeSymlink:
			err = im.link(name, h.Linkname)
		case tar.TypeLink:
			err = im.link(name, "/"+merged(h.Linkname))
		case tar.TypeReg:
			if err = im.dir(path.Dir(name)); err == nil {
				err = im.root.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: h.Mode & 0o7777, Size: h.Size})
			}
			if err == nil {
				_, err = io.Copy(im.root, r)
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

// merged is a path as it is where /bin is a link to /usr/bin.
func merged(name string) string {
	name = path.Clean(strings.TrimPrefix(name, "./"))
	for _, top := range []string{"bin", "sbin", "lib", "lib64"} {
		if name == top || strings.HasPrefix(name, top+"/") {
			return "usr/" + name
		}
	}
	return name
}
