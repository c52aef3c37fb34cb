package admin

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
)

// visitor is a minimal browser for tests of the page.
type visitor struct {
	*rig
	cookie string
}

// visit returns a visitor who has signed in.
func (r *rig) visit() *visitor {
	r.Helper()
	v := &visitor{rig: r}
	resp, _ := v.send("POST", "/login", url.Values{"token": {r.token}})
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/" {
		r.Fatalf("signing in: %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	return v
}

// send sends a request with a form, and keeps the cookie of the response.
func (v *visitor) send(method, path string, form url.Values, header ...string) (*http.Response, string) {
	v.Helper()
	req, err := http.NewRequestWithContext(v.Context(), method, v.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		v.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if v.cookie != "" {
		req.Header.Set("Cookie", v.cookie)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		v.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		v.Fatal(err)
	}
	for _, c := range resp.Cookies() {
		v.cookie = c.Name + "=" + c.Value
	}
	return resp, string(b)
}

// sees expects a page that contains the texts.
func (v *visitor) sees(path string, texts ...string) string {
	v.Helper()
	return v.gets(200, "GET", path, nil, texts...)
}

// gets expects a status, and a response that contains the texts.
func (v *visitor) gets(status int, method, path string, form url.Values, texts ...string) string {
	v.Helper()
	resp, html := v.send(method, path, form)
	if resp.StatusCode != status {
		v.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, status, html)
	}
	for _, text := range texts {
		if !strings.Contains(html, text) {
			v.Errorf("%s %s: there is no %q in %s", method, path, text, html)
		}
	}
	return html
}

// lacks expects that a page contains none of the texts, hashes ignored, because these
// may contain any digits.
func (v *visitor) lacks(html string, texts ...string) {
	v.Helper()
	html = hashes.ReplaceAllString(html, "$1")
	for _, text := range texts {
		if strings.Contains(html, text) {
			v.Errorf("there is %q in %s", text, html)
		}
	}
}

var hashes = regexp.MustCompile(`(data-tag="|\?v=)[0-9a-f]+`)

func TestSignsInAndOut(t *testing.T) {
	r := newRig(t, Config{})
	v := &visitor{rig: r}
	for _, path := range []string{"/", "/calls", "/extensions/101", "/tokens"} {
		if resp, _ := v.send("GET", path, nil); resp.StatusCode != 303 || resp.Header.Get("Location") != "/login" {
			t.Errorf("%s without a session: %d to %q", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	if resp, _ := v.send("GET", "/subscriptions/new", nil, "HX-Request", "true"); resp.StatusCode != 401 || resp.Header.Get("HX-Redirect") != "/login" {
		t.Errorf("a pop-up without a session: %d", resp.StatusCode)
	}
	v.gets(401, "POST", "/subscriptions", url.Values{"url": {"http://x"}})
	v.gets(200, "GET", "/login", nil, `name="token"`)
	v.gets(401, "POST", "/login", url.Values{"token": {"wrong"}}, "Unknown or expired token")
	v.gets(401, "POST", "/login", url.Values{}, "Unknown or expired token")

	v = r.visit()
	v.sees("/", "Three steps to your first callback", "Sign out")
	if resp, _ := v.send("GET", "/login", nil); resp.StatusCode != 303 {
		t.Errorf("the door to who is in: %d", resp.StatusCode)
	}
	old := *v
	if resp, _ := v.send("POST", "/logout", nil); resp.StatusCode != 303 || v.cookie != "bellhop=" {
		t.Errorf("signing out: %d, cookie %q", resp.StatusCode, v.cookie)
	}
	old.gets(303, "GET", "/", nil)

	// Signing in again ends the old session, and no session outlives its token.
	v = r.visit()
	old = *v
	v.send("POST", "/login", url.Values{"token": {testToken}})
	old.gets(303, "GET", "/", nil)
	v.sees("/")
	client, id := r.newToken(object{"scope": "read", "note": "the wallboard"})
	reader := client.visit()
	reader.sees("/", "the wallboard")
	r.want(204, "DELETE", "/v1/tokens/"+id, nil)
	reader.gets(303, "GET", "/", nil)
}

func TestSessionCookieIsProtected(t *testing.T) {
	r := newRig(t, Config{})
	for _, secure := range []bool{false, true} {
		req := httptest.NewRequest("POST", "/login", strings.NewReader("token="+testToken))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if secure {
			req.TLS = &tls.ConnectionState{}
		}
		w := httptest.NewRecorder()
		r.server.Handler().ServeHTTP(w, req)
		c := w.Result().Cookies()
		if len(c) != 1 || !c[0].HttpOnly || c[0].SameSite != http.SameSiteStrictMode || c[0].Secure != secure || c[0].Path != "/" || len(c[0].Value) < 32 {
			t.Errorf("the cookie is %v", c)
		}
	}
}

func TestWrongTokensAtLoginAreLimited(t *testing.T) {
	r := newRig(t, Config{})
	v := &visitor{rig: r}
	for range limit.FailureBurst {
		v.gets(401, "POST", "/login", url.Values{"token": {"wrong"}})
	}
	exhaustLimiter(failureLimiter(r.server, "127.0.0.1"))
	resp, html := v.send("POST", "/login", url.Values{"token": {"wrong"}})
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(html, "Too many wrong tokens") {
		t.Errorf("one too many: %d %s", resp.StatusCode, html)
	}
}

// pageRules are the test tokens that may use each page, beside those of scope admin and
// the config's.
var pageRules = map[string]string{
	"GET /{$}":                               readers,
	"GET /extensions/{name}":                 readers,
	"GET /patterns":                          unbound,
	"GET /subscriptions/new":                 writers,
	"POST /subscriptions":                    writers,
	"GET /subscriptions/{id}":                writers,
	"POST /subscriptions/{id}":               writers,
	"POST /subscriptions/{id}/toggle":        writers,
	"POST /subscriptions/{id}/test":          writers,
	"POST /subscriptions/{id}/rotate-secret": writers,
	"GET /subscriptions/{id}/replay":         writers,
	"POST /subscriptions/{id}/replay":        writers,
	"POST /subscriptions/clear":              writers,
	"GET /calls":                             readers,
	"GET /calls/{id}":                        readers,
	"GET /calls/{id}/ladder":                 unbound,
	"GET /events":                            readers,
	"GET /deliveries":                        readers,
	"GET /deliveries/{id}":                   readers,
	"POST /deliveries/{id}/redeliver":        writers,
	"GET /tokens":                            admins,
	"GET /tokens/new":                        admins,
	"POST /tokens":                           admins,
	"POST /tokens/{id}/revoke":               admins,
	"GET /bans":                              unbound,
	"GET /bans/new":                          admins,
	"POST /bans":                             admins,
	"POST /bans/{source}/remove":             admins,
	"GET /health":                            unbound,
	"GET /help":                              readers,
	"GET /help/{name}":                       readers,
	"GET /live/extensions":                   readers,
	"GET /live/calls":                        readers,
	"GET /live/events":                       readers,
	"GET /live/deliveries":                   readers,
	"GET /live/deliveries/{id}":              readers,
	"GET /live/bans":                         unbound,
	"GET /live/health":                       unbound,
}

func TestPermissionsOfEveryPage(t *testing.T) {
	r := newRig(t, Config{})
	visitors := map[string]*visitor{"config": r.visit()}
	for name, o := range ruled {
		client, _ := r.newToken(o)
		visitors[name] = client.visit()
	}
	want := slices.Sorted(maps.Keys(pageRules))
	if got := slices.Sorted(maps.Keys(r.server.page.Permissions)); !slices.Equal(got, want) {
		t.Errorf("the pages are %q, this test knows %q", got, want)
	}
	nobody := &visitor{rig: r}
	for pattern, allowed := range pageRules {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{$}", "", "{name}", "101", "{id}", "nothing").Replace(path)
		if resp, _ := nobody.send(method, path, nil, "Accept", "text/event-stream"); resp.StatusCode != 401 {
			t.Errorf("%s to nobody: %d, want 401", pattern, resp.StatusCode)
		}
		for name, v := range visitors {
			may := name == "config" || name == "admin" || slices.Contains(strings.Split(allowed, ", "), name)
			if may && strings.HasPrefix(path, "/live/") {
				continue // TestPageStreamsLiveParts
			}
			resp, html := v.send(method, path, nil)
			if (resp.StatusCode == 403) == may || resp.StatusCode == 401 {
				t.Errorf("%s to %s: %d %s", pattern, name, resp.StatusCode, html)
			}
			for header, want := range map[string]string{
				"Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
				"X-Content-Type-Options":  "nosniff",
				"Referrer-Policy":         "same-origin",
				"Cache-Control":           "no-store",
			} {
				if got := resp.Header.Get(header); got != want {
					t.Errorf("%s: %s is %q", pattern, header, got)
				}
			}
			if bad := inline.FindString(html); bad != "" {
				t.Errorf("%s: %q stands in it", pattern, bad)
			}
		}
	}
}

// inline matches inline scripts and styles, which the content security policy forbids.
var inline = regexp.MustCompile(`<script>|<style|\s(style|on[a-z]+)=|javascript:|href="https?:|src="https?:`)

func TestPageRefusesCrossOriginChanges(t *testing.T) {
	r := newRig(t, Config{})
	v := r.visit()
	id := r.want(201, "POST", "/v1/subscriptions", subscription())["id"].(string)
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		for _, path := range []string{"/login", "/logout", "/subscriptions", "/subscriptions/" + id, "/subscriptions/" + id + "/toggle", "/subscriptions/clear", "/tokens"} {
			if resp, _ := v.send("POST", path, url.Values{"id": {id}, "token": {testToken}}, header...); resp.StatusCode != 403 {
				t.Errorf("POST %s with %s: %d, want 403", path, header, resp.StatusCode)
			}
		}
	}
	v.sees("/")
}

func TestPageEditsSubscriptions(t *testing.T) {
	r := newRig(t, Config{})
	v := r.visit()
	v.sees("/subscriptions/new?extension=101&type=hangup", `value="101"`, `value="hangup" checked`, `name="active" value="true" checked`)

	// Errors are shown in the pop-up, at their fields, with the values as filled in.
	resp, html := v.send("POST", "/subscriptions", url.Values{"extension": {"1 1"}, "url": {"ftp://x"}, "method": {"GET"}, "dialect": {"telphin"}, "note": {`"quoted"`}})
	if resp.StatusCode != 422 {
		t.Errorf("a wrong form: %d", resp.StatusCode)
	}
	for _, text := range []string{`id="extension-error">extension has spaces`, `id="types-error">types is empty`, `id="url-error">url must begin with http`, `aria-describedby="url-error url-hint"`, `value="ftp://x"`, `<option selected>GET`, `<option selected>telphin`, `&#34;quoted&#34;`} {
		if !strings.Contains(html, text) {
			t.Errorf("there is no %q in %s", text, html)
		}
	}
	v.gets(422, "POST", "/subscriptions", url.Values{"extension_regex": {"("}, "types": {"hangup"}, "url": {"http://x"}}, `id="extension_regex-error">extension_regex is not an RE2`)
	v.gets(422, "POST", "/subscriptions", url.Values{"extension_regex": {""}, "types": {"hangup"}, "url": {"http://x"}}, `id="extension_regex-error">extension is missing`)
	v.gets(422, "POST", "/subscriptions", url.Values{"extension_regex": {"(12345678){1000}"}, "types": {"hangup"}, "url": {"http://x"}}, `id="extension_regex-error">extension_regex is too complex`)

	form := url.Values{"extension": {"0003*210"}, "types": {"dial-in", "hangup"}, "url": {"https://crm.example/x"}, "method": {"GET"}, "dialect": {"telphin"}, "note": {"CRM"}, "active": {"true"}}
	v.gets(200, "POST", "/subscriptions", form, "whsec_", `href="/extensions/0003%2A210"`)
	sub := r.notifier.Subscriptions()[0]
	if sub.Extension != "0003*210" || !slices.Equal(sub.Types, form["types"]) || sub.URL != form.Get("url") || sub.Method != "GET" || sub.Dialect != notify.Telphin || sub.Note != "CRM" || !sub.Active {
		t.Errorf("got %+v", sub)
	}
	html = v.sees("/extensions/0003%2A210", sub.ID, "dial-in, hangup", "https://crm.example/x", "CRM", "not configured", "message-out")
	v.lacks(html, "whsec_", ">dial-in</button>")
	if got := strings.Count(html, "not configured</td>"); got != 6 {
		t.Errorf("%d types are not configured, want 6", got)
	}

	// Toggle.
	path := "/subscriptions/" + sub.ID
	v.gets(200, "POST", path+"/toggle", url.Values{"active": {"false"}}, `aria-pressed="false"`, "<b>disabled</b>: switched off", "click to enable")
	v.gets(200, "POST", path+"/toggle", url.Values{"active": {"false"}}, `aria-pressed="false"`) // repeating it changes nothing
	v.gets(200, "POST", path+"/toggle", url.Values{"active": {"true"}}, `aria-pressed="true"`, "click to disable")
	v.gets(400, "POST", path+"/toggle", nil)
	v.gets(404, "POST", "/subscriptions/nothing/toggle", url.Values{"active": {"true"}})

	// Change.
	html = v.sees(path, sub.ID, `value="dial-in" checked`)
	v.lacks(html, `name="extension"`, `name="id"`)
	sub, _ = r.notifier.Subscription(sub.ID)
	form = url.Values{"revision": {strconv.FormatUint(sub.Revision, 10)}, "id": {"other"}, "extension": {"999"}, "types": {"answer"}, "url": {"https://crm.example/y"}, "method": {"POST"}, "dialect": {"json"}, "note": {""}}
	resp, html = v.send("POST", path, form)
	if resp.StatusCode != 200 || resp.Header.Get("HX-Trigger") != "saved" || !strings.Contains(html, "https://crm.example/y") {
		t.Errorf("a change: %d %s", resp.StatusCode, html)
	}
	if now, _ := r.notifier.Subscription(sub.ID); now.ID != sub.ID || now.Extension != "0003*210" || now.Active || now.Note != "" {
		t.Errorf("after a change it is %+v", now)
	}
	resp, html = v.send("POST", path, form)
	if resp.StatusCode != 422 || resp.Header.Get("HX-Retarget") != "#pop-up" || !strings.Contains(html, "changed by someone else") {
		t.Errorf("a change of what has changed: %d to %q: %s", resp.StatusCode, resp.Header.Get("HX-Retarget"), html)
	}
	form.Set("revision", "x")
	v.gets(400, "POST", path, form)

	// Too many of one extension.
	for range 2 {
		r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "0003*210"))
	}
	v.gets(422, "POST", "/subscriptions", url.Values{"extension": {"0003*210"}, "types": {"hangup"}, "url": {"http://x"}}, `id="extension-error">the extension has reached its limit of subscriptions`)

	// Clear selected.
	var ids []string
	for _, sub := range r.notifier.Subscriptions() {
		ids = append(ids, sub.ID)
	}
	html = v.gets(200, "POST", "/subscriptions/clear", url.Values{"of": {"0003*210"}, "id": {ids[0], ids[1], "nothing"}}, ids[2])
	v.lacks(html, ids[0], ids[1])
	if left := r.notifier.Subscriptions(); len(left) != 1 || left[0].ID != ids[2] {
		t.Errorf("left are %v", left)
	}
	for _, did := range []string{"create-subscription", "change-subscription", "delete-subscription"} {
		if entries := r.want(200, "GET", "/v1/audit?limit=100", nil)["items"].([]any); !slices.ContainsFunc(entries, func(e any) bool { return e.(object)["did"] == did && e.(object)["by"] == access.ConfigID }) {
			t.Errorf("the audit log has no %s", did)
		}
	}
}

func TestPageShowsDeclaredReadOnly(t *testing.T) {
	r := newRig(t, Config{})
	sub := notify.Subscription{Extension: "101", Types: []string{"hangup"}, URL: "http://x", Active: true, Declared: "config.toml:7"}
	sub.Normalize()
	if err := sub.Validate(); err != nil {
		t.Fatal(err)
	}
	r.notifier.Declare([]notify.Subscription{sub})
	id := r.notifier.Subscriptions()[0].ID
	v := r.visit()
	html := v.sees("/extensions/101", id, "declared", "config.toml:7")
	v.lacks(html, `value="`+id+`"`, "/subscriptions/"+id+"/toggle", `id="edit-`+id)
	v.gets(409, "POST", "/subscriptions/"+id+"/toggle", url.Values{"active": {"false"}}, "declared in the config file")
	v.gets(409, "POST", "/subscriptions/clear", url.Values{"of": {"101"}, "id": {id}}, "declared in the config file")
	v.gets(409, "POST", "/subscriptions/"+id+"/rotate-secret", nil, "declared in the config file")
	v.gets(422, "POST", "/subscriptions/"+id, url.Values{"revision": {"1"}}, "changed by someone else")
}

func TestPageForReadersHasNoButtons(t *testing.T) {
	r := newRig(t, Config{})
	id := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "101"))["id"].(string)
	client, _ := r.newToken(object{"scope": "read"})
	v := client.visit()
	v.lacks(v.sees("/", "101"), "hx-get", "hx-post", "/tokens")
	v.lacks(v.sees("/extensions/101", id), "<button type=\"button\"", `type="checkbox"`, "Clear selected", "/toggle", "/test", "/replay")
}

func TestPageForBoundToken(t *testing.T) {
	at := time.Now().Truncate(time.Second) // its fraction may have any digits
	r := newRig(t, Config{Config: ops.Config{Calls: func(context.Context) ([]dialog.Call, error) {
		return []dialog.Call{
			{ID: "aa", State: "talking", Since: at, Parties: []dialog.Party{{ID: "p1", Extension: dialog.Extension{User: "101"}, CallerNum: "101", CalledNumber: "555", Since: at}, {ID: "p2", Extension: dialog.Extension{User: "102"}, CallerNum: "101", Since: at}}},
			{ID: "bb", State: "ringing", Since: at, Parties: []dialog.Party{{ID: "p3", Extension: dialog.Extension{User: "102"}, CallerNum: "777", Since: at}}},
		}, nil
	}}})
	mine := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "101"))["id"].(string)
	yours := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "102", "url", "http://yours.example/"))["id"].(string)
	for i, user := range []string{"101", "102"} {
		r.publishEvents(dialog.Event{Type: dialog.Hangup, Extension: dialog.Extension{User: user}, CallerNum: "from" + user, At: at, ID: fmt.Sprintf("%032x", i), Call: fmt.Sprintf("%032x", 100+i), Seq: 1, Party: "p"})
	}
	client, _ := r.newToken(object{"scope": "write", "extensions": []string{"101"}})
	v := client.visit()
	v.lacks(v.sees("/", "101"), "102", "Patterns", "/tokens", "/health")
	v.lacks(v.sees("/calls", "555", "from101"), "102", "777", "from102")
	v.lacks(v.sees("/events?type=hangup", "from101", `href="/events?extension=&amp;type=hangup&amp;paused=1"`, `sse-connect="/live/events?extension=&amp;type=hangup"`), "from102")
	v.lacks(v.sees("/events?type=hangup&paused=1", "from101", `href="/events?extension=&amp;type=hangup"`), "/live/")
	v.lacks(v.sees("/events?extension=102"), "from102")
	v.sees("/calls/" + fmt.Sprintf("%032x", 100))
	v.sees("/extensions/101", mine)
	v.gets(404, "GET", "/calls/"+fmt.Sprintf("%032x", 101), nil)
	v.gets(404, "GET", "/extensions/102", nil)
	v.gets(404, "GET", "/subscriptions/"+yours, nil)
	v.gets(404, "POST", "/subscriptions/"+yours+"/toggle", url.Values{"active": {"false"}})
	v.gets(404, "POST", "/subscriptions/"+yours+"/test", nil)
	v.gets(404, "POST", "/subscriptions/"+yours+"/rotate-secret", nil)
	v.gets(404, "GET", "/subscriptions/"+yours+"/replay", nil)
	v.gets(404, "POST", "/subscriptions/"+yours+"/replay", nil)
	v.gets(404, "POST", "/subscriptions/clear", url.Values{"of": {"102"}, "id": {yours}})
	v.gets(404, "POST", "/subscriptions/clear", url.Values{"of": {""}, "id": {yours}})
	v.gets(200, "POST", "/subscriptions/clear", url.Values{"of": {"101"}, "id": {yours}})
	v.gets(422, "POST", "/subscriptions", url.Values{"extension": {"102"}, "types": {"hangup"}, "url": {"http://x"}}, "this token is bound to extensions")
	v.gets(422, "POST", "/subscriptions", url.Values{"extension_regex": {".*"}, "types": {"hangup"}, "url": {"http://x"}}, "this token is bound to extensions")
	if _, err := r.notifier.Subscription(yours); err != nil {
		t.Errorf("another's: %v", err)
	}
}

func TestPageListsExtensions(t *testing.T) {
	r := newRig(t, Config{
		Config: ops.Config{
			Extensions: func(context.Context) ([]dialog.ExtensionInfo, error) {
				return []dialog.ExtensionInfo{
					{Extension: dialog.Extension{User: "101", Domain: "pbx.example"}, Kind: dialog.Phone, Contacts: []dialog.Contact{{URI: "sip:101@192.0.2.7:5062"}}},
					{Extension: dialog.Extension{User: "600"}, Kind: dialog.Queue, Declared: true},
				}, nil
			},
			Calls: func(context.Context) ([]dialog.Call, error) {
				return []dialog.Call{{ID: "aa", State: "talking", Parties: []dialog.Party{
					{Extension: dialog.Extension{User: "103"}}, {Extension: dialog.Extension{User: "104"}, Over: true},
				}}}, nil
			},
		},
	})
	v := r.visit()
	v.lacks(v.sees("/", "/extensions/101", "sip:101@192.0.2.7:5062", "600", "queue", "/extensions/103", `class="state talking"`), "104", "Three steps")
	client, _ := r.newToken(object{"scope": "read", "extensions": []string{"101@pbx.example"}})
	v = client.visit()
	v.lacks(v.sees("/", "/extensions/101@pbx.example", "sip:101@192.0.2.7:5062"), "600", "103")
	v.sees("/extensions/101@pbx.example")
}

func TestPageShowsLadder(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Trace: tracedCall}})
	for _, call := range []string{"c1", "c2", "busy"} {
		r.publishEvents(dialog.Event{Type: dialog.Hangup, Extension: dialog.Extension{User: "101"}, At: time.Now(), ID: call + strings.Repeat("0", 20), Call: call, Seq: 1, Party: "p"})
	}
	v := r.visit()
	html := v.sees("/calls/c1", `<object data="/calls/c1/ladder"`, "/calls/c1/ladder?as=pcap",
		"0.000 s</span> <span>&lt;101&gt; → pbx</span> <span class=\"mono wrap\">INVITE sip:102@pbx</span>", "<pre id=\"m0\" tabindex=\"0\">INVITE sip:102@pbx SIP/2.0\n\nv=0\n…\n</pre>",
		"60.000 s</span> <span>bellhop → &lt;101&gt;</span>", `<pre id="m2" tabindex="0">SIP/2.0 408 Request Timeout`)
	v.lacks(html, "<101>", `id="m3"`)
	v.lacks(v.sees("/calls/c2"), "ladder")
	v.gets(503, "GET", "/calls/busy", nil)
	resp, svg := v.send("GET", "/calls/c1/ladder", nil)
	if h := resp.Header; h.Get("Content-Type") != "image/svg+xml" || h.Get("Content-Security-Policy") != "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'" || !strings.HasPrefix(svg, "<svg") || !strings.Contains(svg, `<a href="/calls/c1#m2" target="_parent">`) {
		t.Errorf("%v %s", h, svg)
	}
	if resp, _ := v.send("GET", "/calls/c1/ladder?as=pcap", nil); resp.Header.Get("Content-Type") != "application/vnd.tcpdump.pcap" || resp.Header.Get("Content-Disposition") == "" {
		t.Errorf("%v", resp.Header)
	}
	v.sees("/calls/c1/ladder?as=text", "call c1")
	v.gets(404, "GET", "/calls/c2/ladder", nil, "no messages are kept")
	v.gets(503, "GET", "/calls/busy/ladder", nil)
	client, _ := r.newToken(object{"scope": "read", "extensions": []string{"101"}})
	v = client.visit()
	v.lacks(v.sees("/calls/c1"), "ladder", "INVITE")
	v.gets(403, "GET", "/calls/c1/ladder", nil)
}

func TestPageEscapesText(t *testing.T) {
	const evil = `<img src=x onerror=alert(1)>"'</td><script>alert(2)</script>`
	at := time.Now()
	r := newRig(t, Config{Config: ops.Config{Calls: func(context.Context) ([]dialog.Call, error) {
		return []dialog.Call{{ID: evil, State: "ringing", Since: at, Parties: []dialog.Party{{ID: "p", Extension: dialog.Extension{User: evil}, CallerNum: evil, CallerName: evil, CalledNumber: evil, Since: at}}}}, nil
	}}})
	r.publishEvents(dialog.Event{Type: dialog.Hangup, Extension: dialog.Extension{User: evil}, CallerNum: evil, CallerName: evil, CalledNumber: evil, Status: dialog.Status(evil), At: at, ID: strings.Repeat("a", 32), Call: "cc", Seq: 1, Party: "p"})
	r.publishEvents(dialog.Event{Type: dialog.MessageIn, Extension: dialog.Extension{User: "101"}, MessageText: evil, At: at, ID: strings.Repeat("b", 32), Call: "dd", Seq: 1, Party: "p"})
	r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "<img/src=x/onerror=alert(1)>", "note", evil))
	r.newToken(object{"scope": "read", "note": evil})
	v := r.visit()
	for _, path := range []string{"/", "/calls", "/calls/cc", "/events", "/events?extension=" + url.QueryEscape(evil), "/tokens", "/extensions/" + url.PathEscape("<img/src=x/onerror=alert(1)>"), "/subscriptions/new?extension=" + url.QueryEscape(evil)} {
		html := v.sees(path, "&lt;img")
		v.lacks(html, "<img src=x", "<img/src", "<script>alert", `"'<`)
	}
	v.lacks(v.gets(422, "POST", "/subscriptions", url.Values{"extension": {evil}, "url": {evil}, "types": {evil}, "method": {evil}, "dialect": {evil}, "note": {evil}}), "<img src=x", "<script>alert")
}

func TestPageShowsDeliveries(t *testing.T) {
	r := newRig(t, Config{}, loopback)
	at, status := r.newReceiver()
	v := r.visit()
	v.sees("/deliveries", "No subscriptions yet")
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "url", at+"/cb", "headers", object{"X-Key": "hush"}))["id"].(string)
	v.sees("/deliveries?state=expired", "No expired deliveries")
	v.sees("/deliveries?state=lost", "No deliveries yet")
	v.gets(400, "GET", "/deliveries?cursor=x", nil)
	v.sees("/deliveries?extension=nobody", "No subscriptions yet")
	status.Store(500)
	r.notifier.EventLog.Append(hangup("e1"))
	path := "/deliveries/e1-" + sub
	r.waitForJSON("/v1/deliveries?state=waiting", func(o object) bool {
		items := o["items"].([]any)
		return len(items) == 1 && hasState("waiting", 1)(items[0].(object))
	})
	v.sees("/deliveries", path, "hangup", "1001@pbx", at+"/cb", "HTTP 500", `class="state waiting"`)
	v.sees("/deliveries?extension=1001&state=waiting", path, "/live/deliveries?extension=1001&amp;state=waiting", "/deliveries?extension=1001&amp;state=expired")
	html := v.sees(path, "Redeliver now", "500 Internal Server Error", "POST "+at+"/cb", "X-Key: [redacted]", "EventType=hangup", "hello")
	v.lacks(html, "hush")
	v.gets(200, "POST", path+"/redeliver", nil, "<b>Manual attempt</b>", `class="state failed"`)
	status.Store(204)
	v.gets(200, "POST", path+"/redeliver", nil, "<b>Manual attempt</b>", `class="state delivered"`)
	r.waitForJSON("/v1"+path, hasState("delivered", 3))
	v.gets(200, "POST", "/subscriptions/"+sub+"/test", nil, "Test results", "HTTP 204", "<h3>hangup</h3>")
	v.gets(404, "GET", "/deliveries/x", nil)
	v.gets(404, "POST", "/deliveries/x/redeliver", nil)
	r.want(204, "DELETE", "/v1/subscriptions/"+sub, nil)
	v.gets(409, "POST", path+"/redeliver", nil, "the subscription of the delivery was deleted")
}

func TestPageReplaysTimeRange(t *testing.T) {
	r := newRig(t, Config{}, loopback)
	at, _ := r.newReceiver()
	v := r.visit()
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "url", at))["id"].(string)
	r.notifier.EventLog.Append(hangup("e1"))
	r.waitUntil("it is delivered", func() bool { return r.notifier.Stats().Delivered == 1 })
	path := "/subscriptions/" + sub + "/replay"
	before := time.Now().Add(-2 * time.Hour).UTC().Format("2006-01-02 15:04")
	v.sees(path, `id="from" name="from" value="2`, "Send all events of this period to "+at+" again?")
	v.gets(422, "POST", path, url.Values{"from": {"<yesterday>"}, "to": {"x"}}, `id="from-error">must be a time`, `id="to-error">must be a time`, `value="&lt;yesterday&gt;"`)
	v.gets(422, "POST", path, nil, `id="from-error">from is missing`)
	v.gets(422, "POST", path, url.Values{"from": {before}, "to": {before}}, `id="from-error">from is not before to`)
	v.gets(200, "POST", path, url.Values{"from": {"2001-01-01 00:00"}, "to": {"2001-01-02 00:00"}}, "No events to resend")
	v.gets(200, "POST", path, url.Values{"from": {before}}, "Events to resend: <b>1</b>")
	r.waitUntil("it is delivered again", func() bool { return r.notifier.Stats().Delivered == 2 })
	r.want(200, "PATCH", "/v1"+strings.TrimSuffix(path, "/replay"), object{"active": false})
	v.gets(422, "POST", path, url.Values{"from": {before}}, `role="alert">the subscription is disabled: activate it first`)
	v.gets(404, "GET", "/subscriptions/x/replay", nil)
	v.gets(404, "POST", "/subscriptions/x/replay", url.Values{"from": {before}})
}

func TestPageRotatesSecret(t *testing.T) {
	r := newRig(t, Config{})
	v := r.visit()
	made := r.want(201, "POST", "/v1/subscriptions", subscription())
	path := "/subscriptions/" + made["id"].(string)
	v.sees(path, `hx-post="`+path+`/rotate-secret"`)
	html := v.gets(200, "POST", path+"/rotate-secret", nil, "it is not shown again")
	fresh := regexp.MustCompile(`whsec_[^<]+`).FindString(html)
	if fresh == "" || fresh == made["secret"] {
		t.Errorf("the secret is %q after %q", fresh, made["secret"])
	}
	v.lacks(v.sees(path), "whsec_")
	v.gets(404, "POST", "/subscriptions/x/rotate-secret", nil)
}

func TestPageManagesTokens(t *testing.T) {
	r := newRig(t, Config{})
	v := r.visit()
	v.sees("/tokens", "No tokens yet")
	v.sees("/tokens/new", `value="read" checked`)
	v.gets(422, "POST", "/tokens", url.Values{"scope": {"root"}, "expires": {"soon"}, "note": {strings.Repeat("x", 1001)}}, "choose read, write or admin", "must be a day", "must be at most 1000 bytes")
	v.gets(422, "POST", "/tokens", url.Values{"scope": {"admin"}, "extensions": {"101"}}, `id="extensions-error">must be empty with scope admin`)
	v.gets(422, "POST", "/tokens", url.Values{"scope": {"read"}, "expires": {"2001-01-31"}}, "must be in the future")
	html := v.gets(200, "POST", "/tokens", url.Values{"scope": {"write"}, "extensions": {"101, 102"}, "note": {"CRM"}, "expires": {"2999-01-31"}}, "bh_")
	secret := regexp.MustCompile(`bh_[\w-]+`).FindString(html)
	made := r.want(200, "GET", "/v1/tokens", nil)["items"].([]any)[0].(object)
	if made["scope"] != "write" || fmt.Sprint(made["extensions"]) != "[101 102]" || made["expires"] != "2999-01-31T00:00:00Z" {
		t.Errorf("got %v", made)
	}
	r.as(secret).want(200, "GET", "/v1/subscriptions", nil)
	v.lacks(v.sees("/tokens", "CRM", "101, 102"), secret)
	v.gets(200, "POST", "/tokens/"+made["id"].(string)+"/revoke", nil, "No tokens yet")
	v.gets(200, "POST", "/tokens/"+made["id"].(string)+"/revoke", nil) // already revoked by another
	r.as(secret).want(401, "GET", "/v1/subscriptions", nil)
}

func TestPageShowsHealth(t *testing.T) {
	since := time.Date(2026, 2, 1, 3, 4, 5, 0, time.UTC)
	r := newRig(t, Config{Config: ops.Config{
		Ready: func() []string { return []string{"no PBX answers OPTIONS"} },
		Edge: func() (ops.Connections, []ops.Listener, []ops.Certificate) {
			return ops.Connections{TLS: 2, WSS: 1, Refused: 4}, []ops.Listener{{Address: "udp://192.0.2.1:5060", Side: "both"}, {Address: "tls://192.0.2.1:5061", Side: "edge", Connections: 2}},
				[]ops.Certificate{{Name: "sip.tls_cert[0]", Hosts: []string{"a.example"}, Issuer: "CN=ca", Expires: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), State: ops.CertificateExpiring}}
		},
		Peers: func() ([]ops.Target, []ops.Trunk) {
			return []ops.Target{
					{Configured: "udp://pbx.example", Address: "udp://192.0.2.9:5060", State: "resting", Since: &since, Answer: "200 OK", Answered: &since, RoundTrip: 1540, Error: "INVITE: 503 <Overloaded>", Failed: &since},
					{Configured: "udp://gone.example", State: "unresolved", Since: &since, Error: "no such name"},
				}, []ops.Trunk{{Name: "carrier", Targets: []ops.Target{
					{Configured: "udp://198.51.100.1:5060", Address: "udp://198.51.100.1:5060", State: "down", Since: &since, Answer: "403 Forbidden"},
					{Configured: "udp://198.51.100.2:5060", Address: "udp://198.51.100.2:5060", State: "unknown"},
				}}}
		},
	}})
	r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "active", false, "url", "http://off.example/"))
	r.visit().sees("/health", "Not ready", "no PBX answers OPTIONS", "Delivered", "http://off.example/", "switched off",
		"TCP 0, TLS 2, WS 0, WSS 1", "tls://192.0.2.1:5061", "sip.tls_cert[0]", "a.example", "CN=ca", "1 Mar 2026", "expiring",
		`udp://192.0.2.1:5060</th><td data-label="Side">both</td><td data-label="Connections">–<`,
		`<span class="state down">down</span>`, "carrier", "udp://198.51.100.1:5060", "403 Forbidden", "2026-02-01 03:04:05 UTC",
		`<span class="state unknown">unknown</span>`, "udp://198.51.100.2:5060",
		`<span class="state resting">resting</span>`, "udp://pbx.example", "udp://192.0.2.9:5060", "1.5 ms", "INVITE: 503 &lt;Overloaded&gt;, ",
		`<span class="state unresolved">unresolved</span>`, `<td data-label="Address" class="mono">udp://gone.example</td>`, "no such name")
}

func TestPageWeighsLittle(t *testing.T) {
	r := newRig(t, Config{})
	v := r.visit()
	html := v.sees("/")
	weight := len(html)
	for _, match := range regexp.MustCompile(`(?:src|href)="(/static/[^"]+)"`).FindAllStringSubmatch(html, -1) {
		resp, text := v.send("GET", match[1], nil)
		if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d, Cache-Control %q", match[1], resp.StatusCode, resp.Header.Get("Cache-Control"))
		}
		weight += len(text)
	}
	t.Logf("the first view weighs %d bytes", weight)
	if weight < 50_000 || weight > 150_000 {
		t.Errorf("the first view weighs %d bytes", weight)
	}
	v.gets(404, "GET", "/static/nothing", nil)
	v.gets(404, "GET", "/static/..%2Ftemplates%2Flogin.html", nil)
	v.gets(404, "GET", "/static/", nil)
}

// listen opens a stream, and returns a function that reads its next part.
func (v *visitor) listen(path string) (next func() string) {
	v.Helper()
	req, err := http.NewRequestWithContext(v.Context(), "GET", v.url+path, nil)
	if err != nil {
		v.Fatal(err)
	}
	req.Header.Set("Cookie", v.cookie)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		v.Fatalf("%s: %d %s", path, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() string {
		v.Helper()
		var html strings.Builder
		for lines.Scan() {
			switch line := lines.Text(); {
			case line == "" && html.Len() > 0:
				return html.String()
			case strings.HasPrefix(line, "data: "):
				html.WriteString(line[len("data: "):] + "\n")
			}
		}
		return ""
	}
}

func TestPageStreamsLiveParts(t *testing.T) {
	r := newRig(t, Config{})
	client, id := r.newToken(object{"scope": "read", "extensions": []string{"101"}})
	v := client.visit()
	next := v.listen("/live/events?type=hangup")
	if html := next(); !strings.Contains(html, "No event matches this filter") {
		t.Errorf("first comes %s", html)
	}
	for i, user := range []string{"102", "101"} {
		r.publishEvents(dialog.Event{Type: dialog.Hangup, Extension: dialog.Extension{User: user}, CallerName: "<b>of" + user, At: time.Now(), ID: fmt.Sprintf("%032x", i), Call: fmt.Sprintf("%032x", 100+i), Seq: 1, Party: "p"})
	}
	html := next()
	if !strings.Contains(html, "&lt;b&gt;of101") || strings.Contains(html, "of102") {
		t.Errorf("then comes %s", html)
	}
	r.want(204, "DELETE", "/v1/tokens/"+id, nil)
	if html := next(); html != "" {
		t.Errorf("who has lost his token is told %s", html)
	}
}

func TestPageRefusesExcessStreams(t *testing.T) {
	r := newRig(t, Config{})
	v := r.visit()
	for range limit.MaxStreamsPerToken {
		r.server.streams.Acquire(access.ConfigID)
	}
	v.gets(503, "GET", "/live/calls", nil, "too many pages are open")
	r.server.streams.Release(access.ConfigID)
	v.listen("/live/calls")()
}
