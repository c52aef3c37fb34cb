package eventlog

import (
	"encoding/json"

	"bellhop/dialog"
	"bellhop/notify/jsontext"
)

// AppendEvent appends the JSON of an event, the same bytes as [json.Marshal] at a third of
// its cost: every event of every call is encoded by it.
func AppendEvent(dst []byte, e *dialog.Event) []byte {
	w := jsontext.Object{B: dst}
	w.B = append(w.B, '{')
	w.WriteString("id", e.ID)
	w.WriteString("call", e.Call)
	w.WriteNumber("seq", int64(e.Seq))
	w.WriteTime("at", e.At)
	w.WriteString("type", string(e.Type))
	w.WriteString("party", e.Party)
	writeExtension(&w, "extension", &e.Extension)
	w.WriteNonEmpty("flow", string(e.Flow))
	w.WriteNonEmpty("status", string(e.Status))
	w.WriteNonEmpty("caller_num", e.CallerNum)
	w.WriteNonEmpty("caller_name", e.CallerName)
	writeExtension(&w, "caller_extension", e.CallerExtension)
	w.WriteNonEmpty("called_number", e.CalledNumber)
	writeExtension(&w, "called_extension", e.CalledExtension)
	w.WriteNonEmpty("called_did", e.CalledDID)
	w.WriteNonEmpty("callapi_id", e.CallAPIID)
	w.WriteNonEmpty("diversion", e.Diversion)
	w.WriteNonEmpty("client_api_id", e.ClientAPIID)
	w.WriteNonZero("duration", int64(e.Duration))
	w.WriteNonZero("ring_duration", int64(e.RingDuration))
	w.WriteNonZero("setup_time", int64(e.SetupTime))
	if !e.AnsweredAt.IsZero() {
		w.WriteTime("answered_at", e.AnsweredAt)
	}
	w.WriteNonEmpty("rec_id", e.RecID)
	w.WriteNonZero("sip_code", int64(e.SipCode))
	w.WriteNonEmpty("sip_reason", e.SipReason)
	w.WriteNonZero("q850", int64(e.Q850))
	w.WriteNonEmpty("hangup_by", string(e.HangupBy))
	w.WriteTrue("elsewhere", e.Elsewhere)
	w.WriteBool("missed", e.Missed)
	w.WriteTrue("recovered", e.Recovered)
	w.WriteNonEmpty("correlation", e.Correlation)
	w.WriteNonEmpty("user_agent", e.UserAgent)
	w.WriteNonEmpty("verstat", e.Verstat)
	w.WriteTrue("transferred", e.Transferred)
	w.WriteBool("bridged", e.Bridged)
	w.WriteNonZero("bridged_for", int64(e.BridgedFor))
	w.WriteNonEmpty("callback_id", e.CallBackID)
	w.WriteNonEmpty("remote_number", e.RemoteNumber)
	w.WriteNonEmpty("ani", e.ANI)
	w.WriteNonEmpty("tag", e.Tag)
	w.WriteNonEmpty("other_call", e.OtherCall)
	w.WriteNonEmpty("message_text", e.MessageText)
	w.WriteNonEmpty("content_type", e.ContentType)
	if len(e.Headers) > 0 {
		w.WriteKey("headers")
		headers, _ := json.Marshal(e.Headers) // strings always marshal
		w.B = append(w.B, headers...)
	}
	w.WriteNonEmpty("caller_e164", e.CallerE164)
	w.WriteNonEmpty("called_e164", e.CalledE164)
	w.WriteNonEmpty("caller_num_raw", e.CallerNumRaw)
	w.WriteNonEmpty("called_number_raw", e.CalledNumberRaw)
	w.WriteTrue("privacy", e.Privacy)
	writeExtension(&w, "distributor", e.Distributor)
	if e.Leg != (dialog.LegID{}) {
		w.WriteKey("leg")
		w.B = append(w.B, '{')
		w.WriteNonEmpty("node", e.Leg.Node)
		w.WriteNumber("origin", int64(e.Leg.Origin))
		w.WriteString("call_id", e.Leg.CallID)
		w.WriteString("from_tag", e.Leg.FromTag)
		w.WriteNonEmpty("to_tag", e.Leg.ToTag)
		w.WriteNonEmpty("peer", e.Leg.Peer)
		w.B = append(w.B, '}')
	}
	if s := e.Subscription; s != nil {
		w.WriteKey("subscription")
		w.B = append(w.B, '{')
		w.WriteString("id", s.ID)
		w.WriteString("state", s.State)
		w.WriteNonEmpty("why", s.Why)
		w.B = append(w.B, '}')
	}
	return append(w.B, '}')
}

// writeExtension writes an extension as an object, or nothing if e is nil.
func writeExtension(w *jsontext.Object, k string, e *dialog.Extension) {
	if e == nil {
		return
	}
	w.WriteKey(k)
	w.B = append(w.B, '{')
	w.WriteString("user", e.User)
	w.WriteNonEmpty("domain", e.Domain)
	w.B = append(w.B, '}')
}
