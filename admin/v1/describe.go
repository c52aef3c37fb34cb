package v1

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"bellhop/admin/limit"
	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// callbacksTag is the tag of the webhooks.
const callbacksTag = "callbacks"

// tags are the groups of operations, by the first segment of the path after /v1/, and the
// group of the webhooks.
var tags = []*huma.Tag{
	{Name: "subscriptions", Description: "Webhook subscriptions: which events of which extension are sent, and where"},
	{Name: "deliveries", Description: "The delivery log: each callback, its attempts, and the responses"},
	{Name: "calls", Description: "Live calls, and their SIP messages"},
	{Name: "events", Description: "The event log, in pages or as a stream"},
	{Name: "extensions", Description: "Extensions of the PBX: their kind, registered contacts and calls"},
	{Name: "status", Description: "Health and counters of a node"},
	{Name: "bans", Description: "Banned sources of SIP messages"},
	{Name: "tokens", Description: "Credentials for the API"},
	{Name: "audit", Description: "Changes made over the API"},
	{Name: callbacksTag, Description: "Requests that bellhop sends to the URL of a subscription of dialect json"},
}

// errorTexts has the description of each error status, and an example of its problem: the
// detail, and the location and message of the only entry of errors, if there is one.
var errorTexts = map[int]struct{ doc, detail, location, message string }{
	http.StatusBadRequest:            {"The request is malformed", "validation failed", "body", "unexpected end of JSON input"},
	http.StatusUnauthorized:          {doc: "The token is missing, unknown, revoked or expired", detail: "send a valid token as Authorization: Bearer TOKEN; the first one is admin.token in the config, or the file admin.token in store.dir"},
	http.StatusForbidden:             {doc: "The token lacks the permission", detail: "this token is read-only: use one with scope write"},
	http.StatusNotFound:              {doc: "Nothing has this ID, or the token may not see it", detail: "no such subscription"},
	http.StatusConflict:              {doc: "The state of the object or a limit does not allow the request, or a request with the same Idempotency-Key is in progress", detail: "the first request with this Idempotency-Key is still in progress: try again"},
	http.StatusPreconditionFailed:    {doc: "If-Match does not name the current ETag", detail: "the subscription was changed by someone else"},
	http.StatusRequestEntityTooLarge: {doc: "The body is too large", detail: fmt.Sprintf("the body is too large: send at most %d bytes", limit.MaxBody)},
	http.StatusUnsupportedMediaType:  {"The body is not JSON", "validation failed", "body", "unknown content type: text/plain"},
	http.StatusUnprocessableEntity:   {"A parameter or a field of the body is invalid; errors names each", "validation failed", "query.cursor", "unknown cursor; use next from the previous page"},
	http.StatusTooManyRequests:       {doc: "Too many requests; Retry-After has the seconds to wait", detail: "too many requests with this token: wait as long as Retry-After says"},
	http.StatusInternalServerError:   {doc: "bellhop failed", detail: "internal error in bellhop: see its log"},
	http.StatusServiceUnavailable:    {doc: "The store is not writable, or bellhop is too busy", detail: "the store is not writable, or bellhop is too busy; see /readyz"},
}

// operationTexts has what the summaries of operations leave out, by operationId.
var operationTexts = map[string]string{
	"create-subscription": "The response has the signing secret; later responses do not.",
	"change-subscription": "Only the fields in the body change, as in a JSON merge patch (RFC 7396).",
	"delete-subscription": "Its waiting deliveries are canceled.",
	"rotate-secret":       "Verify callbacks with either secret until all receivers have the new one.",
	"test-subscription":   "The samples are not in the event log.",
	"redeliver":           "The request has the original webhook-id. A failed redelivery leaves the state unchanged.",
	"list-calls":          "Ended calls are in the event log.",
	"get-call":            "Ended calls are in the event log.",
	"trace-call":          "The messages of the latest calls are kept in memory; calls.trace in the config sets their number.",
	"list-events":         "Ask for a stream with Accept: text/event-stream.",
	"get-status":          "Counters start at zero with the process.",
	"add-ban":             "The ban replaces the one that the source has. It is stored within a second, and applies on all nodes that share the store.",
	"remove-ban":          "The ban ends on all nodes that share the store within seconds.",
	"create-token":        "Without extensions the token is valid for all of them.",
	"revoke-token":        "The token is rejected immediately, by all nodes that share the store.",
}

// headerTexts describe the header fields of responses.
var headerTexts = map[string]string{
	"ETag":                    "Revision of the subscription, for If-Match",
	"Location":                "Path of the new object",
	"Content-Type":            "Media type of the body",
	"Content-Disposition":     "Suggested file name of a capture",
	"Content-Security-Policy": "Forbids the picture to load anything",
}

// describe returns the OpenAPI description of the registered operations, as JSON. huma
// derives it from the Go types, and describe adds the enums of fields, tags, examples and
// texts. The schemas with which huma validates requests get no enums, because the error
// of an operation for an unknown word explains more than huma's.
func describe(api huma.API) []byte {
	open := *api.OpenAPI()
	components := *open.Components
	components.Schemas = describeSchemas(components.Schemas)
	open.Components = &components
	open.Tags = tags
	open.Webhooks = describeWebhooks(components.Schemas.Map()["Event"])
	examples := sampleBodies()
	for path, item := range open.Paths {
		segment, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Patch, item.Delete} {
			if op != nil {
				op.Tags = []string{segment}
				describeOperation(op, examples)
			}
		}
	}
	b, err := json.Marshal(&open)
	if err != nil {
		panic(err) // impossible: it consists of strings
	}
	return b
}

// describeOperation adds texts and examples to the description of an operation. examples
// are those of sampleBodies.
func describeOperation(op *huma.Operation, examples map[string]any) {
	if text := operationTexts[op.OperationID]; text != "" {
		op.Description = text + " " + op.Description
	}
	for i, p := range op.Parameters {
		if p.Name == "type" {
			described := *p
			schema := *p.Schema
			schema.Enum = anyOf(subscription.Words())
			described.Schema = &schema
			op.Parameters[i] = &described
		}
	}
	if op.RequestBody != nil {
		addExamples(op.RequestBody.Content, examples)
	}
	for status, response := range op.Responses {
		for name, header := range response.Headers {
			header.Description = headerTexts[name]
		}
		code, _ := strconv.Atoi(status)
		if text, ok := errorTexts[code]; ok {
			response.Description = text.doc
			problem := huma.ErrorModel{Title: http.StatusText(code), Status: code, Detail: text.detail}
			if text.message != "" {
				problem.Errors = []*huma.ErrorDetail{{Location: text.location, Message: text.message}}
			}
			for _, content := range response.Content {
				content.Example = valueOf(problem)
			}
		} else {
			addExamples(response.Content, examples)
		}
	}
}

// addExamples adds to each body the example of its schema, or of its media type if the
// schema has no name.
func addExamples(content map[string]*huma.MediaType, examples map[string]any) {
	for mediaType, body := range content {
		name := mediaType
		if body.Schema != nil {
			name = cmp.Or(strings.TrimPrefix(body.Schema.Ref, "#/components/schemas/"), mediaType)
		}
		if example, ok := examples[name]; ok {
			body.Example = example
		}
	}
}

// fieldWords returns the enums of fields, by the names of schema and field.
func fieldWords() map[string]map[string][]any {
	flows, statuses, sides := anyOf(dialog.Flows), anyOf(dialog.Statuses), []any{dialog.Edge.String(), dialog.PBX.String()}
	types := make([]any, len(dialog.Types))
	for i, info := range dialog.Types {
		types[i] = string(info.Type)
	}
	words := anyOf(subscription.Words())
	return map[string]map[string][]any{
		"Event":        {"event_type": types, "call_flow": flows, "call_status": statuses, "hangup_by": anyOf(dialog.HangupSides), "subscription_state": anyOf(subscription.StateEventWords)},
		"Party":        {"call_flow": flows, "call_status": statuses},
		"Call":         {"state": anyOf(dialog.CallStates)},
		"Delivery":     {"event_type": types},
		"Trial":        {"type": words},
		"Subscription": {"types": words, "state": anyOf(subscription.States), "flow_case": anyOf(subscription.FlowCases), "status_words": anyOf(subscription.StatusSets), "group": anyOf(subscription.Groups)},
		"Change":       {"types": words, "flow_case": anyOf(subscription.FlowCases), "status_words": anyOf(subscription.StatusSets), "group": anyOf(subscription.Groups)},
		"Replay":       {"types": words},
		"TraceEnd":     {"side": sides},
		"TraceLeg":     {"origin": sides},
		"TraceMessage": {"transport": anyOf(traceTransports)},
	}
}

// describeSchemas returns copies of the schemas, with the enums of fieldWords.
func describeSchemas(from huma.Registry) huma.Registry {
	to := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	maps.Copy(to.Map(), from.Map())
	for name, fields := range fieldWords() {
		schema := *from.Map()[name]
		schema.Properties = maps.Clone(schema.Properties)
		for field, words := range fields {
			property := *schema.Properties[field]
			if property.Items != nil {
				items := *property.Items
				items.Enum = words
				property.Items = &items
			} else {
				property.Enum = words
			}
			schema.Properties[field] = &property
		}
		schema.PrecomputeMessages()
		to.Map()[name] = &schema
	}
	return to
}

// anyOf returns words as the values of an enum.
func anyOf[T ~string](words []T) []any {
	all := make([]any, 0, len(words))
	for _, word := range words {
		all = append(all, string(word))
	}
	return all
}

// valueOf returns the value that the JSON encoding of v decodes to: maps, slices,
// strings, numbers and booleans.
func valueOf(v any) (value any) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &value)
	}
	if err != nil {
		panic(err) // impossible: v is a value of the API
	}
	return value
}
