package payload

import (
	"net/url"
	"testing"

	"bellhop/dialog"
)

// Receivers of Telphin's events require a name and an extension of each caller: an outside
// caller is named by the number, and the extension is the queue or menu that distributed
// the call.
func TestTelphinCallFromOutside(t *testing.T) {
	phone := dialog.Extension{User: "101", Domain: "pbx.example"}
	colleague := dialog.Extension{User: "102", Domain: "pbx.example"}
	queue := dialog.Extension{User: "600", Domain: "pbx.example"}
	for _, tt := range []struct {
		name             string
		event            dialog.Event
		callerName, from string
	}{
		{"without a name", dialog.Event{Type: dialog.DialIn, Flow: dialog.In, CallerNum: "442071234567"}, "442071234567", ""},
		{"with a name", dialog.Event{Type: dialog.DialIn, Flow: dialog.In, CallerNum: "442071234567", CallerName: "Zoë"}, "Zoë", ""},
		{"by a queue", dialog.Event{Type: dialog.Answer, Flow: dialog.In, CallerNum: "442071234567", Distributor: &queue}, "442071234567", "600@pbx.example"},
		{"by a queue, ended", dialog.Event{Type: dialog.Hangup, Flow: dialog.In, CallerNum: "anonymous", CallerName: "Anonymous", Distributor: &queue}, "Anonymous", "600@pbx.example"},
		{"of a colleague", dialog.Event{Type: dialog.DialIn, Flow: dialog.In, CallerNum: "102", CallerExtension: &colleague}, "", "102@pbx.example"},
		{"of a colleague by a queue", dialog.Event{Type: dialog.DialIn, Flow: dialog.In, CallerNum: "102", CallerExtension: &colleague, Distributor: &queue}, "", "102@pbx.example"},
		{"to outside", dialog.Event{Type: dialog.DialOut, Flow: dialog.Out, CallerNum: "101", CallerExtension: &phone}, "", "101@pbx.example"},
		{"sent on to outside", dialog.Event{Type: dialog.DialOut, Flow: dialog.Out, CallerNum: "442071234567", CallerExtension: &phone, Transferred: true}, "442071234567", "101@pbx.example"},
		{"a message", dialog.Event{Type: dialog.MessageIn, CallerNum: "442071234567"}, "", ""},
	} {
		e := tt.event
		e.Call, e.Party, e.Extension = "c", "p", phone
		form, err := url.ParseQuery(payloadOf(e, Format{Dialect: Telphin, Method: "POST"}))
		if err != nil || form.Get("CallerIDName") != tt.callerName || form.Get("CallerExtension") != tt.from {
			t.Errorf("%s: %v, %v", tt.name, form, err)
		}
		if got := form.Get("CallerExtensionID") != ""; got != (tt.from == "101@pbx.example") { // the only one with a number here
			t.Errorf("%s: CallerExtensionID=%q", tt.name, form.Get("CallerExtensionID"))
		}
		for _, d := range []Dialect{JSON, Unified, CloudEvents} {
			with := payloadOf(e, Format{Dialect: d, Method: "POST"})
			if e.Distributor = nil; payloadOf(e, Format{Dialect: d, Method: "POST"}) != with {
				t.Errorf("%s: %s has the distributor: %s", tt.name, d, with)
			}
			e.Distributor = tt.event.Distributor
		}
	}
}
