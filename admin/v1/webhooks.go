package v1

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bellhop/dialog"
	"bellhop/notify"
	"bellhop/notify/payload"
	"bellhop/notify/subscription"
)

// describeWebhooks returns the descriptions of the callbacks of dialect json, one for
// each event type, by the type in the callback's envelope. event is the schema of
// [Event]. The example of a callback is the sample that a test of a subscription sends.
// The descriptions refer to no shared schema, because generators of clients drop schemas
// to which no path refers.
func describeWebhooks(event *huma.Schema) map[string]*huma.PathItem {
	all := make(map[string]*huma.PathItem)
	for _, info := range dialog.Types {
		example := sampleCallback(info.Type)
		name := example["type"].(string)
		all[name] = &huma.PathItem{Post: &huma.Operation{
			OperationID: strings.NewReplacer(".", "-", "_", "-").Replace(name),
			Tags:        []string{callbacksTag},
			Summary:     "Callback of an event of type " + string(info.Type),
			Description: describeType(info) + " The request is that of dialect json with method POST or PUT, as Standard Webhooks describes it.",
			Security:    []map[string][]string{{}}, // no token: callbacks are signed
			Parameters: []*huma.Param{
				callbackHeader("webhook-id", "ID of the delivery, the same in every attempt", true),
				callbackHeader("webhook-timestamp", "Time of the attempt, in seconds since 1970-01-01 UTC; absent without a secret", false),
				callbackHeader("webhook-signature", "v1, and the base64 of the HMAC-SHA256 of id.timestamp.body; two, separated by a space, after a rotation of the secret; absent without a secret", false),
			},
			RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {
				Example: example,
				Schema: &huma.Schema{
					Type: huma.TypeObject, Required: []string{"type", "timestamp", "data"},
					Properties: map[string]*huma.Schema{
						"type":      {Type: huma.TypeString, Enum: []any{name}, Description: "Type of the callback"},
						"timestamp": {Type: huma.TypeString, Format: "date-time", Description: "Time of the event, not of the attempt"},
						"data":      callbackData(event, info.Type),
					},
				},
			}}},
			Responses: map[string]*huma.Response{
				"2XX":     {Description: "The callback is delivered"},
				"410":     {Description: "The subscription is disabled"},
				"default": {Description: "The callback is sent again, until it expires"},
			},
		}}
	}
	return all
}

// describeType returns a text about an event type: how long its callbacks are sent again,
// and whether its events are published only while a subscription names it.
func describeType(info dialog.TypeInfo) string {
	text := "Sent again for days until it is delivered."
	if info.Live {
		text = "Live: sent again only for the live_ttl of the subscription."
	}
	if info.OptIn {
		text += " Events of this type are published only while a subscription names it."
	}
	return text
}

// callbackHeader describes a header field of a callback.
func callbackHeader(name, doc string, required bool) *huma.Param {
	return &huma.Param{Name: name, In: "header", Description: doc, Required: required, Schema: &huma.Schema{Type: huma.TypeString}}
}

// callbackData returns the schema of the data in a callback of an event of type t: the
// fields of an [Event] except timestamp, which is in the envelope. event_type is t, and
// call_flow may be in upper case. It allows more fields, because receivers must expect
// them.
func callbackData(event *huma.Schema, t dialog.Type) *huma.Schema {
	data := *event
	data.Properties = maps.Clone(data.Properties)
	delete(data.Properties, "timestamp")
	data.Required = slices.DeleteFunc(slices.Clone(data.Required), func(name string) bool { return name == "timestamp" })
	data.AdditionalProperties = nil
	data.Description = "The event; fields that are unknown or do not apply are absent"
	word := *data.Properties["event_type"]
	word.Enum = []any{string(t)}
	data.Properties["event_type"] = &word
	flow := *data.Properties["call_flow"]
	flow.Description += "; in upper case with flow_case upper"
	for _, word := range flow.Enum {
		flow.Enum = append(flow.Enum, strings.ToUpper(word.(string)))
	}
	data.Properties["call_flow"] = &flow
	data.PrecomputeMessages()
	return &data
}

// sampleTime is the time of examples.
var sampleTime = time.Date(2026, 3, 4, 9, 30, 0, 0, time.UTC)

// sampleSubscription returns the subscription of examples.
func sampleSubscription() notify.Subscription {
	sub := notify.NewSubscription()
	sub.ID, sub.Extension, sub.URL = "4ZQ2mXh8Kd0LwT5sVbN7cYpRgJ1fEa", "101@pbx.example", "https://crm.example/calls"
	for _, info := range dialog.Types {
		sub.Types = append(sub.Types, string(info.Type))
	}
	sub.State, sub.Created, sub.Modified = subscription.StateActive, sampleTime, sampleTime
	return sub
}

// sampleEvent returns the sample event of type t, as a test of the sampleSubscription
// sends it.
func sampleEvent(t dialog.Type) *dialog.Event {
	sub := sampleSubscription()
	return sub.Sampler("example", sampleTime).Event(string(t))
}

// sampleCallback returns the callback of the sampleEvent of a type.
func sampleCallback(t dialog.Type) (callback map[string]any) {
	sub := sampleSubscription()
	v := payload.New(sampleEvent(t), sub.Format())
	if err := json.Unmarshal(v.Append(nil), &callback); err != nil {
		panic(err) // impossible: Append writes JSON
	}
	return callback
}
