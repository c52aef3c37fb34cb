package notify

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"bellhop/notify/deliverylog"
	"bellhop/notify/payload"
)

// The types and words of the delivery log, see there.
type (
	Delivery = deliverylog.Delivery
	Attempt  = deliverylog.Attempt
	Request  = deliverylog.Request
	Answer   = deliverylog.Answer
)

const (
	Waiting   = deliverylog.Waiting
	Delivered = deliverylog.Delivered
	Expired   = deliverylog.Expired
	Refused   = deliverylog.Refused
	Canceled  = deliverylog.Canceled
	Failed    = deliverylog.Failed
)

// fillRecord completes the record of an attempt and returns it. Two kinds of deliveries
// that succeed at once need a message of their own: a newCall that is replayed, see
// checkNewCall, and one whose receiver named URLs, see lastURLs.
func (a *attempt) fillRecord(outcome string, next time.Time) *deliverylog.Record {
	r := &a.record
	r.Subscription, r.Event, r.Seq, r.Type, r.EventTime = a.sub.ID, a.id, a.seq, a.kind, a.plannedAttempt.at
	r.Number, r.Error, r.Outcome, r.Next, r.Status = a.number, a.detail, outcome, next, a.status
	r.Method, r.SecretHeaders = a.sub.Method, a.sub.Headers
	if a.sub.Method != http.MethodGet && !payload.IsTemplate(a.sub.URL) {
		r.PlainURL = a.sub.URL
	}
	r.MaskURL, r.MaskResponse = a.namedURL != nil, a.sub.FollowsURLs() && isNewCall(a.kind)
	r.OnAnswer, r.OnHangup = a.urls.asText()
	r.AtOnce = a.number == 1 && outcome == Delivered && !r.ByHand && !(a.replay && a.party != "") && a.urls == nil
	return r
}

// recordAttempt records an attempt that the scheduler has just finished. If the outbox did
// not know the event id, it is taken from the event that was read.
func (n *Notifier) recordAttempt(a *attempt, v verdict) {
	if a.recorded {
		return
	}
	a.id = cmp.Or(a.id, a.eventID)
	word := v.outcome.String()
	if v.redelivered && a.outcome == willRetry {
		word = Failed
	}
	n.deliveryLog.Add(a.fillRecord(word, v.next))
}

// recordEnd records the end of a delivery that neither an attempt nor a redelivery brought
// about.
func (n *Notifier) recordEnd(d *delivery, o outcome) {
	if d.state == inFlight || d.redelivered {
		return
	}
	n.deliveryLog.Add(&deliverylog.Record{
		Subscription: d.queue.subscriber.sub.ID, Event: d.id, Seq: d.seq, Type: d.kind, EventTime: d.at,
		At: time.Now(), Outcome: o.String(), Error: d.reason,
	})
}

// splitID splits a webhook-id into event and subscription; ok is false if it is not valid.
func splitID(id string) (event, subscription string, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i <= 0 || len(id)-i-1 != 30 || strings.Trim(id[i+1:], idChars) != "" || len(id) > 256 {
		return "", "", false
	}
	return id[:i], id[i+1:], true
}
