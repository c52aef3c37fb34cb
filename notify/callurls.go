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
	"bellhop/notify/schedule"
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
// Order, retries and signature are the same. The URLs are those of the response that
// delivered the newCall, and after several deliveries those of the last such response.
//
// The delivery log stores the URLs in the record of the attempt, which is written before
// the newCall counts as delivered. A process that has not made the attempt reads them
// there. The URLs lapse when the subscription is activated, or its types, extension,
// dialect or URL change.
//
// A named URL has no more rights than the URL of a subscription: the egress guard checks
// each connection, and redirects are not followed. The header fields of the subscription
// are sent only to the endpoint of its own URL. A failing named URL does not open the
// circuit breaker of the subscription, nor one of an endpoint that is not its own.

// byteOrderMark may precede a document in UTF-8.
var byteOrderMark = []byte("\ufeff")

// readCallURLs reads the URLs from the XML that answers a newCall, or returns nil if it
// names none. Most receivers respond without XML. cut reports that answer is incomplete.
// If one URL cannot be used, the error says why, and the other may still be returned.
func readCallURLs(answer []byte, cut bool) (*schedule.CallURLs, error) {
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
	var u schedule.CallURLs
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
			u.Answer = to
		default:
			u.Hangup = to
		}
	}
	if u == (schedule.CallURLs{}) {
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

// recordURLs reads the URLs for the later events of the call from the response to a newCall,
// and writes them to the delivery log at once: they must survive a crash after the newCall
// counts as delivered. If this write fails, the URLs are written with the next batch.
func (n *Notifier) recordURLs(ctx context.Context, a *attempt) {
	if !a.Sub.FollowsURLs() || !schedule.IsNewCall(a.Type) || a.Seq == 0 || outcomeOf(a.Status) != schedule.Delivered {
		return
	}
	urls, err := readCallURLs(a.record.ResponseBody, a.record.Truncated)
	if err != nil {
		n.log.Warn("URL of the receiver ignored", "subscriber", a.Sub.ID, "event", a.EventID, "err", err)
	}
	if a.URLs = urls; urls == nil || a.EventID == "" {
		return
	}
	a.record.Took = time.Since(a.record.At)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stream.Timeout)
	defer cancel()
	if err := n.deliveryLog.Write(ctx, a.fillRecord(Delivered, time.Time{})); err != nil {
		n.log.Warn("URLs of the receiver not recorded yet", "subscriber", a.Sub.ID, "event", a.EventID, "err", err)
		return
	}
	a.recorded = true
}

// findNamedURL returns the URL that the receiver has named for an answer or hangup, or
// nil if it has named none. It reads the delivery log if this process has not delivered
// the newCall. An error comes from the store.
func (n *Notifier) findNamedURL(ctx context.Context, a *attempt, e *dialog.Event, g *group) (*url.URL, error) {
	if !a.Sub.FollowsURLs() || e.Party == "" || schedule.IsNewCall(e.Type) || a.Seq == 0 {
		return nil, nil
	}
	c, id := a.PartyNewCall, dialog.EventID(e.Party, schedule.NewCallType(e.Flow))
	if g != nil {
		c, id = schedule.NewCall{}, g.first.ID
		if a.GroupNewCall.Seq == g.seq {
			c = a.GroupNewCall
		}
	}
	if c.State != schedule.NewCallDelivered {
		var err error
		if c.URLs, err = n.lastURLs(ctx, a.Sub, id); err != nil {
			return nil, err
		}
		a.LoggedURLs = c.URLs
	}
	return c.URLs.For(e.Type), nil
}

// lastURLs returns the URLs that the response to the last delivery of a newCall named, by
// the delivery log. It returns nil if there are none, or the subscription was changed
// since.
func (n *Notifier) lastURLs(ctx context.Context, s *Subscription, newCall string) (urls *schedule.CallURLs, err error) {
	err = n.deliveryLog.ReadRecords(ctx, s.ID, newCall, func(r *deliverylog.Stored) {
		if r.Outcome == Delivered {
			urls = schedule.ParseCallURLs(r.OnAnswer, r.OnHangup)
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
