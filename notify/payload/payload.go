// Package payload turns an event into what a receiver gets: the body or query, its content
// type, the URL that a template leads to, and the header fields that depend on the event.
//
// It does no I/O and knows no subscription: a [Format] has the settings that shape a
// callback. The same event and format give the same bytes, except for the span of a
// traceparent. Every text of a SIP message is cleaned: valid UTF-8, no control characters,
// at most 256 characters (see [dialog.Clean]); only [View.AppendEvent] keeps them whole.
package payload

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"bellhop/dialog"
)

// Dialect selects the field names and quirks that a family of receivers expects. The text
// is stored: never change one, only add.
type Dialect string

const (
	Unified Dialect = "unified" // VoipNow UnifiedAPI
	Telphin Dialect = "telphin"
	CTI     Dialect = "cti"  // sipgate, Zammad's Generic CTI
	JSON    Dialect = "json" // Standard Webhooks envelope

	CloudEvents Dialect = "cloudevents" // CloudEvents 1.0, binary mode
)

// Dialects are all dialects.
var Dialects = []Dialect{Unified, Telphin, CTI, JSON, CloudEvents}

// Carries reports whether the dialect has events of a type.
func (d Dialect) Carries(t dialog.Type) bool {
	switch d {
	case Unified:
		return t != dialog.SubscriptionState // the ten fields have no place for it
	case CTI:
		return ctiEvents[t] != ""
	}
	return true
}

// HasNumbers reports whether callbacks carry the numbers of extensions.
func (d Dialect) HasNumbers() bool { return d != Unified && d != CTI }

// A Format is the settings of a subscription that shape its callbacks. The zero value of
// each but Dialect and Method is its default.
type Format struct {
	Dialect     Dialect
	Method      string // GET, POST or PUT
	URL         string // may be a template, see [IsTemplate]
	Extended    bool   // telphin: send fields that the original does not have
	FlowCase    string // "upper": IN and OUT
	StatusWords string // "unified": only ANSWER and UNKNOWN at hangup
}

// A View is an event in a format. Before you call its methods, set OwnID, CalledID and
// CallerID if the dialect has the numbers of extensions, and GroupParty and Ringing if
// the event stands for a group.
type View struct {
	*dialog.Event
	format         Format
	Called, Caller *dialog.Extension // extensions at both ends of the call; nil: none, or unknown
	OwnID          uint64            // numbers of the extensions; 0: not looked up
	CalledID       uint64
	CallerID       uint64

	// If a group of parties is reported as one call, GroupParty is the party that rang
	// first, and Ringing are the extensions that rang. Otherwise GroupParty is "".
	GroupParty string
	Ringing    []dialog.Extension

	uncut bool // texts are as in the event, see AppendEvent
}

// New returns the view of an event in a format. The extension of the event is one end of
// the call. New sets it as Caller or Called if the event names no extension for that end.
// For telphin, New sets the queue or menu that distributed the call as the Caller if the
// caller is outside.
func New(e *dialog.Event, f Format) View {
	v := View{Event: e, format: f, Called: e.CalledExtension, Caller: e.CallerExtension}
	if e.Type == dialog.SubscriptionState {
		return v // it belongs to no call
	}
	calls := e.Flow == dialog.Out || e.Type == dialog.MessageOut || e.Type == dialog.Transfer
	if calls && v.Caller == nil {
		v.Caller = &e.Extension
	}
	if !calls && v.Called == nil {
		v.Called = &e.Extension
	}
	if f.Dialect == Telphin && v.Caller == nil { // the caller is outside
		v.Caller = e.Distributor
	}
	return v
}

// Append appends the payload: a form with GET and for the form dialects, the Standard
// Webhooks envelope for json, or only the data of that envelope for cloudevents.
func (v *View) Append(b []byte) []byte {
	f := fieldWriter{b: b}
	switch {
	case v.isForm():
		v.writeFields(&f)
	case v.format.Dialect == CloudEvents:
		f.json = true
		f.b = append(f.b, '{')
		v.writeFields(&f)
		f.b = append(f.b, '}')
	default:
		f.json = true
		f.b = append(f.b, '{')
		f.writeText("type", eventName(v.Type))
		v.writeTimestamp(&f)
		f.openObject("data")
		v.writeFields(&f)
		f.b = append(f.b, '}', '}')
	}
	return f.b
}

// AppendEvent appends the event as the API shows it: the data of dialect json and the
// timestamp of its envelope in one object. Its texts are neither cleaned nor cut.
func (v *View) AppendEvent(b []byte) []byte {
	v.uncut = true
	f := fieldWriter{b: append(b, '{'), json: true}
	v.writeJSON(&f)
	v.writeTimestamp(&f)
	return append(f.b, '}')
}

// writeTimestamp writes the time of the event in RFC 3339.
func (v *View) writeTimestamp(f *fieldWriter) {
	f.writeText("timestamp", v.At.UTC().Format(time.RFC3339Nano))
}

// writeFields writes the fields of the dialect.
func (v *View) writeFields(f *fieldWriter) {
	switch v.format.Dialect {
	case Unified:
		v.writeUnified(f)
	case Telphin:
		v.writeTelphin(f)
	case CTI:
		v.writeCTI(f)
	default:
		v.writeJSON(f)
	}
}

// IsGET reports whether callbacks use the method GET.
func (v *View) IsGET() bool { return v.format.Method == "GET" }

// isForm reports whether the payload is a form.
func (v *View) isForm() bool {
	return v.IsGET() || v.format.Dialect != JSON && v.format.Dialect != CloudEvents
}

// MediaType returns the content type of the body of a POST or PUT.
func (v *View) MediaType() string {
	if v.isForm() {
		return "application/x-www-form-urlencoded"
	}
	return "application/json"
}

// eventName returns the type of the json envelope, such as call.dial_in.
func eventName(t dialog.Type) string {
	if t == dialog.SubscriptionState {
		return "subscription.state"
	}
	return "call." + strings.ReplaceAll(string(t), "-", "_")
}

// ResolveURL returns the URL of the request. base is the URL of the format up to its
// first variable. payload is the result of Append. If the URL is a template, it is
// expanded. Otherwise the payload is appended to the query of a GET.
func (v *View) ResolveURL(base *url.URL, payload []byte) (*url.URL, error) {
	switch {
	case IsTemplate(v.format.URL):
		return v.expandURL(base)
	case v.IsGET():
		asked := *base
		asked.RawQuery = joinQuery(asked.RawQuery, payload)
		return &asked, nil
	}
	return base, nil
}

// SetHeader sets the header fields that depend on the event: the content type of a body,
// the attributes of CloudEvents, and the trace context.
func (v *View) SetHeader(h http.Header) {
	if v.format.Dialect == CloudEvents {
		v.setCloudEvent(h)
	}
	if trace := traceparent(v.Event); trace != "" {
		h["Traceparent"] = []string{trace}
	}
	if !v.IsGET() {
		h["Content-Type"] = []string{v.MediaType()}
	}
}

// traceparent returns the W3C trace context of a callback. It is the header field
// traceparent of the INVITE, if calls.headers copies that field into events. Otherwise
// the trace id is the id of the event, and each attempt is a new span. The result is ""
// if the id of the event is no trace id.
func traceparent(e *dialog.Event) string {
	for _, h := range e.Headers {
		if strings.EqualFold(h[0], "traceparent") && validTrace(h[1]) {
			return h[1]
		}
	}
	b := make([]byte, 0, 55)
	b = append(append(append(b, "00-"...), e.ID...), '-')
	span := rand.Uint64() | 1 // never zero
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[span>>shift&0xf])
	}
	if s := string(append(b, "-01"...)); validTrace(s) {
		return s
	}
	return ""
}

// validTrace reports whether s is a traceparent of version 00.
func validTrace(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	for _, part := range []string{s[3:35], s[36:52], s[53:]} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}

// clean cleans a text of a SIP message, unless texts stay as they are in the event.
func (v *View) clean(s string) string {
	if v.uncut {
		return s
	}
	return dialog.Clean(s, dialog.MaxText)
}

// cleanMessage cleans the text of a MESSAGE, unless texts stay as they are in the event.
func (v *View) cleanMessage() string {
	if v.uncut {
		return v.MessageText
	}
	return dialog.CleanMessage(v.MessageText)
}

// userName returns the user of an extension, as unified and json name it: 0003*210.
func (v *View) userName(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return v.clean(e.User)
}

// userAtDomain returns user and domain of an extension, as telphin names it:
// 101@pbx.example.
func (v *View) userAtDomain(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return v.clean(e.String())
}

// flowWord returns the flow in the case that the subscription asks for.
func (v *View) flowWord() string {
	if v.format.FlowCase == "upper" {
		return strings.ToUpper(string(v.Flow))
	}
	return string(v.Flow)
}

// statusWord returns the status word of the event. With status_words = unified the status
// of a hangup is UNKNOWN unless the call was answered, as in the UnifiedAPI. The form
// dialects have only the six words of DIALSTATUS, so they report a forwarded call as
// canceled.
func (v *View) statusWord() string {
	if v.format.StatusWords == "unified" && v.Type == dialog.Hangup && v.Status != dialog.Answered {
		return string(dialog.Unknown)
	}
	if v.Status == dialog.Forwarded && v.format.Dialect != JSON && v.format.Dialect != CloudEvents {
		return string(dialog.Canceled)
	}
	return string(v.Status)
}

// joinQuery appends an encoded form to a query string. It does not re-encode the existing
// query.
func joinQuery(query string, form []byte) string {
	if query == "" || strings.HasSuffix(query, "&") {
		return query + string(form)
	}
	return query + "&" + string(form)
}
