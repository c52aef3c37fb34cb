package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// Receivers of the dialect cti keep an entry for each party: its newCall makes it,
// and without it they refuse its answer and its hangup, for as long as these are
// sent. So answer and hangup are owed only if the newCall was delivered; else they
// expire, and the delivery log says why. Where all parties that ring in a call are one
// call for the receiver, group.go says which newCall it is.
//
// Whether it was is known in memory for each party that is under way. A process that
// has just begun to deliver, because bellhop was restarted or another node died, finds
// it in the delivery log, and by the time since when the subscription is as it is.

// errNotOwed says why an answer or hangup is not delivered.
var errNotOwed = errors.New("not sent")

const (
	whyUndelivered = "its newCall was not delivered"
	whyLater       = "its newCall was before the subscription was as it is"
)

// newCall is how the newCall of a party stands with one target.
type newCall struct {
	seq   uint64 // of its event in the log
	state newCallState
	urls  *callURLs // that its receiver named; nil: none
}

type newCallState uint8

const (
	owed        newCallState = iota // it waits, or is under way
	begun                           // it was delivered
	undelivered                     // it expired, or was refused or canceled
)

// maxCalls is how many parties of one target are remembered.
const maxCalls = 100_000

// isNewCall reports whether the dialect cti tells of a type as newCall.
func isNewCall(t dialog.Type) bool { return t == dialog.DialIn || t == dialog.DialOut }

// newCallType is the type of the event that an answer or hangup follows.
func newCallType(f dialog.Flow) dialog.Type {
	if f == dialog.In {
		return dialog.DialIn
	}
	return dialog.DialOut
}

// keepsCalls reports whether a subscription has its receiver keep an entry for the
// party of an event. One that does not ask for newCall has it keep none.
func (t *target) keepsCalls(e *dialog.Event) bool {
	return t.sub.Dialect == CTI && e.Party != "" && t.wants&typeBits[string(newCallType(e.Flow))] != 0
}

// follow has a delivery that joins t depend on the newCall of its party, or others
// on it.
func (t *target) follow(d *delivery) {
	if d.event != nil && t.keepsCalls(d.event) {
		d.party = d.event.Party
	}
	if t.sub.groups() && (d.kind == dialog.DialIn || d.event != nil && d.event.Flow == dialog.In) {
		d.inGroup = true // joinGroup looks up the rest
		return
	}
	if d.party == "" || t.sub.Dialect != CTI {
		return
	}
	c, known := t.calls[d.party]
	switch {
	case !isNewCall(d.kind):
		d.unsure = !known
	case !known || c.state == owed:
		t.setCall(d.party, newCall{seq: d.seq, state: owed})
	}
}

func (t *target) setCall(party string, c newCall) {
	if t.calls == nil || len(t.calls) >= maxCalls {
		t.calls = make(map[string]newCall)
	}
	t.calls[party] = c
}

// concludes notes how a delivery ended, for what follows it.
func (t *target) concludes(d *delivery, o outcome) {
	switch {
	case d.inGroup:
		t.concludesGroup(d, o)
	case d.party == "":
	case d.kind == dialog.Hangup:
		delete(t.calls, d.party)
	case !isNewCall(d.kind):
	case o == delivered:
		t.setCall(d.party, newCall{d.seq, begun, d.urls})
	case t.calls[d.party].state != begun:
		t.setCall(d.party, newCall{seq: d.seq, state: undelivered})
	}
}

// begins notes that the newCall at a place of the log was delivered after all, and the
// URLs that its receiver named.
func (t *target) begins(seq uint64, urls *callURLs) {
	for party, c := range t.calls {
		if c.seq == seq {
			t.calls[party] = newCall{seq, begun, urls}
		}
	}
}

// notOwed says why d is not owed, or "" as far as t knows.
func (t *target) notOwed(d *delivery) string {
	if d.party != "" && t.sub.Dialect == CTI && !isNewCall(d.kind) && t.calls[d.party].state == undelivered {
		return whyUndelivered
	}
	return ""
}

// checkOwed looks up whether an answer or hangup is owed whose newCall this process
// has not met. The error is errNotOwed, or of the store.
func (n *Notifier) checkOwed(ctx context.Context, s *Subscription, e *dialog.Event) error {
	if s.Dialect != CTI {
		return nil
	}
	id := dialog.EventID(e.Party, newCallType(e.Flow))
	switch ended, err := n.lastOutcome(ctx, s.ID, id); {
	case err != nil:
		return err
	case ended == Expired, ended == Refused, ended == Canceled:
		return fmt.Errorf("%w: %s", errNotOwed, whyUndelivered)
	case ended != "":
		return nil
	}
	// It was delivered at once, or is not known here.
	switch m, err := n.said(ctx, id); {
	case err == ErrEventGone:
		return nil
	case err != nil:
		return err
	case m.Time.Before(s.since()):
		return fmt.Errorf("%w: %s", errNotOwed, whyLater)
	}
	return nil
}

// lastOutcome is the last word that the delivery log has of a delivery that was not
// delivered at once; "" if it has none.
func (n *Notifier) lastOutcome(ctx context.Context, subscription, event string) (string, error) {
	m, err := n.attempts.GetLastMsgForSubject(ctx, attemptSubject(subscription, event))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read ATTEMPTS: %w", err)
	}
	all, err := unpack(m.Data)
	if err != nil || len(all) == 0 {
		return "", err
	}
	last := all[len(all)-1].Outcome
	if last != Failed { // of an attempt by hand, which changes nothing
		return last, nil
	}
	d, err := n.Delivery(ctx, deliveryID(event, subscription))
	if err == ErrNoDelivery {
		return "", nil
	}
	return d.State, err
}

// alreadyExists reports whether an answer refuses a newCall because its receiver has
// it: an attempt before, whose answer did not come, was successful.
func alreadyExists(s *Subscription, t dialog.Type, status int, body []byte) bool {
	if s.Dialect != CTI || !isNewCall(t) || status < 400 || status == http.StatusGone {
		return false
	}
	if status == http.StatusConflict {
		return true
	}
	body = bytes.ToLower(body)
	for _, word := range []string{"already exist", "already been taken", "already known", "duplicate"} {
		if bytes.Contains(body, []byte(word)) {
			return true
		}
	}
	return false
}
