package deliverylog

import (
	"bellhop/dialog"
	"bellhop/notify/jsontext"
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"time"
)

// A Record describes an attempt, or the end of a delivery without one, for the delivery
// log. It shares memory with the request and the response, which must not change any
// more.
type Record struct {
	Subscription string
	Event        string // id of the event; "": unknown, and nothing is recorded
	Seq          uint64 // position of the event in the log
	Type         dialog.Type
	EventTime    time.Time
	Source       *dialog.Event // the event; nil: it was not read

	Number  int       // 1, 2, 3 …; 0: it is not the scheduler's
	At      time.Time // when the attempt began, or the delivery ended
	Took    time.Duration
	Error   string    // why the attempt failed; not recorded if Outcome is Delivered
	Outcome string    // Waiting, Delivered …
	Next    time.Time // when the next attempt is due; zero: there is none
	ByHand  bool      // made by Redeliver or Test
	AtOnce  bool      // the first attempt succeeded, and the record may share a message with others

	Method        string
	URL           *url.URL // nil: no request was sent
	PlainURL      string   // text of URL, if it is known; "": take URL
	MaskURL       bool     // the receiver named URL: its query may be secret
	Header        http.Header
	SecretHeaders map[string]string // names of further header fields whose values are secret
	Body          []byte

	Status         int // 0: no response
	ResponseHeader http.Header
	ResponseBody   []byte
	Truncated      bool
	MaskResponse   bool   // the response may name URLs
	OnAnswer       string // URLs that the response to a newCall named; never shown
	OnHangup       string
}

// recordedResponseHeaders are the header fields of a response that are recorded.
var recordedResponseHeaders = []string{"Content-Type", "Location", "Retry-After", "Server", "Www-Authenticate"}

// Redacted replaces a value that is not recorded.
const Redacted = "[redacted]"

// redactedHeaders are the header fields of a request whose values are not recorded, beside
// those that the subscription sets.
var redactedHeaders = map[string]bool{
	"Webhook-Signature": true, "Authorization": true, "Proxy-Authorization": true, "Cookie": true,
}

// Attempt returns the record as it is read from the delivery log.
func (r *Record) Attempt() Attempt {
	var l Stored
	if err := json.Unmarshal(r.appendJSON(nil), &l); err != nil {
		panic(err) // it was encoded just now
	}
	return l.Attempt()
}

// appendJSON appends the JSON of a [Stored].
func (r *Record) appendJSON(dst []byte) []byte {
	w := &jsontext.Object{B: append(dst, '{')}
	jsontext.WriteText(w, "event", r.Event)
	w.WriteNumber("seq", int64(r.Seq))
	jsontext.WriteText(w, "type", string(r.Type))
	if e := r.Source; e != nil {
		jsontext.WriteText(w, "call", e.Call)
		jsontext.WriteText(w, "extension", dialog.Clean(e.Extension.String(), dialog.MaxText))
	}
	w.WriteNumber("said", r.EventTime.UnixMicro())
	w.WriteNonZero("number", int64(r.Number))
	w.WriteNumber("at", r.At.UnixMicro())
	w.WriteNonZero("took", r.Took.Microseconds())
	w.WriteNonZero("status", int64(r.Status))
	if r.Error != "" && r.Outcome != Delivered {
		jsontext.WriteText(w, "error", dialog.Clean(r.Error, 500))
	}
	jsontext.WriteText(w, "outcome", r.Outcome)
	if !r.Next.IsZero() {
		w.WriteNumber("next", r.Next.UnixMicro())
	}
	w.WriteTrue("by_hand", r.ByHand)
	if r.URL != nil {
		r.appendRequest(w)
	}
	if r.Status != 0 {
		r.appendResponse(w)
	}
	if r.OnAnswer != "" || r.OnHangup != "" {
		jsontext.WriteText(w, "on_answer", r.OnAnswer)
		jsontext.WriteText(w, "on_hangup", r.OnHangup)
	}
	return append(w.B, '}')
}

// appendRequest writes the JSON of a Request, without secrets.
func (r *Record) appendRequest(w *jsontext.Object) {
	w.WriteKey("request")
	w.B = append(w.B, '{')
	jsontext.WriteText(w, "method", r.Method)
	switch {
	case r.MaskURL:
		jsontext.WriteText(w, "url", MaskURL(r.URL))
	case r.PlainURL != "":
		jsontext.WriteText(w, "url", r.PlainURL)
	default:
		jsontext.WriteText(w, "url", r.URL.String())
	}
	w.WriteKey("header")
	w.B = append(w.B, '{')
	for name, values := range r.Header {
		if len(values) == 0 {
			continue
		}
		value := values[0]
		if _, secret := r.SecretHeaders[name]; secret || redactedHeaders[name] {
			value = Redacted
		}
		jsontext.WriteText(w, name, value)
	}
	w.B = append(w.B, '}')
	if len(r.Body) > 0 {
		jsontext.WriteText(w, "body", r.Body)
	}
	w.B = append(w.B, '}')
}

// appendResponse writes the JSON of an Answer.
func (r *Record) appendResponse(w *jsontext.Object) {
	w.WriteKey("answer")
	w.B = append(w.B, '{')
	opened := false
	for _, name := range recordedResponseHeaders {
		values := r.ResponseHeader[name]
		if len(values) == 0 {
			continue
		}
		if !opened {
			opened = true
			w.WriteKey("header")
			w.B = append(w.B, '{')
		}
		jsontext.WriteText(w, name, dialog.Clean(values[0], dialog.MaxText))
	}
	if opened {
		w.B = append(w.B, '}')
	}
	switch {
	case len(r.ResponseBody) == 0:
	case r.MaskResponse:
		jsontext.WriteText(w, "body", MaskResponse(r.ResponseBody))
	default:
		jsontext.WriteText(w, "body", r.ResponseBody)
	}
	w.WriteTrue("cut", r.Truncated)
	w.B = append(w.B, '}')
}

// MaskURL returns a URL with a redacted query, which may be secret.
func MaskURL(u *url.URL) string {
	masked := *u
	if masked.RawQuery != "" {
		masked.RawQuery = Redacted
	}
	return masked.String()
}

// namedAttribute matches an XML attribute that names a URL.
var namedAttribute = regexp.MustCompile(`(onAnswer|onHangup)(\s*=\s*)("[^"]*"?|'[^']*'?)`)

// MaskResponse returns the response to a newCall with masked URLs, for the delivery log.
func MaskResponse(answer []byte) []byte {
	return namedAttribute.ReplaceAllFunc(answer, func(attribute []byte) []byte {
		part := namedAttribute.FindSubmatch(attribute)
		shown := Redacted
		u, err := url.Parse(html.UnescapeString(string(bytes.Trim(part[3], `"'`))))
		if err == nil && u.User == nil && u.Opaque == "" {
			shown = html.EscapeString(MaskURL(u))
		}
		return fmt.Appendf(nil, `%s%s"%s"`, part[1], part[2], shown)
	})
}
