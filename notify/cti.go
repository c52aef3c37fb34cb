package notify

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"

	"bellhop/dialog"
)

// ctiEvents are the events that sipgate's push API and Zammad's Generic CTI
// have, by the types they tell of. They have no others.
var ctiEvents = map[dialog.Type]string{
	dialog.DialIn:  "newCall",
	dialog.DialOut: "newCall",
	dialog.Answer:  "answer",
	dialog.Hangup:  "hangup",
}

// checkCTI refuses what no receiver of the dialect would understand.
func checkCTI(s *Subscription) *Invalid {
	if s.Dialect != CTI {
		return nil
	}
	if s.Method != http.MethodPost {
		return &Invalid{"method", "must be POST with the dialect cti"}
	}
	known := typeMask([]string{"dial-in", "dial-out", "answer", "hangup"})
	for _, t := range s.Types {
		if typeBits[t]&^known != 0 {
			return &Invalid{"types", fmt.Sprintf("has %q, which the dialect cti does not know: it knows dial-in, dial-out, answer, answer-in, answer-out and hangup", t)}
		}
	}
	return nil
}

// cti lists the fields of a Generic CTI event. Its receivers keep one entry for
// each callId, made by its newCall and closed by its hangup, and refuse a second
// newCall: so a callId is a party, and origCallId is the call, as sipgate has it
// when a call rings at several or moves on. If the subscription has one call for all
// who ring, that is the party that rang first.
func (v *view) writeCTI(f *fieldWriter) {
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
		f.writeText("xcid", clean(cmp.Or(v.CallAPIID, v.Call), maxText))
	case dialog.Answer:
		if v.Flow == dialog.In { // the extension that called did not answer
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

// entry is the callId: the party whose newCall the receiver keeps an entry for.
func (v *view) ctiCallID() string {
	if v.group != nil {
		return v.group.first.Party
	}
	return v.Party
}

// ringing is whom a newCall is of.
func (v *view) ringingExtensions() []dialog.Extension {
	if v.group != nil {
		return v.group.ringing
	}
	return []dialog.Extension{v.Extension}
}

// ctiNumber writes a number as sipgate does: one of E.164 without its plus. e164 is
// the number in that form, if it is known. Its receivers put a plus before it, or
// compare it as text.
func ctiNumber(number, e164 string) string {
	number = cmp.Or(e164, number)
	if digits, ok := strings.CutPrefix(number, "+"); ok && digits != "" && strings.Trim(digits, "0123456789") == "" {
		number = digits
	}
	return clean(number, maxText)
}

// ctiTo is the number that was called: the public one, if the call came by it.
func (v *view) ctiTo() string {
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

// answering is the number at which the call was answered.
func (v *view) answeringNumber() string {
	if v.Flow == dialog.In {
		return ctiNumber(v.Extension.User, "")
	}
	return ctiNumber(v.CalledNumber, v.CalledE164)
}

// diverted is the number that sent the call on. A call that an extension's
// forwarding makes was sent on by the extension.
func (v *view) divertingNumber() string {
	if v.Transferred {
		return cmp.Or(v.Diversion, v.Extension.User)
	}
	return v.Diversion
}

// cause is why a party's call is over. What somebody else took is forwarded:
// receivers count any other call without an answer as missed.
func (v *view) hangupCause() string {
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
