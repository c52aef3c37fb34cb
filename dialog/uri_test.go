package dialog

import (
	"strings"
	"testing"

	"bellhop/dialog/siptext"
)

func TestParsesURIs(t *testing.T) {
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

		{"SIP:101@PBX.Example.", uri{"101", "pbx.example", ""}},
		{"sip:Anna@[2001:DB8::A]", uri{"Anna", "[2001:db8::a]", ""}},
		{"sip:*72?401@pbx.example;lr", uri{"*72?401", "pbx.example", "lr"}},
		{"sip:401@pbx.example?Subject=a?b", uri{"401", "pbx.example", ""}},
		{"sip:401@h?Replaces=7@192.0.2.9%3Bto-tag%3D1", uri{"401", "h", ""}},
		{"sip:401@h;x=y@z", uri{"401", "h", "x=y@z"}},
		{"sip:401@pbx.example@192.0.2.9", uri{"401@pbx.example", "192.0.2.9", ""}},
		{"tel:+358-(555).123-77", uri{"+35855512377", "", ""}},
		{"tel:%2B358-555", uri{"+358555", "", ""}},
		{"TEL:863-1234;phone-context=+1-914-555?X=1", uri{"8631234", "", "phone-context=+1-914-555"}},
		{"tel:anna-b", uri{"anna-b", "", ""}},
		{"sip:+358-555-77@h;user=phone", uri{"+35855577", "h", "user=phone"}},
		{"sip:+358-555-77@h;USER=Phone;lr", uri{"+35855577", "h", "USER=Phone;lr"}},
		{"sip:+358-555-77@h", uri{"+358-555-77", "h", ""}},
		{"sip:front-desk@h;user=phone", uri{"front-desk", "h", "user=phone"}},
		{"sip:f-a@h;user=phone", uri{"f-a", "h", "user=phone"}},
	} {
		if got := parseURI(tt.in); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestRawUserDiffersFromParsed(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"sip:101@h", ""},
		{"sip:%31@h", "%31"},
		{"sip:%zz@h", ""},
		{"sip:+358-555-77:pw@h", ""},
		{"sip:+358-555-77;isub=1@h;user=phone", "+358-555-77"},
		{"tel:+358(555)77;x", "+358(555)77"},
		{"tel:+35855577", ""},
		{"", ""},
	} {
		if got := rawUser(tt.in); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

// TestContactKeyIdentifiesBinding checks that URIs of the same binding have the same key,
// and others have not.
func TestContactKeyIdentifiesBinding(t *testing.T) {
	for _, same := range [][]string{
		{"sip:x1@192.0.2.9", "sip:x1@192.0.2.9:5060", "SIP:%781@192.0.2.9;ob", "sip:x1@192.0.2.9:5060;transport=UDP?a=b", "sip:x1@192.0.2.9;transport=tls", "sip:x1@192.0.2.9:5061;transport=tls"},
		{"sip:x1@Phone.Example", "sip:x1@phone.example."},
		{"sips:x1@192.0.2.9", "sips:x1@192.0.2.9:5061"},
		{"sip:x1@192.0.2.9:5062", "sip:x1@192.0.2.9:5062;transport=tcp"},
		{"sip:x1@192.0.2.9:5061"},
		{"sip:X1@192.0.2.9"},
		{"sip:192.0.2.9", "sip:192.0.2.9:5060"},
		{"sip:q?1@192.0.2.9", "sip:q%3F1@192.0.2.9:5060"},
		{"sip:x1@ws.invalid;transport=ws", "sip:x1@WS.invalid:80;transport=WS"},
		{"sip:x2@ws.invalid:443;transport=wss", "sip:x2@ws.invalid"},
		{"sip:x1@[2001:db8::9]", "sip:x1@[2001:DB8::9]:5060"},
		{"*", "tel:+1", "", "x1"},
	} {
		for _, u := range same {
			if got, want := contactKey(u), contactKey(same[0]); got != want {
				t.Errorf("%s: got %s, want %s as %s has", u, got, want, same[0])
			}
		}
	}
	different := []string{"sip:x1@h", "sips:x1@h", "sip:x1@h:5061", "sip:X1@h", "sip:h", "sip:x1@h2"}
	keys := map[string]string{}
	for _, u := range different {
		if other, ok := keys[contactKey(u)]; ok {
			t.Errorf("%s and %s have the same key", u, other)
		}
		keys[contactKey(u)] = u
	}
}

// FuzzURI parses any text: the result is part of the text, and parses to the same again.
func FuzzURI(f *testing.F) {
	for _, s := range []string{"sip:*72?401:p;x=1@[::1]:5060;user=phone?A=b@c", "tel:+358-(555)", "sips:a@B.:1;x@y", "sip:%41%@h", ":////", "sip:@//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u := parseURI(s)
		if len(u.user) > len(s) {
			t.Errorf("%q became longer: %+v", s, u)
		}
		if u.host != siptext.LowerHost(u.host) || u.host != parseURI("sip:101@"+u.host).host && !strings.ContainsAny(u.host, ".]:") {
			t.Errorf("%q: host %q", s, u.host)
		}
		if siptext.PlainNumber(siptext.PlainNumber(u.user)) != siptext.PlainNumber(u.user) {
			t.Errorf("%q: number %q", s, u.user)
		}
		rawUser(s)
		contactKey(s)
		bareURI(s)
	})
}

// FuzzHeader reads any header section: the readers end and do not panic.
func FuzzHeader(f *testing.F) {
	f.Add("INVITE sip:a@b SIP/2.0\r\nFrom: \"A \\\"\" <sip:a@b>;tag=\"1\r\n ;x\r\nContact: *, <sip:x@y>;expires=0")
	f.Fuzz(func(t *testing.T, head string) {
		for _, value := range siptext.Fields(head) {
			for v := range siptext.List(value) {
				u := siptext.ParseNameAddr(v).URI
				parseURI(u)
				contactKey(u)
				digestUser(v)
				readContact(v)
			}
		}
		readReason(head)
	})
}
