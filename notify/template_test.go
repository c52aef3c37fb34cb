package notify

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

func TestTemplatesExpand(t *testing.T) {
	hangup := sampleEvents()[8]
	bare := dialog.Event{Type: dialog.Hangup, Extension: hangup.Extension, Flow: dialog.In}
	for _, tt := range []struct {
		dialect  Dialect
		event    dialog.Event
		template string
		want     string
	}{
		{Telphin, hangup, "http://crm/pop{?EventType,CallerIDNum}", "http://crm/pop?EventType=hangup&CallerIDNum=101"},
		{Telphin, hangup, "http://crm/{CallerIDName}/", "http://crm/Zo%C3%AB%20%22Z%22%20%3C%C3%96l%20%26%20Co%3E/"},
		{Telphin, hangup, "http://crm/{CalledExtension}?d={Duration}&b={Bridged}", "http://crm/0003%2A210%40pbx.example?d=61000005&b=yes"},
		{Telphin, hangup, "http://crm/?myid=175{&CallStatus,Tag}", "http://crm/?myid=175&CallStatus=ANSWER"},
		{Telphin, bare, "http://crm{?RecID}", "http://crm"},
		{Unified, bare, "http://crm/{?CalledExtension,CallerIDName}", "http://crm/?CalledExtension=0003%2A210&CallerIDName="},
		{JSON, hangup, "http://crm{/event_type,called_did}{;missed,duration}", "http://crm/hangup/%2B442071234567;missed=false;duration=61000005"},
		{JSON, hangup, "http://crm/{?headers*}", "http://crm/?X-Queue=sales%20%26%20support"},
		{CloudEvents, hangup, "http://crm/{?call_status}", "http://crm/?call_status=ANSWER"},
		{CTI, hangup, "http://crm/{event}?{&cause,user}", "http://crm/hangup?&cause=forwarded"},
		{CTI, sampleEvents()[1], "http://crm/{event}{?user}", "http://crm/newCall?user=0003%2A210"},
	} {
		s := Subscription{Dialect: tt.dialect, URL: tt.template}
		if err := urlProblem(&s); err != nil {
			t.Errorf("%s: %v", tt.template, err)
		}
		v := newView(&tt.event, &s)
		at := (&Subscription{URL: tt.template}).BaseURL()
		if got, err := v.expandURL(at); err != nil || got.String() != tt.want {
			t.Errorf("%s becomes %v, %v, want %s", tt.template, got, err, tt.want)
		}
	}
}

// No value creates a path segment that leads elsewhere.
func TestTemplatesKeepPath(t *testing.T) {
	for _, tt := range []struct{ template, name, num, want string }{
		{"http://crm/a/{caller_id_name}/b", "..", "", "http://crm/a//b"},
		{"http://crm/a/{caller_id_name}/b", ".", "", "http://crm/a//b"},
		{"http://crm/a/{caller_id_name}/b", "%2e%2E", "", "http://crm/a//b"},
		{"http://crm/a/{caller_id_name}/b", "%252e.", "", "http://crm/a//b"},
		{"http://crm/a/.{caller_id_name}/b", "%2e", "", "http://crm/a//b"},
		{"http://crm/a/.{caller_id_name}/b", "", "", "http://crm/a//b"},
		{"http://crm/a/{caller_id_name}./b", "..", "", "http://crm/a//b"},
		{"http://crm/a/{caller_id_name}{caller_id_num}/b", "%2e", "%2e", "http://crm/a//b"},
		{"http://crm/a/%2e{caller_id_name}/b", "", "", "http://crm/a//b"},
		{"http://crm/a{/caller_id_name}/b", "%2e%2e", "", "http://crm/a//b"},
		{"http://crm/a{/caller_id_name,caller_id_num}/b", "..", "%2e%2e", "http://crm/a///b"},
		{"http://crm/a/{.caller_id_name,caller_id_num}/b", ".", ".", "http://crm/a//b"},
		{"http://crm/a/{.caller_id_name}/b", "..", "", "http://crm/a//b"},
		{"http://crm/a/{caller_id_name}", "..", "", "http://crm/a/"},
		{"http://crm/a/{caller_id_name}?b=/{caller_id_num}/c", "%2e%2e", "%2e%2e", "http://crm/a/?b=/%252e%252e/c"},
		{"http://crm/a/{caller_id_name}{?caller_id_num}", "%2e%2e", "1", "http://crm/a/?caller_id_num=1"},
		{"http://crm/a/../{caller_id_name}", "x", "", "http://crm/a/../x"}, // as its owner wrote it
		{"http://crm/a/v.{caller_id_name}.{caller_id_num}/b", "1", "..", "http://crm/a/v.1./b"},
	} {
		e := sampleEvents()[8]
		e.CallerName, e.CallerNum = tt.name, tt.num
		s := Subscription{Dialect: JSON, URL: tt.template}
		if err := urlProblem(&s); err != nil {
			t.Errorf("%s: %v", tt.template, err)
		}
		v := newView(&e, &s)
		at := (&Subscription{URL: tt.template}).BaseURL()
		if got, err := v.expandURL(at); err != nil || got.String() != tt.want {
			t.Errorf("%s with %q and %q becomes %v, %v, want %s", tt.template, tt.name, tt.num, got, err, tt.want)
		}
	}
}

// The variables that a template may use are taken from completeEvent.
func TestCompleteEventHasEveryField(t *testing.T) {
	v := reflect.ValueOf(completeEvent)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "Leg" && name != "Observed" { // which callbacks do not contain
			t.Errorf("%s is missing", name)
		}
	}
}

// FuzzTemplate: whatever the name of a caller, the callback goes to its URL, and each value
// arrives as one value.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"Zoë", "日本", "..", "%2e%2E", "a/../../b", "//evil.example/", "@evil.example", "#x?y&z=%41", "\xff\ufffd\x00\u2028", "{call_id}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		e := sampleEvents()[8]
		e.CallerName, e.Headers = name, [][2]string{{"X-A", name}}
		s := Subscription{Dialect: JSON, URL: "http://crm.example:8080/pop/{caller_id_name}/x?k=1{&caller_id_name,headers*}"}
		v := newView(&e, &s)
		at := s.BaseURL()
		u, err := v.expandURL(at)
		if err != nil {
			t.Fatal(err)
		}
		want := dialog.Clean(name, maxText)
		if strings.Trim(want, ".") == "" {
			want = ""
		}
		segment := want
		if isDotSegment(segment) {
			segment = "" // in the path
		}
		q, err := url.ParseQuery(u.RawQuery)
		if err != nil || u.Scheme != "http" || u.Host != "crm.example:8080" || u.Fragment != "" ||
			u.Path != "/pop/"+segment+"/x" || q.Get("caller_id_name") != want || q.Get("X-A") != want || q.Get("k") != "1" {
			t.Errorf("%q leads to %s, %v", name, u, err)
		}
	})
}

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
				n.Publish(callOf(1)[:1])
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

// urlProblem returns what is wrong with the URL of a subscription, or nil.
func urlProblem(s *Subscription) *Invalid {
	for err := range s.Invalid() {
		if err.Field == "url" {
			return err
		}
	}
	return nil
}
