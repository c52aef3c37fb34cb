package dialog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestLearnsBindingsFromResponses observes REGISTERs and their responses, and checks where
// 101 is registered then.
func TestLearnsBindingsFromResponses(t *testing.T) {
	type exchange struct{ ask, response string }
	const one, two = "Contact: <sip:1@192.0.2.11>", "Contact: <sip:2@192.0.2.12>"
	for _, tt := range []struct {
		name      string
		exchanges []exchange
		want      string // contacts and for how long
	}{
		{"as the response says", []exchange{{one + ";expires=60", one + ";expires=90"}}, "sip:1@192.0.2.11 90"},
		{"as the response says of all", []exchange{{one + ";expires=60", one + "\r\nExpires: 90"}}, "sip:1@192.0.2.11 90"},
		{"as the contact asks", []exchange{{one + ";expires=60\r\nExpires: 70", one}}, "sip:1@192.0.2.11 60"},
		{"as the REGISTER asks", []exchange{{one + "\r\nExpires: 70", one}}, "sip:1@192.0.2.11 70"},
		{"nobody says", []exchange{{one, one}}, "sip:1@192.0.2.11 3600"},
		{"what cannot be read", []exchange{{one + ";expires=x\r\nExpires: y", one + ";expires=-1"}}, "sip:1@192.0.2.11 3600"},
		{"of another device nobody says", []exchange{{one + ";expires=60", one + ", <sip:2@192.0.2.12>"}}, "sip:1@192.0.2.11 60, sip:2@192.0.2.12 3600"},
		{"written otherwise", []exchange{{one + ";expires=60", "m: <sip:%31@192.0.2.11:5060;ob>"}}, "sip:1@192.0.2.11:5060 60"},
		{"nothing listed", []exchange{{one + ";expires=60", ""}}, "sip:1@192.0.2.11 60"},
		{"nothing listed, but for how long", []exchange{{one + ";expires=60", "Expires: 50"}}, "sip:1@192.0.2.11 50"},
		{"asked only", []exchange{{one, one}, {"", ""}}, ""},
		{"removed", []exchange{{one, one}, {one + ";expires=0", ""}}, ""},
		{"removed and echoed", []exchange{{one, one}, {one + "\r\nExpires: 0", one}}, ""},
		{"removed and echoed with time left", []exchange{{one, one}, {one + ";expires=0", one + ";expires=3000"}}, ""},
		{"one of two removed and echoed", []exchange{{one, one}, {two, one + "\r\n" + two}, {one + ";expires=0", one + "\r\n" + two}}, "sip:2@192.0.2.12 3600"},
		{"all removed and echoed", []exchange{{one, one}, {two, one + "\r\n" + two}, {"Contact: *\r\nExpires: 0", one + "\r\n" + two}}, ""},
		{"star without Expires", []exchange{{one, one}, {"Contact: *", one}}, "sip:1@192.0.2.11 3600"},
		{"star that is listed", []exchange{{one, one}, {"Contact: *\r\nExpires: 0", "Contact: *"}}, ""},
		{"removed from one that lists", []exchange{{one, one}, {two, one + "\r\n" + two}, {one + ";expires=0", ""}}, ""},
		{"two at one that lists nothing", []exchange{{one + ";expires=60", ""}, {two + ";expires=90", ""}}, "sip:1@192.0.2.11 60, sip:2@192.0.2.12 90"},
		{"removed from one that lists nothing", []exchange{{one + ";expires=60", ""}, {two + ";expires=90", ""}, {one + ";expires=0", ""}}, "sip:2@192.0.2.12 90"},
		{"both removed from one that lists nothing", []exchange{{one, ""}, {two, ""}, {one + ";expires=0", ""}, {two + ";expires=0", ""}}, ""},
		{"replaced in one REGISTER", []exchange{{one, one}, {one + ";expires=0, <sip:2@192.0.2.12>;expires=80", one + ", <sip:2@192.0.2.12>"}}, "sip:2@192.0.2.12 80"},
		{"without brackets, with an instance", []exchange{{"Contact: sip:1@192.0.2.11;expires=60;+sip.instance=\"<urn:uuid:1, 2>\"", "Contact: sip:1@192.0.2.11;+sip.instance=\"<urn:uuid:1, 2>\";expires=60"}}, "sip:1@192.0.2.11 60"},
		{"removed without brackets, with an instance", []exchange{{one, one}, {"Contact: sip:1@192.0.2.11;Expires=0;+sip.instance=\"<urn:uuid:1, 2>\"", one + ";expires=9"}}, ""},
		{"with a name", []exchange{{one, "Contact: \"A, \\\"B\\\" <c>;d\" <sip:1@192.0.2.11>;q=0.3;expires=60 , x <sip:2@192.0.2.12> ; expires = 50"}}, "sip:2@192.0.2.12 50, sip:1@192.0.2.11 60"},
		{"too long to be kept", []exchange{{one + ";expires=60\r\nX: " + strings.Repeat("x", maxRegister), one}}, "sip:1@192.0.2.11 3600"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			up := false
			for i, x := range tt.exchanges {
				both := registerWithResponse(start, "reg", uint32(i+1), x.response+"\r\n")
				both[0].Head += x.ask + "\r\n"
				for _, e := range observeAll(tracker, both) {
					if up == (e.Type == Registered) {
						t.Errorf("%s twice", e.Type)
					}
					up = e.Type == Registered
				}
			}
			if want := tt.want != ""; up != want {
				t.Errorf("registered is %v, want %v", up, want)
			}
			var got []string
			if k, ok := tracker.ExtensionInfo("101", start); ok {
				for _, c := range k.Contacts {
					got = append(got, fmt.Sprint(c.URI, " ", int(c.Until.Sub(start)/time.Second)))
				}
			}
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("got %s, want %s", strings.Join(got, ", "), tt.want)
			}
			if n := tracker.registrar.pending.Len(); n != 0 {
				t.Errorf("%d REGISTERs are left", n)
			}
		})
	}
}

// FuzzRegister parses any REGISTER and response.
func FuzzRegister(f *testing.F) {
	f.Add("Contact: *, <sip:a@b>;expires=0\r\nExpires: 0", "Contact: <sip:a@b>\r\nExpires: 7")
	f.Fuzz(func(t *testing.T, ask, response string) {
		tracker := New(testConfig())
		both := registerWithResponse(start, "reg", 1, response+"\r\n")
		both[0].Head += ask + "\r\n"
		observeAll(tracker, both)
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			tracker.Advance(next)
		}
		if a, ok := tracker.directory.aors.Get("101"); ok && len(a.contacts) > maxContacts {
			t.Errorf("%d contacts", len(a.contacts))
		}
	})
}
