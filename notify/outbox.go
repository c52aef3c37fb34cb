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
var again = nats.Header{"Again": {"1"}}

// remembered is what the outbox has of one delivery: what its lane and schedule
// need. The event itself stays in the log.
type remembered struct {
	Lane     string      `json:"lane"`
	Event    string      `json:"event,omitempty"`
	Type     dialog.Type `json:"type"`
	At       time.Time   `json:"at"`
	Attempts int         `json:"attempts,omitempty"`
	Tries    int         `json:"tries,omitempty"`
	Due      time.Time   `json:"due,omitzero"`
	Replay   bool        `json:"replay,omitempty"`

	Wait time.Duration `json:"wait,omitempty"` // from the last attempt until Due

	Party string `json:"party,omitempty"` // see delivery; an older version did not write it
}

// due is when a delivery is due again that was when the outbox heard of it: never
// later than a whole pause from now, to whatever the clock was set since.
func (n *Notifier) due(r *remembered) time.Time {
	if r.Due.IsZero() {
		return r.Due
	}
	wait := r.Wait
	if wait == 0 { // an older version wrote it
		pauses := schedules[record]
		wait = pauses[len(pauses)-1] * 6 / 5
	}
	return time.Now().Add(min(r.Due.Sub(n.config.wall()), wait))
}

// message writes a letter to the outbox.
func (l letter) message() *nats.Msg {
	d := l.delivery
	if l.backlog != nil {
		return l.backlog.message(l.gone)
	}
	if d == nil {
		return &nats.Msg{Subject: cursorSubject, Header: again, Data: strconv.AppendUint(nil, l.floor, 10)}
	}
	m := &nats.Msg{Subject: outboxSubject(d.lane.target.sub.ID, d.seq)}
	if d.told {
		m.Header = again
	}
	if l.gone {
		return m
	}
	m.Data, _ = json.Marshal(remembered{ // of times of this century
		Lane: d.lane.name, Event: d.id, Type: d.kind, At: d.at, Attempts: d.attempts, Tries: d.tries, Due: d.due, Replay: d.replay, Wait: d.wait, Party: d.party,
	})
	return m
}

// message writes the word of a backlog.
func (b *backlog) message(over bool) *nats.Msg {
	m := &nats.Msg{Subject: "bellhop.delivery." + b.target.sub.ID + "." + b.name}
	if b.told {
		m.Header = again
	}
	if over {
		return m
	}
	m.Data, _ = json.Marshal(rest{b.after, b.to, b.types}) // of numbers and words
	return m
}

// rest is what the outbox has of a backlog.
type rest struct {
	After uint64   `json:"after"`
	To    uint64   `json:"to,omitempty"`
	Types []string `json:"types,omitempty"`
}

// recallBacklog returns the backlog that a word of the outbox is of.
func recallBacklog(subscription, name string, word []byte) (*backlog, error) {
	b := &backlog{target: &target{sub: &Subscription{ID: subscription}}, name: name}
	if b.over = len(word) == 0; b.over {
		return b, nil
	}
	b.told = true
	var r rest
	err := json.Unmarshal(word, &r)
	b.after, b.to, b.types = r.After, r.To, r.Types
	return b, err
}

// recall reads the outbox into q and s, and returns its last place.
func (n *Notifier) recall(ctx context.Context, q *lanes, s *sweeper) (heard uint64, err error) {
	type waiting struct {
		subscription string
		lane         string
		delivery     *delivery
	}
	words := make(map[string]waiting)     // by subject, the last
	backlogs := make(map[string]*backlog) // as well
	var cursor, newest uint64
	err = readAll(ctx, n.outbox, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) (err error) {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		heard = meta.Sequence.Stream
		s.heard(m.Subject(), heard, len(m.Data()) == 0)
		if m.Subject() == cursorSubject {
			cursor, err = strconv.ParseUint(string(m.Data()), 10, 64)
			return err
		}
		subscription, name, _ := strings.Cut(strings.TrimPrefix(m.Subject(), "bellhop.delivery."), ".")
		seq, notNumber := strconv.ParseUint(name, 10, 64)
		if notNumber != nil {
			b, err := recallBacklog(subscription, name, m.Data())
			if backlogs[m.Subject()] = b; b.over {
				delete(backlogs, m.Subject())
			}
			newest = max(newest, b.after)
			return err
		}
		if len(m.Data()) == 0 {
			delete(words, m.Subject())
			return nil
		}
		var r remembered
		if err := json.Unmarshal(m.Data(), &r); err != nil {
			return err
		}
		d := &delivery{seq: seq, id: r.Event, kind: r.Type, at: r.At, observed: n.observed(r.At),
			attempts: r.Attempts, tries: r.Tries, due: n.due(&r), wait: r.Wait, replay: r.Replay, party: r.Party}
		words[m.Subject()] = waiting{subscription, r.Lane, d}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read bellhop_outbox: %w", err)
	}
	all := slices.SortedFunc(maps.Values(words), func(a, b waiting) int { return cmp.Compare(a.delivery.seq, b.delivery.seq) })
	newest = max(newest, cursor)
	if len(all) > 0 {
		newest = max(newest, all[len(all)-1].delivery.seq)
	}
	last, err := n.lastEvent(ctx, newest)
	if err != nil {
		return 0, err
	}
	q.begin(min(cursor, last))
	for _, b := range backlogs {
		b.after, b.to = min(b.after, last), min(b.to, last)
		q.restoreBacklog(b)
	}
	for _, w := range all {
		q.restore(w.subscription, w.lane, w.delivery, w.delivery.seq > last)
	}
	return heard, nil
}

// lastEvent is how far the log goes. What the outbox knows of may not be in it,
// because a power cut has cost the log more than the outbox, or because the
// server that leads it has just begun to: so it is asked for a second.
func (n *Notifier) lastEvent(ctx context.Context, newest uint64) (last uint64, err error) {
	for begin := time.Now(); ; pause(ctx, errorPause) {
		info, err := n.events.Info(ctx)
		if err != nil {
			return 0, fmt.Errorf("event log bellhop_events: %w", err)
		}
		if last = info.State.LastSeq; last >= newest || time.Since(begin) > time.Second {
			return last, nil
		}
	}
}
