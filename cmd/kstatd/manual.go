package main

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	kstatfs "kstat/fs"
	"kstat/manual"
	"kstat/version"
)

// program is what the manual knows of kstatd. Its flags are of their own.
func program() *manual.Program {
	return &manual.Program{
		Name:     "kstatd",
		Section:  8,
		Synopsis: "[FLAG]…",
		About:    "count packets by protocol, and serve the figures as files",
		Flags:    declareFlags().flags,
	}
}

// pages are those of the daemon and of its tree.
func pages() []manual.Page {
	var files []manual.File
	for _, f := range kstatfs.Files() {
		files = append(files, manual.File{Path: f.Path, Mode: fs.FileMode(f.Mode), About: f.About})
	}
	return append(program().Pages(), manual.Tree(files))
}

// printPage returns what prints a page.
func printPage(name string) (func() error, error) {
	page, err := manual.Find(pages(), name)
	return func() error {
		edition, err := manual.NewEdition(version.String(), os.Getenv("SOURCE_DATE_EPOCH"))
		if err != nil {
			return err
		}
		return page.Write(os.Stdout, edition)
	}, err
}

// printCompletion returns what prints the completion of a shell.
func printCompletion(shell string) (func() error, error) {
	if !slices.Contains(manual.Shells(), shell) {
		return nil, fmt.Errorf("take one of %s", strings.Join(manual.Shells(), ", "))
	}
	return func() error {
		script, err := program().Completion(shell)
		if err == nil {
			_, err = os.Stdout.WriteString(script)
		}
		return err
	}, nil
}
