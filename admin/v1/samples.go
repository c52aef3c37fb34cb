package v1

import (
	"encoding/json"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/notify/payload"
)

// sampleBodies returns the examples of bodies by the name of their schema, or by their
// media type if the schema has no name. All belong to the [sampleSubscription] and to one
// call.
func sampleBodies() map[string]any {
	sub, event := sampleSubscription(), sampleEventView(dialog.DialIn)
	const token = "k7qm2xtzb4d9wshf"
	sub.Owner = token
	attempt := sampleAttempt()
	delivery := Delivery{
		ID: event.EventID + "-" + sub.ID, Subscription: sub.ID, Event: event.EventID, Type: event.EventType, Timestamp: event.Timestamp,
		Call: event.CallID, Extension: sub.Extension, State: "delivered", Attempts: []Attempt{attempt},
	}
	redelivered := attempt
	redelivered.Number, redelivered.ByHand = 0, true
	trial := Trial{event.EventType, delivery.ID, redelivered}
	call := Call{ID: event.CallID, State: dialog.CallStates[1], Since: event.Timestamp, Parties: []Party{{
		ID: event.SubCallID, Extension: event.Extension, Domain: event.Domain, Flow: event.CallFlow, Status: event.CallStatus,
		Since: event.Timestamp, CallerNum: event.CallerIDNum, CallerName: event.CallerIDName, CalledNumber: event.CalledNumber,
	}}}
	extension := ops.Extension{
		Extension: event.Extension, Domain: event.Domain, Kind: string(dialog.Phone), ID: 1, Registered: true,
		Contacts: []ops.Contact{{URI: "sip:101@192.0.2.7:5060", Expires: sampleTime.Add(time.Hour)}}, Busy: true, Calls: []string{call.ID},
	}
	key := access.Token{ID: token, Note: "CRM", Scope: access.Write, Extensions: []string{sub.Extension}, Created: sampleTime}
	ban := ops.Ban{Source: "203.0.113.9", Reason: "credentials", Since: sampleTime, Until: sampleTime.Add(10 * time.Minute), Times: 2}
	entry := ops.Entry{At: sampleTime, By: token, Did: "create-subscription", ID: sub.ID, After: sub}
	return map[string]any{
		"Change": map[string]any{"extension": sub.Extension, "types": []string{string(dialog.DialIn), string(dialog.Answer), string(dialog.Hangup)}, "url": sub.URL},
		"Replay": valueOf(ops.Replay{From: sampleTime, To: sampleTime.Add(time.Hour)}), "Replayed": valueOf(Replayed{3}),
		"NewToken": valueOf(newToken{Note: key.Note, Scope: key.Scope, Extensions: key.Extensions}),

		"Subscription": valueOf(sub), "ListSubscription": sampleList(sub),
		"Delivery": valueOf(delivery), "ListDelivery": sampleList(delivery), "Attempt": valueOf(redelivered), "ListTrial": sampleList(trial),
		"Call": valueOf(call), "ListCall": sampleList(call), "Trace": valueOf(sampleTrace(call)),
		"ListEvent":       sampleList(event),
		limit.EventStream: "id: " + event.EventID + "\nevent: " + event.EventType + "\ndata: {\"event_id\":\"" + event.EventID + "\", …}\n\n",
		"Extension":       valueOf(extension),
		"ListExtension":   sampleList(extension),
		"Status":          valueOf(sampleStatus()),
		"Ban":             valueOf(ban),
		"ListBan":         sampleList(ban),
		"NewBan":          valueOf(newBan{Source: ban.Source, Until: sampleTime.Add(24 * time.Hour)}),
		"Token":           valueOf(key),
		"ListToken":       sampleList(key),
		"ListEntry":       sampleList(entry),
	}
}

// sampleList returns the example of a last page with one item.
func sampleList[T any](item T) any { return valueOf(list[T]{Items: []T{item}}) }

// sampleEventView returns the [sampleEvent] of a type as the API shows it.
func sampleEventView(t dialog.Type) (event Event) {
	sub := sampleSubscription()
	v := payload.New(sampleEvent(t), sub.Format())
	if err := json.Unmarshal(v.AppendEvent(nil), &event); err != nil {
		panic(err) // impossible: AppendEvent writes JSON
	}
	return event
}

// sampleAttempt returns the attempt that delivers the callback of a dial-in.
func sampleAttempt() Attempt {
	sub := sampleSubscription()
	return Attempt{
		Number: 1, At: sampleTime.Add(4 * time.Millisecond), Duration: 21_500, Status: 204, Outcome: "delivered",
		Request: &notify.Request{Method: sub.Method, URL: sub.URL, Header: map[string]string{"Content-Type": "application/json"}, Body: `{"type":"call.dial_in"}`},
		Answer:  &notify.Answer{Header: map[string]string{"Server": "nginx"}},
	}
}

// sampleTrace returns a trace of a call. It has one message, the INVITE.
func sampleTrace(call Call) Trace {
	edge, pbx := dialog.Edge.String(), dialog.PBX.String()
	return Trace{
		ID: call.ID, Began: sampleTime, Up: true,
		Ends: []TraceEnd{{Name: "pbx", Address: "192.0.2.2:5070", Side: pbx}, {Name: "101", Address: "192.0.2.7:5060", Side: edge}},
		Legs: []TraceLeg{{CallID: "a84b4c76e66710@192.0.2.2", Origin: pbx, End: 1}},
		Messages: []TraceMessage{{
			Time: sampleTime, From: "192.0.2.2:5070", To: "192.0.2.7:5060", Through: "192.0.2.1:5060", Transport: traceTransports[0],
			Direction: pbx + "-" + edge, Sender: 0, Receiver: 1, Method: "INVITE", Summary: "INVITE sip:101@192.0.2.7",
			Text: "INVITE sip:101@192.0.2.7 SIP/2.0\r\n", Cut: true,
		}},
	}
}

// sampleStatus returns the status of a node with the [sampleSubscription], one PBX, one trunk and
// one live call.
func sampleStatus() ops.Status {
	calls := 1
	v := ops.Status{Version: "0.1.0", Started: sampleTime, Uptime: 3600, Delivering: true, Ready: true, Reasons: []string{}, Degraded: []string{}, Calls: &calls}
	v.Connections.TLS, v.Connections.HandshakesFailed = 2, 1
	v.Listeners = []ops.Listener{{Address: "udp://192.0.2.1:5060", Side: "both"}, {Address: "tls://192.0.2.1:5061", Side: "both", Connections: 2}}
	v.Certificates = []ops.Certificate{{
		Name: "sip.tls_cert[0]", Hosts: []string{"sip.example.com"}, Issuer: "CN=E5,O=Let's Encrypt,C=US",
		Expires: sampleTime.AddDate(0, 0, 60), State: ops.CertificateValid,
	}}
	v.Store.OK, v.Store.Losses = true, []ops.Loss{}
	v.PBX = []ops.Target{
		{Configured: "udp://pbx.example.com", Address: "udp://192.0.2.2:5060", State: "up", Since: &sampleTime, Answer: "200 OK", Answered: &sampleTime, RoundTrip: 1200},
		{Configured: "udp://pbx.example.com", Address: "udp://192.0.2.3:5060", State: "down", Since: &sampleTime, Error: "OPTIONS: no response", Failed: &sampleTime},
	}
	v.Trunks = []ops.Trunk{{Name: "carrier", Targets: []ops.Target{
		{Configured: "udp://198.51.100.1:5060", Address: "udp://198.51.100.1:5060", State: "up", Since: &sampleTime, Answer: "200 OK", Answered: &sampleTime, RoundTrip: 15300},
	}}}
	v.Subscriptions.All, v.Subscriptions.Active = 1, 1
	v.Events.Published, v.Deliveries.Delivered = 12, 12
	return v
}
