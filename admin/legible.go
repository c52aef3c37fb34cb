package admin

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// byteOrderMark is what some clients begin a body in UTF-8 with.
var byteOrderMark = []byte("\xEF\xBB\xBF")

// legible has h read what clients may write in several ways in one way: a media type
// in lower case (RFC 9110 §8.3.1), and a body, which is in memory, without byte order
// mark (RFC 8259 §8.1). It refuses a query that cannot be read: what is left of a
// filter with a slip must not be taken for all of it.
func legible(refuse refusal, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			refuse(w, http.StatusBadRequest, "the query cannot be read: percent-encode what has a meaning of its own in it, such as % and ;")
			return
		}
		kind, params, some := strings.Cut(r.Header.Get("Content-Type"), ";")
		if plain := strings.ToLower(strings.TrimSpace(kind)); plain != kind {
			if some {
				plain += ";" + params
			}
			r.Header.Set("Content-Type", plain)
		}
		if body, _ := io.ReadAll(r.Body); len(body) > 0 {
			r.Body = io.NopCloser(bytes.NewReader(bytes.TrimPrefix(body, byteOrderMark)))
		}
		h.ServeHTTP(w, r)
	})
}
