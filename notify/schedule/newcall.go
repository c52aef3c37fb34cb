package schedule

import (
	"net/url"

	"bellhop/dialog"
	"bellhop/notify/payload"
	"bellhop/notify/subscription"
)

// A receiver of the dialect cti keeps an entry for each party, which the newCall of that
// party opens. Without the entry it refuses answer and hangup, however often they are
// sent. So answer and hangup are owed only if the newCall was delivered; otherwise they
// expire.
//
// A subscriber records the newCall of each party. If it has no record, as after a
// restart, the sender looks the newCall up before the attempt. The sender also does so
// for subscriptions that group the parties of a call (see [subscription.Group]).

// A dependency is how a delivery of the dialect cti depends on the newCall of its party.
// Deliveries of other dialects have the zero value: they depend on nothing.
type dependency struct {
	party     string    // whose newCall this is, or depends on
	unknown   bool      // this process has not seen the newCall on which it depends
	grouped   bool      // the newCall is that of a group, which the sender looks up
	postponed bool      // an attempt was postponed for other events of the call; happens once
	urls      *CallURLs // of a newCall: the URLs that its response named
}

// ReasonUndelivered is why an answer or hangup is not owed.
const ReasonUndelivered = "its newCall was not delivered"

// A NewCall records the delivery of the newCall of one party, or of one group, to one
// subscription: its state, and the URLs that the response named.
type NewCall struct {
	Seq   uint64 // position of its event in the log
	State NewCallState
	URLs  *CallURLs // named by the receiver; nil: none
}

// NewCallState is the state of the delivery of a newCall.
type NewCallState uint8

const (
	NewCallPending   NewCallState = iota // it waits, or is in flight
	NewCallDelivered                     // it was delivered
	NewCallFailed                        // it expired, or was refused or canceled
)

// maxNewCalls is how many newCalls are recorded for one subscriber.
const maxNewCalls = 100_000

// IsNewCall reports whether the dialect cti sends events of type t as newCall.
func IsNewCall(t dialog.Type) bool { return t == dialog.DialIn || t == dialog.DialOut }

// NewCallType returns the event type that the dialect cti sends as the newCall before an
// answer or hangup with flow f.
func NewCallType(f dialog.Flow) dialog.Type {
	if f == dialog.In {
		return dialog.DialIn
	}
	return dialog.DialOut
}

// CallURLs are the URLs that a receiver has named for the events after a newCall. A nil
// *CallURLs names none, and so does a nil URL.
type CallURLs struct {
	Answer, Hangup *url.URL
}

// For returns the URL that is named for events of type t, or nil.
func (u *CallURLs) For(t dialog.Type) *url.URL {
	switch {
	case u == nil:
		return nil
	case t == dialog.Answer:
		return u.Answer
	case t == dialog.Hangup:
		return u.Hangup
	}
	return nil
}

// Text returns the URLs as text; "" for each that is not named.
func (u *CallURLs) Text() (onAnswer, onHangup string) {
	if u == nil {
		return "", ""
	}
	if u.Answer != nil {
		onAnswer = u.Answer.String()
	}
	if u.Hangup != nil {
		onHangup = u.Hangup.String()
	}
	return onAnswer, onHangup
}

// ParseCallURLs parses the result of Text.
func ParseCallURLs(onAnswer, onHangup string) *CallURLs {
	if onAnswer == "" && onHangup == "" {
		return nil
	}
	u := new(CallURLs)
	if onAnswer != "" {
		u.Answer, _ = url.Parse(onAnswer) // both were parsed when they were named
	}
	if onHangup != "" {
		u.Hangup, _ = url.Parse(onHangup)
	}
	return u
}

// dependsOnNewCall reports whether e depends on a newCall: either the receiver can use e
// only after it got the newCall, or e is that newCall. This is so if the dialect is cti,
// e has a party, and the subscription includes the event type that is sent as newCall.
func (sr *subscriber) dependsOnNewCall(e *dialog.Event) bool {
	return sr.sub.Dialect == payload.CTI && e.Party != "" && sr.filter.Types&subscription.MaskOf(string(NewCallType(e.Flow))) != 0
}

// linkNewCall sets the dependency of d on the newCall of its party or group. If d is
// itself the newCall of a party, linkNewCall records that it is pending, unless an
// earlier one has ended.
func (sr *subscriber) linkNewCall(d *delivery) {
	dep := &d.dependency
	if d.event != nil && sr.dependsOnNewCall(d.event) {
		dep.party = d.event.Party
	}
	if sr.sub.GroupsCalls() && (d.kind == dialog.DialIn || d.event != nil && d.event.Flow == dialog.In) {
		dep.grouped = true
		return
	}
	if dep.party == "" || sr.sub.Dialect != payload.CTI {
		return
	}
	c, known := sr.newCalls[dep.party]
	switch {
	case !IsNewCall(d.kind):
		dep.unknown = !known
	case !known || c.State == NewCallPending:
		sr.setNewCall(dep.party, NewCall{Seq: d.seq, State: NewCallPending})
	}
}

// setNewCall records the newCall of a party. If maxNewCalls are recorded, it first evicts
// all of them.
func (sr *subscriber) setNewCall(party string, c NewCall) {
	if sr.newCalls == nil || len(sr.newCalls) >= maxNewCalls {
		sr.newCalls = make(map[string]NewCall)
	}
	sr.newCalls[party] = c
}

// noteEnd records how a newCall ended, for the deliveries that depend on it. The end of a
// hangup removes the record of its party. The end of any other event changes nothing.
func (sr *subscriber) noteEnd(d *delivery, o Outcome) {
	party := d.dependency.party
	switch {
	case d.dependency.grouped:
		sr.noteGroupEnd(d, o)
	case party == "":
	case d.kind == dialog.Hangup:
		delete(sr.newCalls, party)
	case !IsNewCall(d.kind):
	case o == Delivered:
		sr.setNewCall(party, NewCall{d.seq, NewCallDelivered, d.dependency.urls})
	case sr.newCalls[party].State != NewCallDelivered:
		sr.setNewCall(party, NewCall{Seq: d.seq, State: NewCallFailed})
	}
}

// groupKey returns the key in newCalls for the groups of the call of q.
func groupKey(q *queue) string { return "call " + q.order }

// noteGroupEnd records how the newCall of a group ended. The end of a hangup removes that
// record. An answer changes nothing, nor does a canceled delivery, such as one that was
// merged into another.
func (sr *subscriber) noteGroupEnd(d *delivery, o Outcome) {
	switch {
	case o == Canceled, d.kind == dialog.Answer:
	case d.kind == dialog.Hangup:
		delete(sr.newCalls, groupKey(d.queue))
	case o == Delivered:
		sr.setNewCall(groupKey(d.queue), NewCall{d.seq, NewCallDelivered, d.dependency.urls})
	default:
		sr.setNewCall(groupKey(d.queue), NewCall{Seq: d.seq, State: NewCallFailed})
	}
}

// noteNewCallDelivered records that the newCall at position seq was redelivered, and the
// URLs that its response named.
func (sr *subscriber) noteNewCallDelivered(seq uint64, urls *CallURLs) {
	for party, c := range sr.newCalls {
		if c.Seq == seq {
			sr.newCalls[party] = NewCall{seq, NewCallDelivered, urls}
		}
	}
}

// notOwedReason returns why d is not owed, or "" if it is owed as far as sr knows.
func (sr *subscriber) notOwedReason(d *delivery) string {
	party := d.dependency.party
	if party != "" && sr.sub.Dialect == payload.CTI && !IsNewCall(d.kind) && sr.newCalls[party].State == NewCallFailed {
		return ReasonUndelivered
	}
	return ""
}

// noteURLs records the URLs that the receiver has named for the party of d. If d is a
// newCall, they are in the response to this attempt. Otherwise the attempt may have
// looked them up in the delivery log.
func (sr *subscriber) noteURLs(d *delivery, r *Result) {
	dep := &d.dependency
	switch {
	case IsNewCall(d.kind):
		if r.Outcome == Delivered {
			dep.urls = r.URLs
		}
	case r.LoggedURLs != nil && dep.party != "" && !dep.grouped && sr.newCalls[dep.party].State != NewCallDelivered:
		sr.setNewCall(dep.party, NewCall{State: NewCallDelivered, URLs: r.LoggedURLs})
	}
}

// clearURLs removes all URLs that the receiver has named, because the subscription has
// changed.
func (sr *subscriber) clearURLs() {
	for key, c := range sr.newCalls {
		c.URLs = nil
		sr.newCalls[key] = c
	}
}

// namedFor returns the URL that the receiver has named for d, or nil if sr knows none.
// The attempt may find another one in the delivery log.
func (sr *subscriber) namedFor(d *delivery) *url.URL {
	if !sr.sub.FollowsURLs() || IsNewCall(d.kind) {
		return nil
	}
	c, known := sr.newCalls[d.dependency.party]
	if !known && sr.sub.GroupsCalls() {
		c = sr.newCalls[groupKey(d.queue)]
	}
	return c.URLs.For(d.kind)
}
