package notify

import (
	"cmp"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/yosida95/uritemplate/v3"

	"bellhop/dialog"
	"bellhop/notify/jsontext"
)

// maxText limits the characters of a text of a SIP message that callbacks carry.
const maxText = 256

// A view is an event as one subscription receives it.
type view struct {
	*dialog.Event
	sub            *Subscription
	called, caller *dialog.Extension // nil: no extension, or unknown
	ownID          uint64            // numbers of the extensions; 0: not looked up
	calledID       uint64
	callerID       uint64
	group          *group // of a subscription that groups calls; nil: the party's own call
}

// newView completes the two ends of a call: the event's extension is one of them.
func newView(e *dialog.Event, s *Subscription) view {
	v := view{Event: e, sub: s, called: e.CalledExtension, caller: e.CallerExtension}
	if e.Type == dialog.SubscriptionState {
		return v // it belongs to no call
	}
	calls := e.Flow == dialog.Out || e.Type == dialog.MessageOut || e.Type == dialog.Transfer
	if calls && v.caller == nil {
		v.caller = &e.Extension
	}
	if !calls && v.called == nil {
		v.called = &e.Extension
	}
	if s.Dialect == Telphin && v.caller == nil { // the caller is outside
		v.caller = e.Distributor
	}
	return v
}

// appendPayload appends the payload in the subscription's dialect: a form, the Standard
// Webhooks envelope for json, or its data alone for cloudevents.
func (v *view) appendPayload(b []byte) []byte {
	f := fieldWriter{b: b}
	switch {
	case v.isForm():
		v.writeFields(&f)
	case v.sub.Dialect == CloudEvents:
		f.json = true
		f.b = append(f.b, '{')
		v.writeFields(&f)
		f.b = append(f.b, '}')
	default:
		f.json = true
		f.b = append(f.b, '{')
		f.writeText("type", eventName(v.Type))
		f.writeText("timestamp", v.At.UTC().Format(time.RFC3339Nano))
		f.openObject("data")
		v.writeFields(&f)
		f.b = append(f.b, '}', '}')
	}
	return f.b
}

// writeFields writes the fields of the subscription's dialect.
func (v *view) writeFields(f *fieldWriter) {
	switch v.sub.Dialect {
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

// isGET reports whether callbacks use the method GET.
func (v *view) isGET() bool { return v.sub.Method == "GET" }

// isForm reports whether the payload is a form.
func (v *view) isForm() bool {
	return v.isGET() || v.sub.Dialect != JSON && v.sub.Dialect != CloudEvents
}

// contentType returns the content type of the body of a POST or PUT.
func (v *view) contentType() string {
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

// writeCallFields writes the ten fields that unified and telphin share.
func (v *view) writeCallFields(f *fieldWriter, callerName string, extension func(*dialog.Extension) string) {
	f.writeText("CallID", v.Call)
	f.writeText("CallerIDNum", dialog.Clean(v.CallerNum, maxText))
	f.writeText("CallerIDName", dialog.Clean(callerName, maxText))
	f.writeText("CalledDID", dialog.Clean(v.CalledDID, maxText))
	f.writeText("CalledExtension", extension(v.called))
	f.writeText("CallStatus", v.statusWord())
	f.writeText("CallFlow", v.flowWord())
	f.writeText("CallerExtension", extension(v.caller))
	f.writeText("CalledNumber", dialog.Clean(v.CalledNumber, maxText))
	f.writeText("CallAPIID", dialog.Clean(v.CallAPIID, maxText))
}

// writeUnified writes the ten fields of the UnifiedAPI, empty ones too. The receiver knows
// the event type by the URL.
func (v *view) writeUnified(f *fieldWriter) {
	f.writeEmpty = true
	v.writeCallFields(f, v.CallerName, v.userName)
}

// writeTelphin writes all known values under the names of Telphin's documentation, which
// spells Transfered so. Receivers require a name and a CallerExtension: an outside caller
// without a name is named by the number, and the CallerExtension of such a call is the
// queue or menu that distributed it.
func (v *view) writeTelphin(f *fieldWriter) {
	name := v.CallerName
	if v.Flow == dialog.In && v.CallerExtension == nil || v.Transferred {
		name = cmp.Or(name, v.CallerNum)
	}
	v.writeCallFields(f, name, v.userAtDomain)
	f.writeText("EventType", string(v.Type))
	f.writeNumber("EventTime", v.At.UnixMicro())
	if v.Type == dialog.Hangup || v.Duration > 0 {
		f.writeNumber("Duration", v.Duration.Microseconds())
	}
	if v.Party != "" {
		f.writeText("SubCallID", strconv.FormatUint(v.ownID, 10)+"-"+v.Party)
	}
	f.writeNonZero("CalledExtensionID", int64(v.calledID))
	f.writeNonZero("CallerExtensionID", int64(v.callerID))
	f.writeText("RecID", dialog.Clean(v.RecID, maxText))
	f.writeText("Diversion", dialog.Clean(v.Diversion, maxText))
	f.writeYes("Transfered", v.Transferred)
	f.writeYesNo("Bridged", v.Bridged)
	f.writeNonZero("BridgedDuration", v.BridgedFor.Microseconds())
	f.writeText("CallBackID", dialog.Clean(v.CallBackID, maxText))
	f.writeText("ClientApiID", dialog.Clean(v.ClientAPIID, maxText))
	f.writeText("RemoteNumber", dialog.Clean(v.RemoteNumber, maxText))
	f.writeText("ANI", dialog.Clean(v.ANI, maxText))
	f.writeText("Tag", dialog.Clean(v.Tag, maxText))
	f.writeText("MessageText", dialog.CleanMessage(v.MessageText))
	f.writeText("ContentType", dialog.Clean(v.ContentType, maxText))
	if s := v.Subscription; s != nil {
		f.writeText("Extension", v.userAtDomain(&v.Extension))
		f.writeText("SubscriptionID", s.ID)
		f.writeText("SubscriptionState", s.State)
		f.writeText("Why", dialog.Clean(s.Why, maxText))
	}
	if v.sub.Extended {
		v.writeExtended(f)
	}
}

// writeExtended writes values that the originals did not have, under names in their style.
func (v *view) writeExtended(f *fieldWriter) {
	f.writeText("EventID", v.ID)
	f.writeNonZero("Sequence", int64(v.Seq))
	f.writeNonZero("SipCode", int64(v.SipCode))
	f.writeText("SipReason", dialog.Clean(v.SipReason, maxText))
	f.writeNonZero("Q850", int64(v.Q850))
	f.writeText("HangupBy", string(v.HangupBy))
	f.writeNonZero("RingDuration", v.RingDuration.Microseconds())
	f.writeNonZero("SetupTime", v.SetupTime.Microseconds())
	f.writeYes("AnsweredElsewhere", v.Elsewhere)
	f.writeYesNo("Missed", v.Missed)
	f.writeText("Correlation", v.Correlation)
	f.writeYes("Recovered", v.Recovered)
	f.writeText("UserAgent", dialog.Clean(v.UserAgent, maxText))
	f.writeText("Verstat", dialog.Clean(v.Verstat, maxText))
	f.writeText("OtherCallID", v.OtherCall)
	f.writeText("CallerNumberE164", v.CallerE164)
	f.writeText("CalledNumberE164", v.CalledE164)
	f.writeText("CallerIDNumRaw", dialog.Clean(v.CallerNumRaw, maxText))
	f.writeText("CalledNumberRaw", dialog.Clean(v.CalledNumberRaw, maxText))
	f.writeYes("Privacy", v.Privacy)
	if f.values != nil {
		return // header names of the config are no template variables
	}
	for _, h := range v.Headers {
		f.writeText(dialog.Clean(h[0], maxText), dialog.Clean(h[1], maxText))
	}
}

// writeJSON writes all known values in snake case. With GET the form is flat: headers
// become headers.<name>.
func (v *view) writeJSON(f *fieldWriter) {
	f.writeText("call_id", v.Call)
	f.writeText("caller_id_num", dialog.Clean(v.CallerNum, maxText))
	f.writeText("caller_id_name", dialog.Clean(v.CallerName, maxText))
	f.writeText("called_did", dialog.Clean(v.CalledDID, maxText))
	f.writeText("called_extension", v.userName(v.called))
	f.writeNonZero("called_extension_id", int64(v.calledID))
	f.writeText("call_status", v.statusWord())
	f.writeText("call_flow", v.flowWord())
	f.writeText("caller_extension", v.userName(v.caller))
	f.writeNonZero("caller_extension_id", int64(v.callerID))
	f.writeText("called_number", dialog.Clean(v.CalledNumber, maxText))
	f.writeText("rec_id", dialog.Clean(v.RecID, maxText))
	f.writeText("callapi_id", dialog.Clean(v.CallAPIID, maxText))
	f.writeText("diversion", dialog.Clean(v.Diversion, maxText))
	f.writeNumber("event_time", v.At.UnixMicro())
	if v.Type == dialog.Hangup || v.Duration > 0 {
		f.writeNumber("duration", v.Duration.Microseconds())
	}
	f.writeIfTrue("transferred", v.Transferred)
	if v.Bridged != nil {
		f.writeBool("bridged", *v.Bridged)
	}
	f.writeNonZero("bridged_duration", v.BridgedFor.Microseconds())
	f.writeText("callback_id", dialog.Clean(v.CallBackID, maxText))
	f.writeText("sub_call_id", v.Party)
	f.writeText("client_api_id", dialog.Clean(v.ClientAPIID, maxText))
	f.writeText("remote_number", dialog.Clean(v.RemoteNumber, maxText))
	f.writeText("ani", dialog.Clean(v.ANI, maxText))
	f.writeText("tag", dialog.Clean(v.Tag, maxText))
	f.writeText("event_type", string(v.Type))
	f.writeText("event_id", v.ID)
	f.writeNonZero("sequence", int64(v.Seq))
	f.writeNonZero("sip_code", int64(v.SipCode))
	f.writeText("sip_reason", dialog.Clean(v.SipReason, maxText))
	f.writeNonZero("q850", int64(v.Q850))
	f.writeText("hangup_by", string(v.HangupBy))
	f.writeNonZero("ring_duration", v.RingDuration.Microseconds())
	f.writeNonZero("setup_time", v.SetupTime.Microseconds())
	f.writeIfTrue("answered_elsewhere", v.Elsewhere)
	if v.Missed != nil {
		f.writeBool("missed", *v.Missed)
	}
	f.writeText("correlation", v.Correlation)
	f.writeIfTrue("recovered", v.Recovered)
	f.writeText("user_agent", dialog.Clean(v.UserAgent, maxText))
	f.writeText("verstat", dialog.Clean(v.Verstat, maxText))
	f.writeText("other_call_id", v.OtherCall)
	f.writeText("message_text", dialog.CleanMessage(v.MessageText))
	f.writeText("content_type", dialog.Clean(v.ContentType, maxText))
	f.writeText("caller_number_e164", v.CallerE164)
	f.writeText("called_number_e164", v.CalledE164)
	f.writeText("caller_id_num_raw", dialog.Clean(v.CallerNumRaw, maxText))
	f.writeText("called_number_raw", dialog.Clean(v.CalledNumberRaw, maxText))
	f.writeIfTrue("privacy", v.Privacy)
	f.writeText("extension", v.userName(&v.Extension))
	f.writeText("domain", dialog.Clean(v.Extension.Domain, maxText))
	if s := v.Subscription; s != nil {
		f.writeText("subscription_id", s.ID)
		f.writeText("subscription_state", s.State)
		f.writeText("why", dialog.Clean(s.Why, maxText))
	}
	v.writeJSONHeaders(f)
}

// writeJSONHeaders writes the copied SIP headers: an object, form fields, or a template
// variable.
func (v *view) writeJSONHeaders(f *fieldWriter) {
	if len(v.Headers) == 0 {
		return
	}
	if f.values != nil {
		f.writePairs("headers", v.Headers)
		return
	}
	if !f.json {
		for _, h := range v.Headers {
			f.writeText("headers."+dialog.Clean(h[0], maxText), dialog.Clean(h[1], maxText))
		}
		return
	}
	f.openObject("headers")
	for _, h := range v.Headers {
		f.writeText(dialog.Clean(h[0], maxText), dialog.Clean(h[1], maxText))
	}
	f.b = append(f.b, '}')
}

// userName returns the user of an extension, as unified and json name it: 0003*210.
func (v *view) userName(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return dialog.Clean(e.User, maxText)
}

// userAtDomain returns user and domain of an extension, as telphin names it:
// 101@pbx.example.
func (v *view) userAtDomain(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return dialog.Clean(e.String(), maxText)
}

// flowWord returns the flow in the case that the subscription asks for.
func (v *view) flowWord() string {
	if v.sub.FlowCase == "upper" {
		return strings.ToUpper(string(v.Flow))
	}
	return string(v.Flow)
}

// statusWord returns the status word of the event. With status_words = unified a hangup
// without a response is UNKNOWN, as in the UnifiedAPI. The form dialects have the six words
// of DIALSTATUS only: a forwarded call is canceled there, and not missed.
func (v *view) statusWord() string {
	if v.sub.StatusWords == "unified" && v.Type == dialog.Hangup && v.Status != dialog.Answered {
		return string(dialog.Unknown)
	}
	if v.Status == dialog.Forwarded && v.sub.Dialect != JSON && v.sub.Dialect != CloudEvents {
		return string(dialog.Canceled)
	}
	return string(v.Status)
}

// fieldWriter writes names and values: a form, the members of a JSON object, or template
// variables.
type fieldWriter struct {
	b          []byte
	json       bool
	writeEmpty bool               // write empty texts too
	values     uritemplate.Values // nil: no template
}

// writeName writes the name of a field and the separator before and after it.
func (f *fieldWriter) writeName(s string) {
	if f.json {
		if last := f.b[len(f.b)-1]; last != '{' {
			f.b = append(f.b, ',')
		}
		f.b = append(jsontext.AppendHTML(f.b, s), ':')
		return
	}
	if len(f.b) > 0 {
		f.b = append(f.b, '&')
	}
	f.b = append(appendForm(f.b, s), '=')
}

// writeText writes a text, unless it is empty and empty texts are left out.
func (f *fieldWriter) writeText(name, s string) {
	if s == "" && !f.writeEmpty {
		return
	}
	if f.values != nil {
		f.values.Set(name, variableValue(s))
		return
	}
	f.writeName(name)
	if f.json {
		f.b = jsontext.AppendHTML(f.b, s)
	} else {
		f.b = appendForm(f.b, s)
	}
}

// writeNumber writes a number.
func (f *fieldWriter) writeNumber(name string, n int64) {
	if f.values != nil {
		f.values.Set(name, uritemplate.String(strconv.FormatInt(n, 10)))
		return
	}
	f.writeName(name)
	f.b = strconv.AppendInt(f.b, n, 10)
}

// writeNonZero writes n unless it is 0, which means unknown.
func (f *fieldWriter) writeNonZero(name string, n int64) {
	if n != 0 {
		f.writeNumber(name, n)
	}
}

// writeBool writes true or false.
func (f *fieldWriter) writeBool(name string, b bool) {
	if f.values != nil {
		f.values.Set(name, uritemplate.String(strconv.FormatBool(b)))
		return
	}
	f.writeName(name)
	f.b = strconv.AppendBool(f.b, b)
}

// writeIfTrue writes true, or nothing.
func (f *fieldWriter) writeIfTrue(name string, b bool) {
	if b {
		f.writeBool(name, b)
	}
}

// writeYes writes "yes", or nothing.
func (f *fieldWriter) writeYes(name string, b bool) {
	if b {
		f.writeText(name, "yes")
	}
}

// writeYesNo writes "yes" or "no", or nothing if b is nil.
func (f *fieldWriter) writeYesNo(name string, b *bool) {
	switch {
	case b == nil:
	case *b:
		f.writeText(name, "yes")
	default:
		f.writeText(name, "no")
	}
}

// writeList writes a field with a text for each extension: one value, or name[] for each in
// a form, or a list in a template.
func (f *fieldWriter) writeList(name string, extensions []dialog.Extension, text func(*dialog.Extension) string) {
	var values []string
	for i := range extensions {
		if s := text(&extensions[i]); f.values == nil {
			f.writeText(name+"[]", s)
		} else if s != "" {
			values = append(values, variableValue(s).String())
		}
	}
	switch {
	case len(values) == 1:
		f.writeText(name, text(&extensions[0]))
	case len(values) > 1:
		f.values.Set(name, uritemplate.List(values...))
	}
}

// writePairs sets an associative template variable.
func (f *fieldWriter) writePairs(name string, pairs [][2]string) {
	var kv []string
	for _, p := range pairs {
		kv = append(kv, url.QueryEscape(dialog.Clean(p[0], maxText)), variableValue(dialog.Clean(p[1], maxText)).String())
	}
	f.values.Set(name, uritemplate.KV(kv...))
}

// openObject begins a JSON object; the caller ends it.
func (f *fieldWriter) openObject(name string) {
	f.writeName(name)
	f.b = append(f.b, '{')
}

// appendForm escapes s as application/x-www-form-urlencoded.
func appendForm(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' && c != '~' {
			return append(b, url.QueryEscape(s)...)
		}
	}
	return append(b, s...)
}
