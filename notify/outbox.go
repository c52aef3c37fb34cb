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
)

// openOutbox opens what must be remembered of deliveries that last longer than
// a moment: for each its last word under a subject of its own, and how far the
// log has been worked off. The last word of what is over is empty. What is no
// longer needed is swept up: see [sweeper].
func openOutbox(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "bellhop_outbox",
		Subjects: []string{"bellhop.delivery.>"}, // bellhop.delivery.<subscription>.<place in the log>, bellhop.delivery.<subscription>.<backlog>, bellhop.delivery.cursor
		Storage:  jetstream.FileStorage,
		Replicas: c.Replicas,
	})
}

const cursorSubject = "bellhop.delivery.cursor"

func outboxSubject(subscription string, seq uint64) string {
	return "bellhop.delivery." + subscription + "." + strconv.FormatUint(seq, 10)
}

// again is the header of a word that is not the first.
var updateHeader = nats.Header{"Again": {"1"}}

// remembered is what the outbox has of one delivery: what its lane and schedule
// need. The event itself stays in the log.
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

	Party string `json:"party,omitempty"` // see delivery; an older version did not write it
}

// due is when a delivery is due again that was when the outbox heard of it: never
// later than a whole pause from now, to whatever the clock was set since.
func (n *Notifier) restoreDue(r *storedDelivery) time.Time {
	if r.Due.IsZero() {
		return r.Due
	}
	wait := r.Backoff
	if wait == 0 { // an older version wrote it
		pauses := retrySchedules[durable]
		wait = pauses[len(pauses)-1] * 6 / 5
	}
	return time.Now().Add(min(r.Due.Sub(n.config.wall()), wait))
}

// message writes a letter to the outbox.
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
	m.Data, _ = json.Marshal(storedDelivery{ // of times of this century
		Queue: d.queue.name, Event: d.id, Type: d.kind, At: d.at, Step: d.scheduleStep, Attempts: d.attempts, Due: d.dueAt, Replay: d.replay, Backoff: d.backoff, Party: d.party,
	})
	return m
}

// message writes the word of a backlog.
func (r *logRead) outboxMessage(over bool) *nats.Msg {
	m := &nats.Msg{Subject: "bellhop.delivery." + r.subscriber.sub.ID + "." + r.name}
	if r.saved {
		m.Header = updateHeader
	}
	if over {
		return m
	}
	m.Data, _ = json.Marshal(storedLogRead{r.after, r.to, r.types}) // of numbers and words
	return m
}

// rest is what the outbox has of a backlog.
type storedLogRead struct {
	After uint64   `json:"after"`
	To    uint64   `json:"to,omitempty"`
	Types []string `json:"types,omitempty"`
}

// recallBacklog returns the backlog that a word of the outbox is of.
func decodeLogRead(subscription, name string, word []byte) (*logRead, error) {
	r := &logRead{subscriber: &subscriber{sub: &Subscription{ID: subscription}}, name: name}
	if r.ended = len(word) == 0; r.ended {
		return r, nil
	}
	r.saved = true
	var stored storedLogRead
	err := json.Unmarshal(word, &stored)
	r.after, r.to, r.types = stored.After, stored.To, stored.Types
	return r, err
}

// recall reads the outbox into q and s, and returns its last place.
func (n *Notifier) restoreOutbox(ctx context.Context, s *scheduler, sw *sweeper) (lastSeq uint64, err error) {
	type pending struct {
		subscription string
		lane         string
		delivery     *delivery
	}
	deliveries := make(map[string]pending) // by subject, the last
	logReads := make(map[string]*logRead)  // as well
	var cursor, newest uint64
	err = readMessages(ctx, n.outbox, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) (err error) {
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
		s.restoreDelivery(w.subscription, w.lane, w.delivery, w.delivery.seq > last)
	}
	return lastSeq, nil
}

// lastEvent is how far the log goes. What the outbox knows of may not be in it,
// because a power cut has cost the log more than the outbox, or because the
// server that leads it has just begun to: so it is asked for a second.
func (n *Notifier) waitForLogEnd(ctx context.Context, newest uint64) (last uint64, err error) {
	for begin := time.Now(); ; sleep(ctx, errorBackoff) {
		info, err := n.events.Info(ctx)
		if err != nil {
			return 0, fmt.Errorf("event log bellhop_events: %w", err)
		}
		if last = info.State.LastSeq; last >= newest || time.Since(begin) > time.Second {
			return last, nil
		}
	}
}
