package dialog

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// registerResponse returns the 2xx of a REGISTER that lists contacts.
func registerResponse(at time.Time, aor, contacts string) Message {
	return Message{
		At: at, Src: PBX, Dst: Edge, Method: "REGISTER", Status: 200, CallID: "reg@phone",
		Head: "SIP/2.0 200 OK\r\nTo: <" + aor + ">;tag=1\r\n" + contacts,
	}
}

func TestFindsCalledExtension(t *testing.T) {
	bindings := []Message{
		registerResponse(start, "sip:4001@pbx.example", "Contact: <sip:x7f3@192.0.2.12:5060;ob>;expires=60\r\nContact: \"x\" <sip:x7f3@192.0.2.13>;expires=120\r\n"),
		registerResponse(start, "sip:0003*210@pbx.example", "m: sip:k2@192.0.2.14:5062\r\nExpires: 100\r\n"),
	}
	for _, tt := range []struct {
		name     string
		uri, to  string
		aor      string
		trunk    string
		learn    bool
		after    time.Duration
		want     string
		register []Message
	}{
		{name: "token", uri: "sip:zz@192.0.2.12", aor: "4001@pbx.example", learn: true, want: "4001@pbx.example"},
		{name: "token of a stranger", uri: "sip:zz@192.0.2.12", aor: "anna@pbx.example", learn: false, want: ""},
		{name: "registered contact", uri: "sip:x7f3@192.0.2.12:5060", learn: true, want: "4001@pbx.example"},
		{name: "contact with parameters", uri: "sip:x7f3@192.0.2.12:5060;transport=udp", learn: true, want: "4001@pbx.example"},
		{name: "second contact", uri: "sip:x7f3@192.0.2.13", learn: true, want: "4001@pbx.example"},
		{name: "contact in compact form", uri: "sip:k2@192.0.2.14:5062", learn: true, want: "0003*210@pbx.example"},
		{name: "expired contact", uri: "sip:x7f3@192.0.2.12:5060", learn: true, after: time.Minute, want: ""},
		{name: "other contact not expired", uri: "sip:x7f3@192.0.2.13", learn: true, after: time.Minute, want: "4001@pbx.example"},
		{name: "contact, nothing learnt", uri: "sip:x7f3@192.0.2.12:5060", learn: false, want: ""},
		{name: "user of the Request-URI", uri: "sip:102@192.0.2.12", learn: true, want: "102"},
		{name: "and a To in the domain", uri: "sip:102@192.0.2.12", to: "sip:102@pbx.example", want: "102@pbx.example"},
		{name: "registered user", uri: "sip:4001@192.0.2.99", learn: true, want: "4001@pbx.example"},
		{name: "extension in To", uri: "sip:zz@192.0.2.12", to: "sip:102@pbx.example", want: "102@pbx.example"},
		{name: "the group called is not the phone", uri: "sip:102@192.0.2.12", to: "sip:600@pbx.example", want: "102"},
		{name: "unknown user", uri: "sip:zz@192.0.2.12", to: "sip:anna@pbx.example", learn: true, want: ""},
		{name: "declared extension", uri: "sip:sales@192.0.2.12", want: "sales"},
		{name: "trunk", uri: "sip:102@192.0.2.21", trunk: "carrier", want: ""},
		{name: "phone has unregistered", uri: "sip:x7f3@192.0.2.12:5060", learn: true, want: "",
			register: []Message{registerResponse(start, "sip:4001@pbx.example", "")}},
		{name: "refreshed elsewhere", uri: "sip:x7f3@192.0.2.12:5060", learn: true, want: "",
			register: []Message{registerResponse(start, "sip:4001@pbx.example", "Contact: <sip:y@192.0.2.15>\r\n")}},
		{name: "expires=0", uri: "sip:x7f3@192.0.2.12:5060", learn: true, want: "",
			register: []Message{registerResponse(start, "sip:4001@pbx.example", "Contact: <sip:x7f3@192.0.2.12:5060>;expires=0\r\n")}},
		{name: "another's domain does not unregister", uri: "sip:x7f3@192.0.2.12:5060", learn: true, want: "4001@pbx.example",
			register: []Message{registerResponse(start, "sip:4001@other.example", "")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig()
			c.Pattern = nil
			c.Learn = tt.learn
			c.Extensions = []Declared{{Number: "102"}, {Number: "600", Kind: Queue}, {Number: "sales"}}
			tracker := New(c)
			for _, m := range append(bindings, tt.register...) {
				tracker.Observe(m)
			}
			l := callee()
			l.uri, l.trunk, l.fromURI = tt.uri, tt.trunk, "sip:5551234@pbx.example"
			m := l.later(tt.after).invite()
			m.AOR = tt.aor
			if tt.to != "" {
				m.Head = fmt.Sprintf("INVITE %s SIP/2.0\r\nFrom: <sip:5551234@pbx.example>\r\nt: <%s>", tt.uri, tt.to)
			}
			got := ""
			if events := tracker.Observe(m); len(events) > 0 {
				got = events[0].Extension.String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestLongNamesAreNoExtensions checks that no user and no domain of more than MaxName bytes
// names an extension, in whichever header field it comes.
func TestLongNamesAreNoExtensions(t *testing.T) {
	for _, extra := range []int{0, 1} {
		user := strings.Repeat("4", MaxName+extra)
		host := strings.Repeat("h", MaxName+extra)
		c := testConfig()
		c.Pattern, c.Learn = regexp.MustCompile(`^(4+|5+)$`), true
		c.Extensions = []Declared{{Number: user}}
		for _, tt := range []struct {
			name, aor, uri, to, token string
		}{
			{name: "user of the Request-URI", uri: "sip:" + user + "@192.0.2.12"},
			{name: "user of To", uri: "sip:zz@192.0.2.12", to: "sip:" + user + "@pbx.example"},
			{name: "domain of To", uri: "sip:zz@192.0.2.12", to: "sip:44@" + host},
			{name: "user of the Path token", uri: "sip:zz@192.0.2.12", token: user + "@pbx.example"},
			{name: "domain of the Path token", uri: "sip:zz@192.0.2.12", token: "44@" + host},
			{name: "user that registered", aor: "sip:" + user + "@pbx.example", uri: "sip:x@192.0.2.11"},
			{name: "domain that registered", aor: "sip:44@" + host, uri: "sip:x@192.0.2.11"},
		} {
			tracker := New(c)
			if tt.aor != "" {
				tracker.Observe(registerResponse(start, tt.aor, "Contact: <sip:x@192.0.2.11>"))
			}
			l := callee()
			l.uri, l.fromURI = tt.uri, "sip:"+strings.Repeat("5", len(user))+"@pbx.example"
			m := l.invite()
			m.AOR = tt.token
			m.Head = fmt.Sprintf("INVITE %s SIP/2.0\r\nFrom: <%s>\r\nTo: <%s>\r\n", tt.uri, l.fromURI, tt.to)
			events := tracker.Observe(m)
			if got, want := len(events) > 0, extra == 0; got != want {
				t.Errorf("%s, %d bytes: an extension: %v, want %v", tt.name, MaxName+extra, got, want)
			}
			for _, e := range events {
				if got, want := e.CallerExtension != nil, extra == 0; got != want {
					t.Errorf("%s: the caller with %d bytes is an extension: %v, want %v", tt.name, MaxName+extra, got, want)
				}
			}
		}
	}
}

func TestFindsCallingExtension(t *testing.T) {
	for _, tt := range []struct {
		name, from, headers, trunk, want, num string
	}{
		{"From", "sip:101@pbx.example", "", "", "101@pbx.example", "101"},
		{"trunk", "sip:101@pbx.example", "", "carrier", "", ""},
		{"outside caller", "sip:5551234@pbx.example", "", "", "", ""},
		{"anonymous, preferred", "sip:anonymous@anonymous.invalid", "P-Preferred-Identity: <sip:101@pbx.example>", "", "101@pbx.example", "anonymous"},
		{"anonymous, account", "sip:anonymous@anonymous.invalid", "Authorization: Digest realm=\"x\", username=\"101@pbx.example\"", "", "101@pbx.example", "anonymous"},
		{"outside number, its contact", "sip:5551234@pbx.example", "Contact: <sip:x@192.0.2.11>", "", "4001@pbx.example", "5551234"},
		{"asserted by a stranger", "sip:101@pbx.example", "P-Asserted-Identity: <sip:5550000@x>", "", "101@pbx.example", "101"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			tracker.Observe(registerResponse(start, "sip:4001@pbx.example", "Contact: <sip:x@192.0.2.11>"))
			l := caller()
			l.fromURI, l.trunk = tt.from, tt.trunk
			tracker.Observe(l.invite(tt.headers))
			got, num := "", ""
			if events := tracker.Observe(l.response(180)); len(events) > 0 {
				got, num = events[0].Extension.String(), events[0].CallerNum
			}
			if got != tt.want || num != tt.num {
				t.Errorf("got %q with number %q, want %q with %q", got, num, tt.want, tt.num)
			}
		})
	}
}

func TestFindsDialedExtension(t *testing.T) {
	c := testConfig()
	c.Extensions = []Declared{{Number: "600", Kind: Queue, DID: []string{"5550100"}}}
	for _, tt := range []struct{ dialed, want string }{
		{"102", "102@pbx.example"},
		{"5550100", "600"},
		{"5550199", ""},
	} {
		l := caller()
		l.uri = "sip:" + tt.dialed + "@pbx.example"
		got := ""
		if e := lastEvent(t, c, l.invite(), l.response(486)); e.CalledExtension != nil {
			got = e.CalledExtension.String()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.dialed, got, tt.want)
		}
	}
}

func TestReadsCallerIdentity(t *testing.T) {
	for _, tt := range []struct {
		name, headers    string
		num, caller, ext string
	}{
		{"From", "", "101", "", "101"},
		{"asserted identity", "P-Asserted-Identity: \"Alice, A.\" <sip:+15551234@pbx.example;user=phone>, <tel:+1999>\r\n", "+15551234", "Alice, A.", ""},
		{"asserted, private", "P-Asserted-Identity: <sip:+15551234@pbx.example>\r\nPrivacy: user;id\r\n", "anonymous", "Anonymous", ""},
		{"asserted, privacy none", "P-Asserted-Identity: <tel:+15551234;verstat=x>\r\nPrivacy: none\r\n", "+15551234", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := lastEvent(t, testConfig(), callee().invite(tt.headers))
			ext := ""
			if e.CallerExtension != nil {
				ext = e.CallerExtension.User
			}
			if e.CallerNum != tt.num || e.CallerName != tt.caller || ext != tt.ext {
				t.Errorf("got %q %q of %q, want %q %q of %q", e.CallerNum, e.CallerName, ext, tt.num, tt.caller, tt.ext)
			}
		})
	}
}

func TestReadsDivertingNumber(t *testing.T) {
	for _, tt := range []struct{ headers, want string }{
		{"Diversion: <sip:104@pbx.example>;reason=no-answer\r\nDiversion: <sip:105@pbx.example>\r\n", "104"},
		{"History-Info: <sip:105@pbx.example>;index=1, <sip:104@pbx.example>;index=1.1\r\nHistory-Info: <sip:102@pbx.example>;index=1.1.1\r\n", "104"},
		{"History-Info: <sip:102@pbx.example>;index=1\r\n", ""},
		{"History-Info: <sip:1@x>;index=1, <sip:2@x>;index=1.1\r\nDiversion: <tel:+1555>\r\n", "+1555"},
	} {
		if e := lastEvent(t, testConfig(), callee().invite(tt.headers)); e.Diversion != tt.want {
			t.Errorf("%s: got %q, want %q", tt.headers, e.Diversion, tt.want)
		}
	}
}

// TestEventsHaveE164Numbers checks that the events of a call and of a message have numbers
// in E.164, except those of extensions, and that each is computed once per INVITE.
func TestEventsHaveE164Numbers(t *testing.T) {
	asked := 0
	c := testConfig()
	c.E164 = func(number string) string {
		asked++
		return "+44" + strings.TrimPrefix(number, "0")
	}
	l := caller()
	l.uri = "sip:02079460123@pbx.example"
	tracker := New(c)
	emitted := tracker.Observe(l.invite())
	for _, m := range []Message{l.response(180), l.response(200), l.bye(true)} {
		emitted = append(emitted, tracker.Observe(m)...)
	}
	if len(emitted) != 4 || asked != 1 {
		t.Errorf("%d events, and %d numbers were asked for; want 4 and 1", len(emitted), asked)
	}
	for _, e := range emitted {
		if e.CallerE164 != "" || e.CalledE164 != "+442079460123" {
			t.Errorf("%s: %q calls %q", e.Type, e.CallerE164, e.CalledE164)
		}
	}

	in := caller()
	in.trunk, in.fromURI, in.uri = "carrier", "sip:02079460999@carrier", "sip:02079460123@pbx.example"
	spiral := callee()
	spiral.callID, spiral.fromURI = in.callID, in.fromURI
	e := lastEvent(t, c, in.invite(), spiral.invite())
	if e.Type != DialIn || e.CallerE164 != "+442079460999" || e.CalledE164 != "+442079460123" {
		t.Errorf("%s: %q calls %q", e.Type, e.CallerE164, e.CalledE164)
	}

	text := callee()
	text.fromURI = "sip:02079460999@pbx.example"
	e = lastEvent(t, c, text.message(PBX, "MESSAGE", 0, ""), text.message(Edge, "MESSAGE", 200, ""))
	if e.Type != MessageIn || e.CallerE164 != "+442079460999" || e.CalledE164 != "" {
		t.Errorf("%s: %q writes to %q", e.Type, e.CallerE164, e.CalledE164)
	}
}

func TestBindingsAreBounded(t *testing.T) {
	tracker := New(testConfig())
	contacts := ""
	for i := range 4 * maxContacts {
		contacts += fmt.Sprintf("Contact: <sip:%d@192.0.2.12>\r\n", i)
	}
	for i := range maxBindings + 100 {
		tracker.Observe(registerResponse(start, fmt.Sprintf("sip:%d@pbx.example", i), "Contact: <sip:x@192.0.2.12>\r\n"))
	}
	tracker.Observe(registerResponse(start, "sip:a@pbx.example", contacts))
	if a, _ := tracker.directory.aors.Get("a"); len(a.contacts) != maxContacts {
		t.Errorf("%d contacts of one address, want %d", len(a.contacts), maxContacts)
	}
	if n := tracker.directory.aors.Len(); n != maxBindings {
		t.Errorf("%d addresses, want %d", n, maxBindings)
	}
	if n := tracker.directory.contacts.Len(); n > maxBindings {
		t.Errorf("%d contacts, want %d at most", n, maxBindings)
	}
}

func TestMessageIsEmittedOnce(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	m := l.message(Edge, "MESSAGE", 0, "Content-Type: text/plain\r\n")
	m.Body = "hello"
	ok := l.message(PBX, "MESSAGE", 202, "")
	n := 0
	for _, m := range []Message{m, ok, ok, m, ok} {
		for _, e := range tracker.Observe(m) {
			n++
			if e.Type != MessageOut || e.MessageText != "hello" || e.ContentType != "text/plain" || e.Seq != 1 {
				t.Errorf("got %v", e)
			}
		}
	}
	if n != 1 {
		t.Errorf("emitted %d times, want once", n)
	}
}

// TestSecretMessagesHaveNoText checks that the event of a MESSAGE that may be secret, such
// as pressed keys, has no text.
func TestSecretMessagesHaveNoText(t *testing.T) {
	for contentType, secret := range map[string]bool{
		"text/plain":                            false,
		"application/dtmf-relay":                true,
		"Application/DTMF;x=y":                  true,
		"audio/telephone-event":                 true,
		"application/kpml-request+xml":          true,
		"application/vnd.nortelnetworks.digits": true,
	} {
		l := caller()
		m := l.message(Edge, "MESSAGE", 0, "Content-Type: "+contentType+"\r\n")
		m.Body = "1234"
		e := lastEvent(t, testConfig(), m, l.message(PBX, "MESSAGE", 202, ""))
		if e.Type != MessageOut || e.ContentType != contentType || (e.MessageText == "") != secret {
			t.Errorf("%s: %s %q", contentType, e.Type, e.MessageText)
		}
	}
}
