package access

import (
	"maps"
	"net/http"
)

// ErrorWriter writes an error in the format of one API or of the page. If detail is "",
// it writes a default text.
type ErrorWriter func(w http.ResponseWriter, status int, detail string)

// Mux is an [http.ServeMux] that checks the permission of each route.
type Mux struct {
	mux         *http.ServeMux
	Permissions map[string]Permission // by pattern
	refuse      ErrorWriter
}

// NewMux returns a mux without routes.
func NewMux(refuse ErrorWriter) *Mux {
	return &Mux{http.NewServeMux(), make(map[string]Permission), refuse}
}

// Handle adds a route. asks is the permission that it needs.
func (rs *Mux) Handle(pattern string, asks Permission, h http.Handler) {
	rs.Permissions[pattern] = asks
	rs.mux.Handle(pattern, h)
}

// HandleFunc adds a route. It panics if Permissions has no permission for the route. huma
// calls it.
func (rs *Mux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	if _, known := rs.Permissions[pattern]; !known {
		panic("admin: route " + pattern + " has no permission")
	}
	rs.mux.HandleFunc(pattern, h)
}

// ServeHTTP serves a request if its client has the permission of the route, and answers
// 403 if not. If no route matches, it answers with the status of the [http.ServeMux], 404
// or 405, in the format of the API.
func (rs *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, pattern := rs.mux.Handler(r)
	switch asks := rs.Permissions[pattern]; {
	case pattern == "":
		var plain Response
		h.ServeHTTP(&plain, r)
		if allow := plain.Header().Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
		}
		rs.refuse(w, plain.status, "")
	case ClientOf(r.Context()).Permits(asks):
		rs.mux.ServeHTTP(w, r)
	default:
		rs.refuse(w, http.StatusForbidden, Missing[asks])
	}
}

// Response is an [http.ResponseWriter] that keeps the response in memory. WriteTo writes
// it, any number of times.
type Response struct {
	header http.Header
	status int
	body   []byte
}

func (r *Response) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}

func (r *Response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *Response) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	r.body = append(r.body, b...)
	return len(b), nil
}

// Status returns the status; 0: there is no response yet.
func (r *Response) Status() int { return r.status }

// WriteTo writes the response to w.
func (r *Response) WriteTo(w http.ResponseWriter) {
	maps.Copy(w.Header(), r.header)
	w.WriteHeader(r.status)
	w.Write(r.body)
}
