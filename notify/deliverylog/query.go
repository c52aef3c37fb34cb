package deliverylog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
)

// ErrCursor reports a cursor that no page has returned.
var ErrCursor = errors.New("unknown cursor: use next from the previous page")

// A Cursor is where a page begins: before a message of the outbox, or before a record
// of the delivery log.
type Cursor struct {
	Ended bool   // in the delivery log; false: in the outbox
	Seq   uint64 // position of the message; 0: behind the newest
	Index int    // how many records of message Seq are still to be listed
}

// String returns the cursor as it is shown to clients.
func (c Cursor) String() string {
	if !c.Ended {
		return "w" + strconv.FormatUint(c.Seq, 10)
	}
	return fmt.Sprintf("e%d.%d", c.Seq, c.Index)
}

// ParseCursor parses a cursor. An empty one is the first page. The error is ErrCursor.
func ParseCursor(s string) (c Cursor, err error) {
	if s == "" {
		return c, nil
	}
	position, index, dotted := strings.Cut(s[1:], ".")
	c.Ended = s[0] == 'e'
	if c.Seq, err = strconv.ParseUint(position, 10, 64); err == nil && dotted {
		c.Index, err = strconv.Atoi(index)
	}
	if err != nil || s[0] != 'e' && s[0] != 'w' || dotted != c.Ended || c.Index < 0 || c.Seq == 0 {
		return c, ErrCursor
	}
	return c, nil
}

// ReadEnded returns a page of at most limit records that ended deliveries of some
// subscriptions ("*": of all), newest first, each as a Delivery with one attempt. An
// empty state selects any state. next is the cursor of the next page, "" on the last one.
// A delivery that ended more than once, by redelivery, is listed once for each end.
func (l *Log) ReadEnded(ctx context.Context, subscriptions []string, state string, at Cursor, limit int) (page []Delivery, next string, err error) {
	var filters []string
	for _, id := range subscriptions {
		filters = append(filters, "bellhop.attempt."+id+".*")
		if state == "" || state == Delivered {
			filters = append(filters, sharedSubject(id))
		}
	}
	before := at.Seq
	if at.Index > 0 {
		before++ // include the message itself
	}
	rest, err := stream.ReadBackwards(ctx, l.Stream, filters, before, func(seq uint64, m jetstream.Msg) (bool, error) {
		all, err := Decode(m.Data())
		if err != nil {
			return false, err
		}
		if seq == at.Seq && at.Index < len(all) {
			all = all[:at.Index]
		}
		for i, r := range slices.Backward(all) {
			d := newDelivery(subjectSubscription(m.Subject()), &r)
			if a := &d.Attempts[0]; !a.Ended() || state != "" && a.Outcome != state {
				continue
			}
			if len(page) == limit {
				next = Cursor{Ended: true, Seq: seq, Index: i + 1}.String()
				return false, nil
			}
			page = append(page, d)
		}
		return true, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("read bellhop_attempts: %w", err)
	}
	if next == "" && rest > 0 {
		next = Cursor{Ended: true, Seq: rest}.String()
	}
	return page, next, nil
}

// AddAttempts adds to the deliveries of a page the attempts that have a message of their
// own, and sorts the attempts.
func (l *Log) AddAttempts(ctx context.Context, page []Delivery) error {
	if len(page) == 0 {
		return nil
	}
	bySubject := make(map[string][]*Delivery, len(page))
	oldest := page[0].EventTime
	for i := range page {
		d := &page[i]
		subject := Subject(d.Subscription, d.Event)
		bySubject[subject] = append(bySubject[subject], d)
		if d.EventTime.Before(oldest) {
			oldest = d.EventTime
		}
	}
	err := l.read(ctx, slices.Sorted(maps.Keys(bySubject)), oldest, func(subject string, all []Stored) error {
		for _, d := range bySubject[subject] {
			for i := range all {
				d.addRecord(&all[i])
			}
		}
		return nil
	})
	for i := range page {
		page[i].SortAttempts()
	}
	return err
}

// AddOwnAttempts adds to d the attempts that have a message of their own. It does not
// sort them.
func (l *Log) AddOwnAttempts(ctx context.Context, d *Delivery) error {
	return l.addMatching(ctx, Subject(d.Subscription, d.Event), time.Time{}, d)
}

// AddFirstAttempt adds to d its first attempt if that is recorded in a shared message.
// Deliveries that succeed at the first attempt share messages; a failed attempt has a
// message of its own, see AddOwnAttempts.
func (l *Log) AddFirstAttempt(ctx context.Context, d *Delivery) error {
	return l.addMatching(ctx, sharedSubject(d.Subscription), d.EventTime, d)
}

// addMatching adds to d its records under a subject since a time. Under the shared
// subject it stops after one record, because a delivery has only one there. It reads
// stream.MaxScanned messages at most.
func (l *Log) addMatching(ctx context.Context, subject string, since time.Time, d *Delivery) error {
	scanned := 0
	return l.read(ctx, []string{subject}, since, func(_ string, all []Stored) error {
		if scanned++; scanned > stream.MaxScanned {
			return stream.ErrStop
		}
		for i := range all {
			if all[i].Event != d.Event {
				continue
			}
			d.addRecord(&all[i])
			if subject == sharedSubject(d.Subscription) {
				return stream.ErrStop
			}
		}
		return nil
	})
}

// ReadRecords calls f for the records of a delivery that have a message of their own,
// oldest first.
func (l *Log) ReadRecords(ctx context.Context, subscription, event string, f func(*Stored)) error {
	return l.read(ctx, []string{Subject(subscription, event)}, time.Time{}, func(_ string, all []Stored) error {
		for i := range all {
			f(&all[i])
		}
		return nil
	})
}

// LastRecord returns the last of the records of a delivery that have a message of their
// own, or nil if there is none.
func (l *Log) LastRecord(ctx context.Context, subscription, event string) (*Stored, error) {
	m, err := l.GetLastMsgForSubject(ctx, Subject(subscription, event))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read bellhop_attempts: %w", err)
	}
	all, err := Decode(m.Data)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[len(all)-1], nil
}

// read calls f for each message under some subjects, until f returns an error. It starts
// a minute before the time since, because the clocks of nodes differ.
func (l *Log) read(ctx context.Context, subjects []string, since time.Time, f func(subject string, all []Stored) error) error {
	c := jetstream.OrderedConsumerConfig{FilterSubjects: subjects, InactiveThreshold: stream.ConsumerIdleTimeout}
	if since = since.Add(-time.Minute); since.Unix() > 0 {
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	err := stream.Read(ctx, l.Stream, c, func(m jetstream.Msg) error {
		all, err := Decode(m.Data())
		if err != nil {
			return err
		}
		return f(m.Subject(), all)
	})
	if err != nil {
		return fmt.Errorf("read bellhop_attempts: %w", err)
	}
	return nil
}

// subjectSubscription returns the subscription id of a subject of the delivery log.
func subjectSubscription(subject string) string {
	s, _, _ := strings.Cut(strings.TrimPrefix(subject, "bellhop.attempt."), ".")
	return s
}
