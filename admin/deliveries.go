package admin

import (
	"context"
	"errors"
	"time"

	"bellhop/notify"
)

// A Delivery is a [notify.Delivery] as the API shows it.
type Delivery struct {
	ID           string     `json:"id" doc:"Its webhook-id"`
	Subscription string     `json:"subscription_id"`
	Event        string     `json:"event_id"`
	Type         string     `json:"event_type"`
	Timestamp    time.Time  `json:"timestamp" doc:"Of the event"`
	Call         string     `json:"call_id,omitempty"`
	Extension    string     `json:"extension,omitempty" doc:"With its domain, if known"`
	State        string     `json:"state" enum:"waiting,delivered,expired,refused,canceled"`
	Next         *time.Time `json:"next_attempt,omitempty" doc:"If it waits for one; not before its turn has come, nor while the subscription is paused"`
	Attempts     []Attempt  `json:"attempts" nullable:"false" doc:"The oldest first"`
}

// An Attempt is a [notify.Attempt] as the API shows it.
type Attempt struct {
	Number   int             `json:"number,omitempty" doc:"1, 2, 3 and so on; left out if none was made, or by hand"`
	At       time.Time       `json:"at" doc:"When it began"`
	Duration int64           `json:"duration" doc:"Microseconds"`
	Status   int             `json:"status,omitempty" doc:"Of HTTP; left out if no answer came"`
	Error    string          `json:"error,omitempty" doc:"Why it failed"`
	Outcome  string          `json:"outcome" enum:"waiting,delivered,expired,refused,canceled,failed" doc:"How the delivery stood after it; failed: as before"`
	Next     *time.Time      `json:"next_attempt,omitempty" doc:"When the next was due"`
	ByHand   bool            `json:"by_hand,omitempty"`
	Request  *notify.Request `json:"request,omitempty" doc:"What was sent, or would have been if there had been a connection"`
	Answer   *notify.Answer  `json:"answer,omitempty" doc:"What came back"`
}

func deliveryOf(d notify.Delivery) Delivery {
	v := Delivery{
		ID: d.ID, Subscription: d.Subscription, Event: d.Event, Type: string(d.Type), Timestamp: d.EventTime.UTC(),
		Call: d.Call, Extension: d.Extension, State: d.State, Next: timeOf(d.Next), Attempts: make([]Attempt, len(d.Attempts)),
	}
	for i, a := range d.Attempts {
		v.Attempts[i] = attemptOf(a)
	}
	return v
}

func attemptOf(a notify.Attempt) Attempt {
	return Attempt{
		Number: a.Number, At: a.At.UTC(), Duration: a.Took.Microseconds(), Status: a.Status, Error: a.Error,
		Outcome: a.Outcome, Next: timeOf(a.Next), ByHand: a.ByHand, Request: a.Request, Answer: a.Answer,
	}
}

// A DeliveryFilter says which deliveries a client asks for. It is exported because
// huma looks into no other embedded struct.
type DeliveryFilter struct {
	State  string `query:"state" enum:"waiting,delivered,expired,refused,canceled" doc:"That stand so"`
	Cursor string `query:"cursor" doc:"next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

// seesDelivery reports whether who makes the request of ctx may know of a
// delivery: one that is bound, if of its subscription and of the extension whose
// event it is.
func (s *Server) seesDelivery(ctx context.Context, d notify.Delivery) bool {
	who := accessOf(ctx)
	if who.sees("") {
		return true
	}
	_, err := s.subscription(ctx, d.Subscription)
	return err == nil && who.sees(d.Extension)
}

// deliveries reads those of some subscriptions that who asks may know of.
func (s *Server) deliveries(ctx context.Context, subscriptions []string, in DeliveryFilter) (seen []notify.Delivery, next string, err error) {
	all, next, err := s.config.Notifier.Deliveries(ctx, notify.DeliveryQuery{
		Subscriptions: subscriptions, State: in.State, Cursor: in.Cursor, Limit: in.Limit,
	})
	for _, d := range all {
		if s.seesDelivery(ctx, d) {
			seen = append(seen, d)
		}
	}
	return seen, next, err
}

// allDeliveries is deliveries, of all subscriptions.
func (s *Server) allDeliveries(ctx context.Context, in DeliveryFilter) (seen []notify.Delivery, next string, err error) {
	who := accessOf(ctx)
	if who.sees("") {
		return s.deliveries(ctx, nil, in)
	}
	mine := []string{}
	for _, sub := range s.config.Notifier.Subscriptions() {
		if who.sees(sub.Extension) {
			mine = append(mine, sub.ID)
		}
	}
	return s.deliveries(ctx, mine, in)
}

// listOf is an answer with deliveries.
func (s *Server) listOf(seen []notify.Delivery, next string, err error) (*listed[Delivery], error) {
	if err != nil {
		return nil, s.problem(err)
	}
	var out listed[Delivery]
	out.Body.Next, out.Body.Items = next, []Delivery{}
	for _, d := range seen {
		out.Body.Items = append(out.Body.Items, deliveryOf(d))
	}
	return &out, nil
}

func (s *Server) listDeliveries(ctx context.Context, in *DeliveryFilter) (*listed[Delivery], error) {
	return s.listOf(s.allDeliveries(ctx, *in))
}

func (s *Server) listDeliveriesOf(ctx context.Context, in *struct {
	ID string `path:"id"`
	DeliveryFilter
}) (*listed[Delivery], error) {
	if _, err := s.subscription(ctx, in.ID); err != nil {
		return nil, s.problem(err)
	}
	return s.listOf(s.deliveries(ctx, []string{in.ID}, in.DeliveryFilter))
}

// delivery returns one that who makes the request of ctx may know of.
func (s *Server) delivery(ctx context.Context, id string) (notify.Delivery, error) {
	d, err := s.config.Notifier.Delivery(ctx, id)
	if err == nil && !s.seesDelivery(ctx, d) {
		return notify.Delivery{}, notify.ErrNoDelivery
	}
	return d, err
}

func (s *Server) getDelivery(ctx context.Context, in *struct {
	ID string `path:"id" doc:"Its webhook-id"`
}) (*struct{ Body Delivery }, error) {
	d, err := s.delivery(ctx, in.ID)
	if err != nil {
		return nil, s.problem(err)
	}
	return &struct{ Body Delivery }{deliveryOf(d)}, nil
}

func (s *Server) redeliver(ctx context.Context, in *struct {
	ID string `path:"id" doc:"Its webhook-id"`
}) (*struct{ Body Attempt }, error) {
	a, err := s.deliverAgain(ctx, in.ID)
	if err != nil {
		return nil, s.problem(err)
	}
	return &struct{ Body Attempt }{attemptOf(a)}, nil
}

var errNoReceiver = errors.New("the subscription of the delivery was deleted: it can be sent nowhere")

// deliverAgain makes an attempt for who makes the request of ctx, see
// [notify.Notifier.Redeliver].
func (s *Server) deliverAgain(ctx context.Context, id string) (notify.Attempt, error) {
	if _, err := s.delivery(ctx, id); err != nil {
		return notify.Attempt{}, err
	}
	end, err := s.tests.begin(ctx)
	if err != nil {
		return notify.Attempt{}, err
	}
	defer end()
	a, err := s.config.Notifier.Redeliver(ctx, id)
	switch {
	case errors.Is(err, notify.ErrNotFound):
		err = errNoReceiver
	case err == nil:
		s.audit(ctx, "redeliver", id, nil, nil)
	}
	return a, err
}

// A Trial is a [notify.SampleResult] as the API shows it.
type Trial struct {
	Type string `json:"type" doc:"As the subscription names it"`
	ID   string `json:"id" doc:"The webhook-id"`
	Attempt
}

func (s *Server) testSubscription(ctx context.Context, in *struct {
	ID string `path:"id"`
}) (*listed[Trial], error) {
	trials, err := s.try(ctx, in.ID)
	if err != nil {
		return nil, s.problem(err)
	}
	var out listed[Trial]
	out.Body.Items = make([]Trial, len(trials))
	for i, t := range trials {
		out.Body.Items[i] = Trial{t.Type, t.ID, attemptOf(t.Attempt)}
	}
	return &out, nil
}

// try sends samples for who makes the request of ctx, see [notify.Notifier.Test].
func (s *Server) try(ctx context.Context, id string) ([]notify.SampleResult, error) {
	if _, err := s.subscription(ctx, id); err != nil {
		return nil, err
	}
	end, err := s.tests.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	trials, err := s.config.Notifier.Test(ctx, id)
	if err == nil {
		s.audit(ctx, "test-subscription", id, nil, nil)
	}
	return trials, err
}
