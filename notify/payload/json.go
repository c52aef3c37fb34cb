package payload

import (
	"slices"

	"bellhop/dialog"
)

// writeJSON writes all known values in snake case. With GET the form is flat: headers
// become headers.<name>.
func (v *View) writeJSON(f *fieldWriter) {
	f.writeText("call_id", v.Call)
	f.writeText("caller_id_num", v.clean(v.CallerNum))
	f.writeText("caller_id_name", v.clean(v.CallerName))
	f.writeText("called_did", v.clean(v.CalledDID))
	f.writeText("called_extension", v.userName(v.Called))
	f.writeNonZero("called_extension_id", int64(v.CalledID))
	f.writeText("call_status", v.statusWord())
	f.writeText("call_flow", v.flowWord())
	f.writeText("caller_extension", v.userName(v.Caller))
	f.writeNonZero("caller_extension_id", int64(v.CallerID))
	f.writeText("called_number", v.clean(v.CalledNumber))
	f.writeText("rec_id", v.clean(v.RecID))
	f.writeText("callapi_id", v.clean(v.CallAPIID))
	f.writeText("diversion", v.clean(v.Diversion))
	f.writeNumber("event_time", v.At.UnixMicro())
	if v.Type == dialog.Hangup || v.Duration > 0 {
		f.writeNumber("duration", v.Duration.Microseconds())
	}
	f.writeIfTrue("transferred", v.Transferred)
	if v.Bridged != nil {
		f.writeBool("bridged", *v.Bridged)
	}
	f.writeNonZero("bridged_duration", v.BridgedFor.Microseconds())
	f.writeText("callback_id", v.clean(v.CallBackID))
	f.writeText("sub_call_id", v.Party)
	f.writeText("client_api_id", v.clean(v.ClientAPIID))
	f.writeText("remote_number", v.clean(v.RemoteNumber))
	f.writeText("ani", v.clean(v.ANI))
	f.writeText("tag", v.clean(v.Tag))
	f.writeText("event_type", string(v.Type))
	f.writeText("event_id", v.ID)
	f.writeNonZero("sequence", int64(v.Seq))
	f.writeNonZero("sip_code", int64(v.SipCode))
	f.writeText("sip_reason", v.clean(v.SipReason))
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
	f.writeText("user_agent", v.clean(v.UserAgent))
	f.writeText("verstat", v.clean(v.Verstat))
	f.writeText("other_call_id", v.OtherCall)
	f.writeText("message_text", v.cleanMessage())
	f.writeText("content_type", v.clean(v.ContentType))
	f.writeText("caller_number_e164", v.CallerE164)
	f.writeText("called_number_e164", v.CalledE164)
	f.writeText("caller_id_num_raw", v.clean(v.CallerNumRaw))
	f.writeText("called_number_raw", v.clean(v.CalledNumberRaw))
	f.writeIfTrue("privacy", v.Privacy)
	f.writeText("extension", v.userName(&v.Extension))
	f.writeText("domain", v.clean(v.Extension.Domain))
	if s := v.Subscription; s != nil {
		f.writeText("subscription_id", s.ID)
		f.writeText("subscription_state", s.State)
		f.writeText("why", v.clean(s.Why))
	}
	v.writeJSONHeaders(f)
}

// writeJSONHeaders writes the copied SIP headers: an object, form fields, or a template
// variable. The API shows each name once, with its last value.
func (v *View) writeJSONHeaders(f *fieldWriter) {
	if len(v.Headers) == 0 {
		return
	}
	if f.values != nil {
		f.writePairs("headers", v.Headers)
		return
	}
	if !f.json {
		for _, h := range v.Headers {
			f.writeText("headers."+v.clean(h[0]), v.clean(h[1]))
		}
		return
	}
	f.openObject("headers")
	f.writeEmpty = v.uncut
	for i, h := range v.Headers {
		if v.uncut && slices.ContainsFunc(v.Headers[i+1:], func(later [2]string) bool { return later[0] == h[0] }) {
			continue
		}
		f.writeText(v.clean(h[0]), v.clean(h[1]))
	}
	f.b = append(f.b, '}')
}
