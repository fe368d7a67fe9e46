package main

import (
	"bytes"
	"fmt"
	"os"
)

// What the README keeps of a report is between these.
const (
	tableBegin = "<!-- bench table: begin -->\n"
	tableEnd   = "<!-- bench table: end -->\n"
)

// updateReadme puts the table of targets where the README has the one of another run.
func updateReadme(name string, table []byte) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	text, err = betweenMarkers(text, table)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, text, 0o644)
}

func betweenMarkers(text, table []byte) ([]byte, error) {
	before, rest, begun := bytes.Cut(text, []byte(tableBegin))
	_, after, ended := bytes.Cut(rest, []byte(tableEnd))
	if !begun || !ended {
		return nil, fmt.Errorf("no %q and %q behind it", tableBegin, tableEnd)
	}
	return bytes.Join([][]byte{before, []byte(tableBegin), table, []byte(tableEnd), after}, nil), nil
}
