package dialog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// messageSummaryNotify returns a NOTIFY of message-summary that goes to a phone of 102.
func messageSummaryNotify(at time.Time, body string, headers ...string) Message {
	l := callee()
	l.at, l.callID, l.fromURI = at, fmt.Sprint(at.UnixNano(), "@pbx"), "sip:voicemail@pbx.example"
	m := l.message(PBX, "NOTIFY", 0, "Event: message-summary\r\nSubscription-State: terminated\r\n"+strings.Join(headers, ""))
	m.Body = strings.ReplaceAll(body, "\n", "\r\n")
	return m
}

func voiceMessages(counts string) string {
	return "Messages-Waiting: yes\nVoice-Message: " + counts + "\n"
}

func TestVoicemailFollowsMessageCounts(t *testing.T) {
	none, one := voiceMessages("0/0"), voiceMessages("1/0")
	for _, tt := range []struct {
		name   string
		change func(*Message)
		bodies []string // a second apart
		want   []int    // how many events each causes
	}{
		{"first sets the base", nil, []string{one, one}, []int{0, 0}},
		{"more", nil, []string{none, one, voiceMessages("3/0")}, []int{0, 1, 1}},
		{"fewer, then more", nil, []string{voiceMessages("2/0"), voiceMessages("1/1"), voiceMessages("2/1")}, []int{0, 0, 1}},
		{"old ones", nil, []string{none, voiceMessages("0/7")}, []int{0, 0}},
		{"urgent ones", nil, []string{"Voice-Message: 0/0 (0/0)\n", "Voice-Message: 1/0 (1/0)\n"}, []int{0, 1}},
		{"case and white space", nil, []string{"voice-MESSAGE :\n 0 / 0\n", "voice-message\t:\n\t1 / 0 ( 0/0 )"}, []int{0, 1}},
		{"again within a minute", nil, []string{none, one, none, one}, []int{0, 1, 0, 0}},
		{"only a light", nil, []string{"Messages-Waiting: no\n", "Messages-Waiting: YES\n", "Messages-Waiting: yes\n"}, []int{0, 1, 0}},
		{"the light of faxes", nil, []string{"Messages-Waiting: no\n", "Messages-Waiting: yes\nFax-Message: 1/0\n"}, []int{0, 0}},
		{"no counts", nil, []string{none, "", "Voice-Message: many\n", "Voice-Message: 1\n", "Voice-Message: -1/0\n", "hello"}, []int{0, 0, 0, 0, 0, 0}},
		{"two mailboxes", nil, []string{
			"Message-Account: sip:102@x\n" + none, "Message-Account: <sip:600@x>\n" + voiceMessages("3/0"),
			"Message-Account: sip:102@x\n" + none, "Message-Account: <sip:600@x>\n" + voiceMessages("4/0"),
			"Message-Account: sip:102@x\n" + one,
		}, []int{0, 0, 0, 1, 1}},
		{"from a phone", func(m *Message) { m.Src, m.Dst = Edge, PBX }, []string{none, one}, []int{0, 0}},
		{"a response", func(m *Message) { m.Status = 481 }, []string{none, one}, []int{0, 0}},
		{"to a trunk", func(m *Message) { m.Trunk = "carrier" }, []string{none, one}, []int{0, 0}},
		{"another event", func(m *Message) { m.Head = strings.Replace(m.Head, "message-summary", "presence", 1) }, []string{none, one}, []int{0, 0}},
		{"compact form, with an id", func(m *Message) {
			m.Head = strings.Replace(m.Head, "Event: message-summary", "o: Message-Summary ;id=1", 1)
		}, []string{none, one}, []int{0, 1}},
		{"nobody's phone", func(m *Message) { m.Head = strings.ReplaceAll(m.Head, "sip:102@", "sip:anna@") }, []string{none, one}, []int{0, 0}},
		{"a queue", func(m *Message) { m.Head = strings.ReplaceAll(m.Head, "sip:102@", "sip:600@") }, []string{none, one}, []int{0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig()
			c.Extensions = []Declared{{Number: "600", Kind: Queue}}
			tracker := New(c)
			for i, body := range tt.bodies {
				m := messageSummaryNotify(start.Add(time.Duration(i)*time.Second), body)
				if tt.change != nil {
					tt.change(&m)
				}
				if events := tracker.Observe(m); len(events) != tt.want[i] {
					t.Errorf("%q: got %v, want %d events", body, events, tt.want[i])
				}
			}
		})
	}
}

func TestReadsVoicemailFields(t *testing.T) {
	c := testConfig()
	c.RecID = "X-Rec"
	for _, tt := range []struct {
		name, body, headers string
		num, caller, ext    string
		length              time.Duration
		rec                 string
	}{
		{name: "nothing known", body: ""},
		{name: "a recording in the head", headers: "x-rec: r1\r\n", rec: "r1"},
		{name: "as RFC 3842 has it", num: "bob", caller: "",
			body: "To: <alice@atlanta.example.com>\nFrom: <bob@biloxi.example.com>\nSubject: carpool tomorrow?\nMessage-ID: 13784434989@vmail.example.com\n"},
		{name: "an extension, with all there is", num: "101", caller: "Alice, A.", ext: "101", length: 12 * time.Second, rec: "r2", headers: "X-Rec: r1\r\n",
			body: "from: \"Alice, A.\" <sip:101@pbx.example;user=phone>\nContent-Duration : 12\nX-REC: r2\n"},
		{name: "the first of two", num: "+15551234", body: "\nFrom: <tel:+15551234>\n\nFrom: <sip:101@x>\nContent-Duration: 3\n"},
		{name: "the first that is a voice", num: "103", ext: "103",
			body: "From: <sip:101@x>\nMessage-Context: fax-message\nContent-Duration: 3\n\nFrom: sip:103@x\nMessage-Context: Voice-Message\n"},
		{name: "invalid message summary", body: "From: <sip:192.0.2.1>\nContent-Duration: -1\nno colon\n\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := lastEvent(t, c, messageSummaryNotify(start, voiceMessages("0/0"), tt.headers), messageSummaryNotify(start.Add(time.Second), voiceMessages("1/0")+"\n"+tt.body, tt.headers))
			ext := ""
			if e.CallerExtension != nil {
				ext = e.CallerExtension.User
			}
			if e.CallerNum != tt.num || e.CallerName != tt.caller || ext != tt.ext || e.Duration != tt.length || e.RecID != tt.rec {
				t.Errorf("got %q %q of %q, %v, %q; want %q %q of %q, %v, %q",
					e.CallerNum, e.CallerName, ext, e.Duration, e.RecID, tt.num, tt.caller, tt.ext, tt.length, tt.rec)
			}
			if e.Type != Voicemail || e.Seq != 1 || e.Flow != In || e.Extension.User != "102" || *e.CalledExtension != e.Extension || e.CalledNumber != "102" ||
				!e.At.Equal(start.Add(time.Second)) || e.Status != "" || e.CallAPIID != "" {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestVoicemailGoesToPhonesExtension(t *testing.T) {
	for _, tt := range []struct {
		name, uri, to, account, aor, want string
	}{
		{"token of a REGISTER", "sip:zz@192.0.2.12", "sip:103@x", "sip:104@x", "4001@pbx.example", "4001@pbx.example"},
		{"contact of a binding", "sip:x7f3@192.0.2.12", "sip:103@x", "sip:104@x", "", "4001@pbx.example"},
		{"Request-URI", "sip:102@192.0.2.12", "sip:103@x", "sip:104@x", "", "102"},
		{"Message-Account", "sip:zz@192.0.2.12", "sip:103@x", "sip:104@x", "", "104@x"},
		{"To", "sip:zz@192.0.2.12", "sip:103@x", "sip:*97@x", "", "103@x"},
		{"To alone", "sip:zz@192.0.2.12", "sip:103@x", "", "", "103@x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			tracker.Observe(registerResponse(start, "sip:4001@pbx.example", "Contact: <sip:x7f3@192.0.2.12>"))
			got := ""
			for i := range 2 {
				m := messageSummaryNotify(start, fmt.Sprintf("Message-Account: %s\n%s", tt.account, voiceMessages(fmt.Sprint(i, "/0"))))
				m.AOR = tt.aor
				m.Head = fmt.Sprintf("NOTIFY %s SIP/2.0\r\nFrom: <sip:x@x>\r\nTo: <%s>\r\nEvent: message-summary\r\n", tt.uri, tt.to)
				for _, e := range tracker.Observe(m) {
					got += e.Extension.String()
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestVoicemailHasTheSameIDEverywhere checks two nodes, each of which observes the NOTIFY
// to one of the phones.
func TestVoicemailHasTheSameIDEverywhere(t *testing.T) {
	at := start.Add(10 * time.Second)
	one := lastEvent(t, testConfig(), messageSummaryNotify(start, voiceMessages("0/0")), messageSummaryNotify(at, voiceMessages("1/0")))
	two := lastEvent(t, testConfig(), messageSummaryNotify(start.Add(time.Second), voiceMessages("0/0")), messageSummaryNotify(at.Add(300*time.Millisecond), voiceMessages("1/0")))
	later := lastEvent(t, testConfig(), messageSummaryNotify(start, voiceMessages("0/0")), messageSummaryNotify(at.Add(time.Hour), voiceMessages("1/0")))
	named := lastEvent(t, testConfig(), messageSummaryNotify(start, voiceMessages("0/0")), messageSummaryNotify(at, voiceMessages("1/0")+"\nMessage-ID: 7@x\n"))
	if one.ID != two.ID || one.Call != two.Call || one.Party != two.Party {
		t.Errorf("got %+v and %+v, want the same ids", one, two)
	}
	if one.ID == later.ID || one.ID == named.ID {
		t.Errorf("another message has the same id")
	}
}

func TestMailboxesAreBounded(t *testing.T) {
	c := testConfig()
	c.Pattern = nil
	tracker := New(c)
	for i := range maxMailboxes + 100 {
		m := messageSummaryNotify(start, voiceMessages("1/0"))
		m.AOR = fmt.Sprint(i, "@pbx.example")
		tracker.Observe(m)
	}
	if n := tracker.mailboxes.boxes.Len(); n != maxMailboxes {
		t.Errorf("%d mailboxes, want %d", n, maxMailboxes)
	}
}

// BenchmarkNotify measures a NOTIFY without new messages.
func BenchmarkNotify(b *testing.B) {
	presence := messageSummaryNotify(start, "<presence/>")
	presence.Head = strings.Replace(presence.Head, "message-summary", "presence", 1)
	for name, m := range map[string]Message{"presence": presence, "same count": messageSummaryNotify(start, voiceMessages("1/0"))} {
		b.Run(name, func(b *testing.B) {
			tracker := New(testConfig())
			b.ReportAllocs()
			for b.Loop() {
				tracker.Observe(m)
			}
		})
	}
}
