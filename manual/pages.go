package manual

// details are what a page has beside the flags. In texts, what is in backquotes
// is literal.
type details struct {
	help     string   // what --help says first; also the first paragraph
	then     string   // what --help says last
	text     []string // paragraphs of the description
	sections []section
	exits    []item
	environ  []item
	files    []item
	examples []item // of a command line and what it does
	see      []string
}

type section struct {
	title string
	text  []string
	items []item
}

type item struct{ name, text string }

// programExits are the statuses of a command that has nothing else to say.
var programExits = []item{
	{"0", "All went well."},
	{"1", "It failed, for a reason that is on standard error."},
	{"2", "The command line is wrong."},
}

// detailsOf returns what is known of a program or command, or the zero value.
func detailsOf(name string) details {
	switch name {
	case "kstatd":
		return details{
			help: "Counts the packets that pass a netfilter hook, by protocol, and serves the figures as files. " +
				"Runs in the foreground and needs root. SIGTERM ends it.",
			then: "Then: cat DIR/nout; echo 1 > DIR/start; echo 10 > DIR/counter; cat DIR/protocols",
			text: []string{
				"It gives the files of the kernel module KSTAT of a well-known coursework without a kernel module: packets come to it from " +
					"NFQUEUE, or are counted by a BPF program where they are, and the files are a FUSE file system. They are described in " +
					"kstat(5). It does not count before 1 is written to `start`, unless `--start` is given.",
				"Every packet is accepted. If the daemon is killed, packets pass at once; if it hangs, after a second. Its firewall rule, its " +
					"mount and, if it has made it, its mount point are gone when it ends.",
				"It is two processes: a supervisor, which is the one that is started, and `kstatd-worker`, which counts and has CAP_NET_ADMIN " +
					"alone. A worker that dies or hangs is replaced, and the figures stay.",
				"Root is needed for CAP_NET_ADMIN (queue and rule), CAP_SYS_ADMIN (mount) and CAP_SETPCAP (to take those from the worker), " +
					"with `--engine bpf` for CAP_BPF and CAP_PERFMON. In namespaces of one's own (`unshare -Urnm`) no privileges are needed " +
					"for `--engine nfqueue`.",
			},
			sections: []section{{
				title: "SIGNALS",
				items: []item{
					{"SIGTERM, SIGINT, SIGHUP", "Stop counting and end. SIGHUP is ignored if it was when the daemon started, by nohup(1)."},
					{"SIGTSTP, SIGTTIN, SIGTTOU, SIGPIPE", "Ignored: a daemon that is suspended would hold packets up."},
				},
			}},
			exits: []item{
				{"0", "A signal has ended it."},
				{"1", "It could not start, or failed; the reason is on standard error."},
				{"2", "The command line is wrong."},
				{"3", "Somebody has unmounted the tree."},
			},
			environ: []item{
				{"NOTIFY_SOCKET, WATCHDOG_USEC", "Set by a service manager: READY=1 and WATCHDOG=1 go there, see sd_notify(3)."},
				{"JOURNAL_STREAM", "If standard error is the journal, lines of the log begin with its priorities."},
			},
			files: []item{
				{"/run/kstat", "Where the tree is mounted, unless there is a directory `mnt` or `--mount` says otherwise."},
				{"/etc/default/kstatd, /etc/sysconfig/kstatd", "KSTATD_FLAGS, the flags that the systemd service gives to kstatd."},
				{"/etc/protocols", "Names of protocols, read at the start."},
			},
			examples: []item{
				{"kstatd --mount /run/kstat --start --counter 1", "Count at once, and show each packet as it comes."},
				{"kstatd --engine auto --hook output --family ipv6", "Count what this host sends by IPv6, in the kernel if that is possible."},
				{"systemctl enable --now kstatd", "Run it as a service, now and at each boot."},
				{"kstatd --manual kstat.5 | man -l -", "Read a manual page that is not installed."},
			},
			see: []string{"kstat(1)", "kstat(5)", "nft(8)", "systemctl(1)"},
		}
	case "kstat":
		return details{
			text: []string{
				"`kstat` is the tool beside kstatd(8), the daemon that counts outgoing packets by protocol and shows the figures as files, " +
					"which kstat(5) describes.",
			},
			exits: []item{
				{"0", "All went well."},
				{"1", "The command failed."},
				{"2", "The command line is wrong."},
			},
			examples: []item{
				{"kstat run -- ./grade.sh", "Run a script where `/proc/kstat` and `insmod kstat.ko` work."},
				{"kstat grade", "Grade kstatd by the built-in rubric."},
				{"kstat manual run | man -l -", "Read a manual page that is not installed."},
				{"source <(kstat completion bash)", "Complete command lines in this shell."},
			},
			see: []string{"kstatd(8)", "kstat(5)"},
		}
	case "kstat run":
		return details{
			text: []string{
				"In the private world the kernel module kstat exists: `/proc/kstat/nout`, `/proc/kstat/counter` and " +
					"`/sys/module/kstat/parameters/start` are there while it is loaded, and `insmod`, `rmmod`, `modprobe`, `lsmod`, `modinfo` " +
					"and `dmesg` know it. Other files are the host's. Processes and, unless `--net host` is given, the network are its own: " +
					"it has `lo` alone, so that figures are exact. What the command leaves running ends with it.",
				"It works as an ordinary user where user namespaces are allowed and `/dev/fuse` is open to everybody. That user is root in " +
					"there, and sudo(8) does nothing.",
			},
			exits: []item{
				{"125", "There can be no such world; the reason is on standard error."},
				{"126", "The command cannot be executed."},
				{"127", "The command was not found."},
				{"128+N", "Signal N has ended the command."},
				{"2", "The command line is wrong, or the command has ended so."},
				{"else", "The command's own."},
			},
			environ: []item{
				{"KSTAT_MOUNT", "A directory: the tree of kstat(5) is shown there in the world. `/run/kstat` if it is not set. " +
					"Inside it is always set, to where the tree is."},
			},
			examples: []item{
				{"kstat run -- bash", "A shell to try things in."},
				{"kstat run --start --counter 1 -- ./grade.sh", "Load the module with these parameters first."},
				{"kstat run --mutant udp-as-tcp -- ./grade.sh", "See whether the script notices a module that counts UDP as TCP."},
			},
			see: []string{"kstat(1)", "kstat-grade(1)", "kstat(5)", "unshare(1)", "insmod(8)"},
		}
	case "kstat grade":
		return details{
			text: []string{
				"Items of a rubric are tried one by one, as small exact experiments. One that fails is told by what was done, what was " +
					"expected and what was seen. Without a command or `--rubric` the built-in rubric is taken; a command is one item, which " +
					"passes if its status is 0.",
				"What is graded is kstatd in a private world, see kstat-run(1), or what `--nout`, `--counter` and `--start` name.",
			},
			exits: []item{
				{"0", "All items have passed."},
				{"1", "Some have not."},
				{"2", "Nothing was graded; the reason is on standard error."},
			},
			examples: []item{
				{"kstat grade --format junit -o report.xml", "Write a report for a build server."},
				{"kstat grade --rubric rubric.yaml", "Grade by items of one's own."},
				{"kstat grade --nout /proc/kstat/nout --counter /proc/kstat/counter --start /sys/module/kstat/parameters/start",
					"Grade a real module, which is loaded."},
			},
			see: []string{"kstat(1)", "kstat-run(1)", "kstat(5)"},
		}
	case "kstat ko":
		return details{
			text: []string{
				"It is an ELF file with the sections that insmod(8) and modinfo(8) of the world of kstat-run(1) look for. No kernel " +
					"loads it.",
			},
			exits:    programExits,
			examples: []item{{"kstat ko > kstat.ko", "For scripts that say `insmod kstat.ko`."}},
			see:      []string{"kstat(1)", "kstat-run(1)"},
		}
	case "kstat completion":
		return details{
			exits: programExits,
			examples: []item{
				{"source <(kstat completion bash)", "In this bash(1), until it ends."},
				{"kstat completion zsh > ~/.zfunc/_kstat", "For zsh(1), if that directory is in its fpath."},
				{"kstat completion fish > ~/.config/fish/completions/kstat.fish", "For fish(1)."},
				{"source <(kstatd --completion bash)", "The daemon's."},
			},
			see: []string{"kstat(1)", "kstat-manual(1)"},
		}
	case "kstat manual":
		return details{
			text: []string{
				"The pages are those of this program; `kstatd --manual` has the daemon's and that of the tree. Without an argument the names " +
					"of all are listed.",
			},
			exits: programExits,
			environ: []item{
				{"SOURCE_DATE_EPOCH", "The date of the page, in seconds since 1970, instead of today."},
			},
			examples: []item{{"kstat manual kstat-run.1 | man -l -", "Read one."}},
			see:      []string{"kstat(1)", "kstat-completion(1)", "man(1)"},
		}
	case treeName:
		return details{
			text: []string{
				"kstatd(8) shows its figures as a tree of files, on `/run/kstat` unless its `--mount` says otherwise. All but `protocols`, " +
					"`stats.json` and those that are followed hold one value and a newline.",
				"Figures are published together: when `counter` packets of any protocol have arrived since the last publication, all " +
					"published figures are replaced at once, by the totals at exactly that packet. In between nothing moves but `pending`.",
				"Every user may read; only root may write. A write is parsed as the kernel would, and refused as a whole: EINVAL for " +
					"what is no such number, ERANGE for one that does not fit. Writing 1 to `start` returns when the next packet is sure to be seen, " +
					"and fails with EBUSY, EPERM or EOPNOTSUPP if counting cannot be; the reason is in the log. Writing 0 returns when the " +
					"figures are final.",
				"The text of an open file is fixed at its first read. A tree of a kernel module, as a world of kstat-run(1) shows it, has " +
					"`nout` and `counter` in `/proc/kstat` and `start` in `/sys/module/kstat/parameters`.",
			},
			examples: []item{
				{"echo 1 > /run/kstat/start", "Begin to count."},
				{"cat /run/kstat/nout", "TCP packets sent, as of the last publication."},
				{"echo 1 > /run/kstat/counter", "Show each packet as it comes."},
				{"head -n 3 /run/kstat/watch", "Wait for the next three publications."},
			},
			see: []string{"kstatd(8)", "kstat(1)", "proc(5)", "protocols(5)"},
		}
	}
	return details{exits: programExits, see: []string{"kstat(1)", "kstat(5)", "kstatd(8)"}}
}
