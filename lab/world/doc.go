// Package world gives a command a Linux system in which the kernel module kstat
// exists: /proc/kstat, /sys/module/kstat, insmod kstat.ko, lsmod, dmesg. All
// else is the host's, and the host notices nothing.
//
//	kstat run        outside: starts init, passes signals on, returns the status
//	  └─ init        PID 1 of new pid, mount, ipc, net (and user) namespaces: it
//	     │           is the module, and serves one FUSE file system
//	     └─ command  in a mount namespace of its own, where that file system lies
//	                 over /proc, /sys/module and /run/kstat; born as the stage,
//	                 which mounts it and then becomes the command
//
// Init stays in a mount namespace without these mounts: a process that touched
// what it serves itself could wait for itself for ever. As PID 1 it can be
// killed by nobody inside, and when it ends, however that comes about, the
// kernel kills what is left of the world. Init itself is killed with the process
// outside.
//
// # The file system
//
//	/              mounted where
//	├── proc       /proc           kstat/ and modules are ours. What lasts, as sys and
//	│   │                          cpuinfo, is mounted from the true procfs; processes
//	│   │                          are symbolic links into it
//	│   └── .kstat
//	│       ├── control            what insmod and friends talk to
//	│       ├── proc               the true procfs is mounted on it
//	│       ├── module             the true /sys/module
//	│       ├── tree               the same as /run/kstat
//	│       ├── tools/             the host's own insmod and friends, and kstat
//	│       └── bin                ours, where the host has none to mount over
//	├── module     /sys/module     kstat/, and links
//	└── tree       /run/kstat      all of kstatd's tree
//
// A directory of symbolic links is as good as procfs for whoever opens files.
// It is told from it by lstat(2) of a process's folder, by realpath(3) of what is
// in one, and by statfs(2).
package world
