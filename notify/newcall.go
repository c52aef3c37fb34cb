package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/schedule"
)

// A receiver of the dialect cti opens an entry for a party when it gets the newCall of
// that party. Without the entry it refuses answer and hangup, however often they are
// sent. Answer and hangup are therefore owed only if the newCall was delivered. Otherwise
// they expire, and the delivery log tells why. For subscriptions that group calls,
// group.go decides which newCall counts.
//
// The scheduler holds the outcome of each newCall whose delivery it has seen. After a
// restart or a failover, the outcome is read from the delivery log. A newCall was never
// owed if it was published before the subscription was created or last changed.

// errNotOwed reports that an answer or hangup is not to be delivered.
var errNotOwed = errors.New("not sent")

// reasonTooEarly is the reason of an answer or hangup that is not owed because its
// newCall was not owed; see [schedule.ReasonUndelivered] for the other reason.
const reasonTooEarly = "its newCall was published before the subscription was created or last changed"

// checkNewCall returns errNotOwed if an answer or hangup is not owed, by the outcome of
// its newCall in the delivery log. It is called if this process has not seen the newCall.
// Any other error comes from the store.
func (n *Notifier) checkNewCall(ctx context.Context, s *Subscription, e *dialog.Event) error {
	if s.Dialect != CTI {
		return nil
	}
	id := dialog.EventID(e.Party, schedule.NewCallType(e.Flow))
	switch ended, err := n.lastOutcome(ctx, s.ID, id); {
	case err != nil:
		return err
	case ended == Expired, ended == Refused, ended == Canceled:
		return fmt.Errorf("%w: %s", errNotOwed, schedule.ReasonUndelivered)
	case ended != "":
		return nil
	}
	// The newCall succeeded at the first attempt, or the delivery log does not have it.
	switch m, err := n.EventLog.Lookup(ctx, id); {
	case err == ErrEventGone:
		return nil
	case err != nil:
		return err
	case m.Time.Before(s.AskedSince()):
		return fmt.Errorf("%w: %s", errNotOwed, reasonTooEarly)
	}
	return nil
}

// lastOutcome returns the last outcome of a delivery that the delivery log has under the
// delivery's own subject, or "" if it has none. It has none for most deliveries that
// succeeded at the first attempt.
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
	if s.Dialect != CTI || !schedule.IsNewCall(t) || status < 400 || status == http.StatusGone {
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
