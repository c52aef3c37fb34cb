package dialog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// describeExtensions formats the data of extensions.
func describeExtensions(all ...ExtensionInfo) string {
	var lines []string
	for _, k := range all {
		line := fmt.Sprint(k.Extension, " ", k.Kind)
		if k.Declared {
			line += " declared"
		}
		for _, c := range k.Contacts {
			line += fmt.Sprint(" ", c.URI, " ", c.Until.Sub(start))
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestListsKnownExtensions(t *testing.T) {
	c := testConfig() // its pattern is two to five digits
	c.Extensions = []Declared{{Number: "600", Kind: Queue}, {Number: "0003*210"}}
	c.Learn = true
	tracker := New(c)
	for _, m := range []Message{
		registerResponse(start, "sip:anna@pbx.example", "Contact: <sip:anna@192.0.2.12:5060;ob>;expires=120\r\nContact: <sip:a2@192.0.2.13>;expires=60\r\n"),
		registerResponse(start, "sip:101@pbx.example", "Contact: <sip:101@192.0.2.11:5060>;expires=30\r\n"),
		registerResponse(start, "sip:0003*210@pbx.example", "Contact: <sip:k2@192.0.2.14:5062>;expires=600\r\n"),
		registerResponse(start, "sip:gone@pbx.example", "Contact: <sip:g@192.0.2.15>\r\n"),
		registerResponse(start, "sip:gone@pbx.example", ""),
	} {
		tracker.Observe(m)
	}
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{
		{0, `0003*210@pbx.example phone declared sip:k2@192.0.2.14:5062 10m0s
101@pbx.example phone sip:101@192.0.2.11:5060 30s
600 queue declared
anna@pbx.example phone sip:a2@192.0.2.13 1m0s sip:anna@192.0.2.12:5060 2m0s`},
		{time.Minute, `0003*210@pbx.example phone declared sip:k2@192.0.2.14:5062 10m0s
101 phone
600 queue declared
anna@pbx.example phone sip:anna@192.0.2.12:5060 2m0s`},
		{time.Hour, "0003*210 phone declared\n101 phone\n600 queue declared"},
	} {
		if got := describeExtensions(tracker.Extensions(start.Add(tt.after))...); got != tt.want {
			t.Errorf("after %v:\n%s\nwant\n%s", tt.after, got, tt.want)
		}
	}
	for user, want := range map[string]string{
		"anna":     "anna@pbx.example phone sip:a2@192.0.2.13 1m0s sip:anna@192.0.2.12:5060 2m0s",
		"600":      "600 queue declared",
		"0003*210": "0003*210@pbx.example phone declared sip:k2@192.0.2.14:5062 10m0s",
		"102":      "102 phone", // the pattern alone makes it an extension
		"bob":      "",
		"gone":     "",
		"":         "",
	} {
		k, ok := tracker.ExtensionInfo(user, start)
		if ok != (want != "") || ok && describeExtensions(k) != want {
			t.Errorf("%s: got %s, %v; want %s", user, describeExtensions(k), ok, want)
		}
	}

	// An extension loses a contact that another one registers, and an extension that
	// was not learned is none.
	tracker.Observe(registerResponse(start, "sip:102@pbx.example", "Contact: <sip:a2@192.0.2.13>;expires=60\r\n"))
	if k, _ := tracker.ExtensionInfo("anna", start); describeExtensions(k) != "anna@pbx.example phone sip:anna@192.0.2.12:5060 2m0s" {
		t.Errorf("after its phone has moved: %s", describeExtensions(k))
	}
	c.Learn = false
	tracker.Configure(c)
	if k, ok := tracker.ExtensionInfo("anna", start); ok {
		t.Errorf("nothing is learnt, and %s is known", describeExtensions(k))
	}
}

func BenchmarkExtensions(b *testing.B) {
	tracker := New(testConfig())
	for i := range 10_000 {
		tracker.Observe(registerResponse(start, fmt.Sprintf("sip:%05d@pbx.example", i), fmt.Sprintf("Contact: <sip:%05d@192.0.2.11:5060>\r\n", i)))
	}
	for b.Loop() {
		tracker.Extensions(start)
	}
}
