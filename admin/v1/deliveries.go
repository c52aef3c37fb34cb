package v1

import (
	"context"
	"time"

	"bellhop/notify"
)

// Delivery is a [notify.Delivery] as the API shows it.
type Delivery struct {
	ID           string     `json:"id" doc:"The webhook-id of its requests"`
	Subscription string     `json:"subscription_id" doc:"Subscription of the delivery"`
	Event        string     `json:"event_id" doc:"Event of the delivery"`
	Type         string     `json:"event_type" doc:"Type of the event"`
	Timestamp    time.Time  `json:"timestamp" doc:"Time of the event"`
	Call         string     `json:"call_id,omitempty" doc:"Call of the event"`
	Extension    string     `json:"extension,omitempty" doc:"Extension of the event, with its domain if known"`
	State        string     `json:"state" enum:"waiting,delivered,expired,refused,canceled" doc:"waiting: queued, in flight or due for a retry; expired: not delivered in time; refused: answered with 410; canceled: the subscription was deleted or switched off, or another callback of a group call replaces it"`
	Next         *time.Time `json:"next_attempt,omitempty" doc:"Time of the next attempt of a waiting delivery; later if the queue of its call or a pause holds it back"`
	Attempts     []Attempt  `json:"attempts" nullable:"false" doc:"Oldest first"`
}

// Attempt is a [notify.Attempt] as the API shows it.
type Attempt struct {
	Number   int             `json:"number,omitempty" doc:"1, 2, 3 and so on; absent for a redelivery or test, and if no request was sent"`
	At       time.Time       `json:"at" doc:"Start of the attempt"`
	Duration int64           `json:"duration" doc:"Duration in microseconds"`
	Status   int             `json:"status,omitempty" doc:"HTTP status; absent if no response came"`
	Error    string          `json:"error,omitempty" doc:"Reason of the failure"`
	Outcome  string          `json:"outcome" enum:"waiting,delivered,expired,refused,canceled,failed" doc:"State of the delivery after this attempt; failed: a redelivery that failed and left the state unchanged"`
	Next     *time.Time      `json:"next_attempt,omitempty" doc:"Time at which the next attempt was due"`
	ByHand   bool            `json:"by_hand,omitempty" doc:"Sent by redeliver or by a test, not by the retry schedule"`
	Request  *notify.Request `json:"request,omitempty" doc:"The request, also if no connection could be made"`
	Answer   *notify.Answer  `json:"answer,omitempty" doc:"The response"`
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

// DeliveryFilter is the query of a list of deliveries. It is exported because huma
// ignores unexported embedded structs.
type DeliveryFilter struct {
	State  string `query:"state" enum:"waiting,delivered,expired,refused,canceled" doc:"Only deliveries in this state"`
	Cursor string `query:"cursor" doc:"next from the previous page"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Maximum number of items"`
}

// respondDeliveries returns the answer with a page of the deliveries to the subscriptions
// with these ids; nil: to all subscriptions.
func (a *API) respondDeliveries(ctx context.Context, subscriptions []string, in DeliveryFilter) (*listResponse[Delivery], error) {
	seen, next, err := a.ops.Deliveries(ctx, notify.DeliveryQuery{
		Subscriptions: subscriptions, State: in.State, Cursor: in.Cursor, Limit: in.Limit,
	})
	if err != nil {
		return nil, a.problem(err)
	}
	var out listResponse[Delivery]
	out.Body.Next, out.Body.Items = next, []Delivery{}
	for _, d := range seen {
		out.Body.Items = append(out.Body.Items, deliveryOf(d))
	}
	return &out, nil
}

func (a *API) listDeliveries(ctx context.Context, in *DeliveryFilter) (*listResponse[Delivery], error) {
	return a.respondDeliveries(ctx, nil, *in)
}

func (a *API) listDeliveriesOf(ctx context.Context, in *struct {
	ID string `path:"id" doc:"ID of the subscription"`
	DeliveryFilter
}) (*listResponse[Delivery], error) {
	if _, err := a.ops.Subscription(ctx, in.ID); err != nil {
		return nil, a.problem(err)
	}
	return a.respondDeliveries(ctx, []string{in.ID}, in.DeliveryFilter)
}

func (a *API) getDelivery(ctx context.Context, in *struct {
	ID string `path:"id" doc:"The webhook-id of the delivery"`
}) (*struct{ Body Delivery }, error) {
	d, err := a.ops.Delivery(ctx, in.ID)
	if err != nil {
		return nil, a.problem(err)
	}
	return &struct{ Body Delivery }{deliveryOf(d)}, nil
}

func (a *API) redeliver(ctx context.Context, in *struct {
	ID string `path:"id" doc:"The webhook-id of the delivery"`
}) (*struct{ Body Attempt }, error) {
	made, err := a.ops.Redeliver(ctx, in.ID)
	if err != nil {
		return nil, a.problem(err)
	}
	return &struct{ Body Attempt }{attemptOf(made)}, nil
}

// Trial is a [notify.SampleResult] as the API shows it.
type Trial struct {
	Type string `json:"type" doc:"Event type, as in the subscription"`
	ID   string `json:"id" doc:"The webhook-id of the request"`
	Attempt
}

func (a *API) testSubscription(ctx context.Context, in *struct {
	ID string `path:"id" doc:"ID of the subscription"`
}) (*listResponse[Trial], error) {
	trials, err := a.ops.TestSubscription(ctx, in.ID)
	if err != nil {
		return nil, a.problem(err)
	}
	var out listResponse[Trial]
	out.Body.Items = make([]Trial, len(trials))
	for i, t := range trials {
		out.Body.Items[i] = Trial{t.Type, t.ID, attemptOf(t.Attempt)}
	}
	return &out, nil
}
