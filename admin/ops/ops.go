// Package ops implements the operations of the HTTP API, which all of its dialects and
// the page share.
//
// Each operation acts for the client of its context, see [access.WithClient]. It shows
// and changes only what that client may see, respects the limits of the client's token,
// and records every change in the audit log. A dialect decodes a request, calls an
// operation, and encodes the result, or the error as [Operations.Explain] returns it.
//
// An operation does not check the permission of its route. The caller has done so.
package ops

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin/access"
	"bellhop/dialog"
	"bellhop/dialog/trace"
	"bellhop/notify"
)

// Config configures the [Operations].
type Config struct {
	Notifier *notify.Notifier // subscriptions and the event log

	KeepEvents time.Duration // retention of the audit log; 0: 30 days
	Replicas   int           // replicas of each stream and bucket; 0: 1

	// Calls returns the live calls, oldest first; nil: there are none.
	Calls func(context.Context) ([]dialog.Call, error)

	// Trace returns the messages kept of the call with an id, and whether any are kept;
	// nil: none are.
	Trace func(ctx context.Context, id string) (trace.Call, bool, error)

	// Kind returns the kind of an extension; nil, or "": a phone.
	Kind func(user string) dialog.Kind

	// Extensions returns the extensions that the tracker knows. Extension returns the
	// extension of a user, and whether the tracker knows it. nil: it knows none.
	Extensions func(context.Context) ([]dialog.ExtensionInfo, error)
	Extension  func(ctx context.Context, user string) (dialog.ExtensionInfo, bool, error)

	// Ready returns the reasons why bellhop is not ready, beside the Notifier's health;
	// nil: there are no others.
	Ready func() []string

	// Degraded returns the problems that do not keep bellhop from its work, beside
	// Losses; nil: none.
	Degraded func() []string

	// Suppressed counts the refused call attempts for which no events were published
	// because their source had too many; nil: none.
	Suppressed func() uint64

	// Edge returns the state of the SIP connections, listeners and certificates; nil:
	// there are none.
	Edge func() (Connections, []Listener, []Certificate)

	// Peers returns the states of the configured PBXs and trunks; nil: there are none.
	Peers func() ([]Target, []Trunk)

	// Bans returns the bans that have not ended, in any order. BanOf returns the ban of a
	// source; false: the source is not banned. AddBan bans a source for a time, 0: that of
	// the config, or returns what is wrong with the source. RemoveBan ends the ban of a
	// source and returns it; false: the source is not banned. nil: there are no bans.
	Bans      func() []Ban
	BanOf     func(source string) (Ban, bool)
	AddBan    func(source string, d time.Duration) (Ban, error)
	RemoveBan func(source string) (Ban, bool)

	// Losses returns the records that the store has lost to damage, last found first;
	// nil: none. bellhop is degraded for a day after one was found.
	Losses func() []Loss

	Node    string // the name of this node
	Version string
	Log     *slog.Logger // nil: slog.Default()
}

// Operations are the operations of the HTTP API. All methods are safe for concurrent
// use.
type Operations struct {
	config   Config
	notifier *notify.Notifier
	tokens   *access.Tokens
	js       jetstream.JetStream
	auditLog jetstream.Stream
	log      *slog.Logger
	tests    testLimiter
	started  time.Time
}

// Open opens the audit log in the store, and returns the operations.
func Open(ctx context.Context, js jetstream.JetStream, tokens *access.Tokens, c Config) (*Operations, error) {
	c.Replicas = max(1, c.Replicas)
	c.KeepEvents = cmp.Or(c.KeepEvents, 30*24*time.Hour)
	c.Log = cmp.Or(c.Log, slog.Default())
	o := &Operations{config: c, notifier: c.Notifier, tokens: tokens, js: js, log: c.Log, started: time.Now()}
	var err error
	if o.auditLog, err = openAuditLog(ctx, js, c); err != nil {
		return nil, fmt.Errorf("open stream bellhop_audit: %w", err)
	}
	return o, nil
}

// Version returns the version of bellhop.
func (o *Operations) Version() string { return o.config.Version }
