package metrics

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"kstat/stats"
)

// ask sends one request to a page, and returns status and body.
func ask(h http.Handler, method, path, body string, header ...string) (int, string, http.Header) {
	r := httptest.NewRequest(method, "http://kstat.example"+path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	text, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(text), w.Result().Header
}

// The page is one piece: its policy allows nothing but the style and the script
// that are in it, and it names nothing elsewhere.
func TestPageIsSelfContained(t *testing.T) {
	h := pageOf(newTree(&standIn{}, stats.NewTable()), false)
	status, html, header := ask(h, "GET", "/", "")
	is(t, "the status", status, 200)
	inline := func(element string) string {
		found := regexp.MustCompile(`(?s)<`+element+`>(.*?)</`+element+`>`).FindAllStringSubmatch(html, -1)
		if len(found) != 1 {
			t.Fatalf("%d elements %s", len(found), element)
		}
		sum := sha256.Sum256([]byte(found[0][1]))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	is(t, "the policy", header.Get("Content-Security-Policy"),
		"default-src 'none'; connect-src 'self'; img-src data:; style-src "+inline("style")+"; script-src "+inline("script")+
			"; require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	is(t, "Content-Type", header.Get("Content-Type"), "text/html; charset=utf-8")
	if found := regexp.MustCompile(`(?i)<[a-z][^>]*\s(on[a-z]+|style)\s*=`).FindString(html); found != "" {
		t.Error("an inline handler or style:", found)
	}
	if found := regexp.MustCompile(`(?i)(src|href|action)="[^"]*"|https?://[^"' )]+|url\([^)]*\)|@import`).FindAllString(html, -1); true {
		for _, it := range found {
			switch {
			case strings.HasPrefix(it, `href="#`), strings.HasPrefix(it, `href="data:image/svg+xml`), it == "url(#hatch)",
				it == "http://www.w3.org/2000/svg": // a name, no address
			default:
				t.Error("the page names", it)
			}
		}
	}

	status, text, _ := ask(h, "GET", "/", "", "If-None-Match", header.Get("ETag"))
	is(t, "the answer to who has it", fmt.Sprint(status, text), "304")
	status, _, _ = ask(h, "GET", "/elsewhere", "")
	is(t, "another path", status, 404)
}

// A request changes what the same write to the file would change, and is
// refused as that would be.
func TestControl(t *testing.T) {
	const cannot = "cannot write "
	for _, test := range []struct {
		file, text string
		status     int
		answer     string
		after      string
	}{
		{"counter", "7", 204, "", "7 false 10 2"},
		{"counter", " 010\n", 204, "", ""},
		{"counter", "0", 400, cannot + `"0" to counter: invalid argument; it takes a whole number from 1 to 4294967295`, ""},
		{"counter", "1e3\n", 400, cannot + `"1e3" to counter: invalid argument; it takes a whole number from 1 to 4294967295`, ""},
		{"counter", "4294967296", 400, cannot + `"4294967296" to counter: numerical result out of range; it takes a whole number from 1 to 4294967295`, ""},
		{"counter", strings.Repeat("9", 5000), 400, cannot + `"9999999999999999999999999999999999999..." to counter: invalid argument; it takes a whole number from 1 to 4294967295`, ""},
		{"counter", strings.Repeat("0", 4095) + "5", 204, "", "5 false 10 2"},
		{"start", strings.Repeat("9", 5000), 400, cannot + `"9999999999999999999999999999999999999..." to start: numerical result out of range; it takes 0 or 1`, ""},
		{"start", "1", 204, "", "10 true 10 2"},
		{"start", " 0", 400, cannot + `" 0" to start: invalid argument; it takes 0 or 1`, ""},
		{"start", "a\nb", 400, cannot + `"a\nb" to start: invalid argument; it takes 0 or 1`, ""},
		{"start", "", 204, "", ""},
		{"reset", "0", 400, cannot + `"0" to reset: invalid argument; it takes 1`, ""},
		{"reset", "1", 204, "", "10 false 0 0"},
	} {
		table, engine := stats.NewTable(), &standIn{}
		packet(table, 12, stats.IPv4, stats.TCP, 40)
		h := pageOf(newTree(engine, table), true)
		status, answer, _ := ask(h, "POST", "/control/"+test.file, test.text, "Authorization", "Bearer "+token)
		what := fmt.Sprintf("%.20q for %s", test.text, test.file)
		is(t, "the answer to "+what, fmt.Sprint(status, " ", strings.TrimSuffix(answer, "\n")), fmt.Sprint(test.status, " ", test.answer))
		if test.after == "" {
			test.after = "10 false 10 2" // nothing has changed
		}
		is(t, "counter, started, nout and pending after "+what, fmt.Sprint(table.Counter(), engine.Started(),
			table.Snapshot().Published(stats.TCP).Packets, table.Snapshot().Pending), test.after)
	}
}

// What keeps kstatd from starting is told in one line, with a status that says
// whose fault it is.
func TestControlErrors(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
		line   string
	}{
		{fmt.Errorf("queue 0 is held by pid 7 (dog)\ntake another: %w", syscall.EBUSY), 409, "queue 0 is held by pid 7 (dog) take another: device or resource busy"},
		{fmt.Errorf("add the rule: %w", syscall.EPERM), 403, "add the rule: operation not permitted"},
		{fmt.Errorf("queue: %w", syscall.EOPNOTSUPP), 409, "queue: operation not supported"},
		{fmt.Errorf("start: %w", syscall.ENODEV), 409, "start: no such device"},
		{fmt.Errorf("a stop timed out"), 500, "a stop timed out"},
	} {
		h := pageOf(newTree(&standIn{refuse: test.err}, stats.NewTable()), true)
		status, answer, _ := ask(h, "POST", "/control/start", "1\n", "Authorization", "Bearer "+token)
		is(t, "the answer", fmt.Sprint(status, " ", answer), fmt.Sprintf("%d cannot write \"1\" to start: %s\n", test.status, test.line))
	}
}

// Who may not change anything changes nothing.
func TestControlRefused(t *testing.T) {
	bearer := []string{"Authorization", "Bearer " + token}
	for _, test := range []struct {
		name         string
		control      bool
		method, path string
		header       []string
		status       int
		answer       string
	}{
		{"read-only", false, "POST", "/control/start", bearer, 403, "read-only: kstatd was started without a token file\n"},
		{"no token", true, "POST", "/control/start", nil, 401, "not the token that kstatd was started with\n"},
		{"a wrong token", true, "POST", "/control/counter", []string{"Authorization", "Bearer x"}, 401, "not the token that kstatd was started with\n"},
		{"GET", true, "GET", "/control/start", bearer, 405, "Method Not Allowed\n"},
		{"PUT", true, "PUT", "/control/reset", bearer, 405, "Method Not Allowed\n"},
		{"another file", true, "POST", "/control/nout", bearer, 404, "404 page not found\n"},
		{"no file", true, "POST", "/control/", bearer, 404, "404 page not found\n"},
		{"another site", true, "POST", "/control/start", append(bearer[:2:2], "Sec-Fetch-Site", "cross-site"), 403, "refused: another site's page has sent this\n"},
		{"a sibling", true, "POST", "/control/start", append(bearer[:2:2], "Sec-Fetch-Site", "same-site"), 403, "refused: another site's page has sent this\n"},
		{"another origin", true, "POST", "/control/start", append(bearer[:2:2], "Origin", "http://evil.example"), 403, "refused: another site's page has sent this\n"},
		{"a sandboxed page", true, "POST", "/control/start", append(bearer[:2:2], "Origin", "null"), 403, "refused: another site's page has sent this\n"},
		{"its own page", true, "POST", "/control/start", append(bearer[:2:2], "Origin", "http://kstat.example", "Sec-Fetch-Site", "same-origin"), 204, ""},
		{"curl", true, "POST", "/control/start", bearer, 204, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			table, engine := stats.NewTable(), &standIn{}
			packet(table, 10, stats.IPv4, stats.TCP, 40)
			h := pageOf(newTree(engine, table), test.control)
			status, answer, header := ask(h, test.method, test.path, "1", test.header...)
			is(t, "the answer", fmt.Sprint(status, " ", answer), fmt.Sprint(test.status, " ", test.answer))
			is(t, "started", engine.Started(), test.status == 204)
			is(t, "counter and nout", fmt.Sprint(table.Counter(), table.Snapshot().Published(stats.TCP).Packets), "10 10")
			switch status {
			case 401:
				is(t, "WWW-Authenticate", header.Get("WWW-Authenticate"), `Bearer realm="kstat"`)
			case 405:
				is(t, "Allow", header.Get("Allow"), "POST")
			}
		})
	}
}
