package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"bellhop/notify/deliverylog"
	"bellhop/notify/payload"
	"bellhop/notify/send"
)

// maxSenders is how many attempts are in flight at once.
const maxSenders = 512

// attemptTimeouts limit an attempt, by retention.
var attemptTimeouts = [...]time.Duration{live: 5 * time.Second, durable: 15 * time.Second}

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

// makeAttempt makes one attempt and sets its result.
func (n *Notifier) makeAttempt(ctx context.Context, a *attempt) {
	timeout := time.Duration(a.sub.Timeout)
	if timeout == 0 {
		timeout = attemptTimeouts[a.retention]
	}
	if end, ok := ctx.Deadline(); ok { // a redelivery or a test
		timeout = min(timeout, time.Until(end).Round(time.Millisecond))
	}
	a.record.At = time.Now()
	defer func() {
		if v := recover(); v != nil {
			n.reportPanic("attempt", v)
			a.outcome, a.detail = expired, fmt.Sprintf("not sent again because of a bug in bellhop: %v", v)
		}
		a.record.Took = time.Since(a.record.At)
	}()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := n.prepareRequest(ctx, a)
	switch {
	case err == ErrEventGone || errors.Is(err, errNotOwed):
		a.outcome, a.detail = expired, err.Error()
		return
	case errors.Is(err, errMerged):
		a.outcome, a.detail = canceled, err.Error()
		return
	case err != nil:
		a.localFault, a.detail = true, err.Error()
		return
	case !a.notBefore.IsZero():
		a.localFault = true
		return
	}
	res := n.sender.Send(ctx, cancel, &req)
	if res.Err != nil {
		a.detail, a.fault = res.Err.Error(), noAnswer
		if res.NoConnection {
			a.fault = noConnection
		}
		if errors.Is(res.Err, context.DeadlineExceeded) {
			a.detail = "no response within " + timeout.String()
		}
		return
	}
	a.status = res.StatusCode
	a.record.ResponseHeader, a.record.ResponseBody, a.record.Truncated = res.Header, res.Body, res.Truncated
	a.outcome = outcomeOf(res.StatusCode)
	if alreadyExists(a.sub, a.kind, res.StatusCode, res.Body) {
		a.outcome = delivered
	}
	n.recordURLs(ctx, a)
	a.detail, a.fault, a.retryAfter = res.Status, badStatus, res.RetryAfter
}

// outcomeOf returns the outcome of a response status. Redirects are not followed, and a
// receiver that is being deployed may answer 404 for a minute: both are failures.
func outcomeOf(status int) outcome {
	switch {
	case status/100 == 2:
		return delivered
	case status == http.StatusGone:
		return refused
	}
	return willRetry
}

// prepareRequest returns the HTTP request of an attempt. It sets a.notBefore instead if the
// attempt is postponed. The error is ErrEventGone, errNotOwed, errMerged, or of the store.
func (n *Notifier) prepareRequest(ctx context.Context, a *attempt) (r send.Request, err error) {
	e := a.event
	if e == nil {
		if e, err = n.events.Event(ctx, a.seq); err != nil {
			return r, err
		}
	}
	a.eventID = e.ID
	group, err := n.joinGroup(ctx, a, e)
	switch {
	case err != nil:
		a.record.Source = e
		return r, err
	case !a.notBefore.IsZero():
		return r, nil
	case group == nil && a.newCallUnknown:
		if err := n.checkNewCall(ctx, a.sub, e); err != nil {
			a.record.Source = e
			return r, err
		}
	}
	named, err := n.findNamedURL(ctx, a, e, group)
	if err != nil {
		return r, err
	}
	v := payload.New(e, a.sub.Format())
	if group != nil {
		v.GroupParty, v.Ringing = group.first.Party, group.ringing
	}
	if err := n.numberExtensions(ctx, &v, a.sub.Dialect); err != nil {
		return r, err
	}
	body := v.Append(make([]byte, 0, 1024))
	u := named
	if a.namedURL = named; named == nil {
		if u, err = v.ResolveURL(a.url, body); err != nil {
			return r, err
		}
	}
	r = send.Request{
		Method: a.sub.Method, URL: u, Header: make(http.Header, 8+len(a.sub.Headers)), Signer: a.signer,
		TLS: send.TLS{CA: a.sub.TLSCA, Cert: a.sub.TLSCert, Key: string(a.sub.TLSKey)},
	}
	r.Header["Webhook-Id"] = []string{deliverylog.ID(e.ID, a.sub.ID)}
	v.SetHeader(r.Header)
	if !v.IsGET() {
		r.Body = body
	}
	if named == nil || endpointKey(named) == endpointKey(a.url) {
		for name, value := range a.sub.Headers { // often credentials: sent to the endpoint of the subscription's own URL only
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
		if v.CalledID, err = n.numbers.allotNumber(ctx, v.Called.User); err != nil {
			return err
		}
	}
	if v.Caller != nil {
		if v.CallerID, err = n.numbers.allotNumber(ctx, v.Caller.User); err != nil {
			return err
		}
	}
	v.OwnID, err = n.numbers.allotNumber(ctx, v.Extension.User)
	return err
}
