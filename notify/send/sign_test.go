package send

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"bellhop/notify/subscription"
)

// testKeys returns two different keys.
func testKeys() (key, old []byte) {
	return []byte(strings.Repeat("k", 32)), []byte(strings.Repeat("o", 24))
}

// verifyRequest has the library of the specification verify the signature of a request,
// whatever its age.
func verifyRequest(key []byte, r *Request) error {
	w, err := standardwebhooks.NewWebhook(base64.StdEncoding.EncodeToString(key))
	if err != nil {
		return err
	}
	return w.VerifyIgnoringTimestamp(r.Body, r.Header)
}

// The old key signs until its time is over.
func TestOldKeySignsUntil(t *testing.T) {
	at := time.Unix(1767322800, 0)
	key, old := testKeys()
	for _, tt := range []struct {
		until time.Time
		after time.Duration
		both  bool
	}{
		{at.Add(24 * time.Hour), 0, true},
		{at.Add(24 * time.Hour), 24*time.Hour - time.Second, true},
		{at.Add(24 * time.Hour), 24 * time.Hour, false},
		{at.Add(24 * time.Hour), 48 * time.Hour, false},
		{time.Time{}, 48 * time.Hour, true},
	} {
		r := Request{Method: "POST", Header: http.Header{"Webhook-Id": {"e-s"}}, Body: []byte("{}"), Signer: NewSigner(key, old, tt.until)}
		r.sign(at.Add(tt.after))
		for i, k := range [][]byte{key, old} {
			if err, want := verifyRequest(k, &r), i == 0 || tt.both; (err == nil) != want {
				t.Errorf("after %v of %v, key %d: %v, want good %v", tt.after, tt.until, i, err, want)
			}
		}
	}
}

// Many goroutines sign for one subscription at once.
func TestSignsConcurrently(t *testing.T) {
	key, old := testKeys()
	signer := NewSigner(key, old, time.Now().Add(time.Hour))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				r := Request{Method: "POST", Header: http.Header{"Webhook-Id": {fmt.Sprint(i, "-", j)}}, Signer: signer}
				r.Body = []byte(strings.Repeat(fmt.Sprint(i), 100*(j%20)))
				r.sign(time.Now())
				for _, k := range [][]byte{key, old} {
					if err := verifyRequest(k, &r); err != nil {
						t.Errorf("%d %d: %v", i, j, err)
						return
					}
				}
			}
		})
	}
	all.Wait()
}

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

// BenchmarkSign signs a body of 700 bytes, as a hangup has.
func BenchmarkSign(b *testing.B) {
	key, old := testKeys()
	for _, tt := range []struct {
		name string
		*Signer
	}{
		{"one", NewSigner(key, nil, time.Time{})},
		{"two", NewSigner(key, old, time.Now().Add(time.Hour))},
	} {
		b.Run(tt.name, func(b *testing.B) {
			body, now := make([]byte, 700), time.Now()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r := Request{Method: "POST", Header: http.Header{"Webhook-Id": {"5f1d0c7e9a3b48d2a6c4e8f013579bdf-ABCDEFGHIJKLMNOPQRSTUVWXYZabcd"}}, Body: body, Signer: tt.Signer}
				for pb.Next() {
					r.sign(now)
				}
			})
		})
	}
}
