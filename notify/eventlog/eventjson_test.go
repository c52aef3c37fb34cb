package eventlog

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"bellhop/dialog"
)

// The log has exactly the bytes that encoding/json writes: for an empty event, a complete
// event, and each field alone. A new field of the event must be added to AppendEvent.
func TestAppendEvent(t *testing.T) {
	check := func(name string, e dialog.Event) {
		t.Helper()
		want, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendEvent(nil, &e); string(got) != string(want) {
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
