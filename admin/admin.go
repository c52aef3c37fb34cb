// Package admin is bellhop's HTTP server: its API in three dialects, its page, its
// health checks and its metrics.
//
// # Access
//
// Every request below /v1 or to the two other dialects needs a token, even from this
// machine. Clients send the token as Authorization: Bearer; those of UnifiedAPI may send
// a cookie instead. A request without a valid token is answered 401, whether or not its
// path exists. The token of the [Config] may do everything, and creates other tokens.
// Each other token has an [access.Scope]. A request that needs another scope is answered
// 403. A token may be bound to extensions. Then it sees and changes only their
// subscriptions, events, calls and deliveries. If a request to /v1 names an object of
// another extension, it is answered 404, as if the object did not exist.
//
// /healthz and /readyz are open, because their clients have no token. /metrics, and the
// reasons in /readyz, are for loopback clients without a forwarding header and for
// tokens that are not bound to extensions. /openapi.json is open: it says nothing about
// this installation.
//
// Nodes that share a store share tokens. If one node creates or revokes a token, all
// nodes learn of it almost at once. A node that has lost the store keeps using the
// tokens it knows.
//
// # Streams
//
// A client may stream events as they are published. A slow client is disconnected, so
// that it delays no other client; it can resume. A stream ends when its token is revoked
// or expires, and when the server shuts down.
//
// # The page
//
// People sign in at /login with a token. Their session has the permissions of that token.
// The page changes objects with the same operations as the API. The server renders the
// page as HTML with the templates of package page. It renders the live parts of an open
// page again and again, and sends a part when its HTML has changed.
//
// # Limits
//
// A client that sends too many requests is answered 429. Each token has a rate limit,
// and so has each address that sends requests without a valid token.
//
// # Calls come first
//
// Reading requests are served one at a time. While SIP waits for processors (see
// [Config.Strained]), there is a pause before each, and streams send batches of events
// less often. If too many reading requests wait, further ones are answered 503. /healthz,
// /readyz, /metrics and changes are served at once.
//
// # Audit
//
// Every change over the API or the page is recorded in the audit log, a JetStream stream:
// the token, the operation, the time, and the object before and after. The process's log
// gets a line about it, without the object.
//
// # Dialects
//
// Two other APIs manage the same subscriptions, for clients that do not know /v1:
// UnifiedAPI's phoneCallEvents below /uapi, and Telphin's events below /api/ver1.0 and
// at the root. Each API also shows subscriptions that were created with another, see
// package dialect.
//
// # Packages
//
// The Server accepts requests, identifies and limits their clients, and passes the
// requests on. Packages v1, uapi, telphin and page each decode a request, call operations
// of package ops, and encode the result or the error. Package access identifies clients
// and checks their permissions. Package limit bounds what they use.
//
// # Errors
//
// Every error of /v1 is a problem of RFC 9457. If the request is wrong, the status is
// 4xx, and the problem names the field that is wrong. If bellhop fails, the status is
// 503, or 500 after a panic, and the error is logged.
package admin

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/admin/page"
	v1 "bellhop/admin/v1"
)

// Config configures a [Server].
type Config struct {
	ops.Config // of the operations

	Token string // the admin token of the config; "": none

	// TrustedProxies are the addresses of reverse proxies. For a request from one of
	// these, the client is the one that X-Forwarded-For or Forwarded names.
	TrustedProxies []netip.Prefix

	// Listen returns the addresses at which phones reach bellhop; nil: none. The page shows
	// them among the first steps.
	Listen func() []string

	// Guides are the help texts of the page.
	Guides []page.Guide

	// Strained reports whether SIP waits for processors. While it does, reading requests
	// are served at a lower rate. nil: SIP never waits.
	Strained func() bool

	Collectors []prometheus.Collector // exported at /metrics beside the Server's own
}

// Server serves the HTTP API and the page.
type Server struct {
	config     Config
	log        *slog.Logger
	auth       *access.Authenticator
	ops        *ops.Operations
	streams    *limit.Streams
	gate       *limit.Gate // for reading requests
	streamGate *limit.Gate // for requests that open a stream
	conns      *limit.Conns
	panics     atomic.Uint64 // recovered panics of handlers
	v1         *v1.API
	page       *page.Page
	root       *access.Mux // routes outside the APIs: the page, health checks, metrics
	handler    http.Handler
}

// Open returns a Server that keeps its tokens and the audit log in the store, and reads
// the tokens. It panics if two of the collectors have the same name. The Server need not
// be closed.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Server, error) {
	c.Log = cmp.Or(c.Log, slog.Default())
	s := &Server{
		config: c, log: c.Log,
		streams: limit.NewStreams(access.ConfigID, c.Strained), conns: limit.NewConns(c.Log),
		gate: limit.NewGate(c.Strained), streamGate: limit.NewGate(nil),
	}
	var err error
	if s.auth, err = access.New(ctx, js, max(1, c.Replicas), c.Token, c.Log); err != nil {
		return nil, err
	}
	if s.ops, err = ops.Open(ctx, js, s.auth.Tokens, c.Config); err != nil {
		return nil, err
	}
	s.handler = s.buildHandler()
	return s, nil
}

// Run applies the token changes of other nodes, and stores the time of each token's last
// use every minute, until ctx ends.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.watchTokens(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("token watch restarted", "err", err)
			limit.Sleep(ctx, time.Second)
		}
	}
}

// watchTokens watches the tokens until ctx ends. It returns a panic as an error.
func (s *Server) watchTokens(ctx context.Context) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			s.panics.Add(1)
			err = fmt.Errorf("watch tokens: panic: %v\n%s", reason, debug.Stack())
		}
	}()
	return s.auth.Tokens.Watch(ctx)
}

// Handler returns the handler of all paths.
func (s *Server) Handler() http.Handler { return s.handler }

// HTTPServer returns a server of the Handler that limits the time and memory of each
// client. The caller listens with a listener from [Server.Listener], and shuts the
// server down.
func (s *Server) HTTPServer() *http.Server {
	h := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	h.ConnState = s.conns.StateChanged
	h.RegisterOnShutdown(s.streams.CloseAll)
	return h
}

// Listener returns a listener that accepts l's connections within the limits, for the
// server that HTTPServer returns.
func (s *Server) Listener(l net.Listener) net.Listener { return s.conns.Listener(l) }
