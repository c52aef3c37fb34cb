package notify

import (
	"cmp"
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
	"bellhop/notify/stream"
)

// A Delivery is one event owed to one subscription, with its attempts.
type Delivery struct {
	ID           string // the webhook-id
	Subscription string
	Event        string // id of the event
	Type         dialog.Type
	Call         string
	Extension    string    // with its domain, if known
	EventTime    time.Time // time of the event
	State        string    // Waiting, Delivered …
	Next         time.Time // when the next attempt is due, if it waits for one
	Attempts     []Attempt // oldest first

	seq uint64 // position of the event in the log; 0: unknown
}

// A DeliveryQuery selects deliveries. The zero value selects all.
type DeliveryQuery struct {
	Subscriptions []string // of these; nil: of all
	State         string
	Cursor        string // next of the previous page
	Limit         int    // 0: 50; at most 200
}

var (
	ErrNoDelivery = errors.New("no such delivery")
	ErrCursor     = errors.New("unknown cursor: use next from the previous page")
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
	at, err := parseCursor(q.Cursor)
	if err != nil {
		return nil, "", err
	}
	subscriptions := q.Subscriptions
	if subscriptions == nil {
		subscriptions = []string{"*"}
	} else if len(subscriptions) == 0 {
		return nil, "", nil
	}
	if !at.ended && (q.State == "" || q.State == Waiting) {
		if page, next, err = n.readPending(ctx, subscriptions, at, limit); err != nil || next != "" {
			return page, next, err
		}
	}
	if q.State == Waiting {
		return page, "", nil
	}
	if !at.ended {
		at = pageCursor{ended: true}
	}
	rest, next, err := n.readEnded(ctx, subscriptions, q.State, at, limit-len(page))
	return append(page, rest...), next, err
}

// A pageCursor is where a page begins: before a message of the outbox, or before a record
// of the delivery log.
type pageCursor struct {
	ended bool   // of the delivery log
	seq   uint64 // 0: the newest
	index int    // how many records of message seq are still to be listed
}

// String returns the cursor as it is shown to clients.
func (c pageCursor) String() string {
	if !c.ended {
		return "w" + strconv.FormatUint(c.seq, 10)
	}
	return fmt.Sprintf("e%d.%d", c.seq, c.index)
}

// parseCursor parses a cursor; the error is ErrCursor.
func parseCursor(s string) (c pageCursor, err error) {
	if s == "" {
		return c, nil
	}
	position, index, dotted := strings.Cut(s[1:], ".")
	c.ended = s[0] == 'e'
	if c.seq, err = strconv.ParseUint(position, 10, 64); err == nil && dotted {
		c.index, err = strconv.Atoi(index)
	}
	if err != nil || s[0] != 'e' && s[0] != 'w' || dotted != c.ended || c.index < 0 || c.seq == 0 {
		return c, ErrCursor
	}
	return c, nil
}

// readPending reads a page of waiting deliveries from the outbox.
func (n *Notifier) readPending(ctx context.Context, subscriptions []string, at pageCursor, limit int) (page []Delivery, next string, err error) {
	var filters []string
	for _, id := range subscriptions {
		filters = append(filters, "bellhop.delivery."+id+".*")
	}
	later := make(map[string]bool) // subjects whose last message was seen
	rest, err := stream.ReadBackwards(ctx, n.outbox, filters, at.seq, func(seq uint64, m jetstream.Msg) (bool, error) {
		if later[m.Subject()] || strings.HasSuffix(m.Subject(), "."+laggingName) {
			return true, nil
		}
		if len(m.Data()) == 0 {
			later[m.Subject()] = true
			return true, nil
		}
		if len(page) == limit {
			next = pageCursor{seq: at.seq}.String()
			return false, nil
		}
		at.seq, later[m.Subject()] = seq, true
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
		next = pageCursor{seq: rest}.String()
	}
	return page, next, n.addAttempts(ctx, page)
}

// decodePending decodes a delivery of the outbox.
func (n *Notifier) decodePending(ctx context.Context, subject string, data []byte) (Delivery, error) {
	subscription, position, _ := strings.Cut(strings.TrimPrefix(subject, "bellhop.delivery."), ".")
	var r storedDelivery
	if err := json.Unmarshal(data, &r); err != nil {
		return Delivery{}, err
	}
	seq, err := strconv.ParseUint(position, 10, 64)
	if err != nil {
		return Delivery{}, err
	}
	d := Delivery{Subscription: subscription, Event: r.Event, Type: r.Type, EventTime: r.At, State: Waiting, Next: r.Due, seq: seq}
	if d.Event == "" {
		switch e, err := n.readEvent(ctx, seq); {
		case err == nil:
			d.Event = e.ID
		case err != ErrEventGone:
			return Delivery{}, err
		}
	}
	d.ID = deliveryID(d.Event, subscription)
	return d, nil
}

// readEnded reads a page of ended deliveries from the delivery log.
func (n *Notifier) readEnded(ctx context.Context, subscriptions []string, state string, at pageCursor, limit int) (page []Delivery, next string, err error) {
	var filters []string
	for _, id := range subscriptions {
		filters = append(filters, "bellhop.attempt."+id+".*")
		if state == "" || state == Delivered {
			filters = append(filters, deliverylog.SharedSubject(id))
		}
	}
	before := at.seq
	if at.index > 0 {
		before++ // include the message itself
	}
	var ends []time.Time // of the deliveries of the page
	rest, err := stream.ReadBackwards(ctx, n.deliveryLog, filters, before, func(seq uint64, m jetstream.Msg) (bool, error) {
		all, err := deliverylog.Decode(m.Data())
		if err != nil {
			return false, err
		}
		if seq == at.seq && at.index < len(all) {
			all = all[:at.index]
		}
		for i, l := range slices.Backward(all) {
			d := newDeliveryView(subjectSubscription(m.Subject()), &l)
			a := d.Attempts[0]
			if !a.Ended() || state != "" && a.Outcome != state {
				continue
			}
			if len(page) == limit {
				next = pageCursor{ended: true, seq: seq, index: i + 1}.String()
				return false, nil
			}
			page, ends = append(page, d), append(ends, a.At)
		}
		return true, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("read bellhop_attempts: %w", err)
	}
	if next == "" && rest > 0 {
		next = pageCursor{ended: true, seq: rest}.String()
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
		before := at.seq > 0 && !d.endedAt().Equal(ends[i]) // was on an earlier page
		if duplicate || before || pending[d.ID] {
			continue
		}
		if !d.hasQueueAttempt() {
			if err := n.readFirstAttempt(ctx, &d); err != nil {
				return nil, "", err
			}
			d.sortAttempts()
		}
		kept = append(kept, d)
	}
	return kept, next, nil
}

// endedAt returns when the last attempt that ended d began; a delivery can end more than
// once, by redelivery.
func (d *Delivery) endedAt() (at time.Time) {
	for _, a := range d.Attempts {
		if a.Ended() {
			at = a.At
		}
	}
	return at
}

// subjectSubscription returns the subscription id of a subject of the delivery log.
func subjectSubscription(subject string) string {
	s, _, _ := strings.Cut(strings.TrimPrefix(subject, "bellhop.attempt."), ".")
	return s
}

// newDeliveryView returns the Delivery of a record.
func newDeliveryView(subscription string, l *deliverylog.Stored) Delivery {
	d := Delivery{ID: deliveryID(l.Event, subscription), Subscription: subscription, Event: l.Event}
	d.addRecord(l)
	return d
}

// addRecord adds a record of the delivery log to d.
func (d *Delivery) addRecord(l *deliverylog.Stored) {
	d.seq, d.Type, d.EventTime = l.Seq, l.Type, time.UnixMicro(l.EventTime)
	d.Call, d.Extension = cmp.Or(d.Call, l.Call), cmp.Or(d.Extension, l.Extension)
	d.Attempts = append(d.Attempts, l.Attempt())
}

// sortAttempts sorts the attempts by time, removes records that were written twice, and
// derives the state of d from them.
func (d *Delivery) sortAttempts() {
	slices.SortStableFunc(d.Attempts, func(a, b Attempt) int { return a.At.Compare(b.At) })
	d.Attempts = slices.CompactFunc(d.Attempts, func(a, b Attempt) bool {
		return a.At.Equal(b.At) && a.Number == b.Number && a.ByHand == b.ByHand && a.Outcome == b.Outcome
	})
	if d.State == Waiting {
		return
	}
	for _, a := range d.Attempts {
		if a.Ended() {
			d.State = a.Outcome
		}
	}
}

// addAttempts adds to the deliveries of a page the attempts that have a message of their
// own, and the details of the event that are still unknown.
func (n *Notifier) addAttempts(ctx context.Context, page []Delivery) error {
	if len(page) == 0 {
		return nil
	}
	bySubject := make(map[string][]*Delivery, len(page))
	oldest := page[0].EventTime
	for i := range page {
		d := &page[i]
		subject := deliverylog.Subject(d.Subscription, d.Event)
		bySubject[subject] = append(bySubject[subject], d)
		if d.EventTime.Before(oldest) {
			oldest = d.EventTime
		}
	}
	subjects := slices.Sorted(maps.Keys(bySubject))
	err := stream.Read(ctx, n.deliveryLog, subjectsSince(subjects, oldest), func(m jetstream.Msg) error {
		all, err := deliverylog.Decode(m.Data())
		if err != nil {
			return err
		}
		for _, d := range bySubject[m.Subject()] {
			for i := range all {
				d.addRecord(&all[i])
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read bellhop_attempts: %w", err)
	}
	for i := range page {
		page[i].sortAttempts()
		if err := n.addCallDetails(ctx, &page[i]); err != nil {
			return err
		}
	}
	return nil
}

// subjectsSince returns the configuration of a consumer that reads subjects from a minute
// before a time on: the clocks of nodes differ.
func subjectsSince(subjects []string, from time.Time) jetstream.OrderedConsumerConfig {
	c := jetstream.OrderedConsumerConfig{FilterSubjects: subjects, InactiveThreshold: stream.ConsumerIdleTimeout}
	if from = from.Add(-time.Minute); from.Unix() > 0 {
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	return c
}

// addCallDetails takes call and extension from the event if the records lack them: an end
// without an attempt has neither.
func (n *Notifier) addCallDetails(ctx context.Context, d *Delivery) error {
	if d.Extension != "" || d.seq == 0 {
		return nil
	}
	e, err := n.readEvent(ctx, d.seq)
	if err == ErrEventGone {
		return nil
	}
	if err == nil {
		d.Call, d.Extension = e.Call, dialog.Clean(e.Extension.String(), dialog.MaxText)
	}
	return err
}

// pendingIn returns which deliveries of a page are in the outbox: they have not ended, or
// are pending again.
func (n *Notifier) pendingIn(ctx context.Context, page []Delivery) (map[string]bool, error) {
	if len(page) == 0 {
		return nil, nil
	}
	ids := make(map[string]string, len(page)) // by subject
	for _, d := range page {
		ids[outboxSubject(d.Subscription, d.seq)] = d.ID
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
	switch m, err := n.findEventMessage(ctx, event); {
	case err == nil:
		d.seq, d.EventTime = m.Sequence, m.Time
	case err != ErrEventGone:
		return d, err
	}
	records := subjectsSince([]string{deliverylog.Subject(subscription, event)}, time.Time{})
	if err := n.readAttempts(ctx, records, &d); err != nil {
		return d, err
	}
	known := d.hasQueueAttempt()
	if d.seq != 0 {
		m, err := n.outbox.GetLastMsgForSubject(ctx, outboxSubject(subscription, d.seq))
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
		if err := n.readFirstAttempt(ctx, &d); err != nil {
			return d, err
		}
	}
	if len(d.Attempts) == 0 && d.State != Waiting {
		return d, ErrNoDelivery
	}
	d.sortAttempts()
	if d.State == "" {
		d.State = Waiting // its next attempt is about to be made
	}
	return d, n.addCallDetails(ctx, &d)
}

// hasQueueAttempt reports whether an attempt of the scheduler is among the attempts.
// Otherwise the delivery succeeded at once, or was redelivered before its first attempt.
func (d *Delivery) hasQueueAttempt() bool {
	return slices.ContainsFunc(d.Attempts, func(a Attempt) bool { return !a.ByHand })
}

// readFirstAttempt adds the attempt by which d succeeded at once, if there is one.
func (n *Notifier) readFirstAttempt(ctx context.Context, d *Delivery) error {
	return n.readAttempts(ctx, subjectsSince([]string{deliverylog.SharedSubject(d.Subscription)}, d.EventTime), d)
}

// readAttempts adds to d the records that consumer c yields for it, up to the record of a
// delivery that succeeded at once.
func (n *Notifier) readAttempts(ctx context.Context, c jetstream.OrderedConsumerConfig, d *Delivery) error {
	scanned := 0
	err := stream.Read(ctx, n.deliveryLog, c, func(m jetstream.Msg) error {
		if scanned++; scanned > stream.MaxScanned {
			return stream.ErrStop
		}
		all, err := deliverylog.Decode(m.Data())
		if err != nil {
			return err
		}
		for i := range all {
			if all[i].Event != d.Event {
				continue
			}
			d.addRecord(&all[i])
			if strings.Count(m.Subject(), ".") == 1 {
				return stream.ErrStop
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read bellhop_attempts: %w", err)
	}
	return nil
}

// findEventMessage returns the message of an event by its id. The error is ErrEventGone, or
// of the store.
func (n *Notifier) findEventMessage(ctx context.Context, event string) (*jetstream.RawStreamMsg, error) {
	m, err := n.events.GetLastMsgForSubject(ctx, "bellhop.event.*.*."+stream.Token(event))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, ErrEventGone
	}
	if err != nil {
		return nil, fmt.Errorf("find event %s: %w", event, err)
	}
	return m, nil
}
