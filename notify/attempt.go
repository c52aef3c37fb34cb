package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"bellhop/notify/deliverylog"
	"bellhop/notify/payload"
	"bellhop/notify/schedule"
	"bellhop/notify/send"
)

// An attempt is one HTTP request for a delivery. It holds the plan of the scheduler, the
// result, and the record for the delivery log.
type attempt struct {
	schedule.Attempt
	schedule.Result

	signer   *send.Signer // nil: the subscription has no secret
	record   deliverylog.Record
	recorded bool // it is in the delivery log already
}

// maxSenders is how many attempts are in flight at once.
const maxSenders = 512

// liveTimeout and durableTimeout limit an attempt if the subscription sets no timeout.
const (
	liveTimeout    = 5 * time.Second
	durableTimeout = 15 * time.Second
)

// newSender returns the sender of a configuration.
func newSender(c Config) *send.Sender {
	return send.New(send.Config{Allow: c.Allow, Deny: c.Deny, Own: c.Own, Resolver: c.Resolver, Version: c.Version, Transport: c.Transport})
}

// newSigner returns the signer of s, or nil if s has no secret.
func newSigner(s *Subscription) *send.Signer {
	key, err := s.Secret.Key()
	if err != nil {
		return nil
	}
	old, _ := s.OldSecret.Key() // nil if there is none
	return send.NewSigner(key, old, s.OldSecretUntil)
}

// startAttempt hands an attempt to a sender. It is a hook of the scheduler.
func (l *deliveryLoop) startAttempt(planned schedule.Attempt) {
	if l.inFlight++; l.inFlight > l.senders {
		l.senders++
		l.helpers.Go(func() {
			for a := range l.attempts {
				l.makeAttempt(l.attemptCtx, a)
				l.results <- a
			}
		})
	}
	l.attempts <- &attempt{Attempt: planned, signer: l.signers[planned.Sub.ID]}
}

// takeResult applies, counts and records the result of an attempt.
func (l *deliveryLoop) takeResult(a *attempt) {
	l.inFlight--
	if !a.NotBefore.IsZero() { // no request was sent
		if v := l.scheduler.FinishAttempt(time.Now(), &a.Attempt, &a.Result); v.Ended && !v.Redelivered {
			l.recordAttempt(a, v)
		}
		return
	}
	if a.Outcome == schedule.WillRetry {
		l.stats.failed.Add(1)
		l.log.Debug("attempt failed", "subscriber", a.Sub.ID, "event", a.Seq, "type", a.Type, "err", a.Detail)
	}
	if a.Outcome == schedule.Refused && a.NamedURL == nil {
		l.disableSubscription(a.Sub, "the receiver answered 410 Gone")
	}
	now := time.Now()
	l.recordAttempt(a, l.scheduler.FinishAttempt(now, &a.Attempt, &a.Result))
	if h, ok := l.scheduler.Health(a.Sub.ID); ok {
		l.updateHealth(now, h, a.Detail)
	}
}

// makeAttempt makes one attempt and sets its result.
func (n *Notifier) makeAttempt(ctx context.Context, a *attempt) {
	timeout := time.Duration(a.Sub.Timeout)
	switch {
	case timeout != 0:
	case a.Live:
		timeout = liveTimeout
	default:
		timeout = durableTimeout
	}
	if end, ok := ctx.Deadline(); ok { // a redelivery or a test
		timeout = min(timeout, time.Until(end).Round(time.Millisecond))
	}
	a.record.At = time.Now()
	defer func() {
		if v := recover(); v != nil {
			n.reportPanic("attempt", v)
			a.Outcome, a.Detail = schedule.Expired, fmt.Sprintf("not sent again because of a bug in bellhop: %v", v)
		}
		a.record.Took = time.Since(a.record.At)
	}()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := n.prepareRequest(ctx, a)
	switch {
	case err == ErrEventGone || errors.Is(err, errNotOwed):
		a.Outcome, a.Detail = schedule.Expired, err.Error()
		return
	case errors.Is(err, errMerged):
		a.Outcome, a.Detail = schedule.Canceled, err.Error()
		return
	case err != nil:
		a.LocalFault, a.Detail = true, err.Error()
		return
	case !a.NotBefore.IsZero():
		a.LocalFault = true
		return
	}
	res := n.sender.Send(ctx, cancel, &req)
	if res.Err != nil {
		a.Detail, a.Fault = res.Err.Error(), schedule.NoAnswer
		if res.NoConnection {
			a.Fault = schedule.NoConnection
		}
		if errors.Is(res.Err, context.DeadlineExceeded) {
			a.Detail = "no response within " + timeout.String()
		}
		return
	}
	a.Status = res.StatusCode
	a.record.ResponseHeader, a.record.ResponseBody, a.record.Truncated = res.Header, res.Body, res.Truncated
	a.Outcome = outcomeOf(res.StatusCode)
	if alreadyExists(a.Sub, a.Type, res.StatusCode, res.Body) {
		a.Outcome = schedule.Delivered
	}
	n.recordURLs(ctx, a)
	a.Detail, a.Fault, a.RetryAfter = res.Status, schedule.BadStatus, res.RetryAfter
}

// outcomeOf returns the outcome of a response status. Redirects are not followed, and a
// receiver that is being deployed may answer 404 for a minute: both are failures.
func outcomeOf(status int) schedule.Outcome {
	switch {
	case status/100 == 2:
		return schedule.Delivered
	case status == http.StatusGone:
		return schedule.Refused
	}
	return schedule.WillRetry
}

// prepareRequest returns the HTTP request of an attempt. It sets a.NotBefore instead if the
// attempt is postponed. The error is ErrEventGone, errNotOwed, errMerged, or one of the
// store.
func (n *Notifier) prepareRequest(ctx context.Context, a *attempt) (r send.Request, err error) {
	e := a.Event
	if e == nil {
		if e, err = n.EventLog.Event(ctx, a.Seq); err != nil {
			return r, err
		}
	}
	a.FoundID = e.ID
	group, err := n.joinGroup(ctx, a, e)
	switch {
	case err != nil:
		a.record.Source = e
		return r, err
	case !a.NotBefore.IsZero():
		return r, nil
	case group == nil && a.NewCallUnknown:
		if err := n.checkNewCall(ctx, a.Sub, e); err != nil {
			a.record.Source = e
			return r, err
		}
	}
	named, err := n.findNamedURL(ctx, a, e, group)
	if err != nil {
		return r, err
	}
	v := payload.New(e, a.Sub.Format())
	if group != nil {
		v.GroupParty, v.Ringing = group.first.Party, group.ringing
	}
	if err := n.numberExtensions(ctx, &v, a.Sub.Dialect); err != nil {
		return r, err
	}
	body := v.Append(make([]byte, 0, 1024))
	u := named
	if a.NamedURL = named; named == nil {
		if u, err = v.ResolveURL(a.URL, body); err != nil {
			return r, err
		}
	}
	r = send.Request{
		Method: a.Sub.Method, URL: u, Header: make(http.Header, 8+len(a.Sub.Headers)), Signer: a.signer,
		TLS: send.TLS{CA: a.Sub.TLSCA, Cert: a.Sub.TLSCert, Key: string(a.Sub.TLSKey)},
	}
	r.Header["Webhook-Id"] = []string{deliverylog.ID(e.ID, a.Sub.ID)}
	v.SetHeader(r.Header)
	if !v.IsGET() {
		r.Body = body
	}
	if named == nil || schedule.EndpointKey(named) == schedule.EndpointKey(a.URL) {
		for name, value := range a.Sub.Headers { // often credentials: sent to the endpoint of the subscription's own URL only
			r.Header[name] = []string{value}
		}
	}
	a.record.Source, a.record.URL, a.record.Header, a.record.Body = e, u, r.Header, r.Body
	return r, nil
}

// numberExtensions sets the numbers of the extensions of a view, for the dialects that send
// numbers.
func (n *Notifier) numberExtensions(ctx context.Context, v *payload.View, d Dialect) (err error) {
	if !d.HasNumbers() {
		return nil
	}
	if v.Called != nil {
		if v.CalledID, err = n.Numbers.Allot(ctx, v.Called.User); err != nil {
			return err
		}
	}
	if v.Caller != nil {
		if v.CallerID, err = n.Numbers.Allot(ctx, v.Caller.User); err != nil {
			return err
		}
	}
	v.OwnID, err = n.Numbers.Allot(ctx, v.Extension.User)
	return err
}
