package grade

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

//go:embed rubric.schema.json
var jsonSchema []byte

// JSONSchema returns the JSON schema (draft 2020-12) of a rubric file, for
// editors. It takes what [Read] takes, but that Read also looks at what a
// schema cannot say: that IDs are known and unique, and patterns correct.
func JSONSchema() []byte { return bytes.Clone(jsonSchema) }

// Read reads a rubric file, which docs/grading.md describes. It returns a
// rubric of those of the built-in items that the file keeps, and of its own;
// and the profile that it wants, "" if it does not say.
//
// The error has a line for each mistake: file, line, column, what is wrong, and
// what is allowed.
func Read(path string, builtin *Rubric) (*Rubric, Profile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, "", fmt.Errorf("read the rubric: %w", err)
	}
	return readRubric(path, text, builtin)
}

// What a rubric file may say, in the order of docs/grading.md. What comes behind
// by_hand is about a command.
var (
	fileFields = []string{"schema", "title", "profile", "builtin", "points", "skip", "items"}
	itemFields = []string{
		"id", "section", "title", "points", "by_hand", "run", "stdin", "status",
		"stdout", "stdout_matches", "stderr_matches", "timeout", "loaded", "repeat",
	}
)

// The forms of texts, which rubric.schema.json has as well.
var (
	idForm      = regexp.MustCompile(`^[a-z0-9-]+$`)
	lineForm    = regexp.MustCompile(`^[^\r\n]*[^\r\n\t ][^\r\n]*$`)
	blankForm   = regexp.MustCompile(`^\s*$`)
	timeoutForm = regexp.MustCompile(`^([0-9]{1,2}h)?([0-9]{1,4}m)?([0-9]{1,5}(\.[0-9]{1,3})?s)?([0-9]{1,6}ms)?$`)
)

// maxPoints is the most that an item can have.
const maxPoints = 1e6

func readRubric(name string, text []byte, builtin *Rubric) (*Rubric, Profile, error) {
	r := reader{file: name}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	top, err := r.parse(text)
	if err != nil {
		return nil, "", err
	}
	if top == nil {
		return nil, "", fmt.Errorf("%s:1:1: the rubric is empty: it begins with schema: 1", name)
	}
	rubric, profile := r.rubric(top, builtin)
	if err := r.err(); err != nil {
		return nil, "", err
	}
	return rubric, profile, nil
}

// reader collects the mistakes in a file.
type reader struct {
	file     string
	mistakes []mistake
}

type mistake struct {
	at   token.Position
	text string
}

func (r *reader) fail(at *token.Token, format string, args ...any) {
	r.mistakes = append(r.mistakes, mistake{*at.Position, fmt.Sprintf(format, args...)})
}

// err returns the mistakes in the order of the file.
func (r *reader) err() error {
	slices.SortStableFunc(r.mistakes, func(a, b mistake) int { return a.at.Offset - b.at.Offset })
	var all []error
	for _, m := range r.mistakes {
		all = append(all, fmt.Errorf("%s:%d:%d: %s", r.file, m.at.Line, m.at.Column, m.text))
	}
	return errors.Join(all...)
}

// parse returns the one document in the file, nil if there is nothing.
func (r *reader) parse(text []byte) (ast.Node, error) {
	file, err := parser.ParseBytes(text, 0)
	if syntax := yaml.Error(nil); errors.As(err, &syntax) && syntax.GetToken() != nil {
		message := strings.ReplaceAll(syntax.GetMessage(), "\t", `\t`)
		r.fail(syntax.GetToken(), "not YAML: %s", oneLine(message))
		return nil, r.err()
	} else if err != nil {
		return nil, fmt.Errorf("%s: not YAML: %s", r.file, oneLine(err.Error()))
	}
	var body ast.Node
	for _, document := range file.Docs {
		_, directive := document.Body.(*ast.DirectiveNode) // %YAML 1.2
		switch {
		case document.Body == nil || directive:
		case body != nil:
			r.fail(cmp.Or(document.Start, document.Body.GetToken()), "a second document: a rubric file has one")
			return nil, r.err()
		default:
			body = document.Body
		}
	}
	return body, nil
}

// rubric reads the whole.
func (r *reader) rubric(top ast.Node, builtin *Rubric) (*Rubric, Profile) {
	o := r.object(top, "a rubric", fileFields)
	if o == nil {
		return nil, ""
	}
	rubric := &Rubric{Title: builtin.Title}

	var schema float64
	if o.number("schema", math.Inf(-1), math.Inf(1), &schema) && schema != 1 {
		r.fail(o.at("schema"), "schema %v is not known: this kstat reads schema 1", schema)
	} else if !o.has("schema") {
		r.fail(o.start, "no schema: say which version this is, schema: 1")
	}
	o.text("title", lineForm, "one line that is not blank", &rubric.Title)
	var profile string
	if o.text("profile", nil, "", &profile) {
		if profiles := []Profile{Contract, Coursework}; !slices.Contains(profiles, Profile(profile)) {
			r.fail(o.at("profile"), "no profile %q: take one of %s", profile, join(profiles))
		}
	}
	keep := true
	o.flag("builtin", &keep)
	rubric.Items = r.builtin(o, builtin, keep)

	taken := map[string]bool{}
	for _, item := range rubric.Items {
		taken[item.ID] = true
	}
	for _, node := range o.list("items") {
		if item, at := r.item(node); item != nil {
			if taken[item.ID] {
				r.fail(at, "a second item %q: an id is there once; a built-in item is replaced if skip names it, too", item.ID)
			}
			taken[item.ID] = true
			rubric.Items = append(rubric.Items, *item)
		}
	}
	if len(rubric.Items) == 0 && len(r.mistakes) == 0 {
		r.fail(o.start, "nothing is graded: add items, or keep some built-in ones")
	}
	return rubric, Profile(profile)
}

// builtin returns the built-in items that the file keeps, with their points.
func (r *reader) builtin(o *object, builtin *Rubric, keep bool) []Item {
	var ids []string
	for _, item := range builtin.Items {
		ids = append(ids, item.ID)
	}
	known := func(at *token.Token, id string) bool {
		if slices.Contains(ids, id) {
			return true
		}
		r.fail(at, "no built-in item %q: there are %s", id, join(ids))
		return false
	}
	if !keep {
		for _, name := range []string{"points", "skip"} {
			if o.has(name) {
				r.fail(o.key(name), "%s is about the built-in items, and builtin: false leaves them all out", name)
			}
		}
		return nil
	}

	skip := map[string]bool{}
	for _, node := range o.list("skip") {
		if id, ok := r.string(node, "an id"); ok && known(node.GetToken(), id) {
			if skip[id] {
				r.fail(node.GetToken(), "%q is skipped twice", id)
			}
			skip[id] = true
		}
	}
	weights := map[string]float64{}
	if o.has("points") {
		if p := r.object(o.value("points"), "points", nil); p != nil {
			for _, id := range p.names {
				var w float64
				if p.number(id, 0, maxPoints, &w) && known(p.key(id), id) {
					if skip[id] {
						r.fail(p.key(id), "%q has points, and is skipped", id)
					}
					weights[id] = w
				}
			}
		}
	}
	var items []Item
	for _, item := range builtin.Items {
		if skip[item.ID] {
			continue
		}
		if w, ok := weights[item.ID]; ok {
			item.Points = w
		}
		items = append(items, item)
	}
	return items
}

// item reads one of the file's own items, and returns where its ID is.
func (r *reader) item(node ast.Node) (*Item, *token.Token) {
	o := r.object(node, "an item", itemFields)
	if o == nil {
		return nil, nil
	}
	before := len(r.mistakes)
	item := &Item{}
	o.need("id", "section", "title", "points")
	o.text("id", idForm, "letters a to z, digits and hyphens", &item.ID)
	o.text("section", lineForm, "one line that is not blank", &item.Section)
	o.text("title", lineForm, "one line that is not blank", &item.Title)
	o.number("points", 0, maxPoints, &item.Points)

	var byHand bool
	switch ok := o.flag("by_hand", &byHand); {
	case !ok:
	case byHand:
		for _, name := range o.names {
			if slices.Index(itemFields, name) > slices.Index(itemFields, "by_hand") {
				r.fail(o.key(name), "%s is about a command, and by_hand leaves the item to a person", name)
			}
		}
	case !o.has("run"):
		r.fail(o.start, "nothing to do: an item has run, a command, or by_hand: true")
	default:
		r.command(o, item)
	}
	if len(r.mistakes) > before {
		return nil, nil
	}
	return item, o.at("id")
}

// command reads what is run, and what is expected of it.
func (r *reader) command(o *object, item *Item) {
	c := &Command{}
	if o.text("run", nil, "", &c.Run) && blankForm.MatchString(c.Run) {
		r.fail(o.at("run"), "run is blank: it is a command for /bin/sh")
	}
	o.text("stdin", nil, "", &c.Stdin)
	var status float64
	if o.number("status", 0, 255, &status) && status != math.Trunc(status) {
		r.fail(o.at("status"), "status %v: an exit status is a whole number", status)
	}
	c.Status = int(status)

	var stdout string
	if o.text("stdout", nil, "", &stdout) {
		c.Stdout = &stdout
		if o.has("stdout_matches") {
			r.fail(o.key("stdout_matches"), "stdout says what is printed to the byte: leave one of the two out")
		}
	}
	c.StdoutMatches = o.pattern("stdout_matches")
	c.StderrMatches = o.pattern("stderr_matches")

	var limit string
	if o.text("timeout", timeoutForm, "a length of time like 10s, 1m30s or 500ms", &limit) {
		if item.Limit, _ = time.ParseDuration(limit); item.Limit == 0 {
			r.fail(o.at("timeout"), "timeout %q is no time at all: take one like 10s, 1m30s or 500ms", limit)
		}
	}
	loaded := true
	o.flag("loaded", &loaded)
	item.Unloaded = !loaded
	item.Repeat = c.Run
	o.text("repeat", nil, "", &item.Repeat)
	item.Try = c.Try
}

// object is a mapping of YAML's, whose keys are names.
type object struct {
	r      *reader
	start  *token.Token
	names  []string
	fields map[string]*ast.MappingValueNode
}

// object returns a node as a mapping, of these fields if it is not nil.
func (r *reader) object(node ast.Node, what string, fields []string) *object {
	mapping, ok := node.(*ast.MappingNode)
	if !ok {
		r.fail(node.GetToken(), "%s is a mapping, lines of the form name: value; this is %s", what, kind(node))
		return nil
	}
	o := &object{r: r, start: mapping.Start, fields: map[string]*ast.MappingValueNode{}}
	for _, field := range mapping.Values {
		key := field.Key.GetToken()
		if len(o.fields) == 0 {
			o.start = key
		}
		name, ok := field.Key.(*ast.StringNode)
		switch {
		case !ok:
			r.fail(key, "the name of a field is a plain text; this is %s", kind(field.Key))
		case fields != nil && !slices.Contains(fields, name.Value):
			r.fail(key, "no field %q in %s: take one of %s", name.Value, what, join(fields))
		default:
			o.names = append(o.names, name.Value)
			o.fields[name.Value] = field
		}
	}
	return o
}

func (o *object) has(name string) bool         { return o.fields[name] != nil }
func (o *object) key(name string) *token.Token { return o.fields[name].Key.GetToken() }
func (o *object) value(name string) ast.Node   { return o.fields[name].Value }
func (o *object) at(name string) *token.Token  { return o.value(name).GetToken() }

// need wants fields to be there.
func (o *object) need(names ...string) {
	missing := slices.DeleteFunc(slices.Clone(names), o.has)
	if len(missing) > 0 {
		o.r.fail(o.start, "no %s: every item has %s", join(missing), join(names))
	}
}

// text reads a field that is a text of a form, and reports whether it is there
// and right.
func (o *object) text(name string, form *regexp.Regexp, want string, into *string) bool {
	if !o.has(name) {
		return false
	}
	text, ok := o.r.string(o.value(name), name)
	if ok && form != nil && !form.MatchString(text) {
		o.r.fail(o.at(name), "%s %s: it is %s", name, quote(text), want)
		return false
	}
	if ok {
		*into = text
	}
	return ok
}

// number reads a field that is a number from low to high, and reports whether
// it is there and right.
func (o *object) number(name string, low, high float64, into *float64) bool {
	if !o.has(name) {
		return false
	}
	var n float64
	switch node := o.value(name).(type) {
	case *ast.IntegerNode:
		switch v := node.Value.(type) {
		case int64:
			n = float64(v)
		case uint64:
			n = float64(v)
		}
	case *ast.FloatNode:
		n = node.Value
	default:
		o.r.fail(o.at(name), "%s is a number; this is %s", name, kind(node))
		return false
	}
	if !(n >= low && n <= high) {
		o.r.fail(o.at(name), "%s %s: it is a number from %s to %s", name, o.at(name).Value, points(low), points(high))
		return false
	}
	*into = n
	return true
}

// flag reads a field that is true or false, if it is there, and reports whether
// it is nothing else.
func (o *object) flag(name string, into *bool) bool {
	if !o.has(name) {
		return true
	}
	node, ok := o.value(name).(*ast.BoolNode)
	if !ok {
		o.r.fail(o.at(name), "%s is true or false; this is %s", name, kind(o.value(name)))
		return false
	}
	*into = node.Value
	return true
}

// pattern reads a field that is a regular expression, if it is there.
func (o *object) pattern(name string) *regexp.Regexp {
	var text string
	if !o.text(name, nil, "", &text) {
		return nil
	}
	pattern, err := regexp.Compile(text)
	if err != nil {
		o.r.fail(o.at(name), "%s is no regular expression of Go's: %s", name, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return pattern
}

// list reads a field that is a list, if it is there.
func (o *object) list(name string) []ast.Node {
	if !o.has(name) {
		return nil
	}
	node, ok := o.value(name).(*ast.SequenceNode)
	if !ok {
		o.r.fail(o.at(name), "%s is a list, lines that begin with a hyphen; this is %s", name, kind(o.value(name)))
		return nil
	}
	return node.Values
}

func (r *reader) string(node ast.Node, what string) (string, bool) {
	switch node := node.(type) {
	case *ast.StringNode:
		return node.Value, true
	case *ast.LiteralNode:
		return node.Value.Value, true
	}
	hint := ""
	switch node.(type) {
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		hint = fmt.Sprintf(": put it in quotes, %q", node.GetToken().Value)
	}
	r.fail(node.GetToken(), "%s is a text; this is %s%s", what, kind(node), hint)
	return "", false
}

// kind says what a node is, to a person who expects something else.
func kind(node ast.Node) string {
	switch node := node.(type) {
	case *ast.NullNode:
		return "empty"
	case *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return node.GetToken().Value
	case *ast.IntegerNode, *ast.FloatNode:
		return "the number " + node.GetToken().Value
	case *ast.StringNode:
		return "the text " + quote(node.Value)
	case *ast.LiteralNode:
		return "a text"
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	return "an anchor, an alias, a tag or the like, which a rubric cannot have"
}
