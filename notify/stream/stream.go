// Package stream reads and writes JetStream streams: batches of messages, a whole stream,
// its end backwards, and the tokens of its subjects.
package stream

import (
	"context"
	"encoding/base32"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// BatchSize is how many messages a batch has at most. Timeout is how long a request to the
// store may take, and Backoff the wait after one that failed.
const (
	BatchSize = 256
	Timeout   = 5 * time.Second
	Backoff   = 250 * time.Millisecond
)

// WithDrainTime returns a context that ends two seconds after ctx, or together with it if
// the store is not connected then: nothing more can be written.
func WithDrainTime(ctx context.Context, nc *nats.Conn) (context.Context, context.CancelFunc) {
	drain, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !nc.IsConnected() {
			end()
			return
		}
		time.AfterFunc(2*time.Second, end)
	})
	return drain, func() { stop(); end() }
}

// Token returns s if it is a valid token of a NATS subject, else its base32 form.
func Token(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return Base32Token(s)
	}
	return s
}

var base32Names = base32.StdEncoding.WithPadding(base32.NoPadding)

// Base32Token encodes any name as a token of a subject or key.
func Base32Token(s string) string {
	if s == "" {
		return "-"
	}
	return base32Names.EncodeToString([]byte(s))
}
