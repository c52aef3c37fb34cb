package limit

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// MaxBody is the maximum size of a request body, in bytes. The server refuses larger ones.
const MaxBody = 64 << 10

type bodyKey struct{}

// WithBody returns the request r with the given body, which is in memory. See Body.
func WithBody(r *http.Request, body []byte) *http.Request {
	r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, body))
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r
}

// Body returns the body of a request from WithBody, whether or not it was read.
func Body(r *http.Request) []byte {
	body, _ := r.Context().Value(bodyKey{}).([]byte)
	return body
}
