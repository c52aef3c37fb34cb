package dialog

// FreeSWITCH has hangup causes that are not in Q.850. It sends them in a Reason as
// SIP;cause=N, where N is no SIP response code. Its switch_types.h has their names.
const (
	firstOwnCause        = 700
	lastOwnCause         = 899
	causeAllottedTimeout = 802
	causeProgressTimeout = 807
)

// freeSWITCHStatus has the status of a leg that was not answered, by FreeSWITCH's own
// hangup cause. For any other cause the SIP code decides.
var freeSWITCHStatus = map[int]Status{
	causeAllottedTimeout: NoAnswer,
	806:                  ChanUnavail, // USER_NOT_REGISTERED
	causeProgressTimeout: NoAnswer,
	808:                  Congestion,  // INVALID_GATEWAY
	809:                  Congestion,  // GATEWAY_DOWN
	810:                  ChanUnavail, // INVALID_URL
	811:                  Congestion,  // INVALID_PROFILE
	815:                  Busy,        // BUSY_EVERYWHERE
	816:                  Busy,        // DECLINE
	817:                  ChanUnavail, // DOES_NOT_EXIST_ANYWHERE
	818:                  Congestion,  // NOT_ACCEPTABLE
}

// timedOut reports whether the PBX ended the leg because nobody answered in time. An
// answer on another leg is then not the cause.
func (r reason) timedOut() bool {
	return r.q850 == 18 || r.q850 == 19 || r.sip == causeAllottedTimeout || r.sip == causeProgressTimeout
}

// endedByPBX reports whether FreeSWITCH ended an answered leg by its own decision: no
// media came, the allowed time was over, a transfer led nowhere, or it shuts down.
func (r reason) endedByPBX() bool { return r.sip >= firstOwnCause && r.sip <= lastOwnCause }

// failed reports whether the reason has a Q.850 cause other than 16 (normal clearing). A
// PBX that ends an answered leg gives such a cause if it did not reach the next callee.
func (r reason) failed() bool { return r.q850 > 0 && r.q850 != causePickedUp }

// status returns the status that the reason implies for a leg that was not answered; ""
// if it implies none.
func (r reason) status() Status {
	if s, ok := q850Status[r.q850]; ok {
		return s
	}
	return freeSWITCHStatus[r.sip]
}
