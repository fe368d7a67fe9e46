package manual

import (
	"fmt"
	"slices"
	"strings"
)

// shells are those that can be told how to complete. It is never written.
var shells = [...]struct {
	name  string
	write func(*Program) string
}{
	{"bash", bash},
	{"zsh", zsh},
	{"fish", fish},
}

// Shells returns the names of the shells that [Program.Completion] knows.
func Shells() []string {
	names := make([]string, len(shells))
	for i, s := range shells {
		names[i] = s.name
	}
	return names
}

// Completion returns a script that tells a shell how the program's command
// lines are completed.
func (p *Program) Completion(shell string) (string, error) {
	for _, s := range shells {
		if s.name == shell {
			return s.write(p), nil
		}
	}
	return "", fmt.Errorf("no shell %q: take one of %s", shell, strings.Join(Shells(), ", "))
}

// each calls f with every command, or with the program itself if it has none.
func (p *Program) each(f func(command string, c *Program)) {
	if len(p.Commands) == 0 {
		f("", p)
	}
	for _, c := range p.Commands {
		f(c.word(), c)
	}
}

// script puts lines together.
type script struct{ strings.Builder }

func (s *script) line(format string, args ...any) { fmt.Fprintf(s, format+"\n", args...) }

func (s *script) begin(p *Program, first string) {
	if first != "" {
		s.line("%s", first)
	}
	s.line("# Completion of %s, made from its flags; do not edit.\n", p.Name)
}

// bash needs nothing but bash; with bash-completion, what follows kstat run is
// completed as if it stood alone.
func bash(p *Program) string {
	var s script
	s.begin(p, "")
	// The first loop finds the command, the number of its arguments that are no
	// flags, and the place of the first of them. A word --flag=value comes as
	// three words.
	s.line(`_%s() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command= flags= kind= words= first=0 i
	COMPREPLY=()
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do`, p.Name)
	if len(p.Commands) > 0 {
		s.line(`		if [[ -z $command ]]; then
			command=${COMP_WORDS[i]}
			continue
		fi`)
	}
	s.line(`		case "$command ${COMP_WORDS[i]}" in`)
	p.each(func(name string, c *Program) {
		var takers []string
		for _, o := range c.options() {
			if o.argument != "" {
				takers = append(takers, shellQuote(name+" "+o.name))
			}
		}
		if len(takers) > 0 {
			s.line(`		%s)
			((i++))
			if [[ ${COMP_WORDS[i]} == = ]]; then ((i++)); fi
			;;`, strings.Join(takers, " | "))
		}
	})
	s.line(`		*" --")
			((first = i + 1))
			break
			;;
		*" -"*) ;;
		*)
			first=$i
			break
			;;
		esac
	done`)
	if len(p.Commands) > 0 {
		s.line(`	if ((COMP_CWORD == 1)); then
		COMPREPLY=($(compgen -W %s -- "$cur"))
		return
	fi`, shellQuote(strings.Join(p.commandWords(), " ")))
	}
	s.line(`	if ((first == 0)); then
		case "$command $prev" in`)
	p.each(func(name string, c *Program) {
		for _, o := range c.options() {
			if o.argument != "" {
				s.line("\t\t%s) kind=%s words=%s ;;", shellQuote(name+" "+o.name), bashKind(o.value), shellQuote(strings.Join(o.words, " ")))
			}
		}
	})
	s.line(`		esac
	fi
	if [[ -z $kind ]]; then
		case $command in`)
	p.each(func(name string, c *Program) {
		var flags []string
		for _, o := range c.options() {
			flags = append(flags, o.name)
		}
		s.line("\t\t%s) flags=%s kind=%s words=%s ;;", shellQuote(name), shellQuote(strings.Join(append(flags, "--help"), " ")),
			bashKind(c.operand()), shellQuote(strings.Join(c.Words, " ")))
	})
	s.line(`		esac
		if ((first > 0)); then
			if [[ $kind == command ]]; then
				for i in _comp_command_offset _command_offset; do # by newer and older bash-completion
					if declare -F $i >/dev/null; then
						$i "$first"
						return
					fi
				done
			fi
			if ((first < COMP_CWORD)); then kind=files; fi
		elif [[ $cur == -* ]]; then
			COMPREPLY=($(compgen -W "$flags" -- "$cur"))
			return
		fi
	fi
	case $kind in
	words) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
	files)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		;;
	directory)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		;;
	command) mapfile -t COMPREPLY < <(compgen -c -- "$cur" | sort -u) ;;
	esac
}
complete -F _%s %s`, p.Name, p.Name)
	return s.String()
}

func bashKind(v value) string {
	return [...]string{free: "free", words: "words", files: "files", directory: "directory", command: "command"}[v]
}

func (p *Program) commandWords() []string {
	names := make([]string, len(p.Commands))
	for i, c := range p.Commands {
		names[i] = c.word()
	}
	return names
}

// shellQuote quotes a text for bash and zsh.
func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// zsh is for a directory of fpath, as _kstat.
func zsh(p *Program) string {
	var s script
	s.begin(p, "#compdef "+p.Name)
	s.line("_%s() {", p.Name)
	if len(p.Commands) == 0 {
		s.line("\t_arguments -S -A '-*' %s", strings.Join(zshArguments(p), " \\\n\t\t"))
	} else {
		s.line(`	local curcontext=$curcontext state line
	typeset -A opt_args
	_arguments -C '1:command:->command' '*::argument:->argument' && return 0
	case $state in
	command)
		local -a commands=(`)
		for _, c := range p.Commands {
			s.line("\t\t\t%s", shellQuote(c.word()+":"+strings.ReplaceAll(c.About, ":", `\:`)))
		}
		s.line(`		)
		_describe -t commands command commands
		;;
	argument)
		curcontext=${curcontext%%:*}-$words[1]:
		case $words[1] in`)
		for _, c := range p.Commands {
			s.line("\t\t%s)\n\t\t\t_arguments -S -A '-*' %s\n\t\t\t;;", c.word(), strings.Join(zshArguments(c), " \\\n\t\t\t\t"))
		}
		s.line("\t\tesac\n\t\t;;\n\tesac")
	}
	// Loaded by compinit the file is the function's body; sourced, it is not.
	s.line(`}

if [[ $funcstack[1] == _%s ]]; then
	_%s "$@"
else
	compdef _%s %s
fi`, p.Name, p.Name, p.Name, p.Name)
	return s.String()
}

// zshArguments returns the specifications of _arguments, quoted.
func zshArguments(p *Program) []string {
	var all []string
	describe := strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`)
	for _, o := range p.options() {
		if o.argument == "" {
			all = append(all, shellQuote(fmt.Sprintf("%s[%s]", o.name, describe.Replace(o.usage))))
			continue
		}
		equals := "="
		if !strings.HasPrefix(o.name, "--") {
			equals = ""
		}
		all = append(all, shellQuote(fmt.Sprintf("%s%s[%s]:%s:%s", o.name, equals, describe.Replace(o.usage), o.argument, zshAction(o.value, o.words))))
	}
	all = append(all, shellQuote("--help[show the flags]"))
	switch v := p.operand(); v {
	case free:
	case command:
		all = append(all, shellQuote("(-)1:command:_command_names -e"), shellQuote("*::argument:_normal"))
	default:
		all = append(all, shellQuote("1:argument:"+zshAction(v, p.Words)))
	}
	return all
}

func zshAction(v value, values []string) string {
	switch v {
	case words:
		return "(" + strings.Join(values, " ") + ")"
	case files:
		return "_files"
	case directory:
		return "_files -/"
	case command:
		return "_command_names"
	}
	return " "
}

// fish is for a directory of fish_complete_path, as kstat.fish.
func fish(p *Program) string {
	var s script
	s.begin(p, "")
	quote := func(text string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
	}
	s.line("complete -c %s -f", p.Name)
	if len(p.Commands) > 0 {
		s.line(`function __%s_command
	set -l words (commandline -opc)
	test "$words[2]" = $argv[1]
end`, p.Name)
	}
	for _, c := range p.Commands {
		s.line("complete -c %s -n __fish_use_subcommand -a %s -d %s", p.Name, c.word(), quote(c.About))
	}
	p.each(func(name string, c *Program) {
		when := ""
		if name != "" {
			when = " -n " + quote("__"+p.Name+"_command "+name)
		}
		var takers []string
		for _, o := range c.options() {
			line := fmt.Sprintf("complete -c %s%s", p.Name, when)
			if long, ok := strings.CutPrefix(o.name, "--"); ok {
				line += " -l " + long
			} else {
				line += " -s " + o.name[1:]
			}
			if o.argument != "" {
				takers = append(takers, o.name)
				line += fishValue(o.value, o.words)
			}
			s.line("%s -d %s", line, quote(o.usage))
		}
		s.line("complete -c %s%s -l help -d 'show the flags'", p.Name, when)
		switch v := c.operand(); v {
		case free:
		case command:
			skip := 1
			if name != "" {
				skip = 2
			}
			arguments := slices.Concat([]string{fmt.Sprintf("--fcs-skip=%d", skip)}, takers)
			s.line("complete -c %s%s -x -a %s", p.Name, when, quote("(__fish_complete_subcommand "+strings.Join(arguments, " ")+")"))
		default:
			s.line("complete -c %s%s%s", p.Name, when, fishValue(v, c.Words))
		}
	})
	return s.String()
}

func fishValue(v value, values []string) string {
	switch v {
	case words:
		return " -x -a '" + strings.Join(values, " ") + "'"
	case files:
		return " -r -F"
	case directory:
		return " -x -a '(__fish_complete_directories)'"
	case command:
		return " -x -a '(__fish_complete_command)'"
	}
	return " -x"
}
