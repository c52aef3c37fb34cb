// Package admin shows the operator what is so, and takes a few orders: the
// HTTP API of a bellhop, and its page.
//
// # Who may do what
//
// Everything under /v1, and in the two dialects, needs a token, as Authorization:
// Bearer, wherever the request comes from; without one, or with a wrong one, it is
// answered 401 whether or not there is such a page. The token of the [Config] may do
// everything; it makes the others, which have a [Scope] and may be bound to
// extensions. One that is bound sees and changes what is of its extensions. What
// is of another's is to it as if it were not there: 404. What it may not do at
// all is 403.
//
// /healthz and /readyz are open, as those who ask them have no token. /metrics,
// and the reasons that /readyz gives, are for this machine (loopback peers that
// forward for nobody) and for bearers of a token that is bound to no extension. /openapi.json is open: it
// says nothing of this bellhop.
//
// Nodes that share a store share tokens: one that is made or revoked on one node
// is so on all in a moment. A node that has lost the store goes on with those it
// knows.
//
// # Streams
//
// A client may follow the events as they are said. Nothing waits for one that is
// slow: it is disconnected, and can resume. A stream ends when its token is
// revoked or expires, and when the server shuts down.
//
// # The page
//
// At / people sign in with a token. Their session is a cookie, which stands for
// the token: what they may see and do is the same. All changes go the way of the
// API's. The page is made here, as HTML, by the templates of admin/page; what is
// live on it is made anew, and sent, when it has changed.
//
// # Limits
//
// Who asks too often is answered 429: each token has a limit, and each address
// from which there is no token, or a wrong one.
//
// # Calls come first
//
// Requests that read are served one at a time, and seldom while SIP waits for
// processors ([Config.Strained]); if too many wait, they are answered 503. Streams
// then wait longer for more events. /healthz, /readyz, /metrics and changes are
// served at once.
//
// # Audit
//
// Every change that is made over the API is in the audit log, a JetStream stream,
// and a line of the process's log: who, what, when, and what was before and is
// after.
//
// # Dialects
//
// Two other APIs manage the same subscriptions, for clients that know no /v1:
// that of UnifiedAPI's phoneCallEvents, under /uapi, and that of Telphin's events,
// under /api/ver1.0 and at the root. What one makes the others list. They have
// the answers and errors of their originals. To both, one type is one event; see
// dialects.go for what they make of a subscription with several. A request that
// is not exactly to a whole collection never deletes more than one event.
//
// # Errors
//
// Every error of /v1 is a problem of RFC 9457. What is wrong with a request is 4xx and
// names the field; what is wrong on our side is 503 and in the log.
package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
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
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"bellhop/dialog"
	"bellhop/dialog/trace"
	"bellhop/notify"
)

// Config says what a Server shows, and to whom.
type Config struct {
	Token    string           // may do everything; "": nobody may
	Notifier *notify.Notifier // subscriptions and the event log

	KeepEvents time.Duration // how long the audit log is kept; 0: 30 days
	Replicas   int           // of what is stored; 0 is 1

	// TrustedProxies are the addresses of reverse proxies: the client is who they say
	// in X-Forwarded-For or Forwarded.
	TrustedProxies []netip.Prefix

	// Listen is where phones find bellhop: the page says so to who has none there
	// yet.
	Listen []string

	// Calls returns the live calls, oldest first; nil: there are none.
	Calls func(context.Context) ([]dialog.Call, error)

	// Trace returns what is kept of a call with an id, and whether anything is;
	// nil: nothing is of any.
	Trace func(ctx context.Context, id string) (trace.Call, bool, error)

	// Kind says what stands behind an extension; nil, or "": a phone.
	Kind func(user string) dialog.Kind

	// Extensions returns the extensions that the tracker knows, and Extension what
	// it knows of a user, if that is one; nil: it knows none.
	Extensions func(context.Context) ([]dialog.ExtensionInfo, error)
	Extension  func(ctx context.Context, user string) (dialog.ExtensionInfo, bool, error)

	// Ready says what keeps bellhop from doing its work; nothing, or nil: it is
	// ready if the Notifier is healthy.
	Ready func() []string

	// Degraded returns what is wrong although bellhop does its work, beside Losses;
	// nil: nothing.
	Degraded func() []string

	// Suppressed counts the attempts that were refused and of which nothing was
	// told, as their source had too many; nil: there are none.
	Suppressed func() uint64

	// Strained reports whether SIP waits for processors: then requests that read are
	// served seldom. nil: it never does.
	Strained func() bool

	// Losses returns what the store has lost to damage, the newest finding first;
	// nil: nothing. Bellhop is degraded for a day after one was found.
	Losses func() []Loss

	Collectors []prometheus.Collector // shown at /metrics beside the Server's own

	Node    string // the name of this node
	Version string
	Log     *slog.Logger // nil: slog.Default()
}

// A Server answers the HTTP API.
type Server struct {
	config     Config
	log        *slog.Logger
	js         jetstream.JetStream
	tokens     *tokens
	auditLog   jetstream.Stream
	lines      lines
	failures   failures // to say who one is
	streams    *streams
	gate       *gate // for requests that read
	streamGate *gate // for requests that open a stream
	conns      *conns
	panics     atomic.Uint64 // of handlers
	started    time.Time
	muxes      []*routes
	pages      *routes
	sessions   sessions
	tests      tests
	handler    http.Handler

	guessable bool // the token of the config might be found by trying
}

// unguessable is how long a token must be that nobody finds by trying.
const unguessable = 32

// Open returns a Server that keeps its tokens and the audit log in the store,
// and reads the tokens. It panics if two of the collectors have a name in common.
// The Server holds nothing that must be closed.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Server, error) {
	c.Replicas = max(1, c.Replicas)
	c.KeepEvents = cmp.Or(c.KeepEvents, 30*24*time.Hour)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Server{config: c, log: c.Log, js: js, failures: newFailures(), streams: newStreams(), gate: newGate(c.Strained), streamGate: newGate(nil), conns: newConns(c.Log), lines: newLines(c.Notifier), started: time.Now(), sessions: newSessions(), guessable: len(c.Token) < unguessable}
	kv, err := openTokens(ctx, js, c.Replicas)
	if err != nil {
		return nil, fmt.Errorf("bucket bellhop_tokens: %w", err)
	}
	if s.auditLog, err = openAudit(ctx, js, c); err != nil {
		return nil, fmt.Errorf("audit log bellhop_audit: %w", err)
	}
	s.tokens = newTokens(kv, s.log, c.Token)
	if err := s.tokens.load(ctx); err != nil {
		return nil, err
	}
	s.handler = s.routes()
	return s, nil
}

// Run has the Server hear of the tokens that other nodes make and revoke, until
// ctx ends.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.watchTokens(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("admin begins anew", "part", "tokens", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// watchTokens watches the tokens until ctx ends. A panic is an error.
func (s *Server) watchTokens(ctx context.Context) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			s.panics.Add(1)
			err = fmt.Errorf("watch tokens: panic: %v\n%s", reason, debug.Stack())
		}
	}()
	return s.tokens.watch(ctx, true)
}

// pause sleeps until d has passed or ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// newCache returns a cache of what was used last. It panics if the size is not
// above zero.
func newCache[K comparable, V any](size int) *lru.Cache[K, V] {
	cache, err := lru.New[K, V](size)
	if err != nil {
		panic(err)
	}
	return cache
}

// routes returns the whole API.
func (s *Server) routes() http.Handler {
	v1 := s.newRoutes(problem)
	api := humago.New(v1, apiConfig(s.config.Version))
	s.register(v1, api)
	description, err := json.Marshal(api.OpenAPI())
	if err != nil {
		panic(err) // it is made of strings
	}
	admitted := s.admit(s.byBearer, problem, s.inTurn(problem, newAnswers(problem).once(shortNames(v1))))

	all := s.newRoutes(problem)
	all.handle("/v1/", open, admitted)
	all.handle("/v1", open, admitted)
	all.handle("GET /healthz", open, http.HandlerFunc(s.healthz))
	all.handle("GET /readyz", open, http.HandlerFunc(s.readyz))
	all.handle("GET /metrics", open, s.trusted(s.metrics()))
	all.handle("GET /openapi.json", open, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		w.Write(description)
	}))
	s.registerPage(all)
	return throughProxies(s.config.TrustedProxies, s.dialects(s.guarded(problem, trimmed(all))))
}

// guarded has h serve what is not too large, and asks for no change on behalf of
// a page of another origin. A panic of h is answered.
func (s *Server) guarded(refuse refusal, h http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "a page of another origin may not change anything here")
	}))
	return s.recovered(refuse, bounded(refuse, legible(refuse, sameOrigin.Handler(h))))
}

// maxBody is the size in bytes of the largest request body that is taken.
const maxBody = 64 << 10

func apiConfig(version string) huma.Config {
	c := huma.DefaultConfig("bellhop", version)
	c.Info.Description = "Subscriptions to what happens to the extensions of a PBX, and what happened."
	c.Info.License = &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"}
	c.Servers = []*huma.Server{{URL: "/"}} // where the description is read
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.RejectUnknownQueryParameters = true // a slip in a filter must not become everything
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	c.Security = []map[string][]string{{"token": {}}}
	c.Transformers = []huma.Transformer{withoutValues}
	return c
}

// withoutValues takes what was sent out of a problem: it may be secret.
func withoutValues(_ huma.Context, _ string, v any) (any, error) {
	if m, ok := v.(*huma.ErrorModel); ok {
		for _, e := range m.Errors {
			e.Value = nil
		}
	}
	return v, nil
}

// Handler returns the whole API.
func (s *Server) Handler() http.Handler { return s.handler }

// HTTPServer returns a server of the Handler with limits on what a client may
// cost. The caller listens, by a listener of [Server.Listener], and shuts it down.
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
	h.ConnState = s.conns.changed
	h.RegisterOnShutdown(s.streams.end)
	return h
}

// trusts reports whether a request comes from this machine, or has a token that
// may read all.
func (s *Server) trusts(r *http.Request) bool {
	if fromHere(r) {
		return true
	}
	token := bearer(r)
	if token == "" {
		return false
	}
	who, _ := s.identify(r, token, time.Now())
	return who.may(toReadAll)
}

// trusted has h serve who is on this machine, or may read all.
func (s *Server) trusted(h http.Handler) http.Handler {
	elsewhere := s.newRoutes(problem)
	elsewhere.handle("/", toReadAll, h)
	admitted := s.admit(s.byBearer, problem, elsewhere)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fromHere(r) {
			w.Header().Set("Cache-Control", "no-store")
			h.ServeHTTP(w, r)
			return
		}
		admitted.ServeHTTP(w, r)
	})
}

// bounded answers 413 to a body of more than maxBody bytes. It reads on, for a
// megabyte at most: a client that is still writing would not see the answer. h gets the
// body without a byte order mark (RFC 8259 §8.1).
func bounded(refuse refusal, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		switch {
		case err != nil:
			refuse(w, http.StatusBadRequest, "the body cannot be read")
		case len(body) > maxBody:
			io.CopyN(io.Discard, r.Body, 1<<20)
			refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("a body has at most %d bytes", maxBody))
		default:
			r.Body = io.NopCloser(bytes.NewReader(bytes.TrimPrefix(body, byteOrderMark)))
			h.ServeHTTP(w, r)
		}
	})
}

// byteOrderMark is what some clients begin a body in UTF-8 with.
var byteOrderMark = []byte("\uFEFF")

// trimmed accepts a slash at the end of every path, and refuses what a mux would
// redirect to a tidier path: a client of an API does not follow.
func trimmed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if short := strings.TrimRight(r.URL.Path, "/"); short != "" && short != r.URL.Path {
			r2, u := *r, *r.URL
			u.Path, u.RawPath = short, strings.TrimRight(u.RawPath, "/")
			r2.URL = &u
			r = &r2
		}
		if escaped := r.URL.EscapedPath(); path.Clean(escaped) != escaped {
			problem(w, http.StatusNotFound, "the path has an empty segment, or one that is . or ..")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// shortNames refuses requests with a name that no extension, call, event or
// subscription can have, before it becomes a subject or a key of the store: 404
// if the path has one, 422 if the query does.
func shortNames(next http.Handler) http.Handler {
	long := func(name string) bool { return len(name) > dialog.MaxName }
	const detail = "a name has at most 256 bytes"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.ContainsFunc(segments(r.URL), long) {
			problem(w, http.StatusNotFound, detail)
			return
		}
		for key, values := range r.URL.Query() {
			if slices.ContainsFunc(values, long) {
				writeProblem(w, huma.ErrorModel{
					Status: http.StatusUnprocessableEntity, Title: http.StatusText(http.StatusUnprocessableEntity), Detail: "validation failed",
					Errors: []*huma.ErrorDetail{{Location: "query." + key, Message: detail}},
				})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func problem(w http.ResponseWriter, status int, detail string) {
	writeProblem(w, huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail})
}

func writeProblem(w http.ResponseWriter, p huma.ErrorModel) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// healthz says that the process answers.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz says whether it does its work, and if not, why. What it does although it
// is degraded is no reason to take it out of service: that is 200.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	reasons := s.reasons()
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
	if len(reasons)+len(degraded) > 0 && s.trusts(r) {
		body.Reasons, body.Degraded = reasons, degraded
	}
	writeJSON(w, status, body)
}

func (s *Server) reasons() (reasons []string) {
	if s.config.Ready != nil {
		reasons = s.config.Ready()
	}
	if err := s.config.Notifier.Health(); err != nil {
		reasons = append(reasons, err.Error())
	}
	return reasons
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
