package notify

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/send"
	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

// A receiver written for sipgate's push API answers a newCall with XML:
//
//	<Response onAnswer="https://crm.example/taken?call=1" onHangup="https://crm.example/over?call=1"/>
//
// If the subscription has FollowURLs, answer and hangup of that call go to these URLs,
// each event to one URL only; an event without a named URL goes to the subscription's.
// Order, retries and signature are the same. The response to the attempt that delivered
// the newCall counts; after several deliveries of it, the last response does.
//
// The delivery log stores the URLs in the record of that attempt, which is written before
// the newCall counts as delivered. A process that has not made the attempt reads them
// there. They lapse when the URL of the subscription, or what it asks for, changes.
//
// A named URL has no more rights than the URL of a subscription: the egress guard checks
// each connection, and redirects are not followed. The header fields of the subscription
// are sent only to the endpoint of its own URL. A failing named URL does not open the
// circuit breaker of the subscription, nor one of an endpoint that is not its own.

// callURLs are the URLs that a receiver has named for the events after a newCall. A nil
// *callURLs names none, and so does a nil URL.
type callURLs struct {
	answer, hangup *url.URL
}

// urlFor returns the URL for events of a type; nil: none is named.
func (u *callURLs) urlFor(t dialog.Type) *url.URL {
	switch {
	case u == nil:
		return nil
	case t == dialog.Answer:
		return u.answer
	case t == dialog.Hangup:
		return u.hangup
	}
	return nil
}

// asText returns the URLs as text; "" for each that is not named.
func (u *callURLs) asText() (onAnswer, onHangup string) {
	if u == nil {
		return "", ""
	}
	if u.answer != nil {
		onAnswer = u.answer.String()
	}
	if u.hangup != nil {
		onHangup = u.hangup.String()
	}
	return onAnswer, onHangup
}

// parseCallURLs parses the result of asText.
func parseCallURLs(onAnswer, onHangup string) *callURLs {
	if onAnswer == "" && onHangup == "" {
		return nil
	}
	u := new(callURLs)
	if onAnswer != "" {
		u.answer, _ = url.Parse(onAnswer) // readCallURLs has parsed both
	}
	if onHangup != "" {
		u.hangup, _ = url.Parse(onHangup)
	}
	return u
}

// byteOrderMark may precede a document in UTF-8.
var byteOrderMark = []byte("\ufeff")

// readCallURLs reads the URLs of the XML that answers a newCall; nil: none. A response
// without XML, as most receivers send, names none. If one URL cannot be used, the error
// says why, and the other may still be returned.
func readCallURLs(answer []byte, cut bool) (*callURLs, error) {
	if !bytes.Contains(answer, []byte("<Response")) {
		return nil, nil
	}
	if cut {
		return nil, fmt.Errorf("read XML response: longer than %d bytes, or not complete within %v", send.MaxBody, send.BodyTimeout)
	}
	root, err := readRoot(bytes.TrimPrefix(answer, byteOrderMark))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read XML response: %w", err)
	case root.Name != xml.Name{Local: "Response"}:
		return nil, nil
	}
	var u callURLs
	var problems []error
	seen := make(map[string]bool)
	for _, attr := range root.Attr {
		name := attr.Name.Local
		if attr.Name.Space != "" || name != "onAnswer" && name != "onHangup" || attr.Value == "" {
			continue
		}
		if seen[name] {
			return nil, fmt.Errorf("read XML response: duplicate attribute %s", name)
		}
		seen[name] = true
		to, err := subscription.ParseURL(attr.Value)
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("%s %s", name, err.Why))
		case name == "onAnswer":
			u.answer = to
		default:
			u.hangup = to
		}
	}
	if u == (callURLs{}) {
		return nil, errors.Join(problems...)
	}
	return &u, errors.Join(problems...)
}

// readRoot parses a whole XML document, without a document type, and returns the start tag
// of its root.
func readRoot(document []byte) (root xml.StartElement, err error) {
	d := xml.NewDecoder(bytes.NewReader(document))
	for depth, roots := 0, 0; ; {
		token, err := d.Token()
		if err == io.EOF && roots == 1 {
			return root, nil
		}
		if err != nil {
			return root, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
				root = t.Copy()
			}
			depth++
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && len(bytes.TrimSpace(t)) > 0 {
				return root, errors.New("text outside of the root element")
			}
		case xml.Directive:
			return root, errors.New("a document type is not allowed")
		}
		if roots > 1 {
			return root, errors.New("more than one root element")
		}
	}
}

// recordURLs sets the URLs that the response to a delivered newCall names, and writes them
// to the delivery log before the attempt counts. If the store does not accept them in time,
// they are written like any record.
func (n *Notifier) recordURLs(ctx context.Context, a *attempt) {
	if !a.sub.FollowsURLs() || !isNewCall(a.kind) || a.seq == 0 || outcomeOf(a.status) != delivered {
		return
	}
	urls, err := readCallURLs(a.record.ResponseBody, a.record.Truncated)
	if err != nil {
		n.log.Warn("URL of the receiver ignored", "subscriber", a.sub.ID, "event", a.id, "err", err)
	}
	if a.urls = urls; urls == nil || a.id == "" {
		return
	}
	a.record.Took = time.Since(a.record.At)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stream.Timeout)
	defer cancel()
	if err := n.deliveryLog.Write(ctx, a.fillRecord(Delivered, time.Time{})); err != nil {
		n.log.Warn("URLs of the receiver not recorded yet", "subscriber", a.sub.ID, "event", a.id, "err", err)
		return
	}
	a.recorded = true
}

// findNamedURL returns the URL that the receiver has named for an answer or hangup; nil:
// none. It reads the delivery log if this process has not delivered the newCall. The error
// is of the store.
func (n *Notifier) findNamedURL(ctx context.Context, a *attempt, e *dialog.Event, g *group) (*url.URL, error) {
	if !a.sub.FollowsURLs() || e.Party == "" || isNewCall(e.Type) || a.seq == 0 {
		return nil, nil
	}
	c, id := a.partyNewCall, dialog.EventID(e.Party, newCallType(e.Flow))
	if g != nil {
		c, id = newCall{}, g.first.ID
		if a.groupNewCall.seq == g.seq {
			c = a.groupNewCall
		}
	}
	if c.state != newCallDelivered {
		var err error
		if c.urls, err = n.lastURLs(ctx, a.sub, id); err != nil {
			return nil, err
		}
		a.loggedURLs = c.urls
	}
	return c.urls.urlFor(e.Type), nil
}

// lastURLs returns the URLs that the response to the last delivery of a newCall named, as
// far as the delivery log has it; nil: none.
func (n *Notifier) lastURLs(ctx context.Context, s *Subscription, newCall string) (urls *callURLs, err error) {
	err = n.deliveryLog.ReadRecords(ctx, s.ID, newCall, func(r *deliverylog.Stored) {
		if r.Outcome == Delivered {
			urls = parseCallURLs(r.OnAnswer, r.OnHangup)
		}
		if time.UnixMicro(r.At).Before(s.AskedSince()) {
			urls = nil
		}
	})
	if err != nil {
		return nil, err
	}
	return urls, nil
}

// noteURLs records the URLs that an attempt found for its party.
func (sr *subscriber) noteURLs(d *delivery, r *attemptResult) {
	switch {
	case isNewCall(d.kind):
		if r.outcome == delivered {
			d.urls = r.urls
		}
	case r.loggedURLs != nil && d.party != "" && !d.inGroup && sr.newCalls[d.party].state != newCallDelivered:
		sr.setNewCall(d.party, newCall{state: newCallDelivered, urls: r.loggedURLs})
	}
}

// clearURLs forgets all named URLs: the subscription has changed.
func (sr *subscriber) clearURLs() {
	for key, c := range sr.newCalls {
		c.urls = nil
		sr.newCalls[key] = c
	}
}

// namedFor returns the URL that the receiver has named for d, as far as sr knows; the
// attempt may find another.
func (sr *subscriber) namedFor(d *delivery) *url.URL {
	if !sr.sub.FollowsURLs() || isNewCall(d.kind) {
		return nil
	}
	c, known := sr.newCalls[d.party]
	if !known && sr.sub.GroupsCalls() {
		c = sr.newCalls[groupCallKey(d.queue)]
	}
	return c.urls.urlFor(d.kind)
}

// exempt reports whether d goes to a named URL that no open circuit breaker covers.
func (d *delivery) exempt() bool {
	sr := d.queue.subscriber
	u := sr.namedFor(d)
	return u != nil && (!sr.blockedByEndpoint() || endpointKey(u) != sr.endpoint.key)
}

// countNamedOutcome counts an attempt at a URL that the receiver has named. It does not
// count for the subscription's own URL, and for the endpoint only if that is the same.
func (s *scheduler) countNamedOutcome(now time.Time, p *plannedAttempt, r *attemptResult, ofEndpoint, ofTarget bool) {
	e, sr := p.endpoint, p.delivery.queue.subscriber
	if ofTarget {
		sr.nextProbe = now.Add(minProbeInterval)
	}
	switch {
	case endpointKey(r.namedURL) != e.key:
		if ofEndpoint {
			e.nextProbe = now.Add(minProbeInterval)
		}
	case r.status != 0:
		s.noteAnswer(now, sr, e)
	case r.outcome == willRetry && r.fault == noConnection && !r.localFault:
		s.blameEndpoint(now, p, r, ofEndpoint)
	case ofEndpoint && e.open():
		e.probeFailed(now, r.detail, r.retryAfter)
	}
}
