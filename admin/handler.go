package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/dialect"
	"bellhop/admin/limit"
	"bellhop/admin/page"
	"bellhop/admin/telphin"
	"bellhop/admin/uapi"
	v1 "bellhop/admin/v1"
)

// buildHandler returns the handler of all paths. A request passes these steps:
//
//	resolveProxies ── accept ── authenticate ── queueReads ── v1, uapi, telphin or page ── an operation
//
// resolveProxies sets the address of the client. accept reads and checks the request.
// authenticate identifies its client; for the page, RequireSession does. queueReads lets a
// reading request wait for its turn. The operation records changes in the audit log.
func (s *Server) buildHandler() http.Handler {
	s.v1 = v1.New(s.ops, s.auth, s.streams, s.log)
	s.root = access.NewMux(v1.WriteError)
	s.root.Handle("GET /healthz", access.PermitAll, http.HandlerFunc(s.serveHealthz))
	s.root.Handle("GET /readyz", access.PermitAll, http.HandlerFunc(s.serveReadyz))
	s.root.Handle("GET /metrics", access.PermitAll, s.requireTrusted(s.metricsHandler()))
	s.root.Handle("GET /openapi.json", access.PermitAll, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		w.Write(s.v1.Description())
	}))
	s.addPage()
	return resolveProxies(s.config.TrustedProxies, s.dispatch())
}

// addPage adds the routes of the page. Requests without a session are sent to /login.
func (s *Server) addPage() {
	s.page = page.New(s.ops, s.auth, s.streams, s.config.Listen, s.config.Guides, s.log)
	answer := func(h http.Handler) http.Handler { return page.SetHeaders(s.recoverPanics(page.WriteError, h)) }
	entered := answer(s.page.RequireSession(s.queueReads(page.WriteError, s.page)))
	for pattern := range s.page.Permissions {
		s.root.Handle(pattern, access.PermitAll, entered)
	}
	s.root.Handle("GET /login", access.PermitAll, answer(http.HandlerFunc(s.page.ShowLogin)))
	s.root.Handle("POST /login", access.PermitAll, answer(http.HandlerFunc(s.page.Login)))
	s.root.Handle("POST /logout", access.PermitAll, answer(http.HandlerFunc(s.page.Logout)))
	s.root.Handle("GET /static/{name}", access.PermitAll, page.SetHeaders(page.Static()))
}

// resolveProxies lets h serve requests that a trusted proxy forwards as if the client
// had sent them: RemoteAddr is the address of the client, and the forwarding header
// fields are removed. If X-Forwarded-For or Forwarded is malformed, or the two contradict
// each other, the request stays as it is. isLocalRequest then returns false, because the
// fields are still there.
func resolveProxies(trusted []netip.Prefix, h http.Handler) http.Handler {
	if len(trusted) == 0 {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if client, ok := forwardedClient(r, trusted); ok {
			r2 := *r
			r2.RemoteAddr = netip.AddrPortFrom(client, 0).String()
			r2.Header = r.Header.Clone()
			for name := range r.Header {
				if isForwardingHeader(name) {
					r2.Header.Del(name)
				}
			}
			r = &r2
		}
		h.ServeHTTP(w, r)
	})
}

// dispatch returns the handler that chooses the API by the path; root serves all other
// paths. The paths of the two dialects are not cleaned, because a name in them may
// contain an escaped slash. One slash at their end is ignored.
func (s *Server) dispatch() http.Handler {
	telphinAPI := telphin.New(s.ops, s.auth)
	uapiAPI := uapi.New(s.ops, s.auth)
	forV1 := s.accept(v1.WriteError, trimSlash(s.admit(s.auth.IdentifyBearer, v1.WriteError, s.v1)))
	forUAPI := s.accept(uapi.WriteError, s.admit(uapiAPI.Identify, uapi.WriteError, dialect.DecodeCharset(uapiAPI)))
	forTelphin := s.accept(telphin.WriteError, s.admit(s.auth.IdentifyBearer, telphin.WriteError, dialect.DecodeCharset(telphinAPI)))
	forToken := s.accept(telphin.WriteError, http.HandlerFunc(telphinAPI.ServeToken))
	forOthers := s.accept(v1.WriteError, trimSlash(s.root))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := forOthers
		if path := dialect.Path(r.URL); path[0] == "v1" {
			h = forV1
		} else if path[0] == "uapi" {
			h = forUAPI
		} else if path, ok := telphin.Trim(path); ok {
			h = forTelphin
			if len(path) == 2 && path[0] == "oauth" && (path[1] == "token" || path[1] == "token.php") {
				h = forToken // UnifiedAPI's own client uses token.php
			}
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// trimSlash removes slashes at the end of the path. If the path has an empty, . or ..
// segment, it answers 404. A mux would redirect the request to the clean path, but API
// clients do not follow redirects.
func trimSlash(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if short := strings.TrimRight(r.URL.Path, "/"); short != "" && short != r.URL.Path {
			r2, u := *r, *r.URL
			u.Path, u.RawPath = short, strings.TrimRight(u.RawPath, "/")
			r2.URL = &u
			r = &r2
		}
		if escaped := r.URL.EscapedPath(); path.Clean(escaped) != escaped {
			v1.WriteError(w, http.StatusNotFound, "the path has an empty, . or .. segment: remove it")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// sameOrigin refuses changes that a browser sends from a page of another origin.
var sameOrigin = http.NewCrossOriginProtection()

// accept reads the body of a request into memory (see [limit.Body]), converts its media
// type to lower case (RFC 9110 §8.3.1), and lets h serve it. It refuses bodies of more
// than limit.MaxBody bytes and changes that a browser sends from another origin. It also
// refuses malformed queries, because h would not see a malformed filter and would list
// everything. A panic of h is answered 500.
func (s *Server) accept(refuse access.ErrorWriter, h http.Handler) http.Handler {
	return s.recoverPanics(refuse, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(r)
		switch {
		case errors.Is(err, errBodyTooLarge):
			refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is too large: send at most %d bytes", limit.MaxBody))
			return
		case err != nil:
			refuse(w, http.StatusBadRequest, "the body cannot be read: send it whole, within 15 s")
			return
		}
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			refuse(w, http.StatusBadRequest, "malformed query: percent-encode special characters such as % and ;")
			return
		}
		if sameOrigin.Check(r) != nil {
			refuse(w, http.StatusForbidden, "cross-origin request denied: send changes from bellhop's own page or from an API client")
			return
		}
		kind, params, some := strings.Cut(r.Header.Get("Content-Type"), ";")
		if plain := strings.ToLower(strings.TrimSpace(kind)); plain != kind {
			if some {
				plain += ";" + params
			}
			r.Header.Set("Content-Type", plain)
		}
		h.ServeHTTP(w, limit.WithBody(r, body))
	}))
}

// errBodyTooLarge is the error of a body of more than limit.MaxBody bytes.
var errBodyTooLarge = errors.New("body too large")

// byteOrderMark starts the UTF-8 bodies of some clients (RFC 8259 §8.1).
var byteOrderMark = []byte("\uFEFF")

// readBody returns the body of a request, without a byte order mark. If the body is too
// large, it returns errBodyTooLarge. Before that it discards up to another megabyte,
// because a client that is still writing would not see the response.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit.MaxBody+1))
	if err == nil && len(body) > limit.MaxBody {
		io.CopyN(io.Discard, r.Body, 1<<20)
		err = errBodyTooLarge
	}
	return bytes.TrimPrefix(body, byteOrderMark), err
}

// identifier identifies the client of a request, see [access.Authenticator.Identify].
type identifier = func(*http.Request, time.Time) (*access.Client, bool)

// admit is authenticate followed by queueReads.
func (s *Server) admit(identify identifier, refuse access.ErrorWriter, next http.Handler) http.Handler {
	return s.authenticate(identify, refuse, s.queueReads(refuse, next))
}

// authenticate answers 401 to requests without a valid token, and 429 to requests beyond
// a rate limit. It lets next serve the others, with their client in the context.
func (s *Server) authenticate(identify identifier, refuse access.ErrorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		now := time.Now()
		client, ok := identify(r, now)
		switch {
		case !ok:
			access.WriteTooMany(w, s.auth.FailureLimiter(r), now, refuse, "too many requests from this address without a valid token: wait as long as Retry-After says")
		case client == nil:
			w.Header().Set("WWW-Authenticate", `Bearer realm="bellhop"`)
			refuse(w, http.StatusUnauthorized, "send a valid token as Authorization: Bearer TOKEN; the first one is admin.token in the config, or the file admin.token in store.dir")
		default:
			if !client.Limit.AllowN(now, 1) {
				access.WriteTooMany(w, client.Limit, now, refuse, "too many requests with this token: wait as long as Retry-After says")
				return
			}
			limit.SetRateHeaders(w.Header(), client.Limit, now)
			next.ServeHTTP(w, r.WithContext(access.WithClient(r.Context(), client)))
		}
	})
}

// queueReads lets next serve reading requests in turn (see [limit.Gate]), and answers 503
// if too many wait. Changes are served at once, because they are rare and spend most of
// their time waiting for the store.
func (s *Server) queueReads(refuse access.ErrorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if access.Required(r) != access.PermitRead {
			next.ServeHTTP(w, r)
			return
		}
		gate := s.gate
		if opensStream(r) {
			gate = s.streamGate
		}
		if !gate.Serve(next, w, r, access.ClientOf(r.Context()).ID) {
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "too many requests are waiting, and calls go first: try again")
		}
	})
}

// opensStream reports whether r asks for the event stream, or for a live part of a
// page.
func opensStream(r *http.Request) bool {
	return limit.AcceptsStream(r.Header.Get("Accept")) &&
		(r.URL.Path == "/v1/events" || strings.HasPrefix(r.URL.Path, "/live/"))
}

// recoverPanics lets h serve. If h panics, the panic is logged and counted, and the
// request is answered 500 with refuse. If h has already begun to answer, the connection
// is closed instead.
func (s *Server) recoverPanics(refuse access.ErrorWriter, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched := &startedWriter{ResponseWriter: w}
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			if reason != http.ErrAbortHandler {
				s.panics.Add(1)
				s.log.Error("admin request panicked", "method", r.Method, "path", r.URL.Path, "panic", reason, "stack", string(debug.Stack()))
			}
			if watched.started {
				panic(http.ErrAbortHandler) // net/http closes the connection without a log line
			}
			clear(w.Header())
			refuse(w, http.StatusInternalServerError, "internal error in bellhop: see its log")
		}()
		h.ServeHTTP(watched, r)
	})
}

// startedWriter records whether the handler has begun to answer.
type startedWriter struct {
	http.ResponseWriter
	started bool
}

func (w *startedWriter) WriteHeader(status int) {
	w.started = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *startedWriter) Write(b []byte) (int, error) {
	w.started = true
	return w.ResponseWriter.Write(b)
}

// Unwrap is for [http.ResponseController].
func (w *startedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
