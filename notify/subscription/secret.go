package subscription

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"time"
)

// SecretOverlap is how long after a rotation the old secret also signs.
const SecretOverlap = 24 * time.Hour

// A Secret is shared by a subscription and its receiver: whsec_ and the base64 of 24 to 64
// bytes. It is never printed.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

func (s Secret) GoString() string { return s.String() }

var errSecret = errors.New("is not whsec_ followed by the base64 of 24 to 64 bytes")

// Key returns the bytes of a secret.
func (s Secret) Key() ([]byte, error) {
	text, ok := strings.CutPrefix(string(s), "whsec_")
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || strings.ContainsAny(text, "\r\n") || len(key) < 24 || len(key) > 64 {
		return nil, errSecret
	}
	return key, nil
}

// NewSecret returns a secret of 32 random bytes.
func NewSecret() Secret {
	var key [32]byte
	rand.Read(key[:]) // never fails
	return Secret("whsec_" + base64.StdEncoding.EncodeToString(key[:]))
}

// InheritSecrets completes the secrets of s from old, the subscription before the change.
// If s has no secret, it keeps that of old. If s has another secret, that is a rotation:
// the secret of old also signs for SecretOverlap.
func (s *Subscription) InheritSecrets(old *Subscription, now time.Time) {
	if s.Secret == "" {
		s.Secret = old.Secret
	}
	s.OldSecret, s.OldSecretUntil = old.OldSecret, old.OldSecretUntil
	if s.Secret != old.Secret && old.Secret != "" {
		s.OldSecret, s.OldSecretUntil = old.Secret, now.Add(SecretOverlap).UTC().Truncate(time.Second)
	}
	if !s.OldSecretUntil.After(now) {
		s.OldSecret, s.OldSecretUntil = "", time.Time{}
	}
}

// A PrivateKey is a key in PEM. It is stored, and never printed.
type PrivateKey string

func (k PrivateKey) String() string {
	if k == "" {
		return ""
	}
	return "[secret]"
}

func (k PrivateKey) GoString() string { return k.String() }
