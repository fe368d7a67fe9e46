// Package manual is what the programs say of themselves: help texts, manual
// pages and completions for shells, all made from one source.
//
//	the flag.FlagSet that is parsed ──┐
//	a command's synopsis and about ───┼──▶ Program ──▶ Help          --help
//	pages.go: texts, statuses, files ─┘         ├────▶ Page          man(7)
//	                                            └────▶ Completion    bash, zsh, fish
//	fs.Files, the table of files ──▶ Tree ───────────▶ Page          kstat(5)
//
// A flag is declared where it is parsed and nowhere else: a new one is in all
// of them. What a page has beside flags (prose, exit statuses, examples) is in
// pages.go, by the name of the command; a command that has nothing there gets a
// page with what is known of it.
//
// # Words
//
// Which values a flag takes is asked of the flag: it is given one that it cannot
// take, and of the words of its refusal, those that it takes are offered. So
// "take one of nfqueue, bpf, auto" is what a person reads, and what a shell
// completes. A value without such a refusal is completed by the name of the
// argument: FILE and PATH are files, DIR is a directory, COMMAND a command.
package manual
