package payload

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"bellhop/dialog"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func truePtr() *bool  { b := true; return &b }
func falsePtr() *bool { b := false; return &b }

// sampleEvents returns events that have every field that their type may have.
func sampleEvents() []dialog.Event {
	at := time.Date(2026, 3, 4, 5, 6, 7, 890123456, time.UTC)
	a, b := dialog.Extension{User: "101", Domain: "pbx.example"}, dialog.Extension{User: "0003*210", Domain: "pbx.example"}
	c := dialog.Extension{User: "103", Domain: "pbx.example"}
	call := dialog.Event{
		Call: "5f1d0c7e9a3b48d2a6c4e8f013579bdf", CallerNum: "101", CallerName: `Zoë "Z" <Öl & Co>`,
		CallerExtension: &a, CalledNumber: "*210", CalledExtension: &b, CalledDID: "+442071234567", CallAPIID: "1a2b@192.0.2.7",
		Correlation: "x-cid:exact", UserAgent: "Yealink SIP-T46U 108.86.0.20", Verstat: "TN-Validation-Passed-A",
		Headers: [][2]string{{"X-Queue", "sales & support"}}, CallerE164: "", CalledE164: "+442071234567",
	}
	out, in := call, call
	out.Extension, out.Flow, out.Party = a, dialog.Out, "00000000000000000000000000000101"
	out.ClientAPIID, out.ANI, out.Transferred, out.CallBackID, out.Tag = "crm-7", "+442071230000", true, "cb-1", "spring"
	out.CallerNumRaw, out.CalledNumberRaw, out.Privacy = "%3101", "*2-10", true
	out.CallerE164 = "+442071230101"
	in.Extension, in.Flow, in.Party = b, dialog.In, "00000000000000000000000000000210"
	in.Diversion, in.RemoteNumber = "+442079999999", "103"
	message := dialog.Event{Call: "9d", Party: "33", CallerNum: "101", CallerExtension: &a, CalledNumber: "*210", CalledExtension: &b,
		MessageText: "Back at five?\nÖ + 100%", ContentType: "text/plain;charset=utf-8"}

	var all []dialog.Event
	add := func(e dialog.Event, t dialog.Type, s dialog.Status, more func(*dialog.Event)) {
		e.Type, e.Status, e.Seq = t, s, len(all)+1
		e.ID, e.At = fmt.Sprintf("%032x", e.Seq), at.Add(time.Duration(e.Seq)*time.Second)
		if more != nil {
			more(&e)
		}
		all = append(all, e)
	}
	add(out, dialog.DialOut, dialog.Calling, nil)
	add(in, dialog.DialIn, dialog.Calling, nil)
	add(in, dialog.Ringing, dialog.Calling, nil)
	add(in, dialog.Answer, dialog.Answered, nil)
	add(out, dialog.Answer, dialog.Answered, nil)
	add(in, dialog.Hold, dialog.Answered, nil)
	add(in, dialog.Resume, dialog.Answered, nil)
	add(in, dialog.Transfer, dialog.Answered, func(e *dialog.Event) { // the callee transfers the caller, as asked
		e.CallerExtension, e.CalledNumber, e.CalledExtension = &b, "103", &c
		e.CalledE164 = ""
		e.SipCode, e.SipReason, e.OtherCall = 200, "OK", "77777777777777777777777777777777"
	})
	add(in, dialog.Hangup, dialog.Answered, func(e *dialog.Event) {
		e.Duration, e.RingDuration, e.SetupTime, e.HangupBy = 61*time.Second+5*time.Microsecond, 3*time.Second, 20*time.Millisecond, dialog.ByCallee
		e.AnsweredAt, e.RecID, e.Missed, e.Bridged, e.BridgedFor = at, "rec-1", falsePtr(), truePtr(), 60*time.Second
		e.SipCode, e.SipReason, e.Q850 = 200, "OK", 16
	})
	add(out, dialog.Hangup, dialog.Busy, func(e *dialog.Event) {
		e.SipCode, e.SipReason, e.Q850, e.HangupBy, e.Recovered = 486, "Busy Here", 17, dialog.ByCallee, true
	})
	add(in, dialog.Hangup, dialog.Canceled, func(e *dialog.Event) {
		e.Elsewhere, e.Missed, e.Bridged, e.HangupBy = true, falsePtr(), falsePtr(), dialog.BySystem
	})
	add(message, dialog.MessageOut, "", func(e *dialog.Event) { e.Extension = a })
	add(message, dialog.MessageIn, "", func(e *dialog.Event) { e.Extension = b })
	voicemail := dialog.Event{Call: "9e", Party: "44", Extension: b, Flow: dialog.In, CallerNum: "101", CallerName: "Zoë", CallerExtension: &a,
		CalledNumber: "0003*210", CalledExtension: &b}
	add(voicemail, dialog.Voicemail, "", func(e *dialog.Event) { e.RecID, e.Duration = "vm-9", 12*time.Second })
	registration := dialog.Event{Call: "9f", Party: "55", Extension: a, UserAgent: "Snom"}
	add(registration, dialog.Registered, "", nil)
	add(registration, dialog.Unregistered, "", nil)

	own := out // the same call, from the side of the calling extension
	own.Transferred, own.CallBackID = false, ""
	add(own, dialog.Ringing, dialog.Calling, nil)
	add(own, dialog.Hold, dialog.Answered, nil)
	add(own, dialog.Resume, dialog.Answered, nil)
	add(own, dialog.Transfer, dialog.NoAnswer, func(e *dialog.Event) { // the caller tries to transfer the callee to an outside number
		e.CallerExtension, e.CalledNumber, e.CalledExtension, e.CalledE164 = &a, "02079460000", nil, ""
		e.SipCode, e.SipReason = 480, "Temporarily Unavailable"
	})
	add(own, dialog.Hangup, dialog.Answered, func(e *dialog.Event) {
		e.Duration, e.RingDuration, e.SetupTime, e.HangupBy = 61*time.Second, 3*time.Second, 20*time.Millisecond, dialog.ByCaller
		e.AnsweredAt, e.RecID, e.Q850 = at, "rec-2", 16
	})
	add(in, dialog.Hangup, dialog.Answered, func(e *dialog.Event) { // of a phone
		e.Duration, e.RingDuration, e.SetupTime, e.HangupBy = 61*time.Second, 3*time.Second, 20*time.Millisecond, dialog.ByCaller
		e.AnsweredAt, e.Missed = at, falsePtr()
	})
	queue := in // a queue has no answer of its own
	queue.Extension, queue.CalledExtension, queue.Party, queue.UserAgent = c, &c, "00000000000000000000000000000103", ""
	add(queue, dialog.Hangup, dialog.Answered, func(e *dialog.Event) {
		e.Missed, e.Bridged, e.BridgedFor, e.HangupBy = falsePtr(), truePtr(), 60*time.Second, dialog.ByCaller
	})
	add(queue, dialog.Hangup, dialog.Canceled, func(e *dialog.Event) { e.Missed, e.Bridged, e.HangupBy = truePtr(), falsePtr(), dialog.ByCaller })
	missed := in
	missed.Diversion, missed.RemoteNumber, missed.CalledDID, missed.CallerNum, missed.CallerName, missed.CallerExtension = "", "", "", "", "", nil
	missed.SetupTime, missed.RingDuration, missed.Missed = 20*time.Millisecond, 9*time.Second, truePtr() // of an anonymous caller
	for _, end := range []struct {
		status dialog.Status
		code   int
		reason string
		by     dialog.HangupBy
	}{
		{dialog.NoAnswer, 487, "Request Terminated", dialog.BySystem},
		{dialog.Canceled, 487, "Request Terminated", dialog.ByCaller},
		{dialog.NoAnswer, 302, "Moved Temporarily", dialog.ByCallee},
		{dialog.Busy, 486, "Busy Here", dialog.ByCallee},
		{dialog.ChanUnavail, 404, "Not Found", dialog.ByCallee},
		{dialog.Congestion, 503, "Service Unavailable", dialog.ByCallee},
		{dialog.Unknown, 0, "", dialog.BySystem},
	} {
		add(missed, dialog.Hangup, end.status, func(e *dialog.Event) { e.SipCode, e.SipReason, e.HangupBy = end.code, end.reason, end.by })
	}
	operator := dialog.Event{Extension: b}
	for _, s := range []dialog.Subscription{
		{State: "paused", Why: "503 Service Unavailable"},
		{State: "resumed"},
		{State: "disabled", Why: "the receiver answered 410 Gone"},
	} {
		s.ID = "MhMcY48VWcKhABsFY5ZgzTiK7MHQgG"
		add(operator, dialog.SubscriptionState, "", func(e *dialog.Event) { e.Seq, e.Subscription = 0, &s })
	}
	return all
}

// payloadOf returns the payload of an event for a subscription: the query of a GET, the
// body of a POST.
func payloadOf(e dialog.Event, s Format) string {
	v := New(&e, s)
	number := map[string]uint64{"101": 1, "0003*210": 7, "103": 9}
	if v.Called != nil {
		v.CalledID = number[v.Called.User]
	}
	if v.Caller != nil {
		v.CallerID = number[v.Caller.User]
	}
	v.OwnID = number[e.Extension.User]
	b := v.Append(nil)
	if !v.IsGET() {
		return string(b)
	}
	return joinQuery("key=a+b%20c&empty=", b)
}

// splitFields writes a payload one field a line, as it is on the wire.
func splitFields(s string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(s), "", "  ") == nil {
		return b.String()
	}
	return strings.ReplaceAll(s, "&", "\n&")
}

func TestPayloadsMatchGoldenFiles(t *testing.T) {
	for _, variant := range []struct {
		name string
		sub  Format
	}{
		{"unified-get", Format{Dialect: Unified, Method: "GET"}},
		{"unified-post", Format{Dialect: Unified, Method: "POST"}},
		{"unified-post-words", Format{Dialect: Unified, Method: "POST", FlowCase: "upper", StatusWords: "unified"}},
		{"telphin-get", Format{Dialect: Telphin, Method: "GET"}},
		{"telphin-post", Format{Dialect: Telphin, Method: "POST"}},
		{"telphin-post-extended", Format{Dialect: Telphin, Method: "POST", Extended: true}},
		{"json-get", Format{Dialect: JSON, Method: "GET"}},
		{"json-post", Format{Dialect: JSON, Method: "POST"}},
		{"cti-post", Format{Dialect: CTI, Method: "POST", FlowCase: "upper"}},
		{"cloudevents-post", Format{Dialect: CloudEvents, Method: "POST"}},
	} {
		t.Run(variant.name, func(t *testing.T) {
			var b strings.Builder
			for _, e := range sampleEvents() {
				if variant.sub.Dialect == CTI && ctiEvents[e.Type] == "" {
					continue // no subscription may have this type
				}
				if variant.sub.Dialect == Unified && e.Type == dialog.SubscriptionState {
					continue // nor this one
				}
				p := payloadOf(e, variant.sub)
				v := New(&e, variant.sub)
				switch _, err := url.ParseQuery(p); {
				case !v.isForm() && !json.Valid([]byte(p)):
					t.Errorf("not JSON: %s", p)
				case v.isForm() && err != nil:
					t.Errorf("not a form: %v: %s", err, p)
				}
				if put := variant.sub; put.Method == "POST" && put.Dialect != CTI {
					if put.Method = "PUT"; payloadOf(e, put) != p {
						t.Errorf("a PUT sends %s, a POST %s", payloadOf(e, put), p)
					}
				}
				fmt.Fprintf(&b, "-- %s %s --\n%s%s\n", e.Type, e.Flow, attributesOf(&v), splitFields(p))
			}
			file := filepath.Join("..", "..", "testdata", "payloads", variant.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("differs from %s; see with -update and git diff:\n%s", file, b.String())
			}
		})
	}
}

// attributesOf writes the header fields of a payload one a line, followed by an empty line.
func attributesOf(v *View) string {
	if v.format.Dialect != CloudEvents {
		return ""
	}
	h := http.Header{"Content-Type": {v.MediaType()}}
	v.setCloudEvent(h)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(h[name], "|"))
	}
	return b.String() + "\n"
}

// Characters that a header field cannot carry are escaped as the HTTP binding of
// CloudEvents says.
func TestCloudEventAttributes(t *testing.T) {
	e := sampleEvents()[0]
	e.Extension, e.Call = dialog.Extension{User: "a b\"%é<", Domain: "pbx"}, ""
	h := http.Header{}
	v := New(&e, Format{Dialect: CloudEvents})
	v.setCloudEvent(h)
	if got := h.Get("Ce-Source"); got != "sip:a%2520b%2522%2525%25C3%25A9%253C@pbx" {
		t.Errorf("Ce-Source is %s", got)
	}
	if len(h["Ce-Subject"]) != 0 {
		t.Errorf("Ce-Subject is %q, without a call", h["Ce-Subject"])
	}
}

func TestURLsOwnQueryIsKept(t *testing.T) {
	for _, tt := range []struct{ query, want string }{
		{"", "a=1"},
		{"myid=175", "myid=175&a=1"},
		{"z=%7E&a=b+c&&", "z=%7E&a=b+c&&a=1"},
	} {
		if got := joinQuery(tt.query, []byte("a=1")); got != tt.want {
			t.Errorf("joinQuery(%q) = %q, want %q", tt.query, got, tt.want)
		}
	}
}

// FuzzPayload: for any event, the payload is well-formed and has exactly the values of the
// event.
func FuzzPayload(f *testing.F) {
	f.Add("Zoë", "x\r\n&CallStatus=ANSWER", `"},"type":"x`)
	f.Add("\xff\x00", "\u2028<", "+%41;")
	f.Fuzz(func(t *testing.T, name, number, agent string) {
		e := sampleEvents()[8]
		e.CallerName, e.CallerNum, e.UserAgent = name, number, agent
		var m struct {
			Data struct {
				Name   string `json:"caller_id_name"`
				Number string `json:"caller_id_num"`
				Agent  string `json:"user_agent"`
				Status string `json:"call_status"`
			}
		}
		body := payloadOf(e, Format{Dialect: JSON, Method: "POST"})
		if err := json.Unmarshal([]byte(body), &m); err != nil || !utf8.ValidString(body) {
			t.Fatalf("%v: %q", err, body)
		}
		if m.Data.Name != dialog.Clean(name, dialog.MaxText) || m.Data.Number != dialog.Clean(number, dialog.MaxText) || m.Data.Agent != dialog.Clean(agent, dialog.MaxText) || m.Data.Status != "ANSWER" {
			t.Errorf("got %+v", m.Data)
		}
		form, err := url.ParseQuery(payloadOf(e, Format{Dialect: Telphin, Method: "POST", Extended: true}))
		if err != nil {
			t.Fatal(err)
		}
		if form.Get("CallerIDName") != dialog.Clean(name, dialog.MaxText) || form.Get("CallerIDNum") != dialog.Clean(number, dialog.MaxText) ||
			len(form["CallStatus"]) != 1 || form.Get("UserAgent") != dialog.Clean(agent, dialog.MaxText) {
			t.Errorf("got %v", form)
		}
	})
}

func TestTraceparentPerAttempt(t *testing.T) {
	const id, received = "5f1d0c7e9a3b48d2a6c4e8f013579bdf", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	for _, tt := range []struct {
		name    string
		id      string
		headers [][2]string
		want    string // "": none
	}{
		{"its own", id, nil, "00-" + id + "-*-01"},
		{"came with the INVITE", id, [][2]string{{"X-Queue", "sales"}, {"Traceparent", received}}, received},
		{"a later version", id, [][2]string{{"traceparent", "01" + received[2:]}}, "00-" + id + "-*-01"},
		{"upper case", id, [][2]string{{"traceparent", strings.ToUpper(received)}}, "00-" + id + "-*-01"},
		{"too long", id, [][2]string{{"traceparent", received + "-x"}}, "00-" + id + "-*-01"},
		{"no trace", id, [][2]string{{"traceparent", "00-" + strings.Repeat("0", 32) + received[35:]}}, "00-" + id + "-*-01"},
		{"no span", id, [][2]string{{"traceparent", received[:36] + strings.Repeat("0", 16) + "-01"}}, "00-" + id + "-*-01"},
		{"a line break", id, [][2]string{{"traceparent", received[:53] + "\r\n"}}, "00-" + id + "-*-01"},
		{"no hex in the id", "e1", nil, ""},
	} {
		got := traceparent(&dialog.Event{ID: tt.id, Headers: tt.headers})
		before, after, star := strings.Cut(tt.want, "*")
		if got != tt.want && (!star || !validTrace(got) || !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after)) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
