package grade

// The sections of the assignment, and what each is worth.
const (
	basic  = "basic functionality" // 60
	procfs = "procfs"              // 20
	sysfs  = "sysfs"               // 10
	paper  = "documentation"       // 10
)

// Builtin returns the rubric of the assignment. How strict it is, is the bench's
// to say.
func Builtin() *Rubric {
	return &Rubric{
		Title: "KSTAT",
		Items: []Item{
			{ID: "defaults", Section: basic, Points: 5, Title: "after loading, nout is 0, counter is 10 and start is 0",
				Try: experiment((*attempt).defaults)},
			{ID: "before-start", Section: basic, Points: 5, Title: "nothing is counted before start is 1",
				Try: experiment((*attempt).beforeStart)},
			{ID: "tcp-ipv4", Section: basic, Points: 10, Title: "every TCP packet over IPv4 is counted, once",
				Try: experiment(func(e *attempt) { e.counts(e.tcp) })},
			{ID: "tcp-ipv6", Section: basic, Points: 4, Title: "every TCP packet over IPv6 is counted, once",
				Try: experiment((*attempt).countsIPv6)},
			{ID: "other-protocols", Section: basic, Points: 8, Title: "UDP and ICMP leave nout alone",
				Try: experiment((*attempt).otherProtocols)},
			{ID: "publication", Section: basic, Points: 10, Title: "nout moves with every Nth packet and not before, N being counter",
				Try: experiment((*attempt).publication)},
			{ID: "publication-any", Section: basic, Points: 2, Title: "packets of any protocol bring nout's next move nearer",
				Try: experiment((*attempt).publicationAny)},
			{ID: "counter-live", Section: basic, Points: 5, Title: "a new counter works from then on",
				Try: experiment((*attempt).counterLive)},
			{ID: "stop-and-go", Section: basic, Points: 4, Title: "what passes while stopped is not counted, and what was counted is kept",
				Try: experiment((*attempt).stopAndGo)},
			{ID: "stop-keeps-pending", Section: basic, Points: 2, Title: "packets that are pending when it is stopped stay pending",
				Try: experiment((*attempt).stopKeepsPending)},
			{ID: "under-load", Section: basic, Points: 3, Title: "readers, writers and traffic do not disturb each other",
				Try: experiment((*attempt).underLoad)},
			{ID: "reload", Section: basic, Points: 2, Title: "unloading takes the files away, and loading begins anew",
				Try: experiment((*attempt).reload)},

			{ID: "number-and-newline", Section: procfs, Points: 2, Title: "nout and counter are one number and a newline",
				Try: experiment(func(e *attempt) { e.numberAndNewline(e.Nout, e.Counter) })},
			{ID: "nout-is-read-only", Section: procfs, Points: 2, Title: "nout cannot be written",
				Try: experiment((*attempt).noutIsReadOnly)},
			{ID: "counter-takes", Section: procfs, Points: 5, Title: "counter takes numbers, however they are spelled",
				Try: experiment(func(e *attempt) { e.rows(e.Counter, counterTakes) })},
			{ID: "counter-refuses", Section: procfs, Points: 5, Title: "counter refuses everything else, and stays as it was",
				Try: experiment(func(e *attempt) { e.rows(e.Counter, counterRefuses) })},
			{ID: "counter-tools", Section: procfs, Points: 3, Title: "counter can be written with echo, printf, tee, cp and dd",
				Try: experiment(func(e *attempt) { e.tools(e.Counter, counterTools) })},
			{ID: "reading-in-parts", Section: procfs, Points: 2, Title: "nout can be read in parts, and again from its beginning",
				Try: experiment((*attempt).readingInParts)},
			{ID: "procfs-modes", Section: procfs, Points: 1, Title: "nout and counter belong to root, and only root can write",
				Try: experiment((*attempt).procfsModes)},

			{ID: "start-and-newline", Section: sysfs, Points: 1, Title: "start is one number and a newline",
				Try: experiment(func(e *attempt) { e.numberAndNewline(e.Start) })},
			{ID: "start-takes", Section: sysfs, Points: 3, Title: "start takes 0 and 1, however they are spelled",
				Try: experiment(func(e *attempt) { e.rows(e.Start, startTakes) })},
			{ID: "start-refuses", Section: sysfs, Points: 3, Title: "start refuses everything else, and stays as it was",
				Try: experiment(func(e *attempt) { e.rows(e.Start, startRefuses) })},
			{ID: "start-tools", Section: sysfs, Points: 2, Title: "start can be written with echo, printf, tee and dd",
				Try: experiment(func(e *attempt) { e.tools(e.Start, startTools) })},
			{ID: "sysfs-modes", Section: sysfs, Points: 1, Title: "start belongs to root, and only root can write",
				Try: experiment((*attempt).sysfsModes)},

			{ID: "comments", Section: paper, Points: 10, Title: "comments and README"},
		},
	}
}
