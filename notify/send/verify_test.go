package send

import (
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"bellhop/notify/subscription"
)

func TestVerifyCallback(t *testing.T) {
	secret, other := subscription.NewSecret(), subscription.NewSecret()
	at := time.Unix(1767322800, 0)
	w, err := standardwebhooks.NewWebhook(string(secret))
	if err != nil {
		t.Fatal(err)
	}
	good := Callback{ID: "e-s", Timestamp: "1767322800", Payload: []byte(`{"a":1}`)}
	if good.Signature, err = w.Sign(good.ID, at, good.Payload); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(*Callback)
		after time.Duration
		want  string // a part of the error; "": none
	}{
		{"as it is", func(c *Callback) {}, 0, ""},
		{"five minutes later", func(c *Callback) {}, 5 * time.Minute, ""},
		{"older", func(c *Callback) {}, 5*time.Minute + time.Second, "5m1s old"},
		{"newer", func(c *Callback) {}, -6 * time.Minute, "6m0s in the future"},
		{"among others", func(c *Callback) { c.Signature = "v1a,x v1,AAAA " + c.Signature }, 0, ""},
		{"another body", func(c *Callback) { c.Payload = []byte(`{"a":2}`) }, 0, "no signature matches: "},
		{"a line break more", func(c *Callback) { c.Payload = []byte("{\"a\":1}\r\n") }, 0, "without the line break"},
		{"another body with a line break", func(c *Callback) { c.Payload = []byte("{\"a\":2}\n") }, 0, "no signature matches: "},
		{"another id", func(c *Callback) { c.ID = "e-t" }, 0, "no signature matches: "},
		{"another time", func(c *Callback) { c.Timestamp = "1767322801" }, 0, "no signature matches: "},
		{"a longer time", func(c *Callback) { c.Timestamp = "01767322800" }, 0, "webhook-timestamp is not"},
		{"a time that is none", func(c *Callback) { c.Timestamp = "noon" }, 0, "webhook-timestamp is not"},
		{"no id", func(c *Callback) { c.ID = "" }, 0, "no webhook-id"},
		{"no time", func(c *Callback) { c.Timestamp = "" }, 0, "no webhook-timestamp"},
		{"no signature", func(c *Callback) { c.Signature = "" }, 0, "no webhook-signature"},
		{"not base64", func(c *Callback) { c.Signature = "v1,?" }, 0, "no signature matches: "},
		{"without the version", func(c *Callback) { c.Signature = c.Signature[3:] }, 0, "no signature of version 1"},
		{"of a later version", func(c *Callback) { c.Signature = "v2" + c.Signature[2:] }, 0, "no signature of version 1"},
	} {
		c := good
		tt.spoil(&c)
		err := c.Verify(secret, at.Add(tt.after), 5*time.Minute)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := good.Verify(secret, at.Add(1000*time.Hour), 0); err != nil {
		t.Errorf("of any age: %v", err)
	}
	if err := good.Verify(other, at, 0); err == nil {
		t.Error("another secret is taken")
	}
	if err := good.Verify("whsec_x", at, 0); err == nil || !strings.HasPrefix(err.Error(), "the secret is not whsec_") {
		t.Errorf("a secret that is none: %v", err)
	}
}
