package dialog

import (
	"strconv"
	"strings"

	"bellhop/dialog/siptext"
)

// A judge decides why a leg ended.
type judge struct {
	pickups []*leg // legs that may have picked up a call, oldest first

	config    *Config
	directory *directory
}

// An outcome is how a leg or party ended.
type outcome struct {
	status    Status
	code      int    // final response; 0 after a BYE or a time limit
	phrase    string // reason phrase of the response
	q850      int
	by        HangupBy
	elsewhere bool // another leg was answered
}

// reversed returns by with the caller and the callee exchanged.
func (by HangupBy) reversed() HangupBy {
	switch by {
	case ByCaller:
		return ByCallee
	case ByCallee:
		return ByCaller
	}
	return by
}

// statusWeight orders the statuses of several legs. If the legs of a party, or of a
// caller's callees, have ended with different statuses, the one with the highest weight
// counts.
var statusWeight = map[Status]int{
	Unknown:     1,
	Congestion:  2,
	ChanUnavail: 3,
	Busy:        4,
	NoAnswer:    5,
	Forwarded:   6,
	Canceled:    7,
	Answered:    8,
}

// calleeWeight returns the weight that a callee's status has for its caller. FORWARDED
// has the weight of UNKNOWN, because the status of the leg to which the call was
// forwarded counts if it is known.
func calleeWeight(s Status) int {
	if s == Forwarded {
		return statusWeight[Unknown]
	}
	return statusWeight[s]
}

// statusForCode returns the status of a final response by the built-in table. rang reports
// whether the phone rang.
func statusForCode(code int, rang bool) Status {
	switch code {
	case 486, 600, 603:
		return Busy
	case 487:
		return Canceled
	case 404, 410, 430, 484, 485, 604: // 430: the connection to the phone is closed (RFC 5626 §5.3.1)
		return ChanUnavail
	}
	if code == 408 || code == 480 || code/100 == 3 { // not reachable, or no longer
		if rang {
			return NoAnswer
		}
		return ChanUnavail
	}
	return Congestion
}

// q850Status is the status for a Q.850 cause in a final response. For any other cause,
// such as 16, the SIP code decides.
var q850Status = map[int]Status{
	1:  ChanUnavail,
	3:  ChanUnavail,
	17: Busy,
	18: NoAnswer,
	19: NoAnswer,
	20: ChanUnavail,
	21: Busy,
	25: Congestion,
	26: Canceled,
	27: Congestion,
	34: Congestion,
	38: Congestion,
	41: Congestion,
	42: Congestion,
	44: Congestion,
	47: Congestion,
	88: Congestion,
}

// Q.850 causes in the CANCEL of a callee's leg. Asterisk sends 16 on a leg whose call was
// picked up, and on any leg behind a Local channel that it hangs up.
const (
	causePickedUp  = 16
	causeElsewhere = 26
	causeGaveUp    = 127
)

// A reason is the causes in the Reason header fields of a message (RFC 3326). A cause is
// 0 if it is absent.
type reason struct {
	q850, sip int
	q850Zero  bool // it has Q.850;cause=0
}

// answeredElsewhere reports whether another leg answered (RFC 3326, RFC 4412).
func (r reason) answeredElsewhere() bool { return r.sip == 200 || r.q850 == causeElsewhere }

func readReason(head string) (r reason) {
	for name, value := range siptext.Fields(head) {
		if !siptext.SameName(name, "Reason") {
			continue
		}
		for v := range siptext.List(value) {
			protocol, params, _ := strings.Cut(v, ";")
			text, _ := siptext.Param(params, "cause")
			cause, err := strconv.Atoi(text)
			if err != nil || cause < 0 || cause > 999 {
				continue
			}
			switch protocol = strings.TrimSpace(protocol); {
			case strings.EqualFold(protocol, "Q.850"):
				r.q850, r.q850Zero = cause, cause == 0
			case strings.EqualFold(protocol, "SIP"):
				r.sip = cause
			}
		}
	}
	return r
}

// outcomeOfResponse returns the outcome of a leg with the final response m, which is no
// 2xx.
func (j *judge) outcomeOfResponse(l *leg, m *Message) outcome {
	r := readReason(m.Head)
	o := outcome{code: m.Status, phrase: m.Phrase(), q850: r.q850, by: BySystem}
	gaveUp := m.Status == 487 || m.Status == 408 || m.Own
	switch {
	case l.canceled && gaveUp && l.origin == Edge:
		o.status, o.by = Canceled, ByCaller
	case l.canceled && gaveUp:
		if o.q850 == 0 {
			o.q850 = l.cancelReason.q850
		}
		o.status, o.by, o.elsewhere = j.statusOfCanceled(l)
	case m.Status == 487 && m.At.Sub(l.lastHeard) >= timerC:
		o.status = NoAnswer // bellhop's own CANCEL, RFC 3261 §16.8
	default:
		o.status = j.statusOfFinal(l, m, r)
		o.elsewhere = r.answeredElsewhere() && (l.origin == Edge && o.status == Canceled || l.origin == PBX && m.Status == 487) // a phone that refuses does not know of other phones
		if !m.Own && (o.status == Busy || l.origin == PBX) {
			o.by = ByCallee
		}
	}
	return o
}

// outcomeOfLostCancel returns the outcome of a canceled leg whose transaction was lost by
// a restart, so that no final response will come.
func (j *judge) outcomeOfLostCancel(l *leg) outcome {
	if l.origin == Edge {
		return outcome{status: Canceled, by: ByCaller}
	}
	o := outcome{q850: l.cancelReason.q850}
	o.status, o.by, o.elsewhere = j.statusOfCanceled(l)
	return o
}

// statusOfCanceled returns why the PBX canceled a callee's leg. Only what happened up to
// the CANCEL counts. The cases are tested in this order: the caller had left; the CANCEL
// has a clear Reason; another leg was answered; the Reason hints at the caller or at a
// pickup. If none applies, the PBX has given the phone up.
func (j *judge) statusOfCanceled(l *leg) (s Status, by HangupBy, elsewhere bool) {
	switch {
	case l.call.callerLeft(l):
		return Canceled, ByCaller, false
	case l.cancelReason.answeredElsewhere():
		return Canceled, BySystem, true
	case l.cancelReason.q850Zero, l.cancelReason.timedOut(): // its own timer ran out, or the caller left the queue
		return l.unansweredStatus(), BySystem, false
	case l.call.otherLegAnswered(l):
		return Canceled, BySystem, true
	case l.cancelReason.q850 == causeGaveUp, l.cancelReason.sip == 487:
		return Canceled, ByCaller, false
	case l.cancelReason.q850 == causePickedUp && (l.pickedUp || j.pickupAnswered(l)):
		return Canceled, BySystem, true
	}
	return l.unansweredStatus(), BySystem, false
}

// unansweredStatus returns the status of a callee's leg that the PBX gives up.
func (l *leg) unansweredStatus() Status {
	if l.rang.IsZero() {
		return ChanUnavail // its phone was not reached
	}
	return NoAnswer
}

// callerLeft reports whether the caller gave up or hung up before the CANCEL of the
// callee's leg. Two other phones may stand for the caller:
//
// If a transfer was to connect the callee with a phone in another call, that phone counts
// if it hung up at most slowPickupGap before the CANCEL (see noteCallerGone). If the call
// has no caller, or the caller had left before the INVITE of the callee, as after a
// transfer, partnerLeft decides.
func (c *call) callerLeft(callee *leg) bool {
	l := c.caller
	switch {
	case !callee.callerGoneAt.IsZero() && callee.canceledAt.Sub(callee.callerGoneAt) <= slowPickupGap:
		return true
	case l == nil || !l.ended.IsZero() && l.ended.Before(callee.began):
		return c.partnerLeft(callee)
	case l.origin == Edge && l.canceled && l.answered.IsZero():
		return !l.canceledAt.After(callee.canceledAt)
	}
	return l.state == over && l.endedBy == ByCaller && !l.ended.After(callee.canceledAt)
}

// noteCallerGone applies the end of leg l to another call, if a transfer was to connect
// the phone of l with a callee of that call (see call.handedOnTo). If the phone has hung
// up, nobody waits any longer for the callees that ring in that call.
func (t *legTracker) noteCallerGone(l *leg) {
	c := t.index.callByCallID[l.call.handedOnTo]
	if c == nil || l.call.handedOnTo == "" || l.hasReferred || l.origin == Edge && l.endedBy != ByCaller || l.origin == PBX && l.endedBy != ByCallee {
		return
	}
	for _, o := range c.legs {
		if o.origin == PBX && o.state < challenged {
			o.callerGoneAt = l.ended
			t.changes.mark(c)
		}
	}
}

// partnerLeft reports whether the partner of the callee hung up between the callee's
// INVITE and its CANCEL. The partner is the phone that the PBX was to connect with the
// callee, and which it had called before: for a callback, or in a call whose caller has
// transferred that phone. A phone that has sent a REFER does not count, because it waits
// for nobody. The result is false if another phone that the PBX had called before was
// still there at the CANCEL.
func (c *call) partnerLeft(callee *leg) (left bool) {
	for _, o := range c.legs {
		switch {
		case o == callee || o.origin != PBX || o.answered.IsZero() || !o.answered.Before(callee.began):
		case o.state == talking || o.ended.After(callee.canceledAt):
			return false // the PBX still rings the callee for this phone
		case o.endedBy == ByCallee && !o.hasReferred && !o.ended.Before(callee.began):
			left = true
		}
	}
	return left
}

// statusOfFinal returns the status of a leg that the final response m refused. A caller's
// leg has the status of the callees, if that is known, because the PBX's own response is
// less precise. This does not apply to a 3xx with a Contact.
//
// Otherwise the status is the first of these that exists: the status of m's Reason, the
// configured status of the code, FORWARDED for a 3xx with a Contact, and the result of
// statusForCode.
func (j *judge) statusOfFinal(l *leg, m *Message, r reason) Status {
	code, forwards := m.Status, m.Status/100 == 3 && siptext.Field(m.Head, "Contact") != ""
	if l.origin == Edge && !forwards {
		if s := l.call.calleesStatus(); s != "" {
			return s
		}
	}
	own := l.origin == PBX && code != 487 // the refusal of a phone, which does not know of other phones
	if s := r.status(); s != "" && !(s == Canceled && own) {
		return s
	}
	if s, ok := j.config.Status[code]; ok {
		return s
	}
	if forwards {
		return Forwarded
	}
	return statusForCode(code, !l.rang.IsZero())
}
