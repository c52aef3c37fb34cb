package eventlog

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"bellhop/dialog"
)

// The log has exactly the bytes that encoding/json writes: for an empty event, a complete
// event, and each field alone.
func TestStoredEventIsItsJSON(t *testing.T) {
	check := func(name string, e dialog.Event) {
		t.Helper()
		want, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		if got := eventEncoder.Append(nil, &e); string(got) != string(want) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
		}
	}
	check("nothing", dialog.Event{})
	var all dialog.Event
	typ := reflect.TypeFor[dialog.Event]()
	for i := range typ.NumField() {
		var one dialog.Event
		fillField(t, typ.Field(i).Name, reflect.ValueOf(&one).Elem().Field(i))
		check(typ.Field(i).Name, one)
		fillField(t, typ.Field(i).Name, reflect.ValueOf(&all).Elem().Field(i))
	}
	check("everything", all)
	check("no headers", dialog.Event{Headers: [][2]string{}})
	for _, text := range []string{`"quoted" \ <b> & 'x'`, "Zoë 张", "\xff\xfe", "a\x00\r\n\u2028\x7f", "\ufffd"} {
		check(text, dialog.Event{CallerName: text, ID: text})
	}
}

// fillField sets a field to a value other than its zero.
func fillField(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	yes := true
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 3, 4, 5, 6, 7, 890123000, time.FixedZone("", 3600))))
	case *bool:
		v.Set(reflect.ValueOf(&yes))
	case dialog.Extension:
		v.Set(reflect.ValueOf(dialog.Extension{User: "101", Domain: "pbx.example"}))
	case *dialog.Extension:
		v.Set(reflect.ValueOf(&dialog.Extension{User: "102"}))
	case dialog.LegID:
		v.Set(reflect.ValueOf(dialog.LegID{Node: "N", Origin: dialog.PBX, CallID: "a@b", FromTag: "<f>", Peer: "192.0.2.1:5060"}))
	case *dialog.Subscription:
		v.Set(reflect.ValueOf(&dialog.Subscription{ID: "s", State: "paused", Why: "<503>"}))
	case [][2]string:
		v.Set(reflect.ValueOf([][2]string{{"X-One", "<1>"}, {"X-Two", "2"}}))
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString(name + " value")
		case reflect.Int, reflect.Int64:
			v.SetInt(42)
		case reflect.Bool:
			v.SetBool(true)
		default:
			t.Fatalf("no value for a field of type %s", v.Type())
		}
	}
}

// BenchmarkEncodeEvent encodes the hangup of an answered call.
func BenchmarkEncodeEvent(b *testing.B) {
	missed := false
	e := dialog.Event{
		ID: "0123456789abcdef0123456789abcdef", Call: "0123456789abcdef0123456789abcdef", Seq: 6, At: time.Now(), Type: dialog.Hangup,
		Party: "0123456789abcdef0123456789abcdef", Extension: dialog.Extension{User: "102", Domain: "pbx.example"}, Flow: dialog.In, Status: dialog.Answered,
		CallerNum: "101", CallerName: "Alice", CallerExtension: &dialog.Extension{User: "101", Domain: "pbx.example"}, CalledNumber: "102",
		CalledExtension: &dialog.Extension{User: "102", Domain: "pbx.example"}, CallAPIID: "a84b4c76e66710@pbx.example", Duration: time.Minute,
		RingDuration: time.Second, SetupTime: time.Second, AnsweredAt: time.Now(), Q850: 16, HangupBy: dialog.ByCaller, Missed: &missed,
		Correlation: "x-cid:exact", Leg: dialog.LegID{Origin: dialog.PBX, CallID: "a84b4c76e66710@pbx.example", FromTag: "1928301774", ToTag: "314159"},
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = eventEncoder.Append(buf[:0], &e)
	}
}
