package page

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/admin/ops"
	"bellhop/notify"
)

// deliveryStates are the states to filter by; "" is all.
var deliveryStates = []string{"", notify.Waiting, notify.Delivered, notify.Expired, notify.Refused, notify.Canceled}

type deliveriesView struct {
	Extension, State, Cursor string

	States     []choice
	Items      []deliveryRow
	More       string // cursor of the next page
	Subscribed bool   // a subscription matches
}

// Query returns the query of the URL that shows the deliveries in another state, or from
// another cursor.
func (v deliveriesView) Query(state, cursor string) string {
	q := url.Values{}
	for name, value := range map[string]string{"extension": v.Extension, "state": state, "cursor": cursor} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q.Encode()
}

// deliveryRow is a row of the list of deliveries.
type deliveryRow struct {
	notify.Delivery
	URL  string
	Last string // result of the last attempt
}

func (p *Page) deliveriesData(r *http.Request) (any, error) {
	q := r.URL.Query()
	v := deliveriesView{Extension: q.Get("extension"), State: q.Get("state"), Cursor: q.Get("cursor")}
	if !slices.Contains(deliveryStates, v.State) {
		v.State = ""
	}
	for _, state := range deliveryStates {
		v.States = append(v.States, choice{state, state == v.State})
	}
	var of []string // subscriptions
	for _, sub := range p.ops.Subscriptions(r.Context()) {
		if v.Extension == "" || v.Extension == sub.Extension {
			of = append(of, sub.ID)
		}
	}
	v.Subscribed = of != nil
	query := notify.DeliveryQuery{State: v.State, Cursor: v.Cursor}
	if v.Extension != "" {
		query.Subscriptions = of
	} // else deleted subscriptions are included
	var seen []notify.Delivery
	if v.Extension == "" || v.Subscribed {
		var err error
		if seen, v.More, err = p.ops.Deliveries(r.Context(), query); err != nil {
			return nil, err
		}
	}
	for _, d := range seen {
		v.Items = append(v.Items, deliveryRow{d, p.deliveryURL(r.Context(), d), lastResult(d)})
	}
	return v, nil
}

// deliveryURL returns the URL to which a delivery was sent, or is to be sent.
func (p *Page) deliveryURL(ctx context.Context, d notify.Delivery) string {
	for _, a := range slices.Backward(d.Attempts) {
		if a.Request != nil {
			return a.Request.URL
		}
	}
	sub, err := p.ops.Subscription(ctx, d.Subscription)
	if err != nil {
		return "(deleted subscription)"
	}
	return sub.URL
}

// lastResult returns the result of the last attempt in a few words.
func lastResult(d notify.Delivery) string {
	if len(d.Attempts) == 0 {
		return ""
	}
	switch a := d.Attempts[len(d.Attempts)-1]; {
	case a.Status != 0:
		return "HTTP " + strconv.Itoa(a.Status)
	case a.Number != 0:
		return "no response"
	}
	return ""
}

type deliveryView struct {
	Delivery notify.Delivery
	URL      string
}

func (p *Page) deliveryData(r *http.Request) (any, error) {
	d, err := p.ops.Delivery(r.Context(), r.PathValue("id"))
	return deliveryView{d, p.deliveryURL(r.Context(), d)}, err
}

// redeliverFromPage makes an attempt of a delivery, and answers with the state of the
// delivery after the attempt.
func (p *Page) redeliverFromPage(w http.ResponseWriter, r *http.Request) error {
	a, err := p.ops.Redeliver(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	d, err := p.ops.Delivery(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(d.Attempts, func(b notify.Attempt) bool { return b.ByHand && b.At.Equal(a.At) }) {
		d.Attempts = append(d.Attempts, a) // not in the delivery log yet
		if a.Outcome == notify.Delivered {
			d.State = a.Outcome
		}
	}
	return p.showPart(w, r, http.StatusOK, "delivery", deliveryView{d, p.deliveryURL(r.Context(), d)})
}

func (p *Page) testFromPage(w http.ResponseWriter, r *http.Request) error {
	trials, err := p.ops.TestSubscription(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return p.showPart(w, r, http.StatusOK, "trials", trials)
}

// replayFields are the fields of the form that starts a replay, as filled in.
type replayFields struct {
	Sub      notify.Subscription
	From, To string

	Errors  map[string]string
	Problem string
}

// formTime is the format of times in forms, in UTC.
const formTime = "2006-01-02 15:04"

func (p *Page) replayForm(w http.ResponseWriter, r *http.Request) error {
	sub, err := p.ops.Subscription(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	f := replayFields{Sub: sub, From: time.Now().Add(-time.Hour).UTC().Format(formTime)}
	return p.showPart(w, r, http.StatusOK, "replay-form", f)
}

// parseTimeField parses the time of a field, and sets its entry in Errors if it is
// invalid.
func (f *replayFields) parseTimeField(field, text string) (t time.Time) {
	if text == "" {
		return t
	}
	t, err := time.Parse(formTime, text)
	if err != nil {
		f.Errors[field] = "must be a time such as 2027-01-31 09:30"
	}
	return t
}

func (p *Page) replayFromForm(w http.ResponseWriter, r *http.Request) error {
	sub, err := p.ops.Subscription(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	f := replayFields{
		Sub: sub, Errors: make(map[string]string),
		From: strings.TrimSpace(r.PostFormValue("from")), To: strings.TrimSpace(r.PostFormValue("to")),
	}
	what := ops.Replay{From: f.parseTimeField("from", f.From), To: f.parseTimeField("to", f.To)}
	if len(f.Errors) == 0 {
		events, err := p.ops.Replay(r.Context(), sub.ID, what)
		var invalid *notify.Invalid
		switch {
		case err == nil:
			return p.showPart(w, r, http.StatusOK, "replayed", events)
		case errors.As(err, &invalid):
			f.Errors[invalid.Field] = invalid.Field + " " + invalid.Why
		case errors.Is(err, notify.ErrInactive):
			f.Problem = err.Error()
		default:
			return err
		}
	}
	return p.showPart(w, r, http.StatusUnprocessableEntity, "replay-form", f)
}
