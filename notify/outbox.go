package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// openOutbox opens the outbox: the state of each delivery that lasts longer than
// outboxDelay, under a subject of its own, and the cursor of the log. An empty message says
// that a delivery has ended. Messages that are no longer needed are removed by a [sweeper].
func openOutbox(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "bellhop_outbox",
		Subjects: []string{"bellhop.delivery.>"}, // bellhop.delivery.<subscription>.<position in the log>, bellhop.delivery.<subscription>.<log read>, bellhop.delivery.cursor
		Storage:  jetstream.FileStorage,
		Replicas: c.Replicas,
	})
}

// cursorSubject is the subject of the stored cursor.
const cursorSubject = "bellhop.delivery.cursor"

// outboxSubject returns the subject of the delivery of event seq to a subscription.
func outboxSubject(subscription string, seq uint64) string {
	return "bellhop.delivery." + subscription + "." + strconv.FormatUint(seq, 10)
}

// updateHeader marks a message that is not the first of its subject.
var updateHeader = nats.Header{"Again": {"1"}}

// storedDelivery is a delivery as the outbox stores it: what its queue and retry schedule
// need. The event stays in the log. Fields are only ever added.
type storedDelivery struct {
	Queue    string      `json:"lane"`
	Event    string      `json:"event,omitempty"`
	Type     dialog.Type `json:"type"`
	At       time.Time   `json:"at"`
	Step     int         `json:"attempts,omitempty"`
	Attempts int         `json:"tries,omitempty"`
	Due      time.Time   `json:"due,omitzero"`
	Replay   bool        `json:"replay,omitempty"`

	Backoff time.Duration `json:"wait,omitempty"` // from the last attempt until Due

	Party string `json:"party,omitempty"` // see delivery; older versions did not write it
}

// restoreDue returns the due time of a stored delivery. It is never later than a whole
// backoff from now, whatever the wall clock was set to since.
func (n *Notifier) restoreDue(r *storedDelivery) time.Time {
	if r.Due.IsZero() {
		return r.Due
	}
	wait := r.Backoff
	if wait == 0 { // written by an older version
		pauses := retrySchedules[durable]
		wait = pauses[len(pauses)-1] * 6 / 5
	}
	return time.Now().Add(min(r.Due.Sub(n.config.wall()), wait))
}

// outboxMessage encodes an update as a message of the outbox.
func (u outboxUpdate) outboxMessage() *nats.Msg {
	d := u.delivery
	if u.logRead != nil {
		return u.logRead.outboxMessage(u.ended)
	}
	if d == nil {
		return &nats.Msg{Subject: cursorSubject, Header: updateHeader, Data: strconv.AppendUint(nil, u.cursor, 10)}
	}
	m := &nats.Msg{Subject: outboxSubject(d.queue.subscriber.sub.ID, d.seq)}
	if d.saved {
		m.Header = updateHeader
	}
	if u.ended {
		return m
	}
	m.Data, _ = json.Marshal(storedDelivery{ // cannot fail: times of this century
		Queue: d.queue.name, Event: d.id, Type: d.kind, At: d.at, Step: d.scheduleStep, Attempts: d.attempts, Due: d.dueAt, Replay: d.replay, Backoff: d.backoff, Party: d.party,
	})
	return m
}

// outboxMessage encodes a logRead as a message of the outbox; an empty one if it has ended.
func (r *logRead) outboxMessage(ended bool) *nats.Msg {
	m := &nats.Msg{Subject: "bellhop.delivery." + r.subscriber.sub.ID + "." + r.name}
	if r.saved {
		m.Header = updateHeader
	}
	if ended {
		return m
	}
	m.Data, _ = json.Marshal(storedLogRead{r.after, r.to, r.types}) // cannot fail: numbers and words
	return m
}

// storedLogRead is a logRead as the outbox stores it.
type storedLogRead struct {
	After uint64   `json:"after"`
	To    uint64   `json:"to,omitempty"`
	Types []string `json:"types,omitempty"`
}

// decodeLogRead decodes the logRead of a message of the outbox.
func decodeLogRead(subscription, name string, data []byte) (*logRead, error) {
	r := &logRead{subscriber: &subscriber{sub: &Subscription{ID: subscription}}, name: name}
	if r.ended = len(data) == 0; r.ended {
		return r, nil
	}
	r.saved = true
	var stored storedLogRead
	err := json.Unmarshal(data, &stored)
	r.after, r.to, r.types = stored.After, stored.To, stored.Types
	return r, err
}

// restoreOutbox reads the outbox into s and sw, and returns the position of its last
// message.
func (n *Notifier) restoreOutbox(ctx context.Context, s *scheduler, sw *sweeper) (lastSeq uint64, err error) {
	type pending struct {
		subscription string
		queue        string
		delivery     *delivery
	}
	deliveries := make(map[string]pending) // the last message, by subject
	logReads := make(map[string]*logRead)  // likewise
	var cursor, newest uint64
	err = stream.Read(ctx, n.outbox, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) (err error) {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		lastSeq = meta.Sequence.Stream
		sw.noteMessage(m.Subject(), lastSeq, len(m.Data()) == 0)
		if m.Subject() == cursorSubject {
			cursor, err = strconv.ParseUint(string(m.Data()), 10, 64)
			return err
		}
		subscription, name, _ := strings.Cut(strings.TrimPrefix(m.Subject(), "bellhop.delivery."), ".")
		seq, notNumber := strconv.ParseUint(name, 10, 64)
		if notNumber != nil {
			r, err := decodeLogRead(subscription, name, m.Data())
			if logReads[m.Subject()] = r; r.ended {
				delete(logReads, m.Subject())
			}
			newest = max(newest, r.after)
			return err
		}
		if len(m.Data()) == 0 {
			delete(deliveries, m.Subject())
			return nil
		}
		var stored storedDelivery
		if err := json.Unmarshal(m.Data(), &stored); err != nil {
			return err
		}
		d := &delivery{seq: seq, id: stored.Event, kind: stored.Type, at: stored.At, observed: n.monotonicTime(stored.At),
			scheduleStep: stored.Step, attempts: stored.Attempts, dueAt: n.restoreDue(&stored), backoff: stored.Backoff, replay: stored.Replay, party: stored.Party}
		deliveries[m.Subject()] = pending{subscription, stored.Queue, d}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read bellhop_outbox: %w", err)
	}
	all := slices.SortedFunc(maps.Values(deliveries), func(a, b pending) int { return cmp.Compare(a.delivery.seq, b.delivery.seq) })
	newest = max(newest, cursor)
	if len(all) > 0 {
		newest = max(newest, all[len(all)-1].delivery.seq)
	}
	last, err := n.waitForLogEnd(ctx, newest)
	if err != nil {
		return 0, err
	}
	s.startFrom(min(cursor, last))
	for _, r := range logReads {
		r.after, r.to = min(r.after, last), min(r.to, last)
		s.restoreLogRead(r)
	}
	for _, w := range all {
		s.restoreDelivery(w.subscription, w.queue, w.delivery, w.delivery.seq > last)
	}
	return lastSeq, nil
}

// waitForLogEnd returns the end of the event log. The outbox may know later events: a power
// cut cost the log more than the outbox, or the server that leads the log has just taken
// over. It therefore waits up to a second for the log to reach newest.
func (n *Notifier) waitForLogEnd(ctx context.Context, newest uint64) (last uint64, err error) {
	for begin := time.Now(); ; sleep(ctx, stream.Backoff) {
		if _, last, err = n.events.Bounds(ctx); err != nil {
			return 0, err
		}
		if last >= newest || time.Since(begin) > time.Second {
			return last, nil
		}
	}
}
