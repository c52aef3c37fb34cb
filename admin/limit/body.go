package limit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
)

// MaxBody is the maximum size of a request body, in bytes.
const MaxBody = 64 << 10

// ErrBodyTooLarge is the error of a body of more than MaxBody bytes.
var ErrBodyTooLarge = errors.New("body too large")

// byteOrderMark starts the UTF-8 bodies of some clients (RFC 8259 §8.1).
var byteOrderMark = []byte("\uFEFF")

// ReadBody returns the body of a request, without a byte order mark. If the body is too
// large, it returns ErrBodyTooLarge. Before that it discards up to another megabyte,
// because a client that is still writing would not see the response.
func ReadBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err == nil && len(body) > MaxBody {
		io.CopyN(io.Discard, r.Body, 1<<20)
		err = ErrBodyTooLarge
	}
	return bytes.TrimPrefix(body, byteOrderMark), err
}

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
