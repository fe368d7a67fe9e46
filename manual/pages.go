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
				title: "METRICS AND THE PAGE",
				text: []string{
					"Nothing is served over the network unless `--listen` is given, or a service manager hands sockets over " +
						"(`kstatd.socket`, whose ListenStream= says where; then `--listen` is not needed). There are `/metrics` for Prometheus, " +
						"`/healthz`, `/stats.json` and, at `/`, a page for people. Port 0 is a free one, which the log names. Packets of these " +
						"connections are counted like all others.",
					"Whoever reaches the address can read all of that; there is neither TLS nor a password. Beside 127.0.0.1 take an address " +
						"that a firewall guards. A Unix socket is open to every user whom its directory lets pass.",
					"Nothing can be changed over HTTP without `--token-file`. The file holds one word of 16 to 4096 visible ASCII characters, and " +
						"must be readable by its owner and group alone. It is read once, at the start. Requests carry the word as " +
						"\"Authorization: Bearer WORD\".",
				},
			}, {
				title: "SIGNALS",
				items: []item{
					{"SIGTERM, SIGINT, SIGQUIT, SIGHUP", "Stop counting and end. SIGHUP is ignored if it was when the daemon started, by nohup(1)."},
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
				{"LISTEN_PID, LISTEN_FDS", "Set by a service manager that hands over sockets, see sd_listen_fds(3)."},
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
				{"kstatd --listen 127.0.0.1:9469 --listen unix:/run/kstatd.sock", "Serve metrics to this host, at two addresses."},
				{"systemctl enable --now kstatd", "Run it as a service, now and at each boot."},
				{"systemctl stop kstatd; systemctl enable --now kstatd.socket; systemctl start kstatd",
					"Serve metrics from the service, at 127.0.0.1:9469."},
				{"kstatd --manual kstat.5 | man -l -", "Read a manual page that is not installed."},
			},
			see: []string{"kstat(1)", "kstat-doctor(1)", "kstat(5)", "nft(8)", "systemctl(1)", "systemd.socket(5)"},
		}
	case "kstat":
		return details{
			text: []string{
				"`kstat` is the tool beside kstatd(8), the daemon that counts outgoing packets by protocol and shows the figures as files, " +
					"which kstat(5) describes. It shows what the daemon counts, says what a machine lacks for it, and runs and grades scripts " +
					"that expect the module.",
			},
			exits: []item{
				{"0", "All went well."},
				{"1", "The command failed."},
				{"2", "The command line is wrong."},
			},
			examples: []item{
				{"kstat top", "Look at what the daemon counts."},
				{"kstat doctor", "Find out why it does not count."},
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
				{"PATH", "Inside, the directories of insmod(8) and the like are added behind it if it lacks them, as an ordinary user's does."},
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
	case "kstat doctor":
		return details{
			text: []string{
				"Each line is a check: a check mark where all is well, `!` for what works but should be known, a cross for what is missing, `-` " +
					"for what could not be tried. Below is what to do about it, and the command that does it. The verdicts are last.",
				"A FEATURE narrows it down: `nfqueue` and `bpf` are kstatd's engines, `fuse` the tree, `run` and `run-root` kstat-run(1) as this " +
					"user and as root, `metrics` port 9469, `service` the systemd unit. The flags `--mount`, `--queue`, `--queues` and " +
					"`--queue-len` are those that kstatd(8) is to be given.",
				"No privileges are needed, but less can be seen without them: run it as the user who is to run the rest. It changes nothing. What it " +
					"tries, it tries in namespaces of its own, for two seconds at most unless `--limit` says otherwise.",
			},
			exits: []item{
				{"0", "What was asked for works, perhaps with warnings."},
				{"1", "Some of it does not. What could not be tried counts if it was named."},
				{"2", "The command line is wrong."},
			},
			examples: []item{
				{"sudo kstat doctor nfqueue", "Will kstatd work with its default engine?"},
				{"kstat doctor run", "Will kstat run work for me?"},
				{"kstat doctor --json | jq -r '.checks[] | select(.status == \"fail\") | .id'", "List what has failed."},
			},
			see: []string{"kstat(1)", "kstat-run(1)", "kstatd(8)"},
		}
	case "kstat top":
		return details{
			text: []string{
				"A table has a row for each protocol and family: packets and bytes per second, totals, a history. Above it are `nout` and what " +
					"else the tree of kstat(5) says; `uncounted` stands out if it is not 0. Totals are of all packets that were counted, " +
					"published or not.",
				"No privileges are needed to look. Only root can start, stop, reset and set the counter.",
			},
			sections: []section{{
				title: "KEYS",
				items: []item{
					{"s", "Start or stop counting."},
					{"c", "Set `counter`: publish after so many packets."},
					{"r", "Reset: published and pending figures become 0."},
					{"Left, Right", "Sort by another column. `<` and `>` do the same."},
					{"o", "The other order."},
					{"b", "History and share of bytes, or of packets."},
					{"t", "Totals since the daemon started, or since the last reset."},
					{"p, Space", "Hold the picture. Counting goes on."},
					{"Up, Down, PgUp, PgDn, Home, End", "Scroll."},
					{"?, h", "Explain keys and columns."},
					{"q, Ctrl-C", "Quit."},
				},
			}},
			exits: programExits,
			environ: []item{
				{"NO_COLOR", "If it is not empty, there are no colours."},
				{"TERM", "If it is not set, or dumb, one table is printed as with `--once`."},
			},
			examples: []item{
				{"kstat top", "Look, until q is pressed."},
				{"kstat top --once --interval 10s", "Print a table with the rates of the next ten seconds."},
			},
			see: []string{"kstat(1)", "kstat-trace(1)", "kstat-watch(1)", "kstat(5)", "kstatd(8)"},
		}
	case "kstat watch":
		return details{
			text: []string{
				"A line has the time, the number of the publication, `nout`, the total of all protocols, and by how much both have grown. With " +
					"`--interval` there is a line per interval instead, with what was counted in it, published or not, by protocol and " +
					"family. The first line begins with # and names the columns.",
				"Other lines with # are remarks: `# missed N` stands for N publications that are not shown, as the reader was too slow or kstatd's " +
					"worker was replaced; `# restarted` says that another daemon is there, whose figures began at 0. With `--json` they are " +
					"objects as well.",
				"No privileges are needed.",
			},
			exits: []item{
				{"0", "There were COUNT lines, nobody reads the output any more, or the daemon has ended and no COUNT was given."},
				{"1", "It failed, there was no kstatd, or it ended before COUNT lines; the reason is on standard error."},
				{"2", "The command line is wrong."},
			},
			examples: []item{
				{"kstat watch -n 3", "Wait for three publications."},
				{"kstat watch --interval 1s", "Say each second what was sent."},
				{"kstat watch --json | jq .nout_delta", "Take one figure of each publication."},
			},
			see: []string{"kstat(1)", "kstat-top(1)", "kstat-trace(1)", "kstat(5)", "kstatd(8)"},
		}
	case "kstat trace":
		return details{
			text: []string{
				"It reads `trace_pipe`, or with `--pcap` `trace.pcapng`, of kstat(5), which only root may. Each packet that is counted is shown, " +
					"in the order of counting, or said to be missed; none waits for it. At the end, by Ctrl-C, `-n`, a closed pipe or the " +
					"daemon's end, standard error says how many there were.",
				"kstatd must be counting, and only packets at its hook are there: what leaves the host, unless it was started with another `--hook`. " +
					"Packets are known by their first 128 bytes.",
			},
			sections: []section{{
				title: "FILTER",
				text: []string{
					"A part of the language of pcap-filter(7). Parentheses and other characters of the shell need quotes. Names of hosts and services " +
						"are not looked up.",
				},
				items: []item{
					{"ip, ip6", "The family."},
					{"tcp, udp, icmp, icmp6, ...", "A protocol, by its name in protocols(5). Behind extension headers of IPv6, too."},
					{"proto 253, ip proto udp", "One by its number, or in one family."},
					{"host 10.0.0.1, net fd00::/8", "An address, at either end."},
					{"port 80, portrange 6000-6008", "A port, at either end."},
					{"src ..., dst ...", "The same at one end: `src host ADDRESS`, `src ADDRESS`, `dst port 80`."},
					{"tcp dst port 80, ip6 host ::1", "Both in one."},
					{"not, and, or, ( )", "Also `!`, `&&`, `||`. `and` and `or` bind alike, from left to right."},
				},
			}},
			exits: programExits,
			environ: []item{
				{"NO_COLOR", "If it is not empty, there are no colours."},
				{"TERM", "If it is not set, or dumb, there are none either."},
			},
			examples: []item{
				{"kstat trace tcp port 443", "Show TLS."},
				{"kstat trace -n 20 'udp and not dst net 10.0.0.0/8'", "Show 20 packets, and end."},
				{"kstat trace --pcap web.pcapng tcp port 80", "Save packets until Ctrl-C. The file is readable by its owner alone."},
				{"kstat trace --pcap - | tshark -r -", "Look at them in another tool."},
			},
			see: []string{"kstat(1)", "kstat-top(1)", "kstat-watch(1)", "kstat(5)", "pcap-filter(7)", "kstatd(8)", "tcpdump(8)"},
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
				"Every user may read, but for `trace_pipe` and `trace.pcapng`, which show who sends what to whom and are root's; only root may " +
					"write. A write is parsed as the kernel would, and refused as a whole: EINVAL for " +
					"what is no such number, ERANGE for one that does not fit. Writing 1 to `start` returns when the next packet is sure to be seen, " +
					"and fails with EBUSY, EPERM or EOPNOTSUPP if counting cannot be; the reason is in the log. Writing 0 returns when the " +
					"figures are final.",
				"The text of an open file is fixed at its first read. A tree of a kernel module, as a world of kstat-run(1) shows it, has " +
					"`nout` and `counter` in `/proc/kstat` and `start` in `/sys/module/kstat/parameters`.",
			},
			sections: []section{{
				title: "FILES THAT ARE FOLLOWED",
				text: []string{
					"A read of `watch`, `trace_pipe` or `trace.pcapng` waits, and gives what there is. Everybody who has one open sees " +
						"everything from then on; readers take nothing from each other, and no packet waits for a reader. One that is too slow " +
						"is told how much it has missed, and goes on. The end of the daemon is the end of the file.",
					"A line of `watch` is `SEQ NOUT TOTAL TIME`, or `missed N` in the place of N publications.",
					"A line of `trace_pipe` is a packet as it is counted, in the words of `tcpdump -i any -n -S`, from its first 128 bytes; " +
						"`# N packets missed` stands for those that a slow reader has not seen. `trace.pcapng` has these 128 bytes themselves, " +
						"behind a LINUX_SLL2 header, and says at the next packet how many were missed. Only counted packets are there: those that " +
						"pass the hook while `start` is 1. Readers of both together can be 16; one more gets ENFILE.",
				},
			}},
			examples: []item{
				{"echo 1 > /run/kstat/start", "Begin to count."},
				{"cat /run/kstat/nout", "TCP packets sent, as of the last publication."},
				{"echo 1 > /run/kstat/counter", "Show each packet as it comes."},
				{"head -n 3 /run/kstat/watch", "Wait for the next three publications."},
				{"cat /run/kstat/trace_pipe", "Watch packets go by, until Ctrl-C (root)."},
				{"cat /run/kstat/trace.pcapng | tshark -r -", "Look into them (root)."},
			},
			see: []string{"kstatd(8)", "kstat(1)", "kstat-top(1)", "kstat-trace(1)", "kstat-watch(1)", "proc(5)", "protocols(5)"},
		}
	}
	return details{exits: programExits, see: []string{"kstat(1)", "kstat(5)", "kstatd(8)"}}
}
