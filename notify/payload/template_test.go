package payload

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

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
		s := Format{Dialect: tt.dialect, URL: tt.template}
		if _, err := s.ExpandExample(); err != nil {
			t.Errorf("%s: %v", tt.template, err)
		}
		v := New(&tt.event, s)
		at := baseURL(tt.template)
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
		s := Format{Dialect: JSON, URL: tt.template}
		if _, err := s.ExpandExample(); err != nil {
			t.Errorf("%s: %v", tt.template, err)
		}
		v := New(&e, s)
		at := baseURL(tt.template)
		if got, err := v.expandURL(at); err != nil || got.String() != tt.want {
			t.Errorf("%s with %q and %q becomes %v, %v, want %s", tt.template, tt.name, tt.num, got, err, tt.want)
		}
	}
}

// The variables that a template may use are those of an event with every field.
func TestFilledEventHasEveryField(t *testing.T) {
	var e dialog.Event
	v := reflect.ValueOf(&e).Elem()
	fill(v)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is missing", v.Type().Field(i).Name)
		}
	}
}

// baseURL returns a template up to its first variable.
func baseURL(template string) *url.URL {
	before, _, _ := strings.Cut(template, "{")
	u, _ := url.Parse(before)
	return u
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
		s := Format{Dialect: JSON, URL: "http://crm.example:8080/pop/{caller_id_name}/x?k=1{&caller_id_name,headers*}"}
		v := New(&e, s)
		at := baseURL(s.URL)
		u, err := v.expandURL(at)
		if err != nil {
			t.Fatal(err)
		}
		want := dialog.Clean(name, dialog.MaxText)
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
