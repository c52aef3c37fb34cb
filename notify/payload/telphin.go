package payload

import (
	"cmp"
	"strconv"

	"bellhop/dialog"
)

// writeCallFields writes the ten fields that unified and telphin share.
func (v *View) writeCallFields(f *fieldWriter, callerName string, extension func(*dialog.Extension) string) {
	f.writeText("CallID", v.Call)
	f.writeText("CallerIDNum", v.clean(v.CallerNum))
	f.writeText("CallerIDName", v.clean(callerName))
	f.writeText("CalledDID", v.clean(v.CalledDID))
	f.writeText("CalledExtension", extension(v.Called))
	f.writeText("CallStatus", v.statusWord())
	f.writeText("CallFlow", v.flowWord())
	f.writeText("CallerExtension", extension(v.Caller))
	f.writeText("CalledNumber", v.clean(v.CalledNumber))
	f.writeText("CallAPIID", v.clean(v.CallAPIID))
}

// writeUnified writes the ten fields of the UnifiedAPI, empty ones too. The receiver knows
// the event type by the URL.
func (v *View) writeUnified(f *fieldWriter) {
	f.writeEmpty = true
	v.writeCallFields(f, v.CallerName, v.userName)
}

// writeTelphin writes all known values under the names of Telphin's documentation,
// including its spelling Transfered. Receivers require a name and a CallerExtension. If
// an outside caller has no name, the name is the number. The CallerExtension of such a
// call is the queue or menu that distributed it.
func (v *View) writeTelphin(f *fieldWriter) {
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
		f.writeText("SubCallID", strconv.FormatUint(v.OwnID, 10)+"-"+v.Party)
	}
	f.writeNonZero("CalledExtensionID", int64(v.CalledID))
	f.writeNonZero("CallerExtensionID", int64(v.CallerID))
	f.writeText("RecID", v.clean(v.RecID))
	f.writeText("Diversion", v.clean(v.Diversion))
	f.writeYes("Transfered", v.Transferred)
	f.writeYesNo("Bridged", v.Bridged)
	f.writeNonZero("BridgedDuration", v.BridgedFor.Microseconds())
	f.writeText("CallBackID", v.clean(v.CallBackID))
	f.writeText("ClientApiID", v.clean(v.ClientAPIID))
	f.writeText("RemoteNumber", v.clean(v.RemoteNumber))
	f.writeText("ANI", v.clean(v.ANI))
	f.writeText("Tag", v.clean(v.Tag))
	f.writeText("MessageText", v.cleanMessage())
	f.writeText("ContentType", v.clean(v.ContentType))
	if s := v.Subscription; s != nil {
		f.writeText("Extension", v.userAtDomain(&v.Extension))
		f.writeText("SubscriptionID", s.ID)
		f.writeText("SubscriptionState", s.State)
		f.writeText("Why", v.clean(s.Why))
	}
	if v.format.Extended {
		v.writeExtended(f)
	}
}

// writeExtended writes values that the original API does not have, under names in its
// style.
func (v *View) writeExtended(f *fieldWriter) {
	f.writeText("EventID", v.ID)
	f.writeNonZero("Sequence", int64(v.Seq))
	f.writeNonZero("SipCode", int64(v.SipCode))
	f.writeText("SipReason", v.clean(v.SipReason))
	f.writeNonZero("Q850", int64(v.Q850))
	f.writeText("HangupBy", string(v.HangupBy))
	f.writeNonZero("RingDuration", v.RingDuration.Microseconds())
	f.writeNonZero("SetupTime", v.SetupTime.Microseconds())
	f.writeYes("AnsweredElsewhere", v.Elsewhere)
	f.writeYesNo("Missed", v.Missed)
	f.writeText("Correlation", v.Correlation)
	f.writeYes("Recovered", v.Recovered)
	f.writeText("UserAgent", v.clean(v.UserAgent))
	f.writeText("Verstat", v.clean(v.Verstat))
	f.writeText("OtherCallID", v.OtherCall)
	f.writeText("CallerNumberE164", v.CallerE164)
	f.writeText("CalledNumberE164", v.CalledE164)
	f.writeText("CallerIDNumRaw", v.clean(v.CallerNumRaw))
	f.writeText("CalledNumberRaw", v.clean(v.CalledNumberRaw))
	f.writeYes("Privacy", v.Privacy)
	if f.values != nil {
		return // header names of the config are no template variables
	}
	for _, h := range v.Headers {
		f.writeText(v.clean(h[0]), v.clean(h[1]))
	}
}
