package kmod

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"kstat/lab/sandbox"
)

// needUID0 skips a test of sudo's that wants to be root, if only by the name
// of a user namespace.
func needUID0(t *testing.T) {
	t.Helper()
	sandbox.Need(t, sandbox.Namespaces)
	if os.Geteuid() != 0 {
		t.Fatal("not root in a sandbox")
	}
}

func TestSudo(t *testing.T) {
	needUID0(t)
	dir := t.TempDir()
	t.Chdir(dir)
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"plain":  {"echo plain \"$1\"\n", 0o755}, // no #!
		"secret": {"#!/bin/sh\n", 0o644},
		"lost":   {"#!/nowhere/sh\n", 0o755},
	} {
		if err := os.WriteFile(name, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	const echo = `echo "$0|$1|$2"`
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	usage := "usage: sudo " + sudoUsage + "\n"
	for _, tt := range []struct {
		args []string
		want outcome
	}{
		{[]string{"sh", "-c", echo, "a b", "-n", "*"}, outcome{out: "a b|-n|*\n"}},
		{[]string{"sh", "-c", "exit 42"}, outcome{status: 42}},
		{[]string{"sh", "-c", "kill -9 $$"}, outcome{status: -1}}, // by a signal
		{[]string{"-n", "-E", "-S", "-H", "-p", "password: ", "-u", "root", "-g", "root", "sh", "-c", "echo ok"}, outcome{out: "ok\n"}},
		{[]string{"-nu#0", "--preserve-env=A,B", "--", "echo", "-u"}, outcome{out: "-u\n"}},
		{[]string{"A=1", "-n", "B=2 3", "sh", "-c", `echo "$A,$B"`, "C=4"}, outcome{out: "1,2 3\n"}},
		{[]string{"--", "A=1", "true"}, outcome{1, "", "sudo: A=1: command not found\n"}},
		{[]string{"A=1"}, outcome{1, "", usage}},
		{[]string{"nosuchcommand", "x"}, outcome{1, "", "sudo: nosuchcommand: command not found\n"}},
		{[]string{"/nowhere/x"}, outcome{1, "", "sudo: /nowhere/x: command not found\n"}},
		{[]string{"./secret"}, outcome{1, "", "sudo: ./secret: command not found\n"}},
		{[]string{"/"}, outcome{1, "", "sudo: /: command not found\n"}},
		{[]string{"./plain", "x y"}, outcome{out: "plain x y\n"}},
		{[]string{"./lost"}, outcome{1, "", "sudo: unable to execute ./lost: No such file or directory\n"}},
		{[]string{"-u", "nosuchuser", "id"}, outcome{1, "", "sudo: unknown user nosuchuser\n"}},
		{[]string{"-u", "#4294967", "id"}, outcome{1, "", "sudo: unknown user #4294967\n"}},
		{[]string{"-g", "nosuchgroup", "id"}, outcome{1, "", "sudo: unknown group nosuchgroup\n"}},
		{[]string{"-D", "/", "true"}, outcome{1, "", "sudo: you are not permitted to use the -D option with " + which(t, "true") + "\n"}},
		{[]string{"-s", "echo", "a  b", "$HOME", "c;d"}, outcome{out: "a  b /home/of/caller c;d\n"}},
		{[]string{"-l", "sh", "-c", "x"}, outcome{out: which(t, "sh") + " -c x\n"}},
		{[]string{"-l", "nosuchcommand"}, outcome{1, "", "sudo: nosuchcommand: command not found\n"}},
		{[]string{"-l"}, outcome{out: "User root may run the following commands on " + host + ":\n    (ALL : ALL) NOPASSWD: ALL\n"}},
		{[]string{"-v"}, outcome{}},
		{[]string{"-k"}, outcome{}},
		{[]string{"-K"}, outcome{}},
		{[]string{"-k", "echo", "x"}, outcome{out: "x\n"}},
		{[]string{"-V"}, outcome{out: "Sudo version 1.9.13p3\n(as kstat stands in for it)\n"}},
		{[]string{"-h"}, outcome{out: usage}},
		{nil, outcome{1, "", usage}},
		{[]string{"-x"}, outcome{1, "", "sudo: invalid option -- 'x'\n" + usage}},
		{[]string{"-u"}, outcome{1, "", "sudo: option requires an argument -- 'u'\n" + usage}},
		{[]string{"--bogus"}, outcome{1, "", "sudo: unrecognized option '--bogus'\n" + usage}},
		{[]string{"-e", "file"}, outcome{1, "", "sudo: there is no sudoedit in kstat run; edit the file as it is, you are root\n"}},
	} {
		if got := sudoed(t, []string{"HOME=/home/of/caller", "SHELL=/bin/sh"}, tt.args...); got != tt.want {
			t.Errorf("sudo %q: got %v\nwant %v", tt.args, got, tt.want)
		}
	}
}

// sudoed runs sudo of ours, with more in the environment.
func sudoed(t *testing.T, env []string, args ...string) outcome {
	t.Helper()
	cmd := start(t, "sudo", args...)
	cmd.Env = append(cmd.Env, env...)
	return result(t, cmd)
}

func which(t *testing.T, name string) string {
	t.Helper()
	path, ok := find(name, SearchPath())
	if !ok {
		t.Fatal("no", name)
	}
	return path
}

// The environment is the caller's, with what sudo adds; tools that only root's
// path has are found.
func TestSudoEnvironment(t *testing.T) {
	needUID0(t)
	env := []string{"PATH=/nowhere:/usr/bin:/bin", "HOME=/home/of/caller", "KEPT=yes", "USER=caller", "SUDO_USER=stale"}
	const show = `echo $PATH; echo $HOME $KEPT $USER $LOGNAME $SUDO_USER $SUDO_UID $SUDO_GID; echo $SUDO_COMMAND`
	lines := func(o outcome) []string { return strings.Split(o.out, "\n") }

	got := lines(sudoed(t, env, "sh", "-c", show))
	want := []string{
		"/nowhere:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin",
		"/home/of/caller yes root root root 0 " + fmt.Sprint(os.Getgid()),
		"/usr/bin/sh -c " + show,
		"",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := lines(sudoed(t, env, "-H", "sh", "-c", show))[1]; !strings.HasPrefix(got, "/root yes") {
		t.Errorf("-H: %q", got)
	}
	if got := sudoed(t, env, "PATH=/x", "HOME=/y", "/bin/sh", "-c", "echo $PATH $HOME"); got.out != "/x /y\n" {
		t.Errorf("variables of the command line: %v", got)
	}
}

// Another user is another user where root can become one, and an error where
// not, as in a user namespace of one.
func TestSudoUser(t *testing.T) {
	needUID0(t)
	nobody, err := user.LookupId(fmt.Sprint(sandbox.Nobody))
	if err != nil {
		t.Skip("no nobody:", err)
	}
	const show = `id -u; id -g; echo $USER $HOME`
	got := sudoed(t, nil, "-u", nobody.Username, "sh", "-c", show)
	if sandbox.Missing(sandbox.Root) != nil {
		if got.status != 1 || !strings.HasPrefix(got.err, "sudo: unable to ") {
			t.Errorf("got %v", got)
		}
		return
	}
	want := fmt.Sprintf("%s\n%s\n%s %s\n", nobody.Uid, nobody.Gid, nobody.Username, nobody.HomeDir)
	if got != (outcome{out: want}) {
		t.Errorf("got %v\nwant %q", got, want)
	}
	if got := sudoed(t, nil, "-g", "#"+nobody.Gid, "sh", "-c", "id -u; id -g"); got.out != "0\n"+nobody.Gid+"\n" {
		t.Errorf("-g: %v", got)
	}
}

// A login shell has the target's home, and unfolds only variables.
func TestSudoLogin(t *testing.T) {
	needUID0(t)
	root, err := lookAccount("root", "")
	if err != nil {
		t.Fatal(err)
	}
	got := sudoed(t, []string{"HOME=/home/of/caller"}, "-i", "echo", "$0 $HOME", "a  b;c")
	want := fmt.Sprintf("-%s %s a  b;c\n", filepath.Base(root.shell()), root.home)
	if !strings.HasSuffix(got.out, want) { // a profile may have spoken first
		t.Errorf("got %v\nwant %q", got, want)
	}
}

// Who is not root does not become it.
func TestSudoNotRoot(t *testing.T) {
	sandbox.Need(t, sandbox.Root)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(testBinary(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sudo")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	want := "sudo: effective uid is not 0, is " + path + " on a file system with the 'nosuid' option set or an NFS file system without root privileges?\n"
	got := result(t, sandbox.AsUser(sandbox.Command(path, "true"), sandbox.Nobody))
	if got.status != 1 || got.out != "" || !strings.HasPrefix(got.err, want) { // go test -cover has more to say
		t.Errorf("got %v\nwant status 1 and %q", got, want)
	}
}

// In the background the command outlives sudo, which does not wait.
func TestSudoBackground(t *testing.T) {
	needUID0(t)
	cmd := start(t, "sudo", "-b", "cat")
	var pipes [4]*os.File
	var err error
	if pipes[0], pipes[1], err = os.Pipe(); err == nil {
		pipes[2], pipes[3], err = os.Pipe()
	}
	if err != nil {
		t.Fatal(err)
	}
	in, out := pipes[1], pipes[2]
	defer out.Close()
	cmd.Stdin, cmd.Stdout = pipes[0], pipes[3]
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	pipes[0].Close()
	pipes[3].Close()
	fmt.Fprint(in, "after the end\n")
	in.Close()
	if text, err := io.ReadAll(out); err != nil || string(text) != "after the end\n" {
		t.Errorf("%q, %v", text, err)
	}
}
