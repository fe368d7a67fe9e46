// Package sandbox gives a test a Linux system of its own: a network in which
// every packet is one the test has sent, and a mount tree in which nothing the
// test mounts is seen by anybody else.
//
//	go test ──► test binary ──────── re-executes itself ───────► test binary
//	            waits, forwards      new net, mount, ipc, uts    runs the tests,
//	            signals and status   (and user) namespaces       looks for leaks
//
// A test package enters it with one line:
//
//	func TestMain(m *testing.M) { sandbox.Main(m) }
//
// and each test says what it cannot do without:
//
//	sandbox.Need(t, sandbox.Namespaces, sandbox.NFQueue)
//
// A thing that is missing skips the test and says why. With KSTAT_REQUIRE=1
// it fails the test instead: where a machine is known to have everything, a
// skip is a bug.
//
// # What a sandbox is
//
// Root gets new network, mount, IPC and UTS namespaces. Anybody else gets a
// user namespace too, where the caller's user and group, and no other, are
// mapped to root. In it, lo is up, and mounts propagate neither in nor out.
// Files, processes and devices are those of the host.
//
// All processes below the first one share its sandbox: the workers of
// go test -fuzz, commands, helpers. They know it by the environment variable
// KSTAT_SANDBOX, which names the network namespace that was left behind.
//
// Nothing outlives the process that began it: the kernel kills the inner
// process with the outer one (PR_SET_PDEATHSIG), and each [Command] with the
// process that started it.
//
// # What it looks for at the end
//
// When all tests have passed, [Main] fails the run if it finds a goroutine
// that still runs, or a descriptor, a FUSE mount or an nftables table which
// was not there at the start. Each leak is one line on standard error.
//
// # A second host
//
// [Veth] adds another network namespace and a cable to it, silent enough to
// count packets exactly:
//
//	this namespace                       the peer's
//	veth0 10.9.0.1 ════════════════════ veth0 10.9.0.2
//	      fd00:9::1                           fd00:9::2
//
// [OwnNetwork] adds one with nothing but lo, as often as it is called: for
// daemons that are to be on hosts of their own. [Bridge] makes a bridge, in this
// namespace.
//
// # Programs
//
// A program that is not a test enters a sandbox with [Reexec], asks [Missing]
// and uses [NewPeer]; they are what Main, Need and Veth are made of.
package sandbox
