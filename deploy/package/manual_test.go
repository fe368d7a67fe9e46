//go:build !race

package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kstat/lab/mutant"
	"kstat/lab/sandbox"
)

// helped returns the flags that --help of a program lists, and its commands.
func helped(t testing.TB, program string, args ...string) (flags, commands []string) {
	t.Helper()
	text := output(t, sandbox.Command(program, append(args, "--help")...))
	for _, found := range regexp.MustCompile(`(?m)^  (\S+)`).FindAllStringSubmatch(text, -1) {
		if strings.HasPrefix(found[1], "-") {
			flags = append(flags, found[1])
		} else {
			commands = append(commands, found[1])
		}
	}
	slices.Sort(flags)
	return flags, commands
}

// programs returns the help of each page in a package, by the page's name.
func programs(t testing.TB, root string) map[string][]string {
	t.Helper()
	kstat := filepath.Join(root, "usr/bin/kstat")
	all := map[string][]string{"kstatd.8": {filepath.Join(root, "usr/sbin/kstatd")}, "kstat.1": {kstat}}
	_, commands := helped(t, kstat)
	for _, command := range commands {
		if command != "help" && command != "version" {
			all["kstat-"+command+".1"] = []string{kstat, command}
		}
	}
	if len(all) < 7 {
		t.Fatalf("kstat has the commands %q", commands)
	}
	return all
}

// TestPages: each program and command has a page, which linters find nothing
// in, man finds, and that tells of the flags that --help tells of.
func TestPages(t *testing.T) {
	need(t, "man-db:/usr/bin/man", "groff-base:/usr/bin/groff", "mandoc:/usr/bin/mandoc")
	root := unpacked(t)
	manual := filepath.Join(root, "usr/share/man")
	all := programs(t, root)
	want := []string{"man5/kstat.5.gz"}
	for page := range all {
		want = append(want, "man"+page[len(page)-1:]+"/"+page+".gz")
	}
	slices.Sort(want)
	if got := tree(t, manual); !slices.Equal(got, want) {
		t.Errorf("pages: %q, want %q", got, want)
	}
	for _, name := range want {
		page := filepath.Join(manual, name)
		if said, err := sandbox.Command("mandoc", "-T", "lint", "-W", "style", page).CombinedOutput(); err != nil || len(said) > 0 {
			t.Errorf("mandoc: %v\n%s", err, said)
		}
		show := sandbox.Command("man", "--warnings", "--local-file", "-P", "cat", page)
		show.Env = append(os.Environ(), "MANWIDTH=500", "LC_ALL=C.UTF-8")
		var complaints strings.Builder
		show.Stderr = &complaints
		rendered, err := show.Output()
		if err != nil || complaints.Len() > 0 {
			t.Errorf("man %s: %v\n%s", name, err, complaints.String())
		}
		text := string(rendered)
		title := strings.TrimSuffix(filepath.Base(name), ".gz")
		said, err := sandbox.Command("lexgrog", page).CombinedOutput()
		if plain, _, _ := strings.Cut(title, "."); err != nil || !strings.Contains(string(said), `: "`+plain+" - ") {
			t.Errorf("lexgrog %s: %v %s", name, err, said)
		}
		if !strings.Contains(text, "kstat "+release) || !strings.Contains(text, "2023-11-14") {
			t.Errorf("%s has neither version nor day at its foot:\n%s", name, text)
		}
		program := all[title]
		if program == nil { // kstat.5
			if !strings.Contains(text, "\nFILES THAT ARE FOLLOWED\n") {
				t.Errorf("%s does not tell how files are followed:\n%s", name, text)
			}
			continue
		}
		if !strings.Contains(text, "EXIT STATUS\n") {
			t.Errorf("%s tells no exit status", name)
		}
		flags, commands := helped(t, program[0], program[1:]...)
		var told []string
		_, options, _ := strings.Cut(text, "\nOPTIONS\n")
		options = regexp.MustCompile(`(?m)^[A-Z]`).Split(options, 2)[0]
		for _, found := range regexp.MustCompile(`(?m)^       (--?[a-z][a-z-]*)`).FindAllStringSubmatch(options, -1) {
			told = append(told, found[1])
		}
		slices.Sort(told)
		if !slices.Equal(told, flags) {
			t.Errorf("%s tells of %q, and --help of %q", name, told, flags)
		}
		_, synopsis, _ := strings.Cut(text, "\nSYNOPSIS\n")
		synopsis, _, _ = strings.Cut(synopsis, "\nDESCRIPTION\n")
		for _, flag := range flags {
			if !strings.Contains(synopsis, "["+flag+" ") && !strings.Contains(synopsis, "["+flag+"]") {
				t.Errorf("%s: no %s in the synopsis %q", name, flag, synopsis)
			}
		}
		for _, command := range commands {
			if !strings.Contains(text, "\n       "+command+" ") && !strings.Contains(text, "\n       "+command+"\n") {
				t.Errorf("%s does not tell of %s", name, command)
			}
		}
	}
}

// A completion is a command line, and what a shell offers at its end.
type completion struct {
	line string
	want []string
	more bool // there may be others
}

func completions(t testing.TB, root string) []completion {
	_, commands := helped(t, filepath.Join(root, "usr/bin/kstat"))
	points := []string{"prerouting", "input", "forward", "output", "postrouting"}
	all := []completion{
		{line: "kstat ", want: commands},
		{line: "kstat gr", want: []string{"grade"}},
		{line: "kstat run --ho", want: []string{"--hook"}},
		{line: "kstat run --hook ", want: points},
		{line: "kstat run --hook=out", want: []string{"output"}},
		{line: "kstat run --loaded --net ", want: []string{"new", "host"}},
		{line: "kstat run --mutant ", want: mutant.Names()},
		{line: "kstat grade --format ", want: []string{"text", "json", "gradescope", "junit", "tap"}},
		{line: "kstat grade --format json --profile ", want: []string{"contract", "coursework"}},
		{line: "kstat grade --rubric /etc/passw", want: []string{"passwd"}, more: true},
		{line: "kstat completion ", want: []string{"bash", "zsh", "fish"}},
		{line: "kstat manual kstat-g", want: []string{"kstat-grade.1"}},
		{line: "kstat run -- mktem", want: []string{"mktemp"}, more: true},
		{line: "kstat run --start --counter 3 -- ls /etc/passw", want: []string{"passwd"}, more: true},
		{line: "kstat run -v ls /etc/passw", want: []string{"passwd"}, more: true},
		{line: "kstatd --engine ", want: []string{"nfqueue", "bpf", "auto"}},
		{line: "kstatd --engine=n", want: []string{"nfqueue"}},
		{line: "kstatd --start --family ", want: []string{"both", "ipv4", "ipv6"}},
		{line: "kstatd --hook ", want: points},
		{line: "kstatd --mount /usr/shar", want: []string{"share"}},
		{line: "kstatd --mount=/usr/shar", want: []string{"share"}},
	}
	for _, program := range programs(t, root) {
		flags, commands := helped(t, program[0], program[1:]...)
		if len(commands) > 0 {
			continue
		}
		line := strings.Join(append([]string{filepath.Base(program[0])}, program[1:]...), " ")
		all = append(all, completion{line: line + " -", want: append(flags, "--help")})
	}
	return all
}

// check compares what a shell offered. Shells differ in how much of a word they
// say: /etc/passwd or passwd, --hook=output or output.
func (c completion) check(t testing.TB, offered []string) {
	t.Helper()
	var got []string
	for _, word := range offered {
		word, _, _ = strings.Cut(word, "\t") // fish describes
		if strings.Contains(word, "=") {
			_, word, _ = strings.Cut(word, "=")
		}
		if strings.Contains(word, "/") {
			word = filepath.Base(strings.TrimSuffix(word, "/"))
		}
		if word = strings.TrimSpace(word); word != "" && word != "-" { // a dash alone is a command of zsh
			got = append(got, word)
		}
	}
	want := slices.Clone(c.want)
	slices.Sort(want)
	slices.Sort(got)
	got = slices.Compact(got)
	if c.more {
		got = slices.DeleteFunc(got, func(word string) bool { return !slices.Contains(want, word) })
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q is offered %q, want %q", c.line, offered, want)
	}
}

// ask runs a shell that answers each line with a heading and what it offers.
func ask(t *testing.T, all []completion, shell *exec.Cmd) {
	t.Helper()
	for _, c := range all {
		shell.Args = append(shell.Args, c.line)
	}
	shell.Dir = "/"
	answers := strings.Split(output(t, shell), "<LINE>\n")
	if len(answers) != len(all)+1 {
		t.Fatalf("%d answers to %d lines: %q", len(answers)-1, len(all), answers)
	}
	for i, c := range all {
		c.check(t, strings.Split(answers[i+1], "\n"))
	}
}

// bashAsks splits words as readline does, at =, and calls what complete has
// registered.
const bashAsks = `
for line in "${@:2}"; do
	echo '<LINE>'
	spaced=${line//=/ = }
	read -ra COMP_WORDS <<<"$spaced"
	[[ $line != *[\ =] ]] || COMP_WORDS+=("")
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9
	function=$(complete -p "${COMP_WORDS[0]}" | sed 's/.* -F \([^ ]*\) .*/\1/')
	COMPREPLY=()
	"$function" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
	printf '%s\n' "${COMPREPLY[@]}"
done
`

func TestBash(t *testing.T) {
	need(t, "bash-completion:/usr/share/bash-completion/bash_completion")
	root := unpacked(t)
	all := completions(t, root)
	load := `for f in "$1"/usr/share/bash-completion/completions/*; do source "$f"; done`
	t.Run("Alone", func(t *testing.T) {
		ask(t, all, sandbox.Command("bash", "--norc", "-c", load+bashAsks, "bash", root))
	})
	t.Run("BashCompletion", func(t *testing.T) {
		with := append(slices.Clone(all), completion{line: "kstat run -- kill -HU", want: []string{"-HUP"}})
		ask(t, with, sandbox.Command("bash", "--norc", "-c", ". /usr/share/bash-completion/bash_completion\n"+load+bashAsks, "bash", root))
	})
	// As a user reads them in; and nothing that only newer ones understand.
	for _, program := range [][]string{{"usr/bin/kstat", "completion"}, {"usr/sbin/kstatd", "--completion"}} {
		body, err := os.ReadFile(filepath.Join(root, "usr/share/bash-completion/completions", filepath.Base(program[0])))
		must(t, err)
		if got := output(t, sandbox.Command(filepath.Join(root, program[0]), program[1], "bash")); got != string(body) {
			t.Errorf("%q prints\n%s\nand installed is\n%s", program, got, body)
		}
	}
}

// zshAsks types lines into a zsh, at a terminal, and reads what compadd adds.
const zshAsks = `
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "source $1"
while zpty -r z said; do [[ $said == *READY* ]] && break; done
for line in "${@:2}"; do
	print -r -- '<LINE>'
	zpty -w -n z "$line"$'\t'
	while zpty -r z said; do
		said=${${said//$'\r'}//$'\n'}
		[[ $said == *'<MATCH>'* ]] && print -r -- ${said##*'<MATCH>'}
		[[ $said == *'<END>'* ]] && break
	done
done
zpty -d z
`

const zshrc = `
PROMPT=
stty -echo
fpath=(%s/usr/share/zsh/vendor-completions $fpath)
autoload -U compinit
compinit -u -D
compadd() {
	local -a hits
	if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\ * ]]; then
		builtin compadd -O hits "$@"
		local hit
		for hit in $hits; do print -r -- "<MATCH>$hit"; done
	fi
	builtin compadd "$@"
}
complete-all() { _main_complete; print -r -- '<END>'; compstate[insert]= compstate[list]=; }
zle -C complete-all complete-word complete-all
complete-and-clear() { zle complete-all; BUFFER=; }
zle -N complete-and-clear
bindkey '^I' complete-and-clear
print READY
`

func TestZsh(t *testing.T) {
	need(t, "zsh:/usr/bin/zsh")
	root := unpacked(t)
	rc := filepath.Join(t.TempDir(), "zshrc")
	must(t, os.WriteFile(rc, fmt.Appendf(nil, zshrc, root), 0o644))
	shell := sandbox.Command("zsh", "-f", "-c", zshAsks, "zsh", rc)
	shell.Env = append(os.Environ(), "TERM=dumb", "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
	ask(t, completions(t, root), shell)
}

func TestFish(t *testing.T) {
	need(t, "fish:/usr/bin/fish")
	root := unpacked(t)
	home := t.TempDir()
	shell := sandbox.Command("fish", "--no-config", "-c", `
for f in $argv[1]/usr/share/fish/vendor_completions.d/*; source $f; end
for line in $argv[2..]
	echo '<LINE>'
	complete -C $line
end`, root)
	shell.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home, "LC_ALL=C.UTF-8")
	ask(t, completions(t, root), shell)
}
