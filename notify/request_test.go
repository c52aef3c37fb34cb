package notify

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The request of a dial-out, by method, dialect and URL, matches its golden file.
func TestRequestOfEachDialect(t *testing.T) {
	for _, tt := range []struct {
		name   string
		sub    Subscription
		url    string            // as sent
		body   string            // its beginning
		header map[string]string // some of it
	}{
		{"GET keeps the URL's query", Subscription{Method: "GET", Dialect: Telphin, URL: "http://crm/?myid=175"},
			"http://crm/?myid=175&CallID=*", "", nil},
		{"PUT sends the body", Subscription{Method: "PUT", Dialect: Telphin, URL: "http://crm/?myid=175"},
			"http://crm/?myid=175", "CallID=", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
		{"by GET a template is all", Subscription{Method: "GET", Dialect: Telphin, URL: "http://crm/pop{?EventType,CallerIDNum}"},
			"http://crm/pop?EventType=dial-out&CallerIDNum=101", "", nil},
		{"also if it leaves no query", Subscription{Method: "GET", Dialect: JSON, URL: "http://crm/pop/{event_type}"},
			"http://crm/pop/dial-out", "", nil},
		{"by POST there is a body beside it", Subscription{Method: "POST", Dialect: JSON, URL: "http://crm/pop{?event_type}"},
			"http://crm/pop?event_type=dial-out", `{"type":"call.dial_out",`, map[string]string{"Content-Type": "application/json"}},
		{"cti", Subscription{Method: "POST", Dialect: CTI, URL: "http://crm/api/v1/cti/token"},
			"http://crm/api/v1/cti/token", "event=newCall&from=101&to=102&direction=out&", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
		{"cloudevents", Subscription{Method: "PUT", Dialect: CloudEvents, URL: "http://crm/"},
			"http://crm/", `{"call_id":"`, map[string]string{"Content-Type": "application/json", "Ce-Specversion": "1.0", "Ce-Type": "call.dial_out", "Ce-Source": "sip:101@pbx.example"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				js, closeStore := openStore(t, dir)
				defer closeStore()
				w := &fakeWire{start: time.Now()}
				n, stop := startNotifier(t, js, Config{Transport: w})
				defer stop()
				tt.sub.Extension, tt.sub.Types, tt.sub.Active = "101", []string{"dial-out"}, true
				s := mustSubscribe(t, n, tt.sub)
				n.EventLog.Append(callOf(1)[:1])
				time.Sleep(time.Second)
				w.mu.Lock()
				defer w.mu.Unlock()
				if len(w.got) != 1 {
					t.Fatalf("%d requests", len(w.got))
				}
				r := w.got[0]
				begin, open := strings.CutSuffix(tt.url, "*")
				if got := r.URL.String(); r.Method != s.Method || got != tt.url && !(open && strings.HasPrefix(got, begin)) {
					t.Errorf("%s %s, want %s %s", r.Method, got, s.Method, tt.url)
				}
				if !strings.HasPrefix(r.body, tt.body) || (tt.body == "") != (r.body == "") || r.ContentLength != int64(len(r.body)) {
					t.Errorf("the body is %q (%d)", r.body, r.ContentLength)
				}
				for name, want := range tt.header {
					if got := r.Header.Get(name); got != want {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
				if tt.sub.Dialect != CloudEvents && r.Header.Get("Ce-Id") != "" {
					t.Error("a Ce-Id is sent")
				}
			})
		})
	}
}
