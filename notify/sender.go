package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"bellhop/notify/subscription"
)

const (
	maxSenders      = 512         // attempts in flight at once
	maxResponseBody = 4 << 10     // bytes of a response body that are read
	bodyTimeout     = time.Second // for the body of a response; the status alone decides
)

// attemptTimeouts limit an attempt, by retention.
var attemptTimeouts = [...]time.Duration{live: 5 * time.Second, durable: 15 * time.Second}

// A sender makes attempts.
type sender struct {
	transport     http.RoundTripper
	httpConns     *connPool     // of http URLs; nil: transport has its own
	httpsConns    *connPool     // of https URLs; nil: transport has its own
	tlsTransports tlsTransports // of the subscriptions with a CA or certificate of their own
	userAgent     string
}

// newSender returns a sender for the network, or for c.Transport.
func newSender(c Config) *sender {
	transport, plain, secure := newTransport(c)
	return &sender{transport: transport, httpConns: plain, httpsConns: secure, userAgent: strings.TrimSuffix("bellhop/"+c.Version, "/")}
}

// close closes all idle connections.
func (s *sender) close() {
	s.tlsTransports.close()
	if s.httpConns != nil {
		s.httpConns.close()
		s.httpsConns.close()
	}
	if t, ok := s.transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// makeAttempt makes one attempt and sets its result.
func (s *sender) makeAttempt(ctx context.Context, n *Notifier, a *attempt) {
	timeout := time.Duration(a.sub.Timeout)
	if timeout == 0 {
		timeout = attemptTimeouts[a.retention]
	}
	if end, ok := ctx.Deadline(); ok { // a redelivery or a test
		timeout = min(timeout, time.Until(end).Round(time.Millisecond))
	}
	a.startedAt = time.Now()
	defer func() {
		if v := recover(); v != nil {
			n.reportPanic("attempt", v)
			a.outcome, a.detail = expired, fmt.Sprintf("not sent again because of a bug in bellhop: %v", v)
		}
		a.took = time.Since(a.startedAt)
	}()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := n.buildRequest(ctx, a)
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
	case req == nil:
		a.localFault = true // see notBefore
		return
	}
	res, err := s.sendRequest(req, a.sub)
	if err != nil {
		a.detail, a.fault = err.Error(), faultOf(err, a.sub)
		if errors.Is(err, context.DeadlineExceeded) {
			a.detail = "no response within " + timeout.String()
		}
		return
	}
	a.status = res.StatusCode
	a.readResponse(res, cancel)
	a.outcome = outcomeOf(res.StatusCode)
	if alreadyExists(a.sub, a.kind, res.StatusCode, a.responseBody) {
		a.outcome = delivered
	}
	n.recordURLs(ctx, a)
	a.detail, a.fault = res.Status, badStatus
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable {
		a.retryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
}

// sendRequest sends a request with the TLS settings of its subscription.
func (s *sender) sendRequest(req *http.Request, sub *Subscription) (*http.Response, error) {
	if common, ok := s.transport.(*http.Transport); ok && sub.HasOwnTLS() {
		transport, err := s.tlsTransports.transportFor(common, sub, time.Now())
		if err != nil {
			return nil, err
		}
		return transport.RoundTrip(req)
	}
	return s.transport.RoundTrip(req)
}

// faultOf returns the fault of an attempt without a response. A subscription with a CA or
// certificate of its own may itself cause a failed handshake.
func faultOf(err error, sub *Subscription) fault {
	var failed *connectError
	if errors.As(err, &failed) && !(failed.handshake && sub.HasOwnTLS()) {
		return noConnection
	}
	return noAnswer
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

// retryAfter parses the header field Retry-After (RFC 9110 §10.2.3): seconds or a date. An
// invalid value is no wait.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// buildRequest builds the HTTP request of an attempt, or returns nil if the attempt is
// postponed. The error is ErrEventGone, errNotOwed, errMerged, or of the store.
func (n *Notifier) buildRequest(ctx context.Context, a *attempt) (*http.Request, error) {
	e := a.event
	if e == nil {
		var err error
		if e, err = n.readEvent(ctx, a.seq); err != nil {
			return nil, err
		}
	}
	a.eventID = e.ID
	group, err := n.joinGroup(ctx, a, e)
	switch {
	case err != nil:
		a.sentEvent = e
		return nil, err
	case !a.notBefore.IsZero():
		return nil, nil
	case group == nil && a.newCallUnknown:
		if err := n.checkNewCall(ctx, a.sub, e); err != nil {
			a.sentEvent = e
			return nil, err
		}
	}
	named, err := n.findNamedURL(ctx, a, e, group)
	if err != nil {
		return nil, err
	}
	v := newView(e, a.sub)
	v.group = group
	if err := n.numberExtensions(ctx, &v); err != nil {
		return nil, err
	}
	payload := v.appendPayload(make([]byte, 0, 1024))

	u := a.url
	template := subscription.IsTemplate(a.sub.URL)
	switch {
	case named != nil:
		u, a.namedURL = named, named
	case template:
		var err error
		if u, err = v.expandURL(a.url); err != nil {
			return nil, err
		}
	case v.isGET():
		asked := *a.url
		asked.RawQuery = joinQuery(asked.RawQuery, payload)
		u = &asked
	}
	req := new(http.Request).WithContext(ctx)
	req.Method, req.URL, req.Host = a.sub.Method, u, u.Host
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	req.Header = make(http.Header, 8+len(a.sub.Headers))
	req.Header["User-Agent"] = []string{n.sender.userAgent}
	req.Header["Webhook-Id"] = []string{deliveryID(e.ID, a.sub.ID)}
	if v.sub.Dialect == CloudEvents {
		v.setCloudEvent(req.Header)
	}
	if trace := traceparent(e); trace != "" {
		req.Header["Traceparent"] = []string{trace}
	}
	if !v.isGET() {
		req.Header["Content-Type"] = []string{v.contentType()}
		req.ContentLength = int64(len(payload))
		req.Body = io.NopCloser(bytes.NewReader(payload))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(payload)), nil }
		req.Header["Idempotency-Key"] = nil // nil is not sent, but lets net/http repeat the request if a kept connection turns out closed
	}
	a.signRequest(req, payload, time.Now())
	if named == nil || endpointKey(named) == endpointKey(a.url) {
		for name, value := range a.sub.Headers { // often credentials: sent to the endpoint of the subscription's own URL only
			req.Header[name] = []string{value}
		}
	}
	a.noteRequest(e, req, payload)
	return req, nil
}

// numberExtensions sets the numbers of the extensions of a view, for the dialects that send
// numbers.
func (n *Notifier) numberExtensions(ctx context.Context, v *view) (err error) {
	if v.sub.Dialect == Unified || v.sub.Dialect == CTI {
		return nil
	}
	if v.called != nil {
		if v.calledID, err = n.numbers.allotNumber(ctx, v.called.User); err != nil {
			return err
		}
	}
	if v.caller != nil {
		if v.callerID, err = n.numbers.allotNumber(ctx, v.caller.User); err != nil {
			return err
		}
	}
	v.ownID, err = n.numbers.allotNumber(ctx, v.Extension.User)
	return err
}

// joinQuery appends a form to the query of a URL, which stays as it is.
func joinQuery(query string, form []byte) string {
	if query == "" || strings.HasSuffix(query, "&") {
		return query + string(form)
	}
	return query + "&" + string(form)
}
