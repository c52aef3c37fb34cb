// Package access authenticates the clients of the HTTP API, and decides which routes each
// may use and which extensions it may see.
//
// A [Client] stands behind a [Token], whose secret only its holder knows: the store keeps
// a hash. Access tokens of OAuth and sessions of the page stand for a token, are in
// memory, and end with it at the latest. Nodes that share a store share tokens; a node
// that has lost the store keeps using those that it knows.
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
	PermitAll                       // open; the handler behind it may need more
)

// Client is the identity behind a request, and what it may do. nil is an
// unauthenticated client.
type Client struct {
	ID         string        // token id, or ConfigID
	Extensions []string      // the token is bound to these; nil: to none
	Limit      *rate.Limiter // rate limit of its requests

	scope   Scope
	expires time.Time // zero: never
}

// ConfigID is the id of the token of the config, or of the one created at the first
// start.
const ConfigID = "config"

// Permits reports whether c may use a route that needs do. CanSee then limits what it
// sees there.
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

// CanSee reports whether c may see an extension and everything of it. The name is 101
// or 101@pbx.example, as in a subscription or of a [dialog.Extension]. "" stands for
// all extensions, as in a subscription with an extension_regex. A token bound to 101
// sees that user in every domain.
//
// A request that names something by its id and may not see it is answered 404, as if it
// did not exist.
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

// Missing is the error text for a token without the permission of a route.
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
