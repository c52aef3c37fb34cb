package notify

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/schedule"
)

// manualTimeout limits a redelivery or a test, because a user waits for it.
const manualTimeout = 15 * time.Second

// redeliveredSubject is the NATS subject on which a successful redelivery is announced to
// the delivering node. The message is not stored. If it is lost, the event is delivered
// again.
const redeliveredSubject = "bellhop.delivered"

// redelivery announces that Redeliver has delivered an event.
type redelivery struct {
	Subscription string `json:"subscription"`
	Queue        string `json:"lane"`
	Seq          uint64 `json:"seq"` // position of the event in the log

	OnAnswer string `json:"on_answer,omitempty"` // named by the response to a newCall, see [schedule.CallURLs]
	OnHangup string `json:"on_hangup,omitempty"`
	Named    bool   `json:"named,omitempty"` // it went to a URL that the receiver had named
}

// Redeliver makes one attempt at a delivery now, whatever the state of the delivery. It
// ignores the order of the call, and a subscription that is paused or disabled. The
// request has the original webhook-id. If the attempt succeeds, the delivery becomes
// delivered; otherwise its state does not change. The attempt takes at most 15 seconds
// and is recorded.
//
// The error is ErrNoDelivery, ErrNotFound if the subscription is gone, ErrEventGone, or
// one of the store. A failed attempt is no error.
func (n *Notifier) Redeliver(ctx context.Context, id string) (Attempt, error) {
	d, err := n.Delivery(ctx, id)
	if err != nil {
		return Attempt{}, err
	}
	s, err := n.registry.get(d.Subscription)
	if err != nil {
		return Attempt{}, err
	}
	e, err := n.EventLog.Event(ctx, d.Seq)
	if err != nil {
		return Attempt{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), manualTimeout) // the attempt goes on even if the client leaves
	defer cancel()
	a := n.attemptNow(ctx, &s, e, d.Seq)
	if !a.recorded {
		n.deliveryLog.Add(&a.record)
	}
	if a.Outcome == schedule.Delivered {
		h := redelivery{Subscription: s.ID, Queue: e.OrderKey(), Seq: d.Seq, Named: a.NamedURL != nil}
		h.OnAnswer, h.OnHangup = a.URLs.Text()
		message, _ := json.Marshal(h) // cannot fail: strings, a number and a bool
		if err := n.js.Conn().Publish(redeliveredSubject, message); err != nil {
			n.log.Warn("redelivery not announced: the event may be delivered again", "subscriber", s.ID, "event", e.ID, "err", err)
		}
	}
	return a.record.Attempt(), nil
}

// attemptNow makes one attempt at once, outside the scheduler.
func (n *Notifier) attemptNow(ctx context.Context, s *Subscription, e *dialog.Event, seq uint64) *attempt {
	u := s.BaseURL()
	a := &attempt{
		Attempt: schedule.Attempt{Seq: seq, EventID: e.ID, Type: e.Type, At: e.At, Event: e, Sub: s, URL: u, Live: e.Type.Live()},
		signer:  newSigner(s),
	}
	a.record.ByHand = true
	n.makeAttempt(ctx, a)
	word := Failed
	if a.Outcome == schedule.Delivered {
		word = Delivered
	}
	a.fillRecord(word, time.Time{})
	return a
}

// applyRedelivery applies the announcement of a redelivery to the scheduler.
func (l *deliveryLoop) applyRedelivery(m *nats.Msg) {
	var h redelivery
	if err := json.Unmarshal(m.Data, &h); err != nil {
		l.log.Error("redelivery not decoded", "subject", m.Subject, "err", err)
		return
	}
	l.scheduler.ApplyRedelivery(time.Now(), schedule.Redelivery{
		Subscription: h.Subscription, Queue: h.Queue, Seq: h.Seq, URLs: schedule.ParseCallURLs(h.OnAnswer, h.OnHangup), Named: h.Named,
	})
}

// A SampleResult is the result of sending one sample.
type SampleResult struct {
	Type    string // as the subscription names it
	ID      string // the webhook-id
	Attempt Attempt
}

// maxSamples is how many samples are in flight at once.
const maxSamples = 4

// Test sends a subscription one sample of each of its types, now and once, signed as
// usual, even if it is disabled or paused. The ids of samples begin with "test-". Samples
// are in no log, and their results change nothing. The dials are sent first, and the
// other samples after the responses to the dials, because receivers refuse events of a
// call whose beginning they do not know. All samples together take at most 15 seconds.
//
// The error is ErrNotFound. A failed attempt is no error.
func (n *Notifier) Test(ctx context.Context, id string) ([]SampleResult, error) {
	s, err := n.registry.get(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, manualTimeout)
	defer cancel()
	p, words := s.Sampler(rand.Text(), time.Now()), s.SampleWords()
	results := make([]SampleResult, len(words))
	slots := make(chan struct{}, maxSamples)
	var under sync.WaitGroup
	for i, t := range words {
		if i > 0 && strings.HasPrefix(words[i-1], "dial-") && !strings.HasPrefix(t, "dial-") {
			under.Wait()
		}
		slots <- struct{}{}
		under.Go(func() {
			defer func() { <-slots }()
			defer n.recoverPanic("send sample")
			e := p.Event(t)
			results[i] = SampleResult{t, deliverylog.ID(e.ID, s.ID), n.sendSample(ctx, &s, e)}
		})
	}
	under.Wait()
	return results, nil
}

// sendSample sends a sample, unless the time of the test is over.
func (n *Notifier) sendSample(ctx context.Context, s *Subscription, e *dialog.Event) Attempt {
	if end, _ := ctx.Deadline(); ctx.Err() != nil || !time.Now().Before(end) {
		return Attempt{At: time.Now(), Outcome: Failed, ByHand: true, Error: "not sent: those before it took all of the " + manualTimeout.String()}
	}
	return n.attemptNow(ctx, s, e, 0).record.Attempt()
}
