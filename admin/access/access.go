// Package access authenticates the clients of the HTTP API, and decides which routes each
// may use and which extensions it may see.
//
// A [Client] sends the secret of a [Token], of which the store has only a hash. Instead
// it may send an access token of OAuth or the cookie of a session of the page. Both stand
// for a Token, are kept in memory, and end when their Token does, if not before. Nodes
// that share a store share tokens. A node that has lost the store keeps using the tokens
// that it knows.
package access

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"bellhop/dialog"
)

// Permission is what a request needs for a route. The zero permission is the highest,
// so that a route without one is for admins.
type Permission int

const (
	PermitAdmin   Permission = iota // tokens, the audit log
	PermitRead                      // see the extensions that the token is bound to
	PermitWrite                     // and change their subscriptions
	PermitReadAll                   // see data of all extensions
	PermitAll                       // open to all; the handler may itself require more
)

// Client is the identity behind a request, and what it may do. nil is an
// unauthenticated client.
type Client struct {
	ID         string        // token id, or ConfigID
	Extensions []string      // to which the token is bound; nil: it is not bound
	Limit      *rate.Limiter // rate limit of its requests

	scope   Scope
	expires time.Time // zero: never
}

// ConfigID is the id of the token of the config, or of the one created at the first
// start.
const ConfigID = "config"

// Permits reports whether c may use a route that needs the permission do. CanSee limits
// what c sees there.
func (c *Client) Permits(do Permission) bool {
	switch {
	case do == PermitAll:
		return true
	case c == nil:
		return false
	case do == PermitRead:
		return c.scope == Read || c.scope == Write || c.scope == Admin
	case do == PermitWrite:
		return c.scope == Write || c.scope == Admin
	case do == PermitReadAll:
		return c.Permits(PermitRead) && c.Extensions == nil
	}
	return c.scope == Admin && c.Extensions == nil
}

// CanSee reports whether c may see an extension with all its subscriptions, events, calls
// and deliveries. extension is 101 or 101@pbx.example. "" stands for all extensions, as
// in a subscription with an extension_regex. A token that is bound to 101 sees user 101
// in every domain.
//
// If a request names an object that its client may not see, the object is reported as
// not found.
func (c *Client) CanSee(extension string) bool {
	if c == nil || c.Extensions == nil {
		return c != nil
	}
	e := dialog.Extension{User: extension}
	if at := strings.LastIndexByte(extension, '@'); at >= 0 {
		e = dialog.Extension{User: extension[:at], Domain: extension[at+1:]}
	}
	return slices.ContainsFunc(c.Extensions, e.Is)
}

// VisibleParties returns the parties of a call that c may see.
func (c *Client) VisibleParties(all []dialog.Party) []dialog.Party {
	var seen []dialog.Party
	for _, p := range all {
		if c.CanSee(p.Extension.String()) {
			seen = append(seen, p)
		}
	}
	return seen
}

type clientKey struct{}

// WithClient returns the context of a request from a client.
func WithClient(ctx context.Context, c *Client) context.Context {
	return context.WithValue(ctx, clientKey{}, c)
}

// ClientOf returns the client of the request that ctx belongs to; nil: there is none.
func ClientOf(ctx context.Context) *Client {
	a, _ := ctx.Value(clientKey{}).(*Client)
	return a
}

// Missing has the error text for a token that lacks a permission.
var Missing = map[Permission]string{
	PermitAdmin:   "use a token with scope admin",
	PermitWrite:   "this token is read-only: use one with scope write",
	PermitReadAll: "this token is bound to extensions: use one that is not",
}

// Required returns the permission that the method of a request needs.
func Required(r *http.Request) Permission {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return PermitRead
	}
	return PermitWrite
}
