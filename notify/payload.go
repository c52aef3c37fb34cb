package notify

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/yosida95/uritemplate/v3"

	"bellhop/dialog"
)

// maxText and maxMessage are how many characters of a text off the wire are
// sent on.
const (
	maxText    = 256
	maxMessage = 2000
)

// A view is an event as one subscription is told it.
type view struct {
	*dialog.Event
	sub            *Subscription
	called, caller *dialog.Extension // nil: no extension, or unknown
	ownID          uint64            // numbers of the extensions; 0: not asked for
	calledID       uint64
	callerID       uint64
	group          *group // of a dialect that has one call for all who ring; nil: it is the party's own
}

// newView completes the ends of a call: the event's extension is one of them.
func newView(e *dialog.Event, s *Subscription) view {
	v := view{Event: e, sub: s, called: e.CalledExtension, caller: e.CallerExtension}
	if e.Type == dialog.SubscriptionState {
		return v // of no call
	}
	calls := e.Flow == dialog.Out || e.Type == dialog.MessageOut || e.Type == dialog.Transfer
	if calls && v.caller == nil {
		v.caller = &e.Extension
	}
	if !calls && v.called == nil {
		v.called = &e.Extension
	}
	if s.Dialect == Telphin && v.caller == nil { // of a call from outside
		v.caller = e.Distributor
	}
	return v
}

// append appends the payload in the subscription's dialect: a form, the Standard
// Webhooks envelope for json, or what is in it for cloudevents.
func (v *view) append(b []byte) []byte {
	f := fields{b: b}
	switch {
	case v.form():
		v.fields(&f)
	case v.sub.Dialect == CloudEvents:
		f.json = true
		f.b = append(f.b, '{')
		v.fields(&f)
		f.b = append(f.b, '}')
	default:
		f.json = true
		f.b = append(f.b, '{')
		f.text("type", eventName(v.Type))
		f.text("timestamp", v.At.UTC().Format(time.RFC3339Nano))
		f.open("data")
		v.fields(&f)
		f.b = append(f.b, '}', '}')
	}
	return f.b
}

// fields lists the fields of the subscription's dialect.
func (v *view) fields(f *fields) {
	switch v.sub.Dialect {
	case Unified:
		v.unified(f)
	case Telphin:
		v.telphin(f)
	case CTI:
		v.cti(f)
	default:
		v.json(f)
	}
}

func (v *view) get() bool { return v.sub.Method == "GET" }

// form reports whether the payload is a form.
func (v *view) form() bool {
	return v.get() || v.sub.Dialect != JSON && v.sub.Dialect != CloudEvents
}

// contentType is what the body of a POST or PUT is.
func (v *view) contentType() string {
	if v.form() {
		return "application/x-www-form-urlencoded"
	}
	return "application/json"
}

// eventName is the type of the json envelope: call.dial_in.
func eventName(t dialog.Type) string {
	if t == dialog.SubscriptionState {
		return "subscription.state"
	}
	return "call." + strings.ReplaceAll(string(t), "-", "_")
}

// call lists the ten fields that both documents have.
func (v *view) call(f *fields, callerName string, extension func(*dialog.Extension) string) {
	f.text("CallID", v.Call)
	f.text("CallerIDNum", clean(v.CallerNum, maxText))
	f.text("CallerIDName", clean(callerName, maxText))
	f.text("CalledDID", clean(v.CalledDID, maxText))
	f.text("CalledExtension", extension(v.called))
	f.text("CallStatus", v.status())
	f.text("CallFlow", v.flow())
	f.text("CallerExtension", extension(v.caller))
	f.text("CalledNumber", clean(v.CalledNumber, maxText))
	f.text("CallAPIID", clean(v.CallAPIID, maxText))
}

// checkUnified refuses what the ten fields have no room for.
func checkUnified(s *Subscription) *Invalid {
	if s.Dialect == Unified && slices.Contains(s.Types, string(dialog.SubscriptionState)) {
		return &Invalid{"types", "has subscription-state, of which the dialect unified has no field: use json or telphin"}
	}
	return nil
}

// unified lists the ten fields of the UnifiedAPI: always all of them. Which
// event it is, the receiver knows by the URL.
func (v *view) unified(f *fields) {
	f.always = true
	v.call(f, v.CallerName, v.user)
}

// telphin lists what is known under the names of Telphin's documents.
// Transfered is spelled as there. A caller outside who has no name is named by the
// number, and the CallerExtension of such a call is the queue or menu that
// distributed it: receivers require these fields.
func (v *view) telphin(f *fields) {
	name := v.CallerName
	if v.Flow == dialog.In && v.CallerExtension == nil || v.Transferred {
		name = cmp.Or(name, v.CallerNum)
	}
	v.call(f, name, v.address)
	f.text("EventType", string(v.Type))
	f.number("EventTime", v.At.UnixMicro())
	if v.Type == dialog.Hangup || v.Duration > 0 {
		f.number("Duration", v.Duration.Microseconds())
	}
	if v.Party != "" {
		f.text("SubCallID", strconv.FormatUint(v.ownID, 10)+"-"+v.Party)
	}
	f.count("CalledExtensionID", int64(v.calledID))
	f.count("CallerExtensionID", int64(v.callerID))
	f.text("RecID", clean(v.RecID, maxText))
	f.text("Diversion", clean(v.Diversion, maxText))
	f.yes("Transfered", v.Transferred)
	f.yesNo("Bridged", v.Bridged)
	f.count("BridgedDuration", v.BridgedFor.Microseconds())
	f.text("CallBackID", clean(v.CallBackID, maxText))
	f.text("ClientApiID", clean(v.ClientAPIID, maxText))
	f.text("RemoteNumber", clean(v.RemoteNumber, maxText))
	f.text("ANI", clean(v.ANI, maxText))
	f.text("Tag", clean(v.Tag, maxText))
	f.text("MessageText", cleanMessage(v.MessageText))
	f.text("ContentType", clean(v.ContentType, maxText))
	if s := v.Subscription; s != nil {
		f.text("Extension", v.address(&v.Extension))
		f.text("SubscriptionID", s.ID)
		f.text("SubscriptionState", s.State)
		f.text("Why", clean(s.Why, maxText))
	}
	if v.sub.Extended {
		v.extended(f)
	}
}

// extended lists what the originals did not know, under names in their manner.
func (v *view) extended(f *fields) {
	f.text("EventID", v.ID)
	f.count("Sequence", int64(v.Seq))
	f.count("SipCode", int64(v.SipCode))
	f.text("SipReason", clean(v.SipReason, maxText))
	f.count("Q850", int64(v.Q850))
	f.text("HangupBy", string(v.HangupBy))
	f.count("RingDuration", v.RingDuration.Microseconds())
	f.count("SetupTime", v.SetupTime.Microseconds())
	f.yes("AnsweredElsewhere", v.Elsewhere)
	f.yesNo("Missed", v.Missed)
	f.text("Correlation", v.Correlation)
	f.yes("Recovered", v.Recovered)
	f.text("UserAgent", clean(v.UserAgent, maxText))
	f.text("Verstat", clean(v.Verstat, maxText))
	f.text("OtherCallID", v.OtherCall)
	f.text("CallerNumberE164", v.CallerE164)
	f.text("CalledNumberE164", v.CalledE164)
	f.text("CallerIDNumRaw", clean(v.CallerNumRaw, maxText))
	f.text("CalledNumberRaw", clean(v.CalledNumberRaw, maxText))
	f.yes("Privacy", v.Privacy)
	if f.values != nil {
		return // the names of headers are the config's, no variables
	}
	for _, h := range v.Headers {
		f.text(clean(h[0], maxText), clean(h[1], maxText))
	}
}

// json lists what is known in snake case. By GET it is flat: headers become
// headers.<name>.
func (v *view) json(f *fields) {
	f.text("call_id", v.Call)
	f.text("caller_id_num", clean(v.CallerNum, maxText))
	f.text("caller_id_name", clean(v.CallerName, maxText))
	f.text("called_did", clean(v.CalledDID, maxText))
	f.text("called_extension", v.user(v.called))
	f.count("called_extension_id", int64(v.calledID))
	f.text("call_status", v.status())
	f.text("call_flow", v.flow())
	f.text("caller_extension", v.user(v.caller))
	f.count("caller_extension_id", int64(v.callerID))
	f.text("called_number", clean(v.CalledNumber, maxText))
	f.text("rec_id", clean(v.RecID, maxText))
	f.text("callapi_id", clean(v.CallAPIID, maxText))
	f.text("diversion", clean(v.Diversion, maxText))
	f.number("event_time", v.At.UnixMicro())
	if v.Type == dialog.Hangup || v.Duration > 0 {
		f.number("duration", v.Duration.Microseconds())
	}
	f.truth("transferred", v.Transferred)
	if v.Bridged != nil {
		f.bool("bridged", *v.Bridged)
	}
	f.count("bridged_duration", v.BridgedFor.Microseconds())
	f.text("callback_id", clean(v.CallBackID, maxText))
	f.text("sub_call_id", v.Party)
	f.text("client_api_id", clean(v.ClientAPIID, maxText))
	f.text("remote_number", clean(v.RemoteNumber, maxText))
	f.text("ani", clean(v.ANI, maxText))
	f.text("tag", clean(v.Tag, maxText))
	f.text("event_type", string(v.Type))
	f.text("event_id", v.ID)
	f.count("sequence", int64(v.Seq))
	f.count("sip_code", int64(v.SipCode))
	f.text("sip_reason", clean(v.SipReason, maxText))
	f.count("q850", int64(v.Q850))
	f.text("hangup_by", string(v.HangupBy))
	f.count("ring_duration", v.RingDuration.Microseconds())
	f.count("setup_time", v.SetupTime.Microseconds())
	f.truth("answered_elsewhere", v.Elsewhere)
	if v.Missed != nil {
		f.bool("missed", *v.Missed)
	}
	f.text("correlation", v.Correlation)
	f.truth("recovered", v.Recovered)
	f.text("user_agent", clean(v.UserAgent, maxText))
	f.text("verstat", clean(v.Verstat, maxText))
	f.text("other_call_id", v.OtherCall)
	f.text("message_text", cleanMessage(v.MessageText))
	f.text("content_type", clean(v.ContentType, maxText))
	f.text("caller_number_e164", v.CallerE164)
	f.text("called_number_e164", v.CalledE164)
	f.text("caller_id_num_raw", clean(v.CallerNumRaw, maxText))
	f.text("called_number_raw", clean(v.CalledNumberRaw, maxText))
	f.truth("privacy", v.Privacy)
	f.text("extension", v.user(&v.Extension))
	f.text("domain", clean(v.Extension.Domain, maxText))
	if s := v.Subscription; s != nil {
		f.text("subscription_id", s.ID)
		f.text("subscription_state", s.State)
		f.text("why", clean(s.Why, maxText))
	}
	v.jsonHeaders(f)
}

func (v *view) jsonHeaders(f *fields) {
	if len(v.Headers) == 0 {
		return
	}
	if f.values != nil {
		f.pairs("headers", v.Headers)
		return
	}
	if !f.json {
		for _, h := range v.Headers {
			f.text("headers."+clean(h[0], maxText), clean(h[1], maxText))
		}
		return
	}
	f.open("headers")
	for _, h := range v.Headers {
		f.text(clean(h[0], maxText), clean(h[1], maxText))
	}
	f.b = append(f.b, '}')
}

// user is how unified and json name an extension: 0003*210.
func (v *view) user(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return clean(e.User, maxText)
}

// address is how telphin names an extension: 101@pbx.example.
func (v *view) address(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return clean(e.String(), maxText)
}

func (v *view) flow() string {
	if v.sub.FlowCase == "upper" {
		return strings.ToUpper(string(v.Flow))
	}
	return string(v.Flow)
}

// status is the event's word, or the one of the two words for a hangup that
// the UnifiedAPI knew. The form dialects know the six words of DIALSTATUS alone: a call
// that was forwarded is one that was canceled, and not missed.
func (v *view) status() string {
	if v.sub.StatusWords == "unified" && v.Type == dialog.Hangup && v.Status != dialog.Answered {
		return string(dialog.Unknown)
	}
	if v.Status == dialog.Forwarded && v.sub.Dialect != JSON && v.sub.Dialect != CloudEvents {
		return string(dialog.Canceled)
	}
	return string(v.Status)
}

// fields writes names and values: as a form, as the members of a JSON object, or
// as the variables of a template.
type fields struct {
	b      []byte
	json   bool
	always bool               // write empty texts too
	values uritemplate.Values // nil: no variables
}

func (f *fields) name(s string) {
	if f.json {
		if last := f.b[len(f.b)-1]; last != '{' {
			f.b = append(f.b, ',')
		}
		f.b = append(appendJSON(f.b, s), ':')
		return
	}
	if len(f.b) > 0 {
		f.b = append(f.b, '&')
	}
	f.b = append(appendForm(f.b, s), '=')
}

func (f *fields) text(name, s string) {
	if s == "" && !f.always {
		return
	}
	if f.values != nil {
		f.values.Set(name, value(s))
		return
	}
	f.name(name)
	if f.json {
		f.b = appendJSON(f.b, s)
	} else {
		f.b = appendForm(f.b, s)
	}
}

func (f *fields) number(name string, n int64) {
	if f.values != nil {
		f.values.Set(name, uritemplate.String(strconv.FormatInt(n, 10)))
		return
	}
	f.name(name)
	f.b = strconv.AppendInt(f.b, n, 10)
}

// count writes n unless it is 0, which is unknown.
func (f *fields) count(name string, n int64) {
	if n != 0 {
		f.number(name, n)
	}
}

func (f *fields) bool(name string, b bool) {
	if f.values != nil {
		f.values.Set(name, uritemplate.String(strconv.FormatBool(b)))
		return
	}
	f.name(name)
	f.b = strconv.AppendBool(f.b, b)
}

func (f *fields) truth(name string, b bool) {
	if b {
		f.bool(name, b)
	}
}

func (f *fields) yes(name string, b bool) {
	if b {
		f.text(name, "yes")
	}
}

func (f *fields) yesNo(name string, b *bool) {
	switch {
	case b == nil:
	case *b:
		f.text(name, "yes")
	default:
		f.text(name, "no")
	}
}

// list writes a name that may have several values: name[] for each in a form.
func (f *fields) list(name string, extensions []dialog.Extension, text func(*dialog.Extension) string) {
	var values []string
	for i := range extensions {
		if s := text(&extensions[i]); f.values == nil {
			f.text(name+"[]", s)
		} else if s != "" {
			values = append(values, value(s).String())
		}
	}
	switch {
	case len(values) == 1:
		f.text(name, text(&extensions[0]))
	case len(values) > 1:
		f.values.Set(name, uritemplate.List(values...))
	}
}

// pairs sets an associative variable.
func (f *fields) pairs(name string, pairs [][2]string) {
	var kv []string
	for _, p := range pairs {
		kv = append(kv, url.QueryEscape(clean(p[0], maxText)), value(clean(p[1], maxText)).String())
	}
	f.values.Set(name, uritemplate.KV(kv...))
}

// open begins an object; the caller ends it.
func (f *fields) open(name string) {
	f.name(name)
	f.b = append(f.b, '{')
}

// appendForm escapes as application/x-www-form-urlencoded does.
func appendForm(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' && c != '~' {
			return append(b, url.QueryEscape(s)...)
		}
	}
	return append(b, s...)
}

// asIsInHTML are the bytes that mean themselves in a JSON string within HTML.
var asIsInHTML = func() (is [256]bool) {
	for c := range byte(0x7f) {
		is[c] = c >= ' ' && !strings.ContainsRune(`"\<>&`, rune(c))
	}
	return is
}()

// appendJSON writes valid UTF-8 as a JSON string that is safe within HTML too.
func appendJSON(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	plain := 0 // most of it, most often all
	for plain < len(s) && asIsInHTML[s[plain]] {
		plain++
	}
	b = append(append(b, '"'), s[:plain]...)
	for _, r := range s[plain:] {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == '<' || r == '>' || r == '&' || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
		case r == '\u2028' || r == '\u2029':
			b = append(b, '\\', 'u', '2', '0', '2', hex[r&0xf])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// clean makes text off the wire fit to be sent on: valid UTF-8 without control
// characters, of limit characters at most.
func clean(s string, limit int) string {
	return cleaned(s, limit, unicode.IsControl)
}

// cleanMessage is clean for the text of a message, which has lines.
func cleanMessage(s string) string {
	return cleaned(s, maxMessage, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' })
}

func cleaned(s string, limit int, drop func(rune) bool) string {
	if plain(s) && len(s) <= limit {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || drop(r) {
			continue
		}
		if limit == 0 {
			break
		}
		b.WriteRune(r)
		limit--
	}
	return b.String()
}

func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
