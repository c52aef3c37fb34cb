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

// reasonTooEarly is why an answer or hangup is not owed; see [schedule.ReasonUndelivered].
const reasonTooEarly = "its newCall was published before the subscription was created or last changed"

// checkNewCall checks in the delivery log that an answer or hangup is owed if this process
// has not seen its newCall. The error is errNotOwed, or of the store.
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
