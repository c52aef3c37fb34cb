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
