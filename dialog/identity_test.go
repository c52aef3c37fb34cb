package dialog

import "testing"

func TestReadsPrivacy(t *testing.T) {
	for _, tt := range []struct {
		privacy string
		want    bool
	}{
		{"id", true}, {"ID", true}, {"user;critical", true}, {"critical; header ", true}, {"session, id", true},
		{"none", false}, {"session", false}, {"history;critical", false}, {"", false}, {"idle", false},
	} {
		if got := asksPrivacy(tt.privacy); got != tt.want {
			t.Errorf("%q: got %v", tt.privacy, got)
		}
	}
}

func TestReadsAssertedIdentity(t *testing.T) {
	for _, tt := range []struct{ head, name, uri string }{
		{"", "", ""},
		{"P-Asserted-Identity: \"A\" <sip:+1555@h>, <tel:+1666>", "A", "sip:+1555@h"},
		{"P-Asserted-Identity: <tel:+1555>\r\np-asserted-identity: \"A\" <sip:anna@h>", "A", "tel:+1555"},
		{"P-Asserted-Identity: \"A\" <sip:anna@h>\r\nP-Asserted-Identity: \"B\" <tel:+1-555>", "A", "tel:+1-555"},
		{"P-Asserted-Identity: \"A\" <sip:h>\r\nP-Asserted-Identity: sip:anna@h;x=y", "A", "sip:anna@h"},
		{"P-Asserted-Identity:\r\nP-Asserted-Identity: <sip:1@h>", "", "sip:1@h"},
	} {
		if name, u := assertedIdentity("X\r\n" + tt.head); name != tt.name || u != tt.uri {
			t.Errorf("%q: got %q %q, want %q %q", tt.head, name, u, tt.name, tt.uri)
		}
	}
}

func TestReadsVerstat(t *testing.T) {
	for _, tt := range []struct{ uri, want string }{
		{"tel:+1555;verstat=A", "A"},
		{"sip:+1555;verstat=A@h;user=phone", "A"},
		{"sip:+1555@h;user=phone;verstat=B", "B"},
		{"sip:+1555@h", ""},
	} {
		if got := readVerstat(tt.uri); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.uri, got, tt.want)
		}
	}
}

func TestExtensionMatchesItsNames(t *testing.T) {
	e := Extension{"101", "pbx.example"}
	for _, tt := range []struct {
		name string
		want bool
	}{
		{"101", true}, {"101@pbx.example", true}, {"101@PBX.Example", true},
		{"101@", false}, {"10", false}, {"1011", false}, {"101@pbx", false}, {"", false},
	} {
		if got := e.Is(tt.name); got != tt.want {
			t.Errorf("%q: got %v", tt.name, got)
		}
	}
	if (Extension{User: "101"}).Is("101@") {
		t.Error("an extension without a domain is one with an empty domain")
	}
}
