package kmod

import (
	"os"
	"slices"
)

// depmod leaves the work to the host's. Without one, or without a directory of
// modules, which a container seldom has, there is no work: kstat has no
// dependencies, and is found without an index.
func (t *tool) depmod() int {
	plain := []string{"-a", "--all", "-A", "--quick", "-e", "-w", "--warn", "-v", "--verbose", kernelRelease()}
	special := func(arg string) bool { return !slices.Contains(plain, arg) }
	_, err := os.Stat(modulesDir("", ""))
	if err != nil && !slices.ContainsFunc(t.args, special) {
		return 0
	}
	status, _ := t.pass()
	return status
}
