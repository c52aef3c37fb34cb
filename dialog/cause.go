package dialog

// FreeSWITCH has hangup causes that are not in Q.850. A Reason header field has them as
// SIP;cause=N, with numbers that no SIP response has (its switch_types.h names them).
const (
	firstOwnCause        = 700
	lastOwnCause         = 899
	causeAllottedTimeout = 802
	causeProgressTimeout = 807
)

// freeSWITCHStatus is the status of a leg that was not answered, by FreeSWITCH's own hangup
// cause. For a cause that is not listed the SIP code decides.
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

// timedOut reports whether a timer of the PBX has ended the leg: nobody answered in time,
// whatever another leg has done since.
func (r reason) timedOut() bool {
	return r.q850 == 18 || r.q850 == 19 || r.sip == causeAllottedTimeout || r.sip == causeProgressTimeout
}

// endedByPBX reports whether the PBX has ended an answered leg by itself: no media came,
// the allowed time was over, a transfer led nowhere, or the PBX shuts down.
func (r reason) endedByPBX() bool { return r.sip >= firstOwnCause && r.sip <= lastOwnCause }

// failed reports whether a Q.850 cause shows that a call could not go on. A PBX that ends an
// answered leg gives such a cause if it did not reach the next callee.
func (r reason) failed() bool { return r.q850 > 0 && r.q850 != causePickedUp }

// status returns the status that a reason gives to a leg which was not answered; "": none.
func (r reason) status() Status {
	if s, ok := q850Status[r.q850]; ok {
		return s
	}
	return freeSWITCHStatus[r.sip]
}
