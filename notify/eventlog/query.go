package eventlog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

// A Query selects events of the log. The zero value selects all.
type Query struct {
	Since      time.Time // published at or after this time
	Position   uint64    // at this position of the log or after it; takes precedence over Since
	After      string    // published after the event with this id; takes precedence over Since
	Extension  string    // as in a Subscription
	Extensions []string  // of one of these extensions; nil: of any
	Call       string
	Type       string // as in a Subscription
	Limit      int    // 0: 100; at most 1000
}

// subjects returns the narrowest subject filters that cover all events that q selects. It
// returns no filter for a name that is too long, because the log has no events of it.
func (q *Query) subjects() []string {
	call := "*"
	switch {
	case len(q.Call) > dialog.MaxName:
		return nil
	case q.Call != "":
		call = stream.Token(q.Call)
	}
	names := q.Extensions
	if q.Extension != "" {
		names = []string{q.Extension}
	}
	if names == nil {
		return []string{"bellhop.event.*." + call + ".*"} // allEventsSubject, if q selects any call
	}
	var subjects []string
	for _, name := range names {
		user, _, _ := strings.Cut(name, "@")
		if len(user) > dialog.MaxName {
			continue
		}
		subjects = append(subjects, "bellhop.event."+stream.Base32Token(user)+"."+call+".*")
	}
	slices.Sort(subjects)
	return slices.Compact(subjects) // filters must not overlap
}

// matches reports whether q selects an event. It ignores Since, Position, After and
// Limit.
func (q *Query) matches(e *dialog.Event) bool {
	return (q.Type == "" || subscription.EventMask(e)&subscription.MaskOf(q.Type) != 0) &&
		(q.Call == "" || e.Call == q.Call) &&
		(q.Extension == "" || e.Extension.Is(q.Extension)) &&
		q.matchesExtensions(e)
}

// matchesExtensions reports whether an event is of one of q.Extensions.
func (q *Query) matchesExtensions(e *dialog.Event) bool {
	return q.Extensions == nil || slices.ContainsFunc(q.Extensions, e.Extension.Is)
}

// ErrNoEvent reports that the log does not have the event Query.After, or that this event
// is not of one of Query.Extensions.
var ErrNoEvent = errors.New("no such event in the log")

// Find returns the events that q selects, oldest first. If more is true, further events
// match: query again with After set to the id of the last event, or with Position set to
// the position after it.
func (l *Log) Find(ctx context.Context, q Query) (found []Entry, more bool, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	first, err := l.firstPosition(ctx, &q)
	if err != nil || first == 0 {
		return nil, false, err
	}
	for _, subject := range q.subjects() {
		var of []Entry
		if subject == allEventsSubject {
			of, err = l.scanBlocks(ctx, first, &q, limit+1)
		} else {
			of, err = l.scanSubject(ctx, subject, first, &q, limit+1)
		}
		if err != nil {
			return nil, false, fmt.Errorf("read bellhop_events: %w", err)
		}
		found = append(found, of...)
	}
	slices.SortFunc(found, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return found[:min(limit, len(found))], len(found) > limit, nil
}

// consumedEvents is the number of positions from which Scan uses a consumer. Creating one
// takes a few requests, but then reading and decoding an event takes 11 µs of processor
// time, and 17 µs by batched requests, for which the server copies the header of each
// message six times (99,000 events, nats-server 2.15.2, December 2026).
const consumedEvents = 4096

// Scan calls f for the events from a position on, which is at least 1, up to the end of
// the log, in order, until f returns false. It does not cache the events that it reads
// with a consumer.
func (l *Log) Scan(ctx context.Context, position uint64, f func(Entry) bool) error {
	_, last, err := l.Bounds(ctx)
	if err != nil {
		return err
	}
	stopped := false
	if last >= position+consumedEvents {
		c := jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{allEventsSubject}, InactiveThreshold: stream.ConsumerIdleTimeout,
			DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: position,
		}
		err := stream.Read(ctx, l.events, c, func(m jetstream.Msg) error {
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			position = meta.Sequence.Stream + 1
			if e := l.decodeEvent(meta.Sequence.Stream, m.Data()); e != nil && !f(Entry{meta.Sequence.Stream, e}) {
				stopped = true
				return stream.ErrStop
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read bellhop_events: %w", err)
		}
	}
	for more := true; more && !stopped; { // the rest: the copy that the consumer has read may lag
		var page []Entry
		if page, more, err = l.Find(ctx, Query{Position: position, Limit: 1000}); err != nil {
			return err
		}
		for _, e := range page {
			position = e.Seq + 1
			if !f(e) {
				return nil
			}
		}
	}
	return nil
}

// firstPosition returns the position at which q begins, or 0 if no event was published
// since q.Since.
func (l *Log) firstPosition(ctx context.Context, q *Query) (uint64, error) {
	switch {
	case q.After != "":
		after, err := l.positionOf(ctx, q)
		return after + 1, err
	case q.Position != 0:
		return q.Position, nil
	case !q.Since.IsZero():
		return l.PositionAt(ctx, q.Since)
	}
	return 1, nil
}

// positionOf returns the position of the event q.After. It returns ErrNoEvent if the log
// does not have this event, or it is not of one of q.Extensions.
func (l *Log) positionOf(ctx context.Context, q *Query) (uint64, error) {
	m, err := l.Lookup(ctx, q.After)
	if err == ErrEventGone {
		return 0, ErrNoEvent
	}
	if err != nil {
		return 0, err
	}
	var e dialog.Event
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return 0, fmt.Errorf("decode event %s: %w", q.After, err)
	}
	if !q.matchesExtensions(&e) {
		return 0, ErrNoEvent
	}
	return m.Seq, nil
}

// PositionAt returns the position of the first event published at or after a time, or 0
// if there is none.
func (l *Log) PositionAt(ctx context.Context, since time.Time) (uint64, error) {
	m, err := l.getMessage(ctx, readRequest{Since: &since, Subject: "bellhop.event.>"})
	if err != nil && err != ErrEventGone {
		return 0, fmt.Errorf("read bellhop_events: %w", err)
	}
	return m.Seq, nil
}

// scanSubject returns the first events that q selects, at most limit, among those under a
// subject from a position on.
func (l *Log) scanSubject(ctx context.Context, subject string, position uint64, q *Query, limit int) (found []Entry, err error) {
	p := readRequest{Seq: position, Subject: subject, Batch: min(limit, blockSize)}
	for more := true; more && len(found) < limit; p.Batch = blockSize {
		if err := l.acquireRead(ctx); err != nil {
			return nil, err
		}
		more, err = l.readSubject(ctx, &p, func(e Entry) bool {
			if q.matches(e.Event) {
				found = append(found, e)
			}
			return len(found) < limit
		})
		l.releaseRead()
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// readSubject sends request p, calls f for each event of the response until f returns
// false, and moves p.Seq behind the last of these events. more reports whether the log
// may have more events.
func (l *Log) readSubject(ctx context.Context, p *readRequest, f func(Entry) bool) (more bool, err error) {
	received := 0
	err = l.requestEvents(ctx, *p, func(seq uint64, e *dialog.Event) bool {
		received++
		p.Seq = seq + 1
		return e == nil || f(Entry{seq, e})
	})
	return received == p.Batch, err
}

// Call returns all events of a call, in the order of the log. Any server with a copy may
// answer. If its copy lags, the last events are missing.
func (l *Log) Call(ctx context.Context, call string) (events []Entry, err error) {
	p := readRequest{Seq: 1, Subject: (&Query{Call: call}).subjects()[0], Batch: blockSize}
	for more := true; more; {
		more, err = l.readSubject(ctx, &p, func(e Entry) bool {
			events = append(events, e)
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("read bellhop_events: %w", err)
		}
	}
	return events, nil
}

// pageReadTimeout is how long reading a block for a page may take.
const pageReadTimeout = 10 * time.Second

// readPage returns events from position on, at most to the end of their block, and the
// position after them. If the cache lacks the event at position, readPage reads from the
// store. It reads and caches the whole block if the block is full and at least a quarter
// of its size is wanted, so that the next small page is in memory. Otherwise it reads
// only the wanted number of positions.
func (l *Log) readPage(ctx context.Context, position, end uint64, wanted int) (entries []Entry, next uint64, err error) {
	number, _ := blockOf(position)
	first, last := number*blockSize+1, (number+1)*blockSize
	if entries, next = l.cache.entries(position, min(last, end)); next > position {
		return entries, next, nil
	}
	ctx, cancel := context.WithTimeout(ctx, pageReadTimeout)
	defer cancel()
	if err := l.acquireRead(ctx); err != nil {
		return nil, 0, err
	}
	defer l.releaseRead()
	if entries, next = l.cache.entries(position, min(last, end)); next > position { // another reader has just read it
		return entries, next, nil
	}
	whole := last <= end && wanted >= blockSize/4 // the whole block costs little more
	if whole {
		entries, next = l.readBlock(ctx, first, last)
	} else {
		entries, next = l.readBlock(ctx, position, min(last, end, position+uint64(wanted)-1))
	}
	if ctx.Err() != nil {
		return nil, 0, fmt.Errorf("read bellhop_events from %d: %w", position, ctx.Err())
	}
	if whole {
		l.cache.addOlder(number, entries)
	}
	for len(entries) > 0 && entries[0].Seq < position {
		entries = entries[1:]
	}
	return entries, next, nil
}

// scanBlocks returns the first events that q selects from a position on, at most limit.
// It reads the log block by block.
func (l *Log) scanBlocks(ctx context.Context, position uint64, q *Query, limit int) (found []Entry, err error) {
	oldest, end, err := l.Bounds(ctx) // from the leader: another server's copy may lag
	if err != nil {
		return nil, err
	}
	for position = max(position, oldest, 1); position <= end; {
		entries, next, err := l.readPage(ctx, position, end, limit-len(found))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if q.matches(e.Event) {
				if found = append(found, e); len(found) == limit {
					return found, nil
				}
			}
		}
		position = next
	}
	return found, nil
}

// acquireRead waits for the only slot to read the log. There is one slot so that many
// readers do not take the CPU from calls. After success the caller must call releaseRead.
func (l *Log) acquireRead(ctx context.Context) error {
	select {
	case l.readSlot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// releaseRead frees the slot taken by acquireRead.
func (l *Log) releaseRead() { <-l.readSlot }

// Latest returns the newest events that q selects, newest first, at most Limit. It
// ignores Since, Position and After. It stops after about [stream.MaxScanned] messages,
// so it may miss older events if few match.
func (l *Log) Latest(ctx context.Context, q Query) (events []*dialog.Event, err error) {
	subjects := q.subjects()
	if len(subjects) == 0 {
		return nil, nil // a consumer without filters would read all
	}
	_, err = stream.ReadBackwards(ctx, l.events, subjects, 0, func(seq uint64, m jetstream.Msg) (bool, error) {
		e := l.cache.event(seq)
		if e == nil {
			if e, err = l.decode(m.Data()); err != nil {
				return false, fmt.Errorf("%s: %w", m.Subject(), err)
			}
		}
		if q.matches(e) {
			events = append(events, e)
		}
		return len(events) < q.Limit, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read bellhop_events: %w", err)
	}
	return events, nil
}
