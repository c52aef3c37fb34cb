package admin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/admin/access"
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

// Query returns the query of a list of deliveries.
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

func (s *Server) deliveriesData(r *http.Request) (any, error) {
	q := r.URL.Query()
	v := deliveriesView{Extension: q.Get("extension"), State: q.Get("state"), Cursor: q.Get("cursor")}
	if !slices.Contains(deliveryStates, v.State) {
		v.State = ""
	}
	for _, state := range deliveryStates {
		v.States = append(v.States, choice{state, state == v.State})
	}
	var of []string // subscriptions
	for _, sub := range s.config.Notifier.Subscriptions() {
		if access.ClientOf(r.Context()).CanSee(sub.Extension) && (v.Extension == "" || v.Extension == sub.Extension) {
			of = append(of, sub.ID)
		}
	}
	v.Subscribed = of != nil
	filter := DeliveryFilter{State: v.State, Cursor: v.Cursor}
	var seen []notify.Delivery
	var err error
	switch {
	case v.Extension == "": // deleted subscriptions included
		seen, v.More, err = s.allVisibleDeliveries(r.Context(), filter)
	case v.Subscribed:
		seen, v.More, err = s.visibleDeliveries(r.Context(), of, filter)
	}
	if err != nil {
		return nil, err
	}
	for _, d := range seen {
		v.Items = append(v.Items, deliveryRow{d, s.deliveryURL(r.Context(), d), lastResult(d)})
	}
	return v, nil
}

// deliveryURL returns the URL to which a delivery was sent, or is to be sent.
func (s *Server) deliveryURL(ctx context.Context, d notify.Delivery) string {
	for _, a := range slices.Backward(d.Attempts) {
		if a.Request != nil {
			return a.Request.URL
		}
	}
	sub, err := s.visibleSubscription(ctx, d.Subscription)
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

func (s *Server) deliveryData(r *http.Request) (any, error) {
	d, err := s.visibleDelivery(r.Context(), r.PathValue("id"))
	return deliveryView{d, s.deliveryURL(r.Context(), d)}, err
}

// redeliverFromPage makes an attempt, and answers with the delivery after it.
func (s *Server) redeliverFromPage(w http.ResponseWriter, r *http.Request) error {
	a, err := s.redeliverNow(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	d, err := s.visibleDelivery(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(d.Attempts, func(b notify.Attempt) bool { return b.ByHand && b.At.Equal(a.At) }) {
		d.Attempts = append(d.Attempts, a) // not in the delivery log yet
		if a.Outcome == notify.Delivered {
			d.State = a.Outcome
		}
	}
	return s.showPart(w, r, http.StatusOK, "delivery", deliveryView{d, s.deliveryURL(r.Context(), d)})
}

func (s *Server) testFromPage(w http.ResponseWriter, r *http.Request) error {
	trials, err := s.sendSamples(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return s.showPart(w, r, http.StatusOK, "trials", trials)
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

func (s *Server) replayForm(w http.ResponseWriter, r *http.Request) error {
	sub, err := s.visibleSubscription(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	f := replayFields{Sub: sub, From: time.Now().Add(-time.Hour).UTC().Format(formTime)}
	return s.showPart(w, r, http.StatusOK, "replay-form", f)
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

func (s *Server) replayFromForm(w http.ResponseWriter, r *http.Request) error {
	sub, err := s.visibleSubscription(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	f := replayFields{
		Sub: sub, Errors: make(map[string]string),
		From: strings.TrimSpace(r.PostFormValue("from")), To: strings.TrimSpace(r.PostFormValue("to")),
	}
	what := Replay{From: f.parseTimeField("from", f.From), To: f.parseTimeField("to", f.To)}
	if len(f.Errors) == 0 {
		events, err := s.replayRange(r.Context(), sub.ID, what)
		var invalid *notify.Invalid
		switch {
		case err == nil:
			return s.showPart(w, r, http.StatusOK, "replayed", events)
		case errors.As(err, &invalid):
			f.Errors[invalid.Field] = invalid.Field + " " + invalid.Why
		case errors.Is(err, notify.ErrInactive):
			f.Problem = err.Error()
		default:
			return err
		}
	}
	return s.showPart(w, r, http.StatusUnprocessableEntity, "replay-form", f)
}
