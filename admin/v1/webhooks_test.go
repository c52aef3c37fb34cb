package v1

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"bellhop/dialog"
	"bellhop/notify/payload"
	"bellhop/notify/subscription"
)

// fill sets every field of v to a value that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(sampleTime))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.Set(reflect.ValueOf(time.Second).Convert(v.Type()))
	}
}

// Every callback of dialect json is as /openapi.json describes it: a full event of each type
// has all fields of the schema and no other, and the sample is valid.
func TestWebhooksMatchTheCallbacks(t *testing.T) {
	schemas := describeSchemas(registeredAPI().OpenAPI().Components.Schemas)
	webhooks := describeWebhooks(schemas.Map()["Event"])
	if len(webhooks) != len(dialog.Types) {
		t.Errorf("%d webhooks for %d types", len(webhooks), len(dialog.Types))
	}
	validate := func(typ dialog.Type, callback map[string]any) {
		name, _ := callback["type"].(string)
		if webhooks[name] == nil {
			t.Fatalf("%s: no webhook %q", typ, name)
		}
		var found huma.ValidateResult
		schema := webhooks[name].Post.RequestBody.Content["application/json"].Schema
		huma.Validate(schemas, schema, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, callback, &found)
		for _, err := range found.Errors {
			t.Errorf("%s: %v", typ, err)
		}
		if d := cmp.Diff(slices.Sorted(maps.Keys(schema.Properties)), slices.Sorted(maps.Keys(callback))); d != "" {
			t.Errorf("%s: envelope (- described, + sent):\n%s", typ, d)
		}
	}
	for _, info := range dialog.Types {
		validate(info.Type, sampleCallback(info.Type))

		var e dialog.Event
		fill(reflect.ValueOf(&e).Elem())
		e.Type, e.Flow, e.Status, e.HangupBy, e.Subscription.State = info.Type, dialog.In, dialog.Answered, dialog.ByCaller, string(subscription.StatePaused)
		sub := sampleSubscription()
		v := payload.New(&e, sub.Format())
		v.CalledID, v.CallerID = 1, 2
		var callback map[string]any
		if err := json.Unmarshal(v.Append(nil), &callback); err != nil {
			t.Fatal(err)
		}
		validate(info.Type, callback)
		described := webhooks[callback["type"].(string)].Post.RequestBody.Content["application/json"].Schema.Properties["data"].Properties
		if d := cmp.Diff(slices.Sorted(maps.Keys(described)), slices.Sorted(maps.Keys(callback["data"].(map[string]any)))); d != "" {
			t.Errorf("%s: data (- described, + sent):\n%s", info.Type, d)
		}
	}
}
