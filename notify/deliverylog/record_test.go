package deliverylog

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

// A record is read as it was written, but without secrets.
func TestRecordIsRead(t *testing.T) {
	at := time.UnixMicro(1767322800000123)
	to, err := url.Parse("https://crm.example/taken?key=hush")
	if err != nil {
		t.Fatal(err)
	}
	r := Record{
		Subscription: "s", Event: "e", Seq: 7, Type: dialog.DialIn, EventTime: at,
		Source: &dialog.Event{Call: "c", Extension: dialog.Extension{User: "101", Domain: "pbx"}},
		Number: 2, At: at.Add(time.Second), Took: 1500 * time.Microsecond, Error: "503 No", Outcome: Waiting, Next: at.Add(time.Minute),
		Method: "POST", URL: to, MaskURL: true, Body: []byte(`{"a":"<b>"}`), SecretHeaders: map[string]string{"X-Key": ""},
		Header: http.Header{"X-Key": {"hush"}, "Authorization": {"hush"}, "Webhook-Id": {"e-s"}, "Idempotency-Key": nil},
		Status: 503, ResponseHeader: http.Header{"Server": {"crm"}, "Set-Cookie": {"hush"}}, Truncated: true, MaskResponse: true,
		ResponseBody: []byte(`<Response onAnswer="https://crm.example/a?hush"/>`),
		OnAnswer:     "https://crm.example/a?secret",
	}
	var batch recordBatch
	batch.records = []*Record{&r}
	messages := batch.encodeMessages()
	if len(messages) != 1 || messages[0].message.Subject != Subject("s", "e") {
		t.Fatalf("encoded as %+v", messages)
	}
	all, err := Decode(messages[0].message.Data)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	l := all[0]
	if l.Event != "e" || l.Seq != 7 || l.Type != dialog.DialIn || l.Call != "c" || l.Extension != "101@pbx" || l.EventTime != at.UnixMicro() || l.OnAnswer != r.OnAnswer || l.OnHangup != "" {
		t.Errorf("read %+v", l)
	}
	a := l.Attempt()
	if a.Number != 2 || !a.At.Equal(r.At) || a.Took != r.Took || a.Status != 503 || a.Error != "503 No" || a.Outcome != Waiting || !a.Next.Equal(r.Next) || a.ByHand || a.Ended() {
		t.Errorf("read %+v", a)
	}
	if q := a.Request; q.Method != "POST" || q.URL != "https://crm.example/taken?[redacted]" || q.Body != string(r.Body) ||
		len(q.Header) != 3 || q.Header["X-Key"] != Redacted || q.Header["Authorization"] != Redacted || q.Header["Webhook-Id"] != "e-s" {
		t.Errorf("the request is read as %+v", q)
	}
	if q := a.Answer; len(q.Header) != 1 || q.Header["Server"] != "crm" || q.Body != `<Response onAnswer="https://crm.example/a?[redacted]"/>` || !q.Cut {
		t.Errorf("the response is read as %+v", q)
	}
	if text := string(r.appendJSON(nil)); strings.Contains(text, "hush") {
		t.Errorf("recorded %s", text)
	}
}

// Deliveries that succeed at once share a message for each subscription; all other records
// have one of their own.
func TestRecordsShareMessages(t *testing.T) {
	record := func(subscription, event string, atOnce bool) *Record {
		return &Record{Subscription: subscription, Event: event, AtOnce: atOnce, Outcome: Delivered}
	}
	batch := recordBatch{records: []*Record{record("b", "1", true), record("a", "2", true), record("b", "3", false), record("b", "4", true)}}
	var got []string
	for _, m := range batch.encodeMessages() {
		all, err := Decode(m.message.Data)
		if err != nil || len(all) != m.records {
			t.Fatal(m.records, all, err)
		}
		text := m.message.Subject
		for _, l := range all {
			text += " " + l.Event
		}
		got = append(got, text)
	}
	if want := []string{"bellhop.attempt.a 2", "bellhop.attempt.b 1 4", "bellhop.attempt.b.3 3"}; !slices.Equal(got, want) {
		t.Errorf("encoded as %q, want %q", got, want)
	}
}

func TestCursorIsParsed(t *testing.T) {
	for _, c := range []Cursor{{Seq: 7}, {Ended: true, Seq: 7, Index: 3}, {Ended: true, Seq: 1}} {
		if got, err := ParseCursor(c.String()); got != c || err != nil {
			t.Errorf("%v is parsed as %v, %v", c, got, err)
		}
	}
	for _, s := range []string{"x", "w", "e", "w0", "e1", "w1.2", "e1.-1", "e1.2.3"} {
		if _, err := ParseCursor(s); err != ErrCursor {
			t.Errorf("%s: %v", s, err)
		}
	}
}
