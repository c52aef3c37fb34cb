// Package stream writes batches of messages to JetStream streams, reads streams forwards
// and backwards, and encodes names as tokens of subjects.
package stream

import (
	"context"
	"encoding/base32"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// BatchSize is the maximum number of messages in a batch. Timeout limits a request to the
// store, and Backoff is the wait after a failed one.
const (
	BatchSize = 256
	Timeout   = 5 * time.Second
	Backoff   = 250 * time.Millisecond
)

// WithDrainTime returns a context that ends two seconds after ctx, so that messages can
// still be written. If the store is not connected when ctx ends, it ends together with
// ctx.
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

// Sleep waits until d has passed or ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Signal sends on ch, which has capacity 1, unless a signal waits there already.
func Signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
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

// Base32Token encodes any name as a token of a subject or key. The empty name becomes
// "-".
func Base32Token(s string) string {
	if s == "" {
		return "-"
	}
	return base32Names.EncodeToString([]byte(s))
}
