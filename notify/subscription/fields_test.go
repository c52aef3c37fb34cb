package subscription

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A change sets the fields that it names and leaves the others.
func TestChangeMerges(t *testing.T) {
	stored := func() Subscription {
		s := New()
		s.Extension, s.Types, s.URL, s.Secret, s.TLSCert, s.TLSKey, s.LiveTTL = "101", []string{"hangup"}, "http://a/", "old", "cert", "key", Duration(time.Minute)
		s.Headers = Headers{"X-Key": "kept", "X-Gone": "1"}
		return s
	}
	for _, tt := range []struct {
		name, change string
		want         func(s *Subscription) bool
		wrong        string // the field that is invalid
	}{
		{"nothing", `{}`, func(s *Subscription) bool { return fmt.Sprint(*s) == fmt.Sprint(stored()) }, ""},
		{"one field", `{"note":"x"}`, func(s *Subscription) bool { return s.Note == "x" && s.URL == "http://a/" && s.Active }, ""},
		{"null", `{"url":null}`, func(s *Subscription) bool { return s.URL == "http://a/" }, ""},
		{"other case", `{"URL":"http://b/"}`, func(s *Subscription) bool { return s.URL == "http://b/" }, ""},
		{"a list is replaced", `{"types":["answer","dial-in"]}`, func(s *Subscription) bool { return slices.Equal(s.Types, []string{"answer", "dial-in"}) }, ""},
		{"headers keep values", `{"headers":{"x-key":"","X-New":"2"}}`, func(s *Subscription) bool {
			return len(s.Headers) == 2 && s.Headers["x-key"] == "kept" && s.Headers["X-New"] == "2"
		}, ""},
		{"no headers", `{"headers":{}}`, func(s *Subscription) bool { return len(s.Headers) == 0 }, ""},
		{"empty secret", `{"secret":""}`, func(s *Subscription) bool { return s.Secret == "old" }, ""},
		{"new secret", `{"secret":"new"}`, func(s *Subscription) bool { return s.Secret == "new" }, ""},
		{"no certificate", `{"tls_cert":""}`, func(s *Subscription) bool { return s.TLSCert == "" && s.TLSKey == "" }, ""},
		{"no certificate, but a key", `{"tls_key":"k","tls_cert":""}`, func(s *Subscription) bool { return s.TLSKey == "k" }, ""},
		{"default duration", `{"live_ttl":""}`, func(s *Subscription) bool { return s.LiveTTL == 0 }, ""},
		{"duration", `{"timeout":"500ms"}`, func(s *Subscription) bool { return s.Timeout == Duration(500*time.Millisecond) && s.LiveTTL != 0 }, ""},
		{"no duration", `{"timeout":"5 s"}`, nil, "timeout"},
	} {
		var c Change
		if err := json.Unmarshal([]byte(tt.change), &c); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		s := stored()
		err := c.ApplyTo(&s)
		if invalid, _ := err.(*Invalid); tt.wrong != "" && (invalid == nil || invalid.Field != tt.wrong) || tt.wrong == "" && (err != nil || !tt.want(&s)) {
			t.Errorf("%s: %v, %+v", tt.name, err, s)
		}
	}
	for _, readOnly := range []string{"id", "state", "created", "old_secret", "owner", "declared"} {
		if err := json.Unmarshal([]byte(`{"`+readOnly+`":"x"}`), new(Change)); err == nil {
			t.Errorf("%s can be set", readOnly)
		}
	}
}

// Header values and secrets are not printed.
func TestSecretsAreNotPrinted(t *testing.T) {
	s := Subscription{Headers: Headers{"X-Key": "hidden"}, Secret: "hidden", OldSecret: "hidden", TLSKey: "hidden"}
	if text := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(text, "hidden") {
		t.Error(text)
	}
}
