package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	mathrand "math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// RotateSecret gives a subscription a new secret and returns the subscription with it. The
// previous secret signs too for 24 hours; the one before that stops. If revision is not 0
// and the subscription has another, the error is ErrConflict.
func (n *Notifier) RotateSecret(ctx context.Context, id string, revision uint64) (Subscription, error) {
	secret := subscription.NewSecret()
	s, err := n.Edit(ctx, id, revision, func(s *Subscription) error {
		s.Secret = secret
		return nil
	})
	if err == nil {
		s.Secret = secret
	}
	return s, err
}

// A signer signs the callbacks of one subscription. Any number of goroutines may use it.
type signer struct {
	keys  []*macPool // one, or the new one and the old one
	until time.Time  // when the old key stops signing; zero: never
}

// newSigner returns the signer of s, or nil if s has no secret.
func newSigner(s *Subscription) *signer {
	key, err := s.Secret.Key()
	if err != nil {
		return nil
	}
	sg := &signer{keys: []*macPool{newMACPool(key)}, until: s.OldSecretUntil}
	if old, err := s.OldSecret.Key(); err == nil {
		sg.keys = append(sg.keys, newMACPool(old))
	}
	return sg
}

// A macPool holds unused HMACs of a key. To create one costs more than to sign with it.
type macPool struct{ sync.Pool }

// newMACPool returns the pool of a key.
func newMACPool(key []byte) *macPool {
	return &macPool{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// appendSignature appends the signature of content to dst.
func (m *macPool) appendSignature(dst, content []byte) []byte {
	mac := m.Get().(hash.Hash)
	mac.Reset()
	mac.Write(content)
	at := len(dst)
	dst = mac.Sum(dst)
	m.Put(mac)
	var sum [sha256.Size]byte
	copy(sum[:], dst[at:])
	return base64.StdEncoding.AppendEncode(append(dst[:at], "v1,"...), sum[:])
}

// signBuffers are buffers for the signed content.
var signBuffers = sync.Pool{New: func() any { return new([]byte) }}

// signRequest adds the time of the attempt, and the signatures, to a request that is
// otherwise complete. body is the body of the request; for GET, the query is signed
// instead.
func (a *attempt) signRequest(req *http.Request, body []byte, now time.Time) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	req.Header["Webhook-Timestamp"] = []string{timestamp}
	if a.signer == nil {
		return
	}
	buffer := signBuffers.Get().(*[]byte)
	b := append((*buffer)[:0], req.Header["Webhook-Id"][0]...)
	b = append(append(append(b, '.'), timestamp...), '.')
	if req.Method == http.MethodGet {
		b = append(b, req.URL.RawQuery...)
	} else {
		b = append(b, body...)
	}
	signed := len(b)
	for i, key := range a.signer.keys {
		if i > 0 {
			if until := a.signer.until; !until.IsZero() && !now.Before(until) {
				break
			}
			b = append(b, ' ')
		}
		b = key.appendSignature(b, b[:signed])
	}
	req.Header["Webhook-Signature"] = []string{string(b[signed:])}
	*buffer = b
	signBuffers.Put(buffer)
}

// traceparent returns the W3C trace context of a callback: that of the INVITE, if
// calls.headers copies that header into events, else a trace whose id is the id of the
// event. Each attempt is a span of it.
func traceparent(e *dialog.Event) string {
	for _, h := range e.Headers {
		if strings.EqualFold(h[0], "traceparent") && validTrace(h[1]) {
			return h[1]
		}
	}
	b := make([]byte, 0, 55)
	b = append(append(append(b, "00-"...), e.ID...), '-')
	span := mathrand.Uint64() | 1 // never zero
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[span>>shift&0xf])
	}
	if s := string(append(b, "-01"...)); validTrace(s) {
		return s
	}
	return ""
}

// validTrace reports whether s is a traceparent of version 00.
func validTrace(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	for _, part := range []string{s[3:35], s[36:52], s[53:]} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}

// A Callback is the signed part of a received request, and its signature.
type Callback struct {
	ID, Timestamp, Signature string // the fields webhook-id, webhook-timestamp and webhook-signature
	Payload                  []byte // the body; of a GET, the query as received, without the ?
}

// Verify checks that secret signed the callback and that its timestamp differs from now by
// at most tolerance. A tolerance of 0 allows any age. The error of a callback that is not
// genuine gives the reason.
func (c Callback) Verify(secret Secret, now time.Time, tolerance time.Duration) error {
	key, err := secret.Key()
	if err != nil {
		return fmt.Errorf("the secret %w", err)
	}
	for _, field := range [][2]string{{"webhook-id", c.ID}, {"webhook-timestamp", c.Timestamp}, {"webhook-signature", c.Signature}} {
		if field[1] == "" {
			return fmt.Errorf("there is no %s", field[0])
		}
	}
	seconds, err := strconv.ParseInt(c.Timestamp, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != c.Timestamp {
		return errors.New("the webhook-timestamp is not a number of seconds")
	}
	if err := c.matchSignature(key); err != nil {
		return err
	}
	age := now.Sub(time.Unix(seconds, 0)).Truncate(time.Second)
	switch {
	case tolerance == 0:
	case age > tolerance:
		return fmt.Errorf("the signature matches, but it is %v old, and %v are allowed: the request was sent again, or a clock is wrong", age, tolerance)
	case -age > tolerance:
		return fmt.Errorf("the signature matches, but it is %v in the future, and %v are allowed: a clock is wrong", -age, tolerance)
	}
	return nil
}

// matchSignature returns nil if one of the signatures was made with key.
func (c Callback) matchSignature(key []byte) error {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", c.ID, c.Timestamp, c.Payload)
	want := mac.Sum(nil)
	v1 := false
	for s := range strings.FieldsSeq(c.Signature) {
		version, text, _ := strings.Cut(s, ",")
		if version != "v1" {
			continue
		}
		v1 = true
		if got, err := base64.StdEncoding.DecodeString(text); err == nil && hmac.Equal(got, want) {
			return nil
		}
	}
	if !v1 {
		return errors.New("the webhook-signature has no signature of version 1, such as v1,<base64>")
	}
	if trimmed := strings.TrimRight(string(c.Payload), "\r\n"); trimmed != string(c.Payload) {
		c.Payload = []byte(trimmed)
		if c.matchSignature(key) == nil {
			return errors.New("no signature matches, but one does without the line break at the end: pass the payload exactly as received")
		}
	}
	return errors.New("no signature matches: the secret is wrong, or the id, the timestamp or the payload differs from what was sent")
}
