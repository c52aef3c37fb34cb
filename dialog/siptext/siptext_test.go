package siptext

import (
	"slices"
	"strings"
	"testing"
)

func TestReadsHeaderFields(t *testing.T) {
	head := "INVITE sip:102@pbx.example SIP/2.0\r\n" +
		"v: SIP/2.0/UDP 192.0.2.11\r\n" +
		"f: \"A  B\"\r\n <sip:101@pbx.example>\r\n\t;tag=1\r\n" +
		"X-Empty:\r\n" +
		"no colon\r\n" +
		"subject : lunch: where? \r\n" +
		"X-Two: 1\r\n" +
		"u: presence\r\n" +
		"x-two: 2"
	for _, tt := range []struct{ name, want string }{
		{"Via", "SIP/2.0/UDP 192.0.2.11"},
		{"FROM", `"A  B" <sip:101@pbx.example> ;tag=1`},
		{"X-Empty", ""},
		{"Subject", "lunch: where?"},
		{"X-Two", "1"},
		{"Allow-Events", "presence"},
		{"INVITE sip", ""},
		{"To", ""},
	} {
		if got := Field(head, tt.name); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := PartField("Content-Type: text/plain\nX: 1", "content-type"); got != "text/plain" {
		t.Errorf("the first field of a part is %q", got)
	}
}

func TestParsesNameAddr(t *testing.T) {
	for _, tt := range []struct {
		in, display, uri, params string
		malformed                bool
	}{
		{`<sip:a@b>`, "", "sip:a@b", "", false},
		{`"Alice \"Al\" A" <sip:a@b;transport=udp>;tag=1`, `Alice "Al" A`, "sip:a@b;transport=udp", "tag=1", false},
		{`Alice A <sip:a@b> ;tag=1`, "Alice A", "sip:a@b", "tag=1", false},
		{`sip:a@b;tag=1`, "", "sip:a@b", "tag=1", false},
		{`sip:a@b;+sip.instance="<urn:uuid:1>";tag=1`, "", "sip:a@b", `+sip.instance="<urn:uuid:1>";tag=1`, false},
		{`"a <b>, c" <sip:a@b>`, "a <b>, c", "sip:a@b", "", false},
		{`Al "<sip:x@y>" <sip:a@b>`, `Al "<sip:x@y>"`, "sip:a@b", "", false},
		{`"Alice" sip:a@b;tag=1`, "Alice", "sip:a@b", "tag=1", false},
		{`< sip:a@b >tag=1;q=2`, "", "sip:a@b", "q=2", false},
		{`"open <sip:a@b>`, `open <sip:a@b>`, "", "", true},
		{`"open \`, `open \`, "", "", true},
		{`<sip:a@b`, "", "sip:a@b", "", true},
		{``, "", "", "", true},
		{`*`, "", "*", "", false},
	} {
		want := NameAddr{tt.display, tt.uri, tt.params, tt.malformed}
		if got := ParseNameAddr(tt.in); got != want {
			t.Errorf("%s: got %+v, want %+v", tt.in, got, want)
		}
	}
}

func TestParsesURIs(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want URI
	}{
		{"sip:101@pbx.example", URI{Scheme: "sip", User: "101", Host: "pbx.example"}},
		{"SIPS:101:secret@pbx.example:5061;transport=tls?X=1", URI{Scheme: "sips", User: "101", Host: "pbx.example", Port: "5061", Params: "transport=tls", Headers: "X=1"}},
		{"sip:0003*210@[2001:db8::1]:5060", URI{Scheme: "sip", User: "0003*210", Host: "[2001:db8::1]", Port: "5060"}},
		{"sip:+15551234;phone-context=+1@h;user=phone", URI{Scheme: "sip", User: "+15551234", UserParams: "phone-context=+1", Host: "h", Params: "user=phone"}},
		{"sip:a;b:c@h", URI{Scheme: "sip", User: "a", UserParams: "b", Host: "h"}},
		{"tel:+15551234;verstat=No-TN-Validation", URI{Scheme: "tel", User: "+15551234", Params: "verstat=No-TN-Validation"}},
		{"TEL:863-1234;phone-context=+1-914-555?X=1", URI{Scheme: "tel", User: "863-1234", Params: "phone-context=+1-914-555", Headers: "X=1"}},
		{"sip:PBX.Example.", URI{Scheme: "sip", Host: "PBX.Example"}},
		{"sip:*72?401@pbx.example;lr", URI{Scheme: "sip", User: "*72?401", Host: "pbx.example", Params: "lr"}},
		{"sip:401@h?Replaces=7@192.0.2.9%3Bto-tag%3D1", URI{Scheme: "sip", User: "401", Host: "h", Headers: "Replaces=7@192.0.2.9%3Bto-tag%3D1"}},
		{"sip:401@h;x=y@z", URI{Scheme: "sip", User: "401", Host: "h", Params: "x=y@z"}},
		{"sip:401@pbx.example@192.0.2.9", URI{Scheme: "sip", User: "401@pbx.example", Host: "192.0.2.9"}},
		{"sip://101@pbx.example", URI{Scheme: "sip", User: "101", Host: "pbx.example"}},
		{"nonsense", URI{}},
		{"", URI{}},
	} {
		if got := ParseURI(tt.in); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestSplitsListValues(t *testing.T) {
	got := slices.Collect(List(`"a,b" <sip:a@b;x=1,2>;q=1, <sip:c@d> ,,sip:e@f,"open, <g>`))
	want := []string{`"a,b" <sip:a@b;x=1,2>;q=1`, `<sip:c@d>`, `sip:e@f`, `"open, <g>`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFindsParameters(t *testing.T) {
	for _, tt := range []struct {
		params, name, want string
		ok                 bool
	}{
		{"tag=1;q=0.5", "q", "0.5", true},
		{" Tag = 1 ", "tag", "1", true},
		{`text="a;b=c";cause=200`, "cause", "200", true},
		{`text="a;b=c";cause=200`, "text", "a;b=c", true},
		{`text="a \"b\"";cause=200`, "text", `a "b"`, true},
		{"lr", "lr", "", true},
		{"lr", "b", "", false},
		{"tag=1 junk;q=2", "tag", "1", true},
		{"tag=1 junk;q=2", "q", "2", true},
		{"x tag=1", "tag", "", false},
		{"tag=1,<sip:b>;q=2", "tag", "1", true},
		{"tag=1,<sip:b>;q=2", "q", "", false},
		{`x="open;tag=1`, "tag", "", false},
		{";;tag=1", "tag", "1", true},
	} {
		if got, ok := Param(tt.params, tt.name); got != tt.want || ok != tt.ok {
			t.Errorf("%s of %s: got %q %v, want %q %v", tt.name, tt.params, got, ok, tt.want, tt.ok)
		}
	}
}

func TestParsesVias(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Via
		ok   bool
	}{
		{"SIP/2.0/UDP 192.0.2.11:5062;branch=z9hG4bK1;rport", Via{"UDP", "192.0.2.11", 5062, "branch=z9hG4bK1;rport"}, true},
		{"SIP / 2.0 / TCP [2001:db8::1] : 5060 ; branch=1, SIP/2.0/UDP b", Via{"TCP", "[2001:db8::1]", 5060, " branch=1"}, true},
		{`sip/2.0/UDP a;x="b,c";y`, Via{"UDP", "a", 0, `x="b,c";y`}, true},
		{"SIP/2.0/UDP", Via{}, false},
		{"SIP/2.0/UDP a:0", Via{}, false},
		{"HTTP/2.0/UDP a", Via{}, false},
		{"", Via{}, false},
	} {
		if got, ok := ParseVia(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %+v %v, want %+v %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func TestParsesCSeq(t *testing.T) {
	for _, tt := range []struct {
		in     string
		number uint32
		method string
		ok     bool
	}{
		{"1 INVITE", 1, "INVITE", true},
		{"4294967295\t ACK", 4294967295, "ACK", true},
		{"4294967296 ACK", 4294967295, "ACK", false},
		{"1INVITE", 0, "", false},
		{"", 0, "", false},
	} {
		if n, method, ok := ParseCSeq(tt.in); n != tt.number || method != tt.method || ok != tt.ok {
			t.Errorf("%s: got %d %q %v", tt.in, n, method, ok)
		}
	}
}

func TestReadsMediaTypes(t *testing.T) {
	for in, want := range map[string]string{
		"application/SDP":                    "application/sdp",
		"multipart / mixed ; boundary=\"x\"": "multipart/mixed",
		"text":                               "text",
		"":                                   "",
	} {
		if got, _ := MediaType(in); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestReadsNumbersAndHosts(t *testing.T) {
	for in, want := range map[string]string{"+358-(555).123-77": "+35855512377", "front-desk": "front-desk", "f-a": "f-a", "863-1234": "8631234"} {
		if got := PlainNumber(in); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"PBX.Example": "pbx.example", "[2001:DB8::A]": "[2001:db8::a]", "[x": "[x"} {
		if got := LowerHost(in); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"%31%30": "10", "%zz": "%zz"} {
		if got := Unescape(in); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

// TestParsesWithoutAllocation checks that the parsers return parts of their input.
func TestParsesWithoutAllocation(t *testing.T) {
	head := "INVITE sip:102@pbx.example SIP/2.0\r\nv: SIP/2.0/UDP 192.0.2.11;branch=z9hG4bK1\r\nf: \"A\" <sip:101@pbx.example>;tag=1\r\nSubject: x"
	if n := testing.AllocsPerRun(100, func() {
		for _, value := range Fields(head) {
			for v := range List(value) {
				a := ParseNameAddr(v)
				Param(a.Params, "tag")
				u := ParseURI(a.URI)
				u.IsTel()
				ParseVia(v)
			}
		}
		if Field(head, "from") == "" {
			t.Error("there is no From")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzFields parses any header section: the parsers end, and stay within the text.
func FuzzFields(f *testing.F) {
	f.Add("INVITE sip:a@b SIP/2.0\r\nFrom: \"A \\\"\" <sip:a@b>;tag=\"1\r\n ;x\r\nContact: *, <sip:x@y>;expires=0")
	f.Add("\nSIP/2.0/UDP [::1]:5060;x=\"")
	f.Fuzz(func(t *testing.T, head string) {
		for name, value := range Fields(head) {
			if len(value) > len(head) || value != TrimSpace(value) || strings.ContainsRune(value, '\n') {
				t.Errorf("%q has the value %q", name, value)
			}
			for v := range List(value) {
				a := ParseNameAddr(v)
				if len(a.Display)+len(a.URI)+len(a.Params) > len(v) {
					t.Errorf("%q became longer: %+v", v, a)
				}
				Param(a.Params, "tag")
				ParseVia(v)
				ParseCSeq(v)
				MediaType(v)
			}
		}
	})
}

// FuzzURI parses any text: the parts are no longer than the text.
func FuzzURI(f *testing.F) {
	for _, s := range []string{"sip:*72?401:p;x=1@[::1]:5060;user=phone?A=b@c", "tel:+358-(555)", "sips:a@B.:1;x@y", "sip:%41%@h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u := ParseURI(s)
		if len(u.Scheme)+len(u.User)+len(u.UserParams)+len(u.Host)+len(u.Port)+len(u.Params)+len(u.Headers) > len(s) {
			t.Errorf("%q became longer: %+v", s, u)
		}
		if h := LowerHost(u.Host); LowerHost(h) != h {
			t.Errorf("%q: host %q", s, h)
		}
		if n := PlainNumber(u.User); PlainNumber(n) != n || len(Unescape(n)) > len(n) {
			t.Errorf("%q: number %q", s, n)
		}
	})
}
