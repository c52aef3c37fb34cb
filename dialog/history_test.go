package dialog

import "testing"

func TestFindsDivertingUser(t *testing.T) {
	for _, tt := range []struct{ name, history, want string }{
		{"one entry", `<sip:201@h>;index=1`, ""},
		{"target above", `<sip:201@h>;index=1, <sip:202@h>;index=1.1`, "201"},
		{"mapped target", `<sip:201@h>;index=1, <sip:202@h>;index=1.1;mp=1`, ""},
		{"mapped with a cause", `<sip:201@h>;index=1, <sip:202@h;cause=302>;index=1.1;mp=1`, "201"},
		{"a cause that is none", `<sip:201@h>;index=1, <sip:202@h;cause=200>;index=1.1;mp=1`, ""},
		{"the entry that is named", `<sip:201@h>;index=1, <sip:203@h>;index=1.1;mp=1, <sip:202@h;cause=408>;index=1.1.1;mp=1`, "201"},
		{"the entry above by index", `<sip:201@h>;index=1, <sip:203@h>;index=1.1;mp=1, <sip:202@h;cause=408>;index=1.2`, "201"},
		{"an entry that is not there", `<sip:201@h>;index=1, <sip:202@h;cause=408>;index=1.1;mp=7`, "201"},
		{"reason of the diversion", `<sip:201@h?Reason=SIP%3Bcause%3D302>;index=1, <sip:202@h>;index=1.1;mp=1`, "201"},
		{"reason of Q.850", `<sip:201@h?Reason=Q.850%3Bcause%3D17>;index=1, <sip:202@h>;index=1.1;mp=1`, "201"},
		{"reason quoted", `<sip:201@h?reason="SIP;cause=486">;index=1, <sip:202@h>;index=1.1;mp=1`, "201"},
		{"reason of success", `<sip:201@h?Reason=SIP%3Bcause%3D200>;index=1, <sip:202@h>;index=1.1;mp=1`, ""},
		{"reason of the last", `<sip:201@h>;index=1, <sip:202@h?Reason=SIP%3Bcause%3D302>;index=1.1;mp=1`, ""},
		{"branch before", `<sip:200@h>;index=1, <sip:201@h>;index=1.1;mp=1, <sip:202@h>;index=1.2;mp=1`, "201"},
		{"the last of two", `<sip:201@h>;index=1, <sip:203@h;cause=302>;index=1.1;mp=1, <sip:202@h;cause=486>;index=1.1.1;mp=1.1`, "203"},
		{"to its own number", `<sip:202@h>;index=1, <sip:202@h;cause=302>;index=1.1;rc=1`, ""},
		{"to its own number in another form", `<sip:+4930555202@h>;index=1, <tel:030-555-202>;index=1.1`, "+4930555202"},
		{"with a prefix", `<sip:+4930555202@h>;index=1, <tel:30-555-202>;index=1.1`, ""},
		{"without an index", `<sip:201@h>, <sip:202@h>`, "201"},
		{"no users", `<sip:h>;index=1, <sip:g>;index=1.1`, ""},
	} {
		called := "202"
		if got := divertedBy(readHistory("X\nHistory-Info: "+tt.history), called); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := divertedBy(nil, "202"); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

// FuzzHistory parses any History-Info: the result is a user of the entries.
func FuzzHistory(f *testing.F) {
	f.Add(`<sip:201@h?Reason=SIP%3Bcause%3D302>;index=1, <sip:202@h;cause=302>;index=1.1;mp=1`, "202")
	f.Add(`<sip:201@h>;index=.;np, sip:2;index=1.`, "")
	f.Fuzz(func(t *testing.T, history, called string) {
		entries := readHistory("X\nHistory-Info: " + history)
		by := divertedBy(entries, called)
		if by == "" {
			return
		}
		if by == called {
			t.Errorf("%q has diverted itself", by)
		}
		for _, e := range entries {
			if e.user == by {
				return
			}
		}
		t.Errorf("%q is no user in %q", by, history)
	})
}
