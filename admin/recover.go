package admin

import (
	"net/http"
	"runtime/debug"

	"bellhop/admin/access"
)

// recoverPanics lets h serve, and answers 500 in the API's format if h panics. The
// panic is logged and counted. If h has begun to answer, the connection is closed.
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

// startedWriter records whether a response has begun.
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
