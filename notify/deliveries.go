package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/schedule"
	"bellhop/notify/stream"
)

// A DeliveryQuery selects deliveries. The zero value selects all.
type DeliveryQuery struct {
	Subscriptions []string // of these; nil: of all
	State         string   // Waiting, Delivered, Expired, Refused or Canceled; "": any
	Cursor        string   // next of the previous page
	Limit         int      // 0: 50; at most 200
}

var (
	ErrNoDelivery = errors.New("no such delivery")
	ErrCursor     = deliverylog.ErrCursor
)

// Deliveries returns a page of the delivery log, newest first: waiting deliveries in the
// order of their last attempts, then ended ones in the order of their ends. next is the
// cursor of the next page, "" on the last one; a page may have fewer deliveries than Limit,
// or none, and still have a next page.
//
// A delivery younger than a second that waits for its first attempt is not included. A
// delivery that ends, or is attempted, while the pages are read may be on none of them.
func (n *Notifier) Deliveries(ctx context.Context, q DeliveryQuery) (page []Delivery, next string, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 50
	}
	limit = min(limit, 200)
	at, err := deliverylog.ParseCursor(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	subscriptions := q.Subscriptions
	if subscriptions == nil {
		subscriptions = []string{"*"}
	} else if len(subscriptions) == 0 {
		return nil, "", nil
	}
	if !at.Ended && (q.State == "" || q.State == Waiting) {
		if page, next, err = n.readPending(ctx, subscriptions, at, limit); err != nil || next != "" {
			return page, next, err
		}
	}
	if q.State == Waiting {
		return page, "", nil
	}
	if !at.Ended {
		at = deliverylog.Cursor{Ended: true}
	}
	rest, next, err := n.readEnded(ctx, subscriptions, q.State, at, limit-len(page))
	return append(page, rest...), next, err
}

// readPending reads a page of waiting deliveries from the outbox.
func (n *Notifier) readPending(ctx context.Context, subscriptions []string, at deliverylog.Cursor, limit int) (page []Delivery, next string, err error) {
	var filters []string
	for _, id := range subscriptions {
		filters = append(filters, "bellhop.delivery."+id+".*")
	}
	later := make(map[string]bool) // subjects whose last message was seen
	rest, err := stream.ReadBackwards(ctx, n.outbox, filters, at.Seq, func(seq uint64, m jetstream.Msg) (bool, error) {
		if later[m.Subject()] || strings.HasSuffix(m.Subject(), "."+schedule.LaggingName) {
			return true, nil
		}
		if len(m.Data()) == 0 {
			later[m.Subject()] = true
			return true, nil
		}
		if len(page) == limit {
			next = deliverylog.Cursor{Seq: at.Seq}.String()
			return false, nil
		}
		at.Seq, later[m.Subject()] = seq, true
		d, err := n.decodePending(ctx, m.Subject(), m.Data())
		if err == nil {
			page = append(page, d)
		}
		return true, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("read bellhop_outbox: %w", err)
	}
	if next == "" && rest > 0 {
		next = deliverylog.Cursor{Seq: rest}.String()
	}
	return page, next, n.addAttempts(ctx, page)
}

// decodePending decodes a delivery of the outbox.
func (n *Notifier) decodePending(ctx context.Context, subject string, data []byte) (Delivery, error) {
	subscription, position, _ := strings.Cut(strings.TrimPrefix(subject, "bellhop.delivery."), ".")
	var r schedule.StoredDelivery
	if err := json.Unmarshal(data, &r); err != nil {
		return Delivery{}, err
	}
	seq, err := strconv.ParseUint(position, 10, 64)
	if err != nil {
		return Delivery{}, err
	}
	d := Delivery{Subscription: subscription, Event: r.Event, Type: r.Type, EventTime: r.At, State: Waiting, Next: r.Due, Seq: seq}
	if d.Event == "" {
		switch e, err := n.EventLog.Event(ctx, seq); {
		case err == nil:
			d.Event = e.ID
		case err != ErrEventGone:
			return Delivery{}, err
		}
	}
	d.ID = deliverylog.ID(d.Event, subscription)
	return d, nil
}

// readEnded reads a page of ended deliveries from the delivery log.
func (n *Notifier) readEnded(ctx context.Context, subscriptions []string, state string, at deliverylog.Cursor, limit int) (page []Delivery, next string, err error) {
	page, next, err = n.deliveryLog.ReadEnded(ctx, subscriptions, state, at, limit)
	if err != nil {
		return nil, "", err
	}
	ends := make([]time.Time, len(page))
	for i, d := range page {
		ends[i] = d.EndedAt()
	}
	if err := n.addAttempts(ctx, page); err != nil {
		return nil, "", err
	}
	pending, err := n.pendingIn(ctx, page)
	if err != nil {
		return nil, "", err
	}
	kept := page[:0]
	for i, d := range page {
		duplicate := slices.ContainsFunc(kept, func(other Delivery) bool { return other.ID == d.ID })
		before := at.Seq > 0 && !d.EndedAt().Equal(ends[i]) // was on an earlier page
		if duplicate || before || pending[d.ID] {
			continue
		}
		if !d.HasQueueAttempt() {
			if err := n.deliveryLog.AddFirstAttempt(ctx, &d); err != nil {
				return nil, "", err
			}
			d.SortAttempts()
		}
		kept = append(kept, d)
	}
	return kept, next, nil
}

// addAttempts adds to the deliveries of a page the attempts that have their own messages
// in the delivery log, and the call details that the records lack.
func (n *Notifier) addAttempts(ctx context.Context, page []Delivery) error {
	if err := n.deliveryLog.AddAttempts(ctx, page); err != nil {
		return err
	}
	for i := range page {
		if err := n.addCallDetails(ctx, &page[i]); err != nil {
			return err
		}
	}
	return nil
}

// addCallDetails sets call and extension from the event if the records lack them, as the
// record of an end without an attempt does.
func (n *Notifier) addCallDetails(ctx context.Context, d *Delivery) error {
	if d.Extension != "" || d.Seq == 0 {
		return nil
	}
	e, err := n.EventLog.Event(ctx, d.Seq)
	if err == ErrEventGone {
		return nil
	}
	if err == nil {
		d.Call, d.Extension = e.Call, dialog.Clean(e.Extension.String(), dialog.MaxText)
	}
	return err
}

// pendingIn returns the ids of the deliveries of a page that are pending in the outbox.
// They have not ended, or became pending again.
func (n *Notifier) pendingIn(ctx context.Context, page []Delivery) (map[string]bool, error) {
	if len(page) == 0 {
		return nil, nil
	}
	ids := make(map[string]string, len(page)) // by subject
	for _, d := range page {
		ids[outboxSubject(d.Subscription, d.Seq)] = d.ID
	}
	pending := make(map[string]bool)
	c := jetstream.OrderedConsumerConfig{FilterSubjects: slices.Sorted(maps.Keys(ids)), InactiveThreshold: stream.ConsumerIdleTimeout}
	err := stream.Read(ctx, n.outbox, c, func(m jetstream.Msg) error {
		pending[ids[m.Subject()]] = len(m.Data()) > 0
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read bellhop_outbox: %w", err)
	}
	return pending, nil
}

// Delivery returns one delivery by its webhook-id, or ErrNoDelivery.
func (n *Notifier) Delivery(ctx context.Context, id string) (Delivery, error) {
	event, subscription, ok := splitID(id)
	if !ok {
		return Delivery{}, ErrNoDelivery
	}
	d := Delivery{ID: id, Subscription: subscription, Event: event}
	switch m, err := n.EventLog.Lookup(ctx, event); {
	case err == nil:
		d.Seq, d.EventTime = m.Seq, m.Time
	case err != ErrEventGone:
		return d, err
	}
	if err := n.deliveryLog.AddOwnAttempts(ctx, &d); err != nil {
		return d, err
	}
	known := d.HasQueueAttempt()
	if d.Seq != 0 {
		m, err := n.outbox.GetLastMsgForSubject(ctx, outboxSubject(subscription, d.Seq))
		switch {
		case err == nil && len(m.Data) > 0:
			waiting, err := n.decodePending(ctx, m.Subject, m.Data)
			if err != nil {
				return d, fmt.Errorf("read bellhop_outbox: %w", err)
			}
			d.State, d.Next, d.Type, d.EventTime, known = Waiting, waiting.Next, waiting.Type, waiting.EventTime, true
		case err != nil && !errors.Is(err, jetstream.ErrMsgNotFound):
			return d, fmt.Errorf("read bellhop_outbox: %w", err)
		}
	}
	if !known {
		if err := n.deliveryLog.AddFirstAttempt(ctx, &d); err != nil {
			return d, err
		}
	}
	if len(d.Attempts) == 0 && d.State != Waiting {
		return d, ErrNoDelivery
	}
	d.SortAttempts()
	if d.State == "" {
		d.State = Waiting // its next attempt is about to be made
	}
	return d, n.addCallDetails(ctx, &d)
}
