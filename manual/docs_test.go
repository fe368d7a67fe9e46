package manual

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// repository is where the pages are.
const repository = ".."

// find returns the files below the repository whose name ends so, but for what
// is built and what is mounted there.
func find(t *testing.T, ending string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "mnt"}, d.Name()):
			return filepath.SkipDir
		case strings.HasSuffix(path, ending):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	fence    = regexp.MustCompile("(?ms)^```.*?^```$")
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	target   = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"`)
	inLink   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	noAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors are the names of a page's headings, as GitHub makes them.
func anchors(page string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		name := noAnchor.ReplaceAllString(strings.ToLower(inLink.ReplaceAllString(m[1], "$1")), "")
		all = append(all, strings.ReplaceAll(strings.TrimSpace(name), " ", "-"))
	}
	return all
}

// TestLinks: what a page links to within the repository is there, with the
// heading.
func TestLinks(t *testing.T) {
	pages := find(t, ".md")
	if len(pages) < 50 {
		t.Fatalf("%d pages were found", len(pages))
	}
	for _, page := range pages {
		for _, m := range target.FindAllStringSubmatch(fence.ReplaceAllString(text(t, page), ""), -1) {
			link := m[1] + m[2]
			if strings.Contains(link, "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link, "#")
			to := page
			if path != "" {
				to = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s: %v", page, link, err)
			} else if anchor != "" && !slices.Contains(anchors(fence.ReplaceAllString(text(t, to), "")), anchor) {
				t.Errorf("%s: %s: no such heading", page, link)
			}
		}
	}
}

// TestNamedTests: a test that a page names as what holds a promise exists.
func TestNamedTests(t *testing.T) {
	declared := make(map[string]bool)
	for _, file := range find(t, "_test.go") {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`).FindAllStringSubmatch(text(t, file), -1) {
			declared[m[1]] = true
		}
	}
	named := 0
	for _, page := range find(t, ".md") {
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w+)`").FindAllStringSubmatch(text(t, page), -1) {
			named++
			if !declared[m[1]] {
				t.Errorf("%s names %s, and there is no such test", page, m[1])
			}
		}
	}
	if named < 100 {
		t.Errorf("pages name %d tests", named)
	}
}
