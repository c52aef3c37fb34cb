package dialog

import (
	"slices"
	"testing"
)

func TestHeader(t *testing.T) {
	head := "INVITE sip:102@pbx.example SIP/2.0\r\n" +
		"v: SIP/2.0/UDP 192.0.2.11\r\n" +
		"f: \"A\"\r\n <sip:101@pbx.example>\r\n\t;tag=1\r\n" +
		"X-Empty:\r\n" +
		"no colon\r\n" +
		"subject : lunch: where? \r\n" +
		"X-Two: 1\r\n" +
		"x-two: 2"
	for _, tt := range []struct{ name, want string }{
		{"Via", "SIP/2.0/UDP 192.0.2.11"},
		{"FROM", `"A" <sip:101@pbx.example> ;tag=1`},
		{"X-Empty", ""},
		{"Subject", "lunch: where?"},
		{"X-Two", "1"},
		{"INVITE sip", ""},
		{"To", ""},
	} {
		if got := header(head, tt.name); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNameAddr(t *testing.T) {
	for _, tt := range []struct{ in, display, uri, params string }{
		{`<sip:a@b>`, "", "sip:a@b", ""},
		{`"Alice \"Al\" A" <sip:a@b;transport=udp>;tag=1`, `Alice "Al" A`, "sip:a@b;transport=udp", ";tag=1"},
		{`Alice A <sip:a@b> ;tag=1`, "Alice A", "sip:a@b", ";tag=1"},
		{`sip:a@b;tag=1`, "", "sip:a@b", ";tag=1"},
		{`"a <b>, c" <sip:a@b>`, "a <b>, c", "sip:a@b", ""},
		{`"open <sip:a@b>`, `open <sip:a@b>`, "", ""},
		{`"open \`, `open \`, "", ""},
		{`<sip:a@b`, "", "sip:a@b", ""},
		{``, "", "", ""},
		{`*`, "", "*", ""},
	} {
		display, uri, params := nameAddr(tt.in)
		if display != tt.display || uri != tt.uri || params != tt.params {
			t.Errorf("%s: got %q %q %q, want %q %q %q", tt.in, display, uri, params, tt.display, tt.uri, tt.params)
		}
	}
}

func TestParseURI(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want uri
	}{
		{"sip:101@pbx.example", uri{"101", "pbx.example", ""}},
		{"sips:101:secret@pbx.example:5061;transport=tls?X=1", uri{"101", "pbx.example", "transport=tls"}},
		{"sip:0003*210@[2001:db8::1]:5060", uri{"0003*210", "[2001:db8::1]", ""}},
		{"sip:%31%30%31@h", uri{"101", "h", ""}},
		{"sip:%zz@h", uri{"%zz", "h", ""}},
		{"sip:+15551234;phone-context=+1@h;user=phone", uri{"+15551234", "h", "user=phone"}},
		{"tel:+15551234;verstat=No-TN-Validation", uri{"+15551234", "", "verstat=No-TN-Validation"}},
		{"sip:pbx.example", uri{"", "pbx.example", ""}},
		{"nonsense", uri{}},
		{"", uri{}},
	} {
		if got := parseURI(tt.in); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestList(t *testing.T) {
	got := slices.Collect(list(`"a,b" <sip:a@b;x=1,2>;q=1, <sip:c@d> ,,sip:e@f,"open, <g>`))
	want := []string{`"a,b" <sip:a@b;x=1,2>;q=1`, `<sip:c@d>`, `sip:e@f`, `"open, <g>`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParam(t *testing.T) {
	for _, tt := range []struct {
		params, name, want string
		ok                 bool
	}{
		{";tag=1;q=0.5", "q", "0.5", true},
		{"; Tag = 1 ", "tag", "1", true},
		{`;text="a;b=c";cause=200`, "cause", "200", true},
		{`;text="a;b=c";cause=200`, "text", "a;b=c", true},
		{";lr", "lr", "", true},
		{";lr", "b", "", false},
	} {
		if got, ok := param(tt.params, tt.name); got != tt.want || ok != tt.ok {
			t.Errorf("%s of %s: got %q %v, want %q %v", tt.name, tt.params, got, ok, tt.want, tt.ok)
		}
	}
}

// FuzzHeader shows the parsers anything: they end, and stay within the text.
func FuzzHeader(f *testing.F) {
	f.Add("INVITE sip:a@b SIP/2.0\r\nFrom: \"A \\\"\" <sip:a@b>;tag=\"1\r\n ;x\r\nContact: *, <sip:x@y>;expires=0")
	f.Fuzz(func(t *testing.T, head string) {
		for _, value := range fields(head) {
			for v := range list(value) {
				display, u, params := nameAddr(v)
				if len(display)+len(u)+len(params) > len(v) {
					t.Errorf("%q became longer: %q %q %q", v, display, u, params)
				}
				parseURI(u)
				param(params, "tag")
				contactKey(u)
				username(v)
			}
		}
		readReason(head)
	})
}
