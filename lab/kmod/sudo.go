package kmod

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var sudoOptions = grammar{"+AbBC:D:Eeg:HhiKklNnPp:R:r:SsT:t:U:u:Vv", []longOption{
	{"askpass", no, "A"},
	{"background", no, "b"},
	{"bell", no, "B"},
	{"close-from", required, "C"},
	{"chdir", required, "D"},
	{"preserve-env", optional, "E"},
	{"edit", no, "e"},
	{"group", required, "g"},
	{"set-home", no, "H"},
	{"help", no, "h"},
	{"host", required, "host"},
	{"login", no, "i"},
	{"remove-timestamp", no, "K"},
	{"reset-timestamp", no, "k"},
	{"list", no, "l"},
	{"no-update", no, "N"},
	{"non-interactive", no, "n"},
	{"preserve-groups", no, "P"},
	{"prompt", required, "p"},
	{"chroot", required, "R"},
	{"role", required, "r"},
	{"stdin", no, "S"},
	{"shell", no, "s"},
	{"command-timeout", required, "T"},
	{"type", required, "t"},
	{"other-user", required, "U"},
	{"user", required, "u"},
	{"version", no, "V"},
	{"validate", no, "v"},
}}

const sudoUsage = "[-bEHKklnSv] [-g group] [-u user] [VAR=value] [-i | -s] [command [arg ...]]"

// sbin is where root's tools are, which the path of others leaves out. Debian's
// sudo looks nowhere else.
const sbin = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// sudo is a call of sudo by somebody who is root already: nobody is asked for a
// password, and there are no rules. The environment stays the caller's, as a
// script expects of a sudo that it does not need.
type sudo struct {
	*tool
	user, group  string // -u, -g
	login, shell bool   // -i, -s
	home         bool   // -H
	background   bool   // -b
	list         bool   // -l
	nothing      bool   // -v, -k, -K: without a command there is nothing to do
	refused      string // -D or -R, which wants a rule that permits it
	set          []string
	command      []string
}

func (t *tool) sudo() int {
	s := sudo{tool: t, user: "root"}
	for args := t.args; ; {
		c, err := sudoOptions.parse(args)
		for _, o := range c.options {
			switch o.name {
			case "e":
				return t.dies(errors.New("there is no sudoedit in kstat run; edit the file as it is, you are root"))
			case "h":
				fmt.Fprintf(t.out, "usage: sudo %s\n", sudoUsage)
				return 0
			case "V":
				fmt.Fprintln(t.out, "Sudo version 1.9.13p3\n(as kstat stands in for it)")
				return 0
			}
			s.apply(o)
		}
		if err != nil {
			t.misused(err)
			return s.usage()
		}
		args = c.operands
		if c.ended {
			s.command = args
			break
		}
		// VAR=value may stand between the options.
		for len(args) > 0 && !strings.HasPrefix(args[0], "/") && strings.Contains(args[0], "=") {
			s.set, args = append(s.set, args[0]), args[1:]
		}
		if len(args) == 0 || len(args) == len(c.operands) {
			s.command = args
			break
		}
	}
	switch {
	case len(s.command) > 0 || s.login || s.shell:
		return s.run()
	case s.list:
		host, _ := os.Hostname()
		fmt.Fprintf(t.out, "User %s may run the following commands on %s:\n    (ALL : ALL) NOPASSWD: ALL\n", callersName(), host)
		return 0
	case s.nothing:
		return 0
	}
	return s.usage()
}

// apply takes note of an option. Those that it does not know are about
// passwords, rules and logs.
func (s *sudo) apply(o option) {
	switch o.name {
	case "b":
		s.background = true
	case "D", "R":
		s.refused = o.name
	case "g":
		s.group = o.value
	case "H":
		s.home = true
	case "i":
		s.login = true
	case "k", "K", "v":
		s.nothing = true
	case "l":
		s.list = true
	case "s":
		s.shell = true
	case "u":
		s.user = o.value
	}
}

func (s *sudo) usage() int {
	fmt.Fprintf(s.err, "usage: sudo %s\n", sudoUsage)
	return 1
}

// run becomes the command. It returns if that cannot be, or is not wanted.
func (s *sudo) run() int {
	if os.Geteuid() != 0 {
		return s.dies(fmt.Errorf("effective uid is not 0, is %s on a file system with the 'nosuid' option set or an NFS file system without root privileges?", s.argv0))
	}
	target, err := lookAccount(s.user, s.group)
	if err != nil {
		return s.dies(err)
	}
	argv := s.command
	if s.login || s.shell {
		argv = s.shellCommand(target)
	}
	search := SearchPath()
	path, ok := find(argv[0], search)
	if !ok {
		return s.dies(fmt.Errorf("%s: command not found", argv[0]))
	}
	full := strings.Join(append([]string{path}, argv[1:]...), " ")
	switch {
	case s.refused != "":
		return s.dies(fmt.Errorf("you are not permitted to use the -%s option with %s", s.refused, path))
	case s.list:
		fmt.Fprintln(s.out, full)
		return 0
	}

	s.setenv(target, search, full)
	if s.login {
		argv[0] = "-" + filepath.Base(path)
		if err := os.Chdir(target.home); err != nil {
			s.dies(fmt.Errorf("unable to change directory to %s: %s", target.home, strerror(err))) // but goes on
		}
	}
	if err := target.become(); err != nil {
		return s.dies(err)
	}
	if err := s.start(path, argv); err != nil {
		return s.dies(fmt.Errorf("unable to execute %s: %s", path, strerror(err)))
	}
	return 0
}

// shellCommand is a shell, the target's for -i and the caller's for -s, with
// the command as one line for it.
func (s *sudo) shellCommand(target account) []string {
	shell := os.Getenv("SHELL")
	if s.login || shell == "" {
		shell = target.shell()
	}
	if len(s.command) == 0 {
		return []string{shell}
	}
	quoted := make([]string, len(s.command))
	for i, arg := range s.command {
		quoted[i] = special.ReplaceAllString(arg, `\$0`)
	}
	return []string{shell, "-c", strings.Join(quoted, " ")}
}

// special is what sudo hides from the shell; a $ it does not.
var special = regexp.MustCompile(`(?s)[^a-zA-Z0-9_$-]`)

// setenv adds what sudo does to the environment.
func (s *sudo) setenv(target account, search, command string) {
	env := []string{
		"PATH=" + search,
		"USER=" + target.name,
		"LOGNAME=" + target.name,
		"SUDO_COMMAND=" + command,
		"SUDO_USER=" + callersName(),
		"SUDO_UID=" + strconv.Itoa(os.Getuid()),
		"SUDO_GID=" + strconv.Itoa(os.Getgid()),
	}
	if s.home || s.login || target.uid != 0 {
		env = append(env, "HOME="+target.home)
	}
	if s.login {
		env = append(env, "SHELL="+target.shell())
	}
	for _, e := range append(env, s.set...) {
		name, value, _ := strings.Cut(e, "=")
		_ = os.Setenv(name, value) // it refuses an empty name, and so does sudo
	}
}

// start runs the command in place of sudo, or beside it. A file that only a
// shell understands is given to one.
func (s *sudo) start(path string, argv []string) error {
	s.out.Flush()
	start := syscall.Exec
	if s.background {
		start = func(path string, argv, env []string) error {
			_, err := os.StartProcess(path, argv, &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
			return err
		}
	}
	err := start(path, argv, os.Environ())
	if errors.Is(err, syscall.ENOEXEC) {
		err = start("/bin/sh", append([]string{"sh", path}, argv[1:]...), os.Environ())
	}
	return err
}

// find returns the path of a command, as execvp(3) would find it.
func find(name, search string) (path string, ok bool) {
	executable := func(path string) bool {
		stat, err := os.Stat(path)
		return err == nil && stat.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
	}
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	for _, dir := range filepath.SplitList(search) {
		if path := filepath.Join(dir, name); executable(path) {
			return path, true
		}
	}
	return "", false
}

// SearchPath is the caller's PATH, and behind it those directories of root's
// tools that it lacks.
func SearchPath() string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range filepath.SplitList(sbin) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return strings.Join(dirs, string(filepath.ListSeparator))
}

// callersName is who called sudo.
func callersName() string {
	uid := strconv.Itoa(os.Getuid())
	u, err := user.LookupId(uid)
	if err != nil {
		return "#" + uid
	}
	return u.Username
}

// account is who a command is to run as.
type account struct {
	name, home string
	uid, gid   int
	groups     []int
}

// lookAccount finds a user and, if it is not to be the user's own, a group, by
// name or by number, as in #1000. Root there is even without a passwd file.
func lookAccount(name, group string) (account, error) {
	u, err := lookUp(name, user.Lookup, user.LookupId)
	switch {
	case err != nil && name == "root":
		u = &user.User{Uid: "0", Gid: "0", Username: name, HomeDir: "/root"}
	case err != nil:
		return account{}, fmt.Errorf("unknown user %s", name)
	}
	if group != "" {
		g, err := lookUp(group, user.LookupGroup, user.LookupGroupId)
		if err != nil {
			return account{}, fmt.Errorf("unknown group %s", group)
		}
		u.Gid = g.Gid
	}
	ids := []string{u.Uid, u.Gid}
	if groups, err := u.GroupIds(); err == nil {
		ids = append(ids, groups...)
	}
	numbers := make([]int, len(ids))
	for i, id := range ids {
		if numbers[i], err = strconv.Atoi(id); err != nil {
			return account{}, err
		}
	}
	return account{u.Username, u.HomeDir, numbers[0], numbers[1], numbers[2:]}, nil
}

// lookUp finds something by its name, or by the number behind a #.
func lookUp[T any](name string, byName, byNumber func(string) (T, error)) (T, error) {
	if number, ok := strings.CutPrefix(name, "#"); ok {
		return byNumber(number)
	}
	return byName(name)
}

// become changes user and groups, unless it is root, who we are.
func (a account) become() error {
	if a.uid == 0 && a.gid == os.Getgid() {
		return nil
	}
	if err := syscall.Setgroups(a.groups); err != nil {
		return fmt.Errorf("unable to set supplementary group IDs: %s", strerror(err))
	}
	if err := syscall.Setgid(a.gid); err != nil {
		return fmt.Errorf("unable to set runas gid %d: %s", a.gid, strerror(err))
	}
	if err := syscall.Setuid(a.uid); err != nil {
		return fmt.Errorf("unable to change to runas uid (%d, %d): %s", a.uid, a.uid, strerror(err))
	}
	return nil
}

// shell is the account's in passwd(5).
func (a account) shell() string {
	passwd, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 7 && f[0] == a.name && f[6] != "" {
			return f[6]
		}
	}
	return "/bin/sh"
}
