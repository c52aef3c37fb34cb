// Package admin shows the operator what is so, and takes a few orders: the
// HTTP API of a bellhop.
//
// # Who may do what
//
// Everything under /v1 needs the token, as Authorization: Bearer, wherever the
// request comes from; without one, or with another, it is answered 401 whether
// or not there is such a page. /healthz and /readyz are open, as those who ask
// them have no token. /metrics, and the reasons that /readyz gives, are for
// this machine (loopback peers) and for bearers of the token. /openapi.json is
// open: it says nothing of this bellhop. A [Server] without a token admits
// nobody.
//
// # Errors
//
// Every error is a problem of RFC 9457. What is wrong with a request is 4xx and
// names the field; what is wrong on our side is 503 and in the log.
package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"bellhop/dialog"
	"bellhop/notify"
)

// Config says what a Server shows, and to whom.
type Config struct {
	Token    string           // may do everything; "": nobody may
	Notifier *notify.Notifier // subscriptions and the event log

	// Calls returns the live calls, oldest first; nil: there are none.
	Calls func(context.Context) ([]dialog.Call, error)

	// Ready says what keeps bellhop from doing its work; nothing, or nil: it is
	// ready if the Notifier is healthy.
	Ready func() []string

	Collectors []prometheus.Collector // shown at /metrics beside the Server's own

	Version string
	Log     *slog.Logger // nil: slog.Default()
}

// A Server answers the HTTP API.
type Server struct {
	config  Config
	log     *slog.Logger
	token   [sha256.Size]byte
	handler http.Handler
}

// New returns a Server. It panics if two of the collectors have a name in
// common.
func New(c Config) *Server {
	s := &Server{config: c, log: c.Log, token: sha256.Sum256([]byte(c.Token))}
	if s.log == nil {
		s.log = slog.Default()
	}

	v1 := http.NewServeMux()
	api := humago.New(v1, apiConfig(c.Version))
	s.register(api)
	description, err := json.Marshal(api.OpenAPI())
	if err != nil {
		panic(err) // it is made of strings
	}

	mux := http.NewServeMux()
	mux.Handle("/v1/", s.authenticated(problems(v1)))
	mux.Handle("/v1", s.authenticated(problems(v1)))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.trusted(s.metrics()))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		w.Write(description)
	})
	s.handler = bounded(trimmed(problems(mux)))
	return s
}

// maxBody is the size in bytes of the largest request body that is taken.
const maxBody = 64 << 10

func apiConfig(version string) huma.Config {
	c := huma.DefaultConfig("bellhop", version)
	c.Info.Description = "Subscriptions to what happens to the extensions of a PBX, and what happened."
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
// cost. The caller listens and shuts it down.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// bears reports whether a request has the token.
func (s *Server) bears(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && s.config.Token != "" &&
		subtle.ConstantTimeCompare(sum[:], s.token[:]) == 1
}

// trusts reports whether a request has the token or comes from this machine.
func (s *Server) trusts(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback() || s.bears(r)
}

func (s *Server) authenticated(h http.Handler) http.Handler { return admit(s.bears, h) }

func (s *Server) trusted(h http.Handler) http.Handler { return admit(s.trusts, h) }

func admit(who func(*http.Request) bool, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if who(r) {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="bellhop"`)
		problem(w, http.StatusUnauthorized, "send the token as Authorization: Bearer; it is in admin.token of the config, or in the file admin.token of store.dir")
	})
}

// bounded answers 413 to a body of more than maxBody bytes. It reads on, for a
// megabyte at most: a client that is still writing would not see the answer.
func bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		switch {
		case err != nil:
			problem(w, http.StatusBadRequest, "the body cannot be read")
		case len(body) > maxBody:
			io.CopyN(io.Discard, r.Body, 1<<20)
			problem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("a body has at most %d bytes", maxBody))
		default:
			r.Body = io.NopCloser(bytes.NewReader(body))
			h.ServeHTTP(w, r)
		}
	})
}

// trimmed accepts a slash at the end of every path.
func trimmed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if path := strings.TrimRight(r.URL.Path, "/"); path != "" && path != r.URL.Path {
			r2, u := *r, *r.URL
			u.Path, u.RawPath = path, strings.TrimRight(u.RawPath, "/")
			r2.URL = &u
			r = &r2
		}
		h.ServeHTTP(w, r)
	})
}

// problems has mux answer what it has no pattern for with a problem.
func problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		var plain bare
		h.ServeHTTP(&plain, r)
		if allow := plain.Header().Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
		}
		problem(w, plain.status, "")
	})
}

// A bare keeps the head of a response only.
type bare struct {
	header http.Header
	status int
}

func (b *bare) Header() http.Header {
	if b.header == nil {
		b.header = http.Header{}
	}
	return b.header
}
func (b *bare) Write(p []byte) (int, error) { return len(p), nil }
func (b *bare) WriteHeader(status int)      { b.status = status }

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail})
}

// healthz says that the process answers.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz says whether it does its work, and if not, why.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	reasons := s.reasons()
	var body struct {
		Ready   bool     `json:"ready"`
		Reasons []string `json:"reasons,omitempty"`
	}
	status := http.StatusOK
	if body.Ready = len(reasons) == 0; !body.Ready {
		status = http.StatusServiceUnavailable
		if s.trusts(r) {
			body.Reasons = reasons
		}
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
