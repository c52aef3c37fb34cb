package notify

import (
	"cmp"
	"fmt"
	"net/http"

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
	known := wants([]string{"dial-in", "dial-out", "answer", "hangup"})
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
// when a call rings at several or moves on.
func (v *view) cti(f *fields) {
	f.text("event", ctiEvents[v.Type])
	f.text("from", clean(cmp.Or(v.CallerNum, "anonymous"), maxText))
	f.text("to", clean(v.ctiTo(), maxText))
	f.text("direction", string(v.Flow))
	f.text("callId", v.Party)
	f.text("origCallId", v.Call)
	switch v.Type {
	case dialog.DialIn, dialog.DialOut:
		f.list("user", v.user(&v.Extension))
	case dialog.Answer:
		if v.Flow == dialog.In { // who called is not who answered
			f.text("user", v.user(&v.Extension))
		}
		f.text("answeringNumber", clean(v.answering(), maxText))
	case dialog.Hangup:
		f.text("cause", v.cause())
		if !v.AnsweredAt.IsZero() {
			f.text("answeringNumber", clean(v.answering(), maxText))
		}
	}
	f.text("diversion", clean(v.diverted(), maxText))
}

// ctiTo is the number that was called: the public one, if the call came by it.
func (v *view) ctiTo() string {
	if v.Flow == dialog.In {
		return cmp.Or(v.CalledDID, v.CalledNumber, v.Extension.User)
	}
	return v.CalledNumber
}

// answering is the number at which the call was answered.
func (v *view) answering() string {
	if v.Flow == dialog.In {
		return v.Extension.User
	}
	return v.CalledNumber
}

// diverted is the number that sent the call on. A call that an extension's
// forwarding makes was sent on by the extension.
func (v *view) diverted() string {
	if v.Transferred {
		return cmp.Or(v.Diversion, v.Extension.User)
	}
	return v.Diversion
}

// cause is why a party's call is over. What somebody else took is forwarded:
// receivers count any other call without an answer as missed.
func (v *view) cause() string {
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
