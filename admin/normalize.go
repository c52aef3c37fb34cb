package admin

import (
	"net/http"
	"net/url"
	"strings"

	"bellhop/admin/access"
)

// normalizeRequest gives h the media type in lower case (RFC 9110 §8.3.1). It refuses a
// query with a broken escape: without the broken filter, h would list everything.
func normalizeRequest(refuse access.ErrorWriter, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			refuse(w, http.StatusBadRequest, "malformed query: percent-encode special characters such as % and ;")
			return
		}
		kind, params, some := strings.Cut(r.Header.Get("Content-Type"), ";")
		if plain := strings.ToLower(strings.TrimSpace(kind)); plain != kind {
			if some {
				plain += ";" + params
			}
			r.Header.Set("Content-Type", plain)
		}
		h.ServeHTTP(w, r)
	})
}
