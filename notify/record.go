package notify

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"bellhop/notify/deliverylog"
	"bellhop/notify/payload"
	"bellhop/notify/schedule"
)

// Aliases of the types and states of the delivery log.
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

// fillRecord completes the record of an attempt and returns it. If the outbox did not
// have the id of the event, the record gets the id of the event that was read.
//
// The record of a delivery that succeeds at the first attempt shares a message with
// others. In two cases it gets a message of its own, because it must be found by the
// subject of the delivery: a replay in the dialect cti (see checkNewCall), and a response
// that named URLs (see lastURLs).
func (a *attempt) fillRecord(outcome string, next time.Time) *deliverylog.Record {
	r := &a.record
	r.Subscription, r.Event, r.Seq, r.Type, r.EventTime = a.Sub.ID, cmp.Or(a.EventID, a.FoundID), a.Seq, a.Type, a.At
	r.Number, r.Error, r.Outcome, r.Next, r.Status = a.Number, a.Detail, outcome, next, a.Status
	r.Method, r.SecretHeaders = a.Sub.Method, a.Sub.Headers
	if a.Sub.Method != http.MethodGet && !payload.IsTemplate(a.Sub.URL) {
		r.PlainURL = a.Sub.URL
	}
	r.MaskURL, r.MaskResponse = a.NamedURL != nil, a.Sub.FollowsURLs() && schedule.IsNewCall(a.Type)
	r.OnAnswer, r.OnHangup = a.URLs.Text()
	r.AtOnce = a.Number == 1 && outcome == Delivered && !r.ByHand && !(a.Replay && a.Party != "") && a.URLs == nil
	return r
}

// recordAttempt records an attempt that the scheduler has just finished.
func (n *Notifier) recordAttempt(a *attempt, v schedule.Verdict) {
	if a.recorded {
		return
	}
	word := v.Outcome.String()
	if v.Redelivered && a.Outcome == schedule.WillRetry {
		word = Failed
	}
	n.deliveryLog.Add(a.fillRecord(word, v.Next))
}

// countEnd counts and records the end of a delivery, and logs it if the delivery expired
// or was refused.
func (n *Notifier) countEnd(e schedule.End) {
	n.stats.ended[e.Outcome].Add(1)
	n.recordEnd(e)
	if e.Outcome == schedule.Expired || e.Outcome == schedule.Refused {
		n.log.Warn("delivery "+e.Outcome.String(), "subscriber", e.Subscription, "call", e.Queue, "type", e.Type, "attempts", e.Failures)
	}
}

// recordEnd records the end of a delivery, unless the record of an attempt or a
// redelivery already contains it.
func (n *Notifier) recordEnd(e schedule.End) {
	if e.Recorded {
		return
	}
	n.deliveryLog.Add(&deliverylog.Record{
		Subscription: e.Subscription, Event: e.EventID, Seq: e.Seq, Type: e.Type, EventTime: e.At,
		At: time.Now(), Outcome: e.Outcome.String(), Error: e.Reason,
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
