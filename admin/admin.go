// Package admin is bellhop's HTTP server: its API in three dialects, its page, its
// health checks and its metrics.
//
// # Access
//
// Every request below /v1 and to the two other dialects needs a token, sent as
// Authorization: Bearer, also from this machine. A request without a valid token is
// answered 401, whether or not its path exists. The token of the [Config] may do
// everything and creates the others. Each of these has a [Scope], and may be bound to
// extensions: then it sees and changes only subscriptions, events, calls and deliveries
// of these. Anything of another extension is answered 404, as if it did not exist. A
// request that needs another scope is answered 403.
//
// /healthz and /readyz are open, because their clients have no token. /metrics, and the
// reasons in /readyz, are for loopback clients without a forwarding header and for
// tokens that are not bound to extensions. /openapi.json is open: it says nothing about
// this installation.
//
// Nodes that share a store share tokens. A token that is created or revoked on one node
// is so on all nodes within moments. A node that has lost the store keeps using the
// tokens it knows.
//
// # Streams
//
// A client may stream events as they are published. A slow client delays nobody: it is
// disconnected, and can resume. A stream ends when its token is revoked or expires, and
// when the server shuts down.
//
// # The page
//
// People sign in at / with a token. The session cookie stands for that token, with the
// same permissions. Changes go through the same functions as those of the API. The
// server renders the page as HTML with the templates of admin/page; a live part of it
// is rendered again, and sent, when it has changed.
//
// # Limits
//
// A client that sends too many requests is answered 429. Each token has a rate limit,
// and so has each address that sends requests without a valid token.
//
// # Calls come first
//
// Reading requests are served one at a time, and at a lower rate while SIP waits for
// processors ([Config.Strained]). If too many are queued, further ones are answered
// 503. Under strain, streams also wait longer between batches of events. /healthz,
// /readyz, /metrics and changes are served at once.
//
// # Audit
//
// Every change over the API is recorded in the audit log, a JetStream stream, and in a
// line of the process's log: the token, the operation, the time, and the object before
// and after.
//
// # Dialects
//
// Two other APIs manage the same subscriptions, for clients that do not know /v1:
// UnifiedAPI's phoneCallEvents below /uapi, and Telphin's events below /api/ver1.0 and
// at the root. Each lists the subscriptions that the others created. They answer and
// fail like their originals. In both, one event type is one event; dialects.go
// describes how they show a subscription with several types. A request that is not
// exactly to a whole collection never deletes more than one event.
//
// # Errors
//
// Every error of /v1 is a problem of RFC 9457. An error of the request is 4xx and names
// the field. An error on bellhop's side is 503, or 500 after a panic, and is logged.
package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/dialog"
	"bellhop/dialog/trace"
	"bellhop/notify"
)

// Config configures a [Server].
type Config struct {
	Token    string           // the admin token of the config; "": none
	Notifier *notify.Notifier // subscriptions and the event log

	KeepEvents time.Duration // retention of the audit log; 0: 30 days
	Replicas   int           // replicas of each stream and bucket; 0: 1

	// TrustedProxies are the addresses of reverse proxies. For a request from one of
	// these, the client is the one that X-Forwarded-For or Forwarded names.
	TrustedProxies []netip.Prefix

	// Listen are the addresses at which phones reach bellhop, for the page's first
	// steps.
	Listen []string

	// Calls returns the live calls, oldest first; nil: there are none.
	Calls func(context.Context) ([]dialog.Call, error)

	// Trace returns the messages kept of the call with an id, and whether any are kept;
	// nil: none are.
	Trace func(ctx context.Context, id string) (trace.Call, bool, error)

	// Kind returns the kind of an extension; nil, or "": a phone.
	Kind func(user string) dialog.Kind

	// Extensions returns the extensions that the tracker knows. Extension returns the
	// one of a user, and whether the tracker knows it. nil: it knows none.
	Extensions func(context.Context) ([]dialog.ExtensionInfo, error)
	Extension  func(ctx context.Context, user string) (dialog.ExtensionInfo, bool, error)

	// Ready returns the reasons why bellhop is not ready, beside the Notifier's health;
	// nil: no other.
	Ready func() []string

	// Degraded returns the problems that do not keep bellhop from its work, beside
	// Losses; nil: none.
	Degraded func() []string

	// Suppressed counts the refused call attempts for which no events were published
	// because their source had too many; nil: none.
	Suppressed func() uint64

	// Strained reports whether SIP waits for processors. Reading requests are served at
	// a lower rate then. nil: never.
	Strained func() bool

	// Losses returns the records that the store has lost to damage, last found first;
	// nil: none. bellhop is degraded for a day after one was found.
	Losses func() []Loss

	Collectors []prometheus.Collector // exported at /metrics beside the Server's own

	Node    string // the name of this node
	Version string
	Log     *slog.Logger // nil: slog.Default()
}

// Server serves the HTTP API and the page.
type Server struct {
	config     Config
	log        *slog.Logger
	js         jetstream.JetStream
	auth       *access.Authenticator
	auditLog   jetstream.Stream
	lines      lineCache
	streams    *limit.Streams
	gate       *limit.Gate // for reading requests
	streamGate *limit.Gate // for requests that open a stream
	conns      *limit.Conns
	panics     atomic.Uint64 // recovered panics of handlers
	started    time.Time
	muxes      []*access.Mux // of /v1, and of all paths
	pages      *access.Mux
	renders    chan struct{} // slots of page parts that are being rendered
	tests      testLimiter
	handler    http.Handler
}

// Open returns a Server that keeps its tokens and the audit log in the store, and reads
// the tokens. It panics if two of the collectors have the same name. The Server holds
// nothing that must be closed.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Server, error) {
	c.Replicas = max(1, c.Replicas)
	c.KeepEvents = cmp.Or(c.KeepEvents, 30*24*time.Hour)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Server{config: c, log: c.Log, js: js, streams: limit.NewStreams(access.ConfigID, c.Strained), renders: make(chan struct{}, maxRenders), gate: limit.NewGate(c.Strained), streamGate: limit.NewGate(nil), conns: limit.NewConns(c.Log), lines: newLineCache(c.Notifier), started: time.Now()}
	var err error
	if s.auth, err = access.New(ctx, js, c.Replicas, c.Token, c.Log); err != nil {
		return nil, err
	}
	if s.auditLog, err = openAuditLog(ctx, js, c); err != nil {
		return nil, fmt.Errorf("open stream bellhop_audit: %w", err)
	}
	s.handler = s.buildHandler()
	return s, nil
}

// Run keeps the tokens up to date with those that other nodes create and revoke, until
// ctx ends.
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

// buildHandler returns the handler of all paths.
func (s *Server) buildHandler() http.Handler {
	v1 := access.NewMux(writeProblem)
	api := humago.New(v1, newAPIConfig(s.config.Version))
	s.registerV1(v1, api)
	description, err := json.Marshal(api.OpenAPI())
	if err != nil {
		panic(err) // impossible: it consists of strings
	}
	admitted := s.authenticate(s.auth.IdentifyBearer, writeProblem, s.queueReads(writeProblem, newIdempotencyCache(writeProblem).answerOnce(limitNames(v1))))

	all := access.NewMux(writeProblem)
	s.muxes = []*access.Mux{v1, all}
	all.Handle("/v1/", access.PermitAll, admitted)
	all.Handle("/v1", access.PermitAll, admitted)
	all.Handle("GET /healthz", access.PermitAll, http.HandlerFunc(s.serveHealthz))
	all.Handle("GET /readyz", access.PermitAll, http.HandlerFunc(s.serveReadyz))
	all.Handle("GET /metrics", access.PermitAll, s.requireTrusted(s.metricsHandler()))
	all.Handle("GET /openapi.json", access.PermitAll, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		w.Write(description)
	}))
	s.registerPages(all)
	return resolveProxies(s.config.TrustedProxies, s.serveDialects(s.guardHandler(writeProblem, trimSlash(all))))
}

// guardHandler wraps h: it limits and normalizes requests, refuses cross-origin changes
// by browsers, and answers panics.
func (s *Server) guardHandler(refuse access.ErrorWriter, h http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "cross-origin request denied: send changes from bellhop's own page or from an API client")
	}))
	return s.recoverPanics(refuse, limitBody(refuse, normalizeRequest(refuse, sameOrigin.Handler(h))))
}

// maxBody is the maximum size of a request body, in bytes.
const maxBody = 64 << 10

// newAPIConfig returns huma's configuration for /v1.
func newAPIConfig(version string) huma.Config {
	c := huma.DefaultConfig("bellhop", version)
	c.Info.Description = "Manage webhook subscriptions to the extensions of a PBX, and read calls, events and deliveries."
	c.Info.License = &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"}
	c.Servers = []*huma.Server{{URL: "/"}} // the server of the description itself
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.RejectUnknownQueryParameters = true // a misspelt filter must not select everything
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	c.Security = []map[string][]string{{"token": {}}}
	c.Transformers = []huma.Transformer{dropErrorValues}
	return c
}

// dropErrorValues removes the values that were sent from a problem: they may be secret.
func dropErrorValues(_ huma.Context, _ string, v any) (any, error) {
	if m, ok := v.(*huma.ErrorModel); ok {
		for _, e := range m.Errors {
			e.Value = nil
		}
	}
	return v, nil
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

// isTrusted reports whether a request comes from this machine, or has a token that may
// read everything.
func (s *Server) isTrusted(r *http.Request) bool {
	if isLocalRequest(r) {
		return true
	}
	token := access.Bearer(r)
	if token == "" {
		return false
	}
	client, _ := s.auth.Identify(r, token, time.Now())
	return client.Permits(access.PermitReadAll)
}

// requireTrusted lets h serve requests that isTrusted accepts, and refuses others with
// 401 or 403.
func (s *Server) requireTrusted(h http.Handler) http.Handler {
	elsewhere := access.NewMux(writeProblem)
	elsewhere.Handle("/", access.PermitReadAll, h)
	admitted := s.authenticate(s.auth.IdentifyBearer, writeProblem, elsewhere)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isLocalRequest(r) {
			w.Header().Set("Cache-Control", "no-store")
			h.ServeHTTP(w, r)
			return
		}
		admitted.ServeHTTP(w, r)
	})
}

// limitBody answers 413 to a body of more than maxBody bytes. It then reads up to a
// megabyte more, because a client that is still writing would not see the answer. h
// gets the body in memory, without a byte order mark (RFC 8259 §8.1).
func limitBody(refuse access.ErrorWriter, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		switch {
		case err != nil:
			refuse(w, http.StatusBadRequest, "the body cannot be read: send it whole, within 15 s")
		case len(body) > maxBody:
			io.CopyN(io.Discard, r.Body, 1<<20)
			refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is too large: send at most %d bytes", maxBody))
		default:
			r.Body = io.NopCloser(bytes.NewReader(bytes.TrimPrefix(body, byteOrderMark)))
			h.ServeHTTP(w, r)
		}
	})
}

// byteOrderMark starts the UTF-8 bodies of some clients.
var byteOrderMark = []byte("\uFEFF")

// trimSlash removes slashes at the end of the path. It answers 404 to a path that a mux
// would redirect to a cleaner one, because API clients do not follow redirects.
func trimSlash(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if short := strings.TrimRight(r.URL.Path, "/"); short != "" && short != r.URL.Path {
			r2, u := *r, *r.URL
			u.Path, u.RawPath = short, strings.TrimRight(u.RawPath, "/")
			r2.URL = &u
			r = &r2
		}
		if escaped := r.URL.EscapedPath(); path.Clean(escaped) != escaped {
			writeProblem(w, http.StatusNotFound, "the path has an empty, . or .. segment: remove it")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// limitNames refuses requests with a name that is too long for an extension, call,
// event or subscription, before the name becomes a subject or key of the store: 404 if
// it is in the path, 422 if it is in the query.
func limitNames(next http.Handler) http.Handler {
	long := func(name string) bool { return len(name) > dialog.MaxName }
	const detail = "name too long: at most 256 bytes"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.ContainsFunc(pathSegments(r.URL), long) {
			writeProblem(w, http.StatusNotFound, detail)
			return
		}
		for key, values := range r.URL.Query() {
			if slices.ContainsFunc(values, long) {
				writeProblemModel(w, huma.ErrorModel{
					Status: http.StatusUnprocessableEntity, Title: http.StatusText(http.StatusUnprocessableEntity), Detail: "validation failed",
					Errors: []*huma.ErrorDetail{{Location: "query." + key, Message: detail}},
				})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// writeProblem writes a problem of RFC 9457. It is the access.ErrorWriter of /v1.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	writeProblemModel(w, huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail})
}

// writeProblemModel writes a problem of RFC 9457.
func writeProblemModel(w http.ResponseWriter, p huma.ErrorModel) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// serveHealthz answers 200 while the process runs.
func (s *Server) serveHealthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// serveReadyz answers 200 if bellhop is ready, else 503 with the reasons. A degraded
// bellhop still does its work and must stay in service: 200.
func (s *Server) serveReadyz(w http.ResponseWriter, r *http.Request) {
	reasons := s.readinessReasons()
	var body struct {
		Ready    bool     `json:"ready"`
		Reasons  []string `json:"reasons,omitempty"`
		Degraded []string `json:"degraded,omitempty"`
	}
	status := http.StatusOK
	if body.Ready = len(reasons) == 0; !body.Ready {
		status = http.StatusServiceUnavailable
	}
	degraded := s.degraded()
	if len(reasons)+len(degraded) > 0 && s.isTrusted(r) {
		body.Reasons, body.Degraded = reasons, degraded
	}
	writeJSON(w, status, body)
}

// readinessReasons returns the reasons why bellhop is not ready; none: it is.
func (s *Server) readinessReasons() (reasons []string) {
	if s.config.Ready != nil {
		reasons = s.config.Ready()
	}
	if err := s.config.Notifier.Health(); err != nil {
		reasons = append(reasons, err.Error())
	}
	return reasons
}

// writeJSON answers with a value as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
