package send

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"

	"bellhop/notify/subscription"
)

// A Signer signs the requests of one subscription by the Standard Webhooks specification.
// Any number of goroutines may use it.
type Signer struct {
	keys  []*macPool // one, or the new one and the old one
	until time.Time  // when the old key stops signing; zero: never
}

// NewSigner returns a Signer for a key. After a rotation, old is the previous key, which
// also signs until the time until, or without limit if that is zero. A nil old means that
// there is none.
func NewSigner(key, old []byte, until time.Time) *Signer {
	s := &Signer{keys: []*macPool{newMACPool(key)}, until: until}
	if old != nil {
		s.keys = append(s.keys, newMACPool(old))
	}
	return s
}

// A macPool holds unused HMACs of a key, because creating one costs more than signing
// with it.
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

// A Callback has the signed parts of a received request, and its signatures.
type Callback struct {
	ID, Timestamp, Signature string // the fields webhook-id, webhook-timestamp and webhook-signature
	Payload                  []byte // the body; of a GET, the query as received, without the ?
}

// Verify checks that secret signed the callback and that its timestamp differs from now
// by at most tolerance. A tolerance of 0 allows any age. If the callback is not genuine,
// the error gives the reason.
func (c Callback) Verify(secret subscription.Secret, now time.Time, tolerance time.Duration) error {
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
