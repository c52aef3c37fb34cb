package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/subscription"
)

// A receiver of the dialect cti keeps an entry for each party, which the newCall of that
// party opens. Without the entry it refuses answer and hangup, however often they are
// sent. Answer and hangup are therefore owed only if the newCall was delivered; otherwise
// they expire, and the delivery log tells why. For subscriptions that group calls,
// group.go decides which newCall counts.
//
// The scheduler remembers the newCall of each party whose deliveries it has seen. After a
// restart or a failover, its outcome is read from the delivery log. A newCall published
// before the last change of what the subscription asks for was never owed.

// errNotOwed reports that an answer or hangup is not to be delivered.
var errNotOwed = errors.New("not sent")

const (
	reasonUndelivered = "its newCall was not delivered"
	reasonTooEarly    = "its newCall was published before the subscription was created or last changed"
)

// newCall is the state of the newCall of a party at one subscriber.
type newCall struct {
	seq   uint64 // position of its event in the log
	state newCallState
	urls  *callURLs // named by the receiver; nil: none
}

// newCallState is the state of the delivery of a newCall.
type newCallState uint8

const (
	newCallPending   newCallState = iota // it waits, or is in flight
	newCallDelivered                     // it was delivered
	newCallFailed                        // it expired, or was refused or canceled
)

// maxNewCalls is how many parties are remembered for one subscriber.
const maxNewCalls = 100_000

// isNewCall reports whether the dialect cti sends a type as newCall.
func isNewCall(t dialog.Type) bool { return t == dialog.DialIn || t == dialog.DialOut }

// newCallType returns the type of the event that an answer or hangup of a flow follows.
func newCallType(f dialog.Flow) dialog.Type {
	if f == dialog.In {
		return dialog.DialIn
	}
	return dialog.DialOut
}

// dependsOnNewCall reports whether the receiver keeps an entry for the party of an event.
// It keeps none if the subscription does not include the type of the newCall.
func (sr *subscriber) dependsOnNewCall(e *dialog.Event) bool {
	return sr.sub.Dialect == CTI && e.Party != "" && sr.filter.Types&subscription.MaskOf(string(newCallType(e.Flow))) != 0
}

// linkNewCall records that a delivery depends on the newCall of its party, or that it is
// that newCall.
func (sr *subscriber) linkNewCall(d *delivery) {
	if d.event != nil && sr.dependsOnNewCall(d.event) {
		d.party = d.event.Party
	}
	if sr.sub.GroupsCalls() && (d.kind == dialog.DialIn || d.event != nil && d.event.Flow == dialog.In) {
		d.inGroup = true // joinGroup looks the newCall up
		return
	}
	if d.party == "" || sr.sub.Dialect != CTI {
		return
	}
	c, known := sr.newCalls[d.party]
	switch {
	case !isNewCall(d.kind):
		d.newCallUnknown = !known
	case !known || c.state == newCallPending:
		sr.setNewCall(d.party, newCall{seq: d.seq, state: newCallPending})
	}
}

// setNewCall records the newCall of a party; beyond maxNewCalls all others are forgotten.
func (sr *subscriber) setNewCall(party string, c newCall) {
	if sr.newCalls == nil || len(sr.newCalls) >= maxNewCalls {
		sr.newCalls = make(map[string]newCall)
	}
	sr.newCalls[party] = c
}

// noteEnd records how a delivery ended, for the deliveries that depend on it.
func (sr *subscriber) noteEnd(d *delivery, o outcome) {
	switch {
	case d.inGroup:
		sr.noteGroupEnd(d, o)
	case d.party == "":
	case d.kind == dialog.Hangup:
		delete(sr.newCalls, d.party)
	case !isNewCall(d.kind):
	case o == delivered:
		sr.setNewCall(d.party, newCall{d.seq, newCallDelivered, d.urls})
	case sr.newCalls[d.party].state != newCallDelivered:
		sr.setNewCall(d.party, newCall{seq: d.seq, state: newCallFailed})
	}
}

// noteNewCallDelivered records that the newCall at position seq was redelivered, and the
// URLs that its response named.
func (sr *subscriber) noteNewCallDelivered(seq uint64, urls *callURLs) {
	for party, c := range sr.newCalls {
		if c.seq == seq {
			sr.newCalls[party] = newCall{seq, newCallDelivered, urls}
		}
	}
}

// notOwedReason returns why d is not owed, or "" as far as sr knows.
func (sr *subscriber) notOwedReason(d *delivery) string {
	if d.party != "" && sr.sub.Dialect == CTI && !isNewCall(d.kind) && sr.newCalls[d.party].state == newCallFailed {
		return reasonUndelivered
	}
	return ""
}

// checkNewCall checks in the delivery log that an answer or hangup is owed if this process
// has not seen its newCall. The error is errNotOwed, or of the store.
func (n *Notifier) checkNewCall(ctx context.Context, s *Subscription, e *dialog.Event) error {
	if s.Dialect != CTI {
		return nil
	}
	id := dialog.EventID(e.Party, newCallType(e.Flow))
	switch ended, err := n.lastOutcome(ctx, s.ID, id); {
	case err != nil:
		return err
	case ended == Expired, ended == Refused, ended == Canceled:
		return fmt.Errorf("%w: %s", errNotOwed, reasonUndelivered)
	case ended != "":
		return nil
	}
	// The newCall succeeded at once, or the delivery log does not have it.
	switch m, err := n.events.Lookup(ctx, id); {
	case err == ErrEventGone:
		return nil
	case err != nil:
		return err
	case m.Time.Before(s.AskedSince()):
		return fmt.Errorf("%w: %s", errNotOwed, reasonTooEarly)
	}
	return nil
}

// lastOutcome returns the last outcome in the delivery log of a delivery that did not
// succeed at once; "" if there is none.
func (n *Notifier) lastOutcome(ctx context.Context, subscription, event string) (string, error) {
	last, err := n.deliveryLog.LastRecord(ctx, subscription, event)
	if err != nil || last == nil {
		return "", err
	}
	if last.Outcome != Failed { // of a redelivery, which changes nothing
		return last.Outcome, nil
	}
	d, err := n.Delivery(ctx, deliverylog.ID(event, subscription))
	if err == ErrNoDelivery {
		return "", nil
	}
	return d.State, err
}

// alreadyExists reports whether a response refuses a newCall because the receiver has it
// already: an earlier attempt succeeded, but its response was lost.
func alreadyExists(s *Subscription, t dialog.Type, status int, body []byte) bool {
	if s.Dialect != CTI || !isNewCall(t) || status < 400 || status == http.StatusGone {
		return false
	}
	if status == http.StatusConflict {
		return true
	}
	body = bytes.ToLower(body)
	for _, phrase := range []string{"already exist", "already been taken", "already known", "duplicate"} {
		if bytes.Contains(body, []byte(phrase)) {
			return true
		}
	}
	return false
}
