package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// checkPrivileges says what is missing to run, and how to get it.
func checkPrivileges() error {
	have, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	var missing []string
	for _, need := range []struct {
		bit  int
		name string
	}{
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN (to queue packets)"},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN (to mount)"},
	} {
		if have&(1<<need.bit) == 0 {
			missing = append(missing, need.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not privileged: %s missing; run it with sudo, or where it cannot touch the host: unshare -Urnm kstatd …",
			strings.Join(missing, " and "))
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return errors.New("this kernel offers no FUSE: load it with modprobe fuse, or give the container /dev/fuse")
	case err != nil:
		return fmt.Errorf("no access to FUSE: %w; run it with sudo, or chmod 666 /dev/fuse to let users mount in their own namespaces", err)
	}
	return f.Close()
}

// effectiveCapabilities returns the process's effective capabilities, one bit
// each.
func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}
