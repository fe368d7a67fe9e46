package grade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// threeItems stands for the built-in rubric.
func threeItems() *Rubric {
	return &Rubric{Title: "KSTAT", Items: []Item{
		{ID: "defaults", Section: "basic functionality", Points: 10},
		{ID: "tcp-exact", Section: "basic functionality", Points: 15},
		{ID: "newline", Section: "procfs", Points: 5},
	}}
}

// TestFiles reads testdata/rubric. A file that is refused begins with the
// mistakes in it, one in a comment each. The names say what the schema makes of
// a file: valid, invalid, or rule, for one that breaks a rule that no schema
// can say.
func TestFiles(t *testing.T) {
	schema := compileSchema(t)
	paths, err := filepath.Glob("testdata/rubric/*.yaml")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		name := filepath.Base(path)
		class, _, _ := strings.Cut(name, "-")
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = Read(path, threeItems())
			var got string
			if err != nil {
				got = "# " + strings.ReplaceAll(strings.ReplaceAll(err.Error(), path+":", ""), "\n", "\n# ") + "\n"
			}
			comments := regexp.MustCompile(`(?s)\A(#[^\n]*\n)*`)
			if *update && got != "" {
				text = comments.ReplaceAllLiteral(text, []byte(got))
				if err := os.WriteFile(path, text, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want := string(comments.Find(text))
			if class == "valid" {
				want = ""
			} else if want == "" {
				t.Error("the file does not begin with its mistakes")
			}
			if got != want {
				t.Errorf("it says\n%swant\n%s", got, want)
			}
			if err := validate(schema, text); (err == nil) != (class != "invalid") {
				t.Errorf("the schema says %v of a file that is %s", err, class)
			}
		})
	}
}

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(JSONSchema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("rubric.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("rubric.schema.json") // against its metaschema, too
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate has a YAML text validated as the JSON that it is.
func validate(schema *jsonschema.Schema, text []byte) error {
	d := yaml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	var value any
	if err := d.Decode(&value); err != nil {
		return err
	}
	if d.Decode(new(any)) == nil {
		return errors.New("a second document")
	}
	asJSON, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		return err
	}
	return schema.Validate(value)
}

// TestSchemaFields wants the same fields in the schema and the parser.
func TestSchemaFields(t *testing.T) {
	var schema struct {
		Properties map[string]any
		Defs       struct {
			Item struct{ Properties map[string]any }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(JSONSchema(), &schema); err != nil {
		t.Fatal(err)
	}
	for _, pair := range []struct {
		parser []string
		schema map[string]any
	}{{fileFields, schema.Properties}, {itemFields, schema.Defs.Item.Properties}} {
		for _, name := range pair.parser {
			if pair.schema[name] == nil {
				t.Errorf("the schema has no %q", name)
			}
		}
		if len(pair.parser) != len(pair.schema) {
			t.Errorf("the schema has %d fields, the parser %d", len(pair.schema), len(pair.parser))
		}
	}
}

func TestReadMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, _, err := Read(path, threeItems())
	if want := "read the rubric: open " + path + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}

// TestMerge reads a file that says something of everything.
func TestMerge(t *testing.T) {
	builtin := threeItems()
	rubric, profile, err := Read("testdata/rubric/valid-full.yaml", builtin)
	if err != nil {
		t.Fatal(err)
	}
	if profile != Coursework || rubric.Title != "KSTAT, autumn" {
		t.Errorf("profile %q, title %q", profile, rubric.Title)
	}
	type row struct {
		id, section, title, repeat string
		points                     float64
		limit                      time.Duration
		unloaded, command          bool
	}
	var got []row
	for _, it := range rubric.Items {
		got = append(got, row{it.ID, it.Section, it.Title, it.Repeat, it.Points, it.Limit, it.Unloaded, it.Try != nil})
	}
	want := []row{
		{id: "defaults", section: "basic functionality", points: 5},
		{id: "tcp-exact", section: "basic functionality", points: 22.5},
		{"newline", "procfs", "a number, with or without a newline", "cat /proc/kstat/nout", 2.5, 90 * time.Second, true, true},
		{"echo", "course", "what is read, is written", "cat", 0, 0, false, true},
		{id: "readme", section: "comments and README", title: "the README says how to build it", points: 10},
	}
	if !slices.Equal(got, want) {
		t.Errorf("items\n%+v\nwant\n%+v", got, want)
	}
	if len(builtin.Items) != 3 || builtin.Items[0].Points != 10 {
		t.Errorf("the built-in rubric was changed: %+v", builtin)
	}
}

func TestMergeNothing(t *testing.T) {
	rubric, profile, err := Read("testdata/rubric/valid-minimal.yaml", threeItems())
	if err != nil || profile != "" || rubric.Title != "KSTAT" || len(rubric.Items) != 3 {
		t.Errorf("%+v, profile %q, %v; want the built-in rubric", rubric, profile, err)
	}
	rubric, _, err = Read("testdata/rubric/valid-own.yaml", threeItems())
	if err != nil || len(rubric.Items) != 1 || rubric.Items[0].Limit != 500*time.Millisecond {
		t.Errorf("%+v, %v; want one item", rubric, err)
	}
}

// TestCommandsOfAFile runs what a file says, with what it expects met and not.
func TestCommandsOfAFile(t *testing.T) {
	const head = "schema: 1\nbuiltin: false\nitems:\n  - id: a\n    section: a\n    title: a\n    points: 1\n"
	for _, test := range []struct {
		fields string
		want   Outcome
	}{
		{"run: 'true'", Passed},
		{"run: 'false'", Failed},
		{"run: exit 3\nstatus: 3", Passed},
		{"run: exit 3\nstatus: 4", Failed},
		{"run: echo 10\nstdout: |\n  10", Passed},
		{"run: echo 10\nstdout: '10'", Failed},
		{"run: printf 10\nstdout: '10'", Passed},
		{"run: cat\nstdin: |\n  one\n  two\nstdout: |\n  one\n  two", Passed},
		{"run: |\n  echo one\n  echo two >&2\nstdout: |\n  one\nstderr_matches: ^two$", Failed},
		{"run: |\n  echo one\n  echo two >&2\nstdout: |\n  one\nstderr_matches: (?m)^two$", Passed},
		{"run: echo one two\nstdout_matches: two", Passed},
		{"run: echo one two\nstdout_matches: three", Failed},
		{`run: test "$KSTAT_NOUT" = /proc/kstat/nout -a "$KSTAT_PROFILE" = coursework`, Passed},
	} {
		text := head + "    " + strings.ReplaceAll(test.fields, "\n", "\n    ") + "\n"
		rubric, _, err := readRubric("rubric.yaml", []byte(text), threeItems())
		if err != nil {
			t.Errorf("%s: %v", test.fields, err)
			continue
		}
		b := &Bench{Target: Target{Nout: "/proc/kstat/nout"}, Profile: Coursework}
		v := rubric.Items[0].Try(context.Background(), b)
		if v.Outcome != test.want && (v.Outcome != "" || test.want != Passed) {
			t.Errorf("%s: %+v, want %s", test.fields, v, test.want)
		}
	}
}

// FuzzRead wants a rubric or mistakes with a place, and never a panic. What
// Read takes, the schema takes.
func FuzzRead(f *testing.F) {
	paths, err := filepath.Glob("testdata/rubric/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	schema := compileSchema(f)
	place := regexp.MustCompile(`^r\.yaml:([0-9]+:[0-9]+:)? [^\n]+$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		rubric, _, err := readRubric("r.yaml", text, threeItems())
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !place.MatchString(line) {
					t.Errorf("%q", line)
				}
			}
			return
		}
		if len(rubric.Items) == 0 {
			t.Error("no items")
		}
		if err := validate(schema, text); err != nil {
			t.Errorf("Read takes %q, and the schema says %v", text, err)
		}
	})
}
