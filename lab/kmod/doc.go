// Package kmod is insmod, rmmod, modprobe, lsmod, modinfo, depmod, kmod, dmesg
// and sudo for a world in which kstat is a module as far as anybody can see.
// What concerns kstat it does itself, as kmod 30 and util-linux 2.38 would;
// all else it leaves to the host's own tool of the same name.
//
//	insmod kstat.ko ─┐           ┌─ kstat ─────────▶ Kernel, and /sys/module/kstat
//	modprobe -r foo ─┼──▶ Main ──┤
//	dmesg -w ────────┘           └─ anything else ─▶ Kernel.Real, by exec(2)
//
// One binary is all of them: [Main] goes by the name it was called by.
//
// # What is kstat
//
// A file is kstat if its base name is kstat.ko, compressed or not, whatever it
// holds, or if its .modinfo section says name=kstat. [Object] makes one for
// those who have no kernel headers to build theirs with. By name, kstat is
// installed: modprobe kstat loads it, modinfo kstat describes it.
//
// Whether it is loaded and used is read where kmod reads it: initstate, refcnt
// and holders in /sys/module/kstat. So a world that shows these needs no other
// way to tell, and the tools cannot disagree with ls.
//
// # Words
//
// Messages and exit statuses are those of the real tools; where these are
// installed, the tests compare. Not imitated are the source file and line that
// Debian's build puts into some messages, the usage texts, for which the real
// tool is asked, /etc/modprobe.d, syslog, and the pager of dmesg -H. sudo has
// neither passwords nor rules, and leaves the environment alone.
//
// There is no kmod insmod: kmod has but help, list and static-nodes. insmod
// takes the options of kmod 34, too, which kmod 30 lacks.
package kmod
