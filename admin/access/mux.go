package access

import (
	"maps"
	"net/http"
)

// ErrorWriter writes an error in the format of one API. Without a detail, it writes the
// text of the status.
type ErrorWriter func(w http.ResponseWriter, status int, detail string)

// Mux is a mux with a permission for each of its patterns.
type Mux struct {
	mux         *http.ServeMux
	Permissions map[string]Permission // by pattern
	refuse      ErrorWriter
}

// NewMux returns a mux without routes.
func NewMux(refuse ErrorWriter) *Mux {
	return &Mux{http.NewServeMux(), make(map[string]Permission), refuse}
}

// Handle adds a route that needs the permission asks.
func (rs *Mux) Handle(pattern string, asks Permission, h http.Handler) {
	rs.Permissions[pattern] = asks
	rs.mux.Handle(pattern, h)
}

// HandleFunc adds a route whose permission is already in permissions, and panics if
// there is none. huma calls it.
func (rs *Mux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	if _, known := rs.Permissions[pattern]; !known {
		panic("admin: route " + pattern + " has no permission")
	}
	rs.mux.HandleFunc(pattern, h)
}

// ServeHTTP serves requests that have the permission of their route, and answers 403 to
// others. A request without a route gets the mux's error in the API's format.
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

// Response is a response in memory, to be written later, or again.
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
