package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"kstat/manual"
	"kstat/version"
)

// selfCommands are the commands that are about all commands, and so cannot be
// among them.
func selfCommands() []*command {
	return []*command{
		{"completion", strings.Join(manual.Shells(), " | "), "print how a shell completes kstat's command lines", completion, shellNames},
		{"manual", "[PAGE]", "print a page of the manual, or list the pages", manualPage, pageNames},
	}
}

// whole is what the manual knows of kstat. Its flags are of their own.
func whole() *manual.Program {
	p := &manual.Program{
		Name:     "kstat",
		Section:  1,
		Synopsis: "COMMAND …",
		About:    "run and grade what uses the files of the KSTAT kernel module",
	}
	all := slices.Concat(commands, selfCommands())
	var names []string
	for _, c := range all {
		p.Commands = append(p.Commands, c.program())
		names = append(names, c.name)
	}
	p.Commands = append(p.Commands,
		&manual.Program{Name: "kstat help", About: "list the commands, or the flags of one", Words: names},
		&manual.Program{Name: "kstat version", About: "say the version"})
	for i, c := range all {
		if c.words != nil {
			p.Commands[i].Words = c.words(p)
		}
	}
	return p
}

func (c *command) program() *manual.Program {
	flags, _ := c.flags()
	return &manual.Program{Name: "kstat " + c.name, Section: 1, Synopsis: c.synopsis, About: c.about, Flags: flags}
}

func shellNames(*manual.Program) []string { return manual.Shells() }

func completion(c *command, flags *flag.FlagSet) func([]string) int {
	return func([]string) int {
		if flags.NArg() != 1 {
			return c.misuse("name one shell: %s", strings.Join(manual.Shells(), ", "))
		}
		script, err := whole().Completion(flags.Arg(0))
		if err != nil {
			return c.misuse("%v", err)
		}
		return c.print(os.Stdout.WriteString(script))
	}
}

func pageNames(whole *manual.Program) []string { return manual.Names(whole.Pages()) }

func manualPage(c *command, flags *flag.FlagSet) func([]string) int {
	return func([]string) int {
		pages := whole().Pages()
		switch flags.NArg() {
		case 0:
			return c.print(fmt.Println(strings.Join(manual.Names(pages), "\n")))
		case 1:
		default:
			return c.misuse("%q is one too many: name one page", flags.Arg(1))
		}
		page, err := manual.Find(pages, flags.Arg(0))
		if err != nil {
			return c.misuse("%v", err)
		}
		edition, err := manual.NewEdition(version.String(), os.Getenv("SOURCE_DATE_EPOCH"))
		if err == nil {
			err = page.Write(os.Stdout, edition)
		}
		return c.print(0, err)
	}
}

// print returns the exit status of a command that has printed something.
func (c *command) print(_ int, err error) int {
	if err != nil {
		return c.fail(err)
	}
	return 0
}
