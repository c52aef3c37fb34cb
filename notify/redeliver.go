package notify

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/dialog"
)

// byHandTime is how long what somebody asks for, and waits for, may take.
const manualTimeout = 15 * time.Second

// handedSubject is where the node that delivers hears, past all streams, what
// was delivered by hand. What it does not hear it delivers again.
const redeliveredSubject = "bellhop.delivered"

// handed is a delivery that was delivered by hand.
type redelivery struct {
	Subscription string `json:"subscription"`
	Queue        string `json:"lane"`
	Seq          uint64 `json:"seq"` // of the event in its log

	OnAnswer string `json:"on_answer,omitempty"` // of a newCall: see callURLs
	OnHangup string `json:"on_hangup,omitempty"`
	Named    bool   `json:"named,omitempty"` // it went to such a URL
}

// Redeliver makes one attempt at a delivery now, whatever became of it before:
// outside the order of its call, and also while its endpoint is paused or its
// subscription switched off. The webhook-id is the same. If it succeeds, the
// delivery is delivered; else nothing has changed. The attempt takes 15 seconds
// at most, and is recorded.
//
// The error is ErrNoDelivery, ErrNotFound if the subscription is gone,
// ErrEventGone, or of the store; that an attempt fails is none.
func (n *Notifier) Redeliver(ctx context.Context, id string) (Attempt, error) {
	d, err := n.Delivery(ctx, id)
	if err != nil {
		return Attempt{}, err
	}
	s, err := n.registry.get(d.Subscription)
	if err != nil {
		return Attempt{}, err
	}
	e, err := n.readEvent(ctx, d.seq)
	if err != nil {
		return Attempt{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), manualTimeout) // who asked may leave
	defer cancel()
	a := n.attemptNow(ctx, &s, e, d.seq)
	n.records.addRecord(a)
	if a.outcome == delivered {
		h := redelivery{Subscription: s.ID, Queue: queueName(e), Seq: d.seq, Named: a.namedURL != nil}
		h.OnAnswer, h.OnHangup = a.urls.asText()
		word, _ := json.Marshal(h) // of strings, a number and a bool
		if err := n.js.Conn().Publish(redeliveredSubject, word); err != nil {
			n.log.Warn("what was delivered by hand may be delivered again", "subscriber", s.ID, "event", e.ID, "err", err)
		}
	}
	return a.asRecorded(), nil
}

// attemptByHand makes one attempt at once.
func (n *Notifier) attemptNow(ctx context.Context, s *Subscription, e *dialog.Event, seq uint64) *attempt {
	u, _ := url.Parse(urlBeforeVariables(s.URL)) // Validate has parsed both
	a := &attempt{
		delivery: &delivery{seq: seq, id: e.ID, kind: e.Type, at: e.At},
		sub:      s, url: u, signer: newSigner(s), loadedEvent: e,
	}
	a.manual = true
	n.sender.makeAttempt(ctx, n, a)
	a.outcomeWord = Failed
	if a.outcome == delivered {
		a.outcomeWord = Delivered
	}
	return a
}

// shown is an attempt as the delivery log shows it.
func (a *attempt) asRecorded() Attempt {
	var l attemptRecord
	if err := json.Unmarshal(a.appendRecord(nil), &l); err != nil {
		panic(err) // it was just written
	}
	return l.asAttempt()
}

// hear takes the word of what was delivered by hand.
func (l *deliveryLoop) applyRedelivery(m *nats.Msg) {
	var h redelivery
	if err := json.Unmarshal(m.Data, &h); err != nil {
		l.log.Error("what was delivered by hand cannot be read", "subject", m.Subject, "err", err)
		return
	}
	l.scheduler.applyRedelivery(time.Now(), h)
}

// A Trial is what came of sending a sample.
type Trial struct {
	Type    string // as the subscription names it
	ID      string // the webhook-id
	Attempt Attempt
}

// maxTrials is how many samples are under way at once.
const maxSamples = 4

// Test sends a subscription a sample of each type that it names, now and once,
// signed as ever, whether or not it is switched off or its endpoint paused. Ids
// in samples begin with "test-". They are in no log, and what comes of them
// changes nothing. The dials are answered before the rest is sent: receivers
// refuse what they know no beginning of. All of it takes 15 seconds at most.
//
// The error is ErrNotFound; that an attempt fails is none.
func (n *Notifier) Test(ctx context.Context, id string) ([]Trial, error) {
	s, err := n.registry.get(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, manualTimeout)
	defer cancel()
	p := newSampler(&s, time.Now())
	trials := make([]Trial, len(p.types))
	slots := make(chan struct{}, maxSamples)
	var under sync.WaitGroup
	for i, t := range p.types {
		if i > 0 && strings.HasPrefix(p.types[i-1], "dial-") && !strings.HasPrefix(t, "dial-") {
			under.Wait()
		}
		slots <- struct{}{}
		under.Go(func() {
			defer func() { <-slots }()
			defer n.recoverPanic("send sample")
			e := p.makeEvent(t)
			trials[i] = Trial{t, deliveryID(e.ID, s.ID), n.sendSample(ctx, &s, e)}
		})
	}
	under.Wait()
	return trials, nil
}

// try sends a sample, if there is time.
func (n *Notifier) sendSample(ctx context.Context, s *Subscription, e *dialog.Event) Attempt {
	if end, _ := ctx.Deadline(); ctx.Err() != nil || !time.Now().Before(end) {
		return Attempt{At: time.Now(), Outcome: Failed, ByHand: true, Error: "not sent: those before it took all of the " + manualTimeout.String()}
	}
	return n.attemptNow(ctx, s, e, 0).asRecorded()
}
