package metrics

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// pageFiles are the page's parts, as they are edited: page.html names the
// other two, which pageText puts in their places.
//
//go:embed page
var pageFiles embed.FS

// newPage serves the page at /, its figures at /events, and what changes
// something at /control/.
//
// document returns the text of stats.json. write writes to one of the tree's
// files start, counter and reset; an error should wrap an errno. authorized
// tells whether a request carries the token. All are called by many goroutines.
// control tells whether there is a token at all: without one the page is
// read-only, and shows no controls.
//
// A request for /events lasts until its context ends: the server's base context
// must end when the server is to.
func newPage(document func() ([]byte, error), write func(file string, text []byte) error,
	authorized func(*http.Request) bool, control bool) http.Handler {
	return (&page{newStream(document, control), write, authorized, control}).handler()
}

// page is what newPage serves.
type page struct {
	stream     *stream
	write      func(file string, text []byte) error
	authorized func(*http.Request) bool
	control    bool
}

func (p *page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", newPageText())
	mux.Handle("GET /events", p.stream)
	for _, file := range []string{"start", "counter", "reset"} {
		mux.HandleFunc("POST /control/"+file, func(w http.ResponseWriter, r *http.Request) { p.store(w, r, file) })
	}
	return mux
}

// pageText is the page in one piece.
type pageText struct {
	html        []byte
	policy, tag string
}

func newPageText() *pageText {
	part := func(name string) string {
		text, err := pageFiles.ReadFile("page/" + name)
		if err != nil {
			panic("metrics: " + err.Error()) // it is embedded
		}
		return string(text)
	}
	style, script := part("page.css"), part("page.js")
	html := strings.NewReplacer(
		`<link rel="stylesheet" href="page.css">`, "<style>"+style+"</style>",
		`<script src="page.js"></script>`, "<script>"+script+"</script>",
	).Replace(part("page.html"))
	return &pageText{
		html: []byte(html),
		policy: "default-src 'none'; connect-src 'self'; img-src data:; style-src " + source(style) +
			"; script-src " + source(script) + "; require-trusted-types-for 'script'; trusted-types 'none'" +
			"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		tag: fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(html))),
	}
}

// source names an inline style or script in a Content-Security-Policy, by its
// hash.
func source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (t *pageText) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", t.policy)
	header.Set("Cache-Control", "no-cache")
	header.Set("ETag", t.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(t.html))
}

// crossOrigin refuses what a browser sends for another site's page.
var crossOrigin = http.NewCrossOriginProtection()

// maxText is one byte more than any file takes, so that the file's own parser
// refuses what is longer.
const maxText = 4096 + 1

// store writes the body of a request to a file. A body of zero bytes changes
// nothing, as with the file; it tells whether the token is the right one.
func (p *page) store(w http.ResponseWriter, r *http.Request, file string) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case crossOrigin.Check(r) != nil:
		http.Error(w, "refused: another site's page has sent this", http.StatusForbidden)
		return
	case !p.control:
		http.Error(w, "read-only: kstatd was started without a token file", http.StatusForbidden)
		return
	case !p.authorized(r):
		w.Header().Set("WWW-Authenticate", `Bearer realm="kstat"`)
		http.Error(w, "not the token that kstatd was started with", http.StatusUnauthorized)
		return
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxText))
	if err != nil {
		http.Error(w, "the request's body cannot be read: "+oneLine(err.Error()), http.StatusBadRequest)
		return
	}
	if len(text) > 0 {
		if err := p.write(file, text); err != nil {
			http.Error(w, refusal(file, text, err), statusOf(err))
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// takes says what each file accepts.
var takes = map[string]string{
	"start":   "0 or 1",
	"counter": "a whole number from 1 to 4294967295",
	"reset":   "1",
}

// refusal is one line about a write that failed.
func refusal(file string, text []byte, err error) string {
	value := strings.TrimSuffix(string(text), "\n")
	if len(value) > 40 {
		value = value[:37] + "..."
	}
	line := fmt.Sprintf("cannot write %q to %s: %s", value, file, oneLine(err.Error()))
	if statusOf(err) == http.StatusBadRequest {
		line += "; it takes " + takes[file]
	}
	return line
}

// oneLine joins the lines of a text.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// statusOf returns the status for the errno that an error wraps: whether the
// value is at fault, what holds kstatd up, or kstatd.
func statusOf(err error) int {
	var errno syscall.Errno
	errors.As(err, &errno)
	switch errno {
	case syscall.EINVAL, syscall.ERANGE:
		return http.StatusBadRequest
	case syscall.EPERM, syscall.EACCES:
		return http.StatusForbidden
	case syscall.EBUSY, syscall.EOPNOTSUPP, syscall.ENODEV:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}
