package payload

import "bellhop/dialog"

// writeJSON writes all known values in snake case. With GET the form is flat: headers
// become headers.<name>.
func (v *View) writeJSON(f *fieldWriter) {
	f.writeText("call_id", v.Call)
	f.writeText("caller_id_num", dialog.Clean(v.CallerNum, dialog.MaxText))
	f.writeText("caller_id_name", dialog.Clean(v.CallerName, dialog.MaxText))
	f.writeText("called_did", dialog.Clean(v.CalledDID, dialog.MaxText))
	f.writeText("called_extension", v.userName(v.Called))
	f.writeNonZero("called_extension_id", int64(v.CalledID))
	f.writeText("call_status", v.statusWord())
	f.writeText("call_flow", v.flowWord())
	f.writeText("caller_extension", v.userName(v.Caller))
	f.writeNonZero("caller_extension_id", int64(v.CallerID))
	f.writeText("called_number", dialog.Clean(v.CalledNumber, dialog.MaxText))
	f.writeText("rec_id", dialog.Clean(v.RecID, dialog.MaxText))
	f.writeText("callapi_id", dialog.Clean(v.CallAPIID, dialog.MaxText))
	f.writeText("diversion", dialog.Clean(v.Diversion, dialog.MaxText))
	f.writeNumber("event_time", v.At.UnixMicro())
	if v.Type == dialog.Hangup || v.Duration > 0 {
		f.writeNumber("duration", v.Duration.Microseconds())
	}
	f.writeIfTrue("transferred", v.Transferred)
	if v.Bridged != nil {
		f.writeBool("bridged", *v.Bridged)
	}
	f.writeNonZero("bridged_duration", v.BridgedFor.Microseconds())
	f.writeText("callback_id", dialog.Clean(v.CallBackID, dialog.MaxText))
	f.writeText("sub_call_id", v.Party)
	f.writeText("client_api_id", dialog.Clean(v.ClientAPIID, dialog.MaxText))
	f.writeText("remote_number", dialog.Clean(v.RemoteNumber, dialog.MaxText))
	f.writeText("ani", dialog.Clean(v.ANI, dialog.MaxText))
	f.writeText("tag", dialog.Clean(v.Tag, dialog.MaxText))
	f.writeText("event_type", string(v.Type))
	f.writeText("event_id", v.ID)
	f.writeNonZero("sequence", int64(v.Seq))
	f.writeNonZero("sip_code", int64(v.SipCode))
	f.writeText("sip_reason", dialog.Clean(v.SipReason, dialog.MaxText))
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
	f.writeText("user_agent", dialog.Clean(v.UserAgent, dialog.MaxText))
	f.writeText("verstat", dialog.Clean(v.Verstat, dialog.MaxText))
	f.writeText("other_call_id", v.OtherCall)
	f.writeText("message_text", dialog.CleanMessage(v.MessageText))
	f.writeText("content_type", dialog.Clean(v.ContentType, dialog.MaxText))
	f.writeText("caller_number_e164", v.CallerE164)
	f.writeText("called_number_e164", v.CalledE164)
	f.writeText("caller_id_num_raw", dialog.Clean(v.CallerNumRaw, dialog.MaxText))
	f.writeText("called_number_raw", dialog.Clean(v.CalledNumberRaw, dialog.MaxText))
	f.writeIfTrue("privacy", v.Privacy)
	f.writeText("extension", v.userName(&v.Extension))
	f.writeText("domain", dialog.Clean(v.Extension.Domain, dialog.MaxText))
	if s := v.Subscription; s != nil {
		f.writeText("subscription_id", s.ID)
		f.writeText("subscription_state", s.State)
		f.writeText("why", dialog.Clean(s.Why, dialog.MaxText))
	}
	v.writeJSONHeaders(f)
}

// writeJSONHeaders writes the copied SIP headers: an object, form fields, or a template
// variable.
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
			f.writeText("headers."+dialog.Clean(h[0], dialog.MaxText), dialog.Clean(h[1], dialog.MaxText))
		}
		return
	}
	f.openObject("headers")
	for _, h := range v.Headers {
		f.writeText(dialog.Clean(h[0], dialog.MaxText), dialog.Clean(h[1], dialog.MaxText))
	}
	f.b = append(f.b, '}')
}
