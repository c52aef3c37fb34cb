package payload

import (
	"cmp"
	"strings"

	"bellhop/dialog"
)

// ctiEvents maps event types to the events of sipgate's push API and Zammad's Generic
// CTI. These APIs have no other events.
var ctiEvents = map[dialog.Type]string{
	dialog.DialIn:  "newCall",
	dialog.DialOut: "newCall",
	dialog.Answer:  "answer",
	dialog.Hangup:  "hangup",
}

// writeCTI writes the fields of a Generic CTI event. A receiver opens an entry at the
// newCall of a callId, closes it at the hangup, and refuses a second newCall. So callId
// is the party, and origCallId is the call, as in sipgate's API if a call rings at
// several phones or is passed on. For a subscription that groups calls, callId is the
// party that rang first.
func (v *View) writeCTI(f *fieldWriter) {
	f.writeText("event", ctiEvents[v.Type])
	f.writeText("from", ctiNumber(cmp.Or(v.CallerNum, "anonymous"), v.CallerE164))
	f.writeText("to", v.ctiTo())
	f.writeText("direction", string(v.Flow))
	f.writeText("callId", v.ctiCallID())
	f.writeText("origCallId", v.Call)
	switch v.Type {
	case dialog.DialIn, dialog.DialOut:
		f.writeList("user", v.ringingExtensions(), v.userName)
		f.writeList("userId", v.ringingExtensions(), v.userName)
		f.writeList("fullUserId", v.ringingExtensions(), v.userAtDomain)
		f.writeText("xcid", dialog.Clean(cmp.Or(v.CallAPIID, v.Call), dialog.MaxText))
	case dialog.Answer:
		if v.Flow == dialog.In { // on an outgoing call, the extension is the caller and has not answered
			f.writeText("user", v.userName(&v.Extension))
			f.writeText("userId", v.userName(&v.Extension))
			f.writeText("fullUserId", v.userAtDomain(&v.Extension))
		}
		f.writeText("answeringNumber", v.answeringNumber())
	case dialog.Hangup:
		f.writeText("cause", v.hangupCause())
		if !v.AnsweredAt.IsZero() {
			f.writeText("answeringNumber", v.answeringNumber())
		}
	}
	f.writeText("diversion", ctiNumber(v.divertingNumber(), ""))
}

// ctiCallID returns the callId, which is the party of the newCall that was sent.
func (v *View) ctiCallID() string {
	if v.GroupParty != "" {
		return v.GroupParty
	}
	return v.Party
}

// ringingExtensions returns the extensions that a newCall rings at.
func (v *View) ringingExtensions() []dialog.Extension {
	if v.GroupParty != "" {
		return v.Ringing
	}
	return []dialog.Extension{v.Extension}
}

// ctiNumber returns a number as sipgate writes it: E.164 without the plus. e164 is the
// number in that form, if known. Receivers put a plus before it, or compare it as text.
func ctiNumber(number, e164 string) string {
	number = cmp.Or(e164, number)
	if digits, ok := strings.CutPrefix(number, "+"); ok && digits != "" && strings.Trim(digits, "0123456789") == "" {
		number = digits
	}
	return dialog.Clean(number, dialog.MaxText)
}

// ctiTo returns the called number. For an incoming call it is the public number that was
// called, if known.
func (v *View) ctiTo() string {
	switch {
	case v.Flow == dialog.Out:
		return ctiNumber(v.CalledNumber, v.CalledE164)
	case v.CalledDID != "" && v.CalledDID != v.CalledNumber:
		return ctiNumber(v.CalledDID, "")
	case v.CalledNumber != "":
		return ctiNumber(v.CalledNumber, v.CalledE164)
	}
	return ctiNumber(v.Extension.User, "")
}

// answeringNumber returns the number at which the call was answered.
func (v *View) answeringNumber() string {
	if v.Flow == dialog.In {
		return ctiNumber(v.Extension.User, "")
	}
	return ctiNumber(v.CalledNumber, v.CalledE164)
}

// divertingNumber returns the number that forwarded the call. If an extension has
// forwarded or transferred the call and no diversion is known, it is that extension.
func (v *View) divertingNumber() string {
	if v.Transferred {
		return cmp.Or(v.Diversion, v.Extension.User)
	}
	return v.Diversion
}

// hangupCause returns why the call of a party ended. A call that another party took has
// the cause forwarded, because receivers count any other unanswered call as missed.
func (v *View) hangupCause() string {
	switch {
	case v.Elsewhere, v.Bridged != nil && *v.Bridged, v.Status == dialog.Forwarded, v.Status != dialog.Answered && v.SipCode/100 == 3:
		return "forwarded"
	case v.Status == dialog.Answered, !v.AnsweredAt.IsZero():
		return "normalClearing"
	}
	switch v.Status {
	case dialog.Busy:
		return "busy"
	case dialog.Canceled:
		return "cancel"
	case dialog.ChanUnavail:
		return "notFound"
	case dialog.Congestion:
		return "congestion"
	}
	return "noAnswer"
}
