package payload

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

// fieldNames returns the names of the fields of a form.
func fieldNames(form string) (all []string) {
	for pair := range strings.SplitSeq(form, "&") {
		name, _, _ := strings.Cut(pair, "=")
		name, _ = url.QueryUnescape(name)
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// A sample has only fields that a real event of its type has, and all those that every one
// has.
func TestSamplesHaveRealFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		form := func(e dialog.Event) []string {
			return fieldNames(payloadOf(e, Format{Dialect: JSON, Method: "GET", URL: "http://crm/"}))
		}
		var allWords []string
		for _, info := range dialog.Types {
			word := string(info.Type)
			if allWords = append(allWords, word); info.ByFlow {
				allWords = append(allWords, word+"-in", word+"-out")
			}
		}
		message := []string{"call_flow", "callapi_id", "caller_id_name", "user_agent"}   // a MESSAGE has these too
		known := map[string][]string{"message-inin": message, "message-outout": message} // by type and flow
		for _, e := range sampleEvents() {
			if strings.HasPrefix(string(e.Type), "message-") {
				_, flow, _ := strings.Cut(string(e.Type), "-")
				e.Flow = dialog.Flow(flow)
			}
			kind := string(e.Type) + string(e.Flow)
			known[kind] = append(known[kind], form(e)...)
		}
		for _, extension := range []string{"101", "0003*210@pbx"} {
			for _, types := range [][]string{allWords, {"dial-out", "answer", "hangup"}, {"dial-in", "hangup"}} {
				user, domain, _ := strings.Cut(extension, "@")
				state := dialog.Event{Type: dialog.SubscriptionState, Extension: dialog.Extension{User: user, Domain: domain},
					Subscription: &dialog.Subscription{ID: "s", State: "resumed"}}
				p := NewSampler(extension, types, state, "salt", time.Now())
				ids := map[string]bool{}
				calls := map[string]bool{}
				for i, typ := range types {
					e := p.Event(typ)
					if word := string(e.Type); word != typ && word+"-"+string(e.Flow) != typ {
						t.Errorf("the sample of %s is a %s %s", typ, e.Type, e.Flow)
					}
					if e.Extension.User != user || typ != "subscription-state" && domain != "" && e.Extension.Domain != domain || !e.At.Equal(time.Now()) {
						t.Errorf("%s is of %v", typ, e.Extension)
					}
					if len(e.ID) != 32 || !strings.HasPrefix(e.ID, "test-") || ids[e.ID] || e.Call != "" && (len(e.Call) != 32 || len(e.Party) != 32 || e.Seq < 1 || e.Seq > i+1) {
						t.Errorf("%s has id %s, call %s, sequence %d", typ, e.ID, e.Call, e.Seq)
					}
					ids[e.ID] = true
					switch e.Type {
					case dialog.DialIn, dialog.DialOut:
						calls[e.Call+e.Party] = true
					case dialog.Answer, dialog.Hangup:
						if !calls[e.Call+e.Party] {
							t.Errorf("%v: the %s is of a call that was not dialed", types, typ)
						}
					}
					want := known[string(e.Type)+string(e.Flow)]
					for _, name := range form(*e) {
						if !slices.Contains(want, name) {
							t.Errorf("the sample of %s has %s", typ, name)
						}
					}
				}
			}
		}
	})
}
