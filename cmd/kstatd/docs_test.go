package main

import (
	"bytes"
	"fmt"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	fencePattern   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	codePattern    = regexp.MustCompile("`[^`\n]+`")
	headingPattern = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	linkPattern    = regexp.MustCompile(`\]\(([^()\s]+)\)|(?:href|src|srcset)="([^"]+)"`)
	schemePattern  = regexp.MustCompile(`^[a-z]+:`)
)

// TestDocs: what the pages of this repository link to is there, headings
// included, and each picture is on a page.
func TestDocs(t *testing.T) {
	const root = "../.."
	pages := map[string]string{} // without what is in a box of code
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && d != nil && d.Name() != "mnt":
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "mnt" || d.Name() == "bin"):
			return filepath.SkipDir
		case filepath.Ext(path) == ".md":
			text, err := os.ReadFile(path)
			pages[path] = fencePattern.ReplaceAllString(string(text), "")
			return err
		}
		return nil
	}))
	headings := map[string]map[string]bool{}
	for path, text := range pages {
		headings[path] = anchors(text)
	}
	linked, links := map[string]bool{}, 0
	for path, text := range pages {
		for _, m := range linkPattern.FindAllStringSubmatch(codePattern.ReplaceAllString(text, ""), -1) {
			link := m[1] + m[2]
			if schemePattern.MatchString(link) {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(link, "#")
			to := path
			if file != "" {
				to = filepath.Join(filepath.Dir(path), file)
			}
			linked[to] = true
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s: %v", path, link, err)
			} else if anchor != "" && filepath.Ext(to) == ".md" && !headings[to][anchor] {
				t.Errorf("%s: %s: there is no such heading", path, link)
			}
		}
	}
	pictures, err := filepath.Glob(root + "/docs/images/*")
	must(t, err)
	for _, path := range pictures {
		if !linked[path] {
			t.Errorf("%s is on no page", path)
		}
		text, err := os.ReadFile(path)
		must(t, err)
		if len(text) > 200_000 {
			t.Errorf("%s has %d bytes; 200 kB are enough", path, len(text))
		}
		if filepath.Ext(path) == ".png" {
			if _, err := png.Decode(bytes.NewReader(text)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if links < 100 || len(pictures) < 5 {
		t.Errorf("%d links and %d pictures: not all were found", links, len(pictures))
	}
}

// anchors returns the names by which GitHub links to a page's headings.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range headingPattern.FindAllStringSubmatch(text, -1) {
		title := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, title)
		for unique, n := name, 1; ; n++ {
			if !found[unique] {
				found[unique] = true
				break
			}
			unique = fmt.Sprintf("%s-%d", name, n)
		}
	}
	return found
}
