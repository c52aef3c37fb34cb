// Package send makes the HTTP requests of callbacks.
//
// A [Sender] signs and sends one prepared [Request] and returns one [Result]. It retries
// only on a kept connection that the receiver closed before it responded. It follows no
// redirect, and uses no proxy, cookie, compression or HTTP/2.
//
// # The response
//
// Only the status line decides the result. A header that cannot be parsed, or a body that
// ends early, changes nothing. At most [MaxBody] bytes of the body are read, for at most
// [BodyTimeout]. The head of a response is limited to 16 KiB.
//
// # Destinations
//
// Every connection is checked by its numeric address, so no name and no spelling of an
// address leads to a denied one. See [Config].
//
// # Connections
//
// Idle connections are kept for 90 seconds, up to 64 of a host, and 1,000 of a scheme and
// [TLS]. Requests with the same TLS settings share connections. The minimum version is
// TLS 1.2.
package send

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	MaxBody     = 4 << 10     // bytes of a response body that are read
	BodyTimeout = time.Second // limits reading the body of a response
)

// Config sets where a Sender may send requests, and how it connects.
type Config struct {
	// Addresses of receivers. Deny is checked first, then Own, then Allow, then the defaults:
	// public and private networks are allowed, all others are denied, such as loopback,
	// link-local addresses and the metadata services of clouds.
	Allow, Deny []netip.Prefix
	Own         []netip.AddrPort // bellhop's own TCP listeners: denied

	Resolver *net.Resolver // resolves the host names of receivers; nil: the resolver of the machine
	Version  string        // the User-Agent is bellhop/<version>

	// Transport makes the requests in tests, instead of the network and without the
	// egress guard. An error other than a *ConnectError counts as a missing response.
	// nil: the network.
	Transport http.RoundTripper
}

// A Sender sends requests. Any number of goroutines may use it.
type Sender struct {
	transport     http.RoundTripper
	httpConns     *connPool     // of http URLs; nil: transport has its own
	httpsConns    *connPool     // of https URLs; nil: transport has its own
	tlsTransports tlsTransports // of the requests with TLS settings of their own
	userAgent     []string      // value of the header field; shared by all requests
}

// New returns a Sender for the network, or for c.Transport.
func New(c Config) *Sender {
	transport, plain, secure := newTransport(c)
	return &Sender{transport: transport, httpConns: plain, httpsConns: secure, userAgent: []string{strings.TrimSuffix("bellhop/"+c.Version, "/")}}
}

// Close closes all idle connections. A connection in use is closed when its request ends.
func (s *Sender) Close() {
	s.tlsTransports.close()
	if s.httpConns != nil {
		s.httpConns.close()
		s.httpsConns.close()
	}
	if t, ok := s.transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// A Request is an HTTP request that is ready to be sent. Send adds Webhook-Timestamp,
// Webhook-Signature and, unless it is set, User-Agent to its header.
type Request struct {
	Method string // GET has no body
	URL    *url.URL
	Header http.Header // with canonical names, among them Webhook-Id
	Body   []byte      // must not be changed any more
	Signer *Signer     // nil: it is not signed
	TLS    TLS
}

// A Result is the response to a request, or the error if there is none.
type Result struct {
	StatusCode int    // 0: no response
	Status     string // status code and reason, such as 503 Service Unavailable
	Header     http.Header
	Body       []byte        // at most MaxBody bytes
	Truncated  bool          // the body was longer, or not complete in time
	RetryAfter time.Duration // of a response of 429 or 503; 0: none

	Err          error // why there is no response; nil: there is one
	NoConnection bool  // no connection was made, and not because of the request's own TLS settings
}

// Send sends a request and reads the response. ctx limits both. cancel must cancel ctx.
// Send calls cancel if the body arrives too slowly.
func (s *Sender) Send(ctx context.Context, cancel context.CancelFunc, r *Request) (result Result) {
	r.sign(time.Now())
	res, err := s.roundTrip(r.newRequest(ctx, s.userAgent), &r.TLS)
	if err != nil {
		var failed *ConnectError
		noConnection := errors.As(err, &failed) && !(failed.handshake && r.TLS != TLS{})
		return Result{Err: err, NoConnection: noConnection}
	}
	result = Result{StatusCode: res.StatusCode, Status: res.Status, Header: res.Header}
	result.readBody(res, cancel)
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable {
		result.RetryAfter = parseRetryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	return result
}

// signBuffers are buffers for the signed content.
var signBuffers = sync.Pool{New: func() any { return new([]byte) }}

// sign adds the timestamp and the signatures to a request that is otherwise complete. The
// signed payload is the body, or the query of a GET.
func (r *Request) sign(now time.Time) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	r.Header["Webhook-Timestamp"] = []string{timestamp}
	if r.Signer == nil {
		return
	}
	buffer := signBuffers.Get().(*[]byte)
	b := append((*buffer)[:0], r.Header["Webhook-Id"][0]...)
	b = append(append(append(b, '.'), timestamp...), '.')
	if r.Method == http.MethodGet {
		b = append(b, r.URL.RawQuery...)
	} else {
		b = append(b, r.Body...)
	}
	signed := len(b)
	for i, key := range r.Signer.keys {
		if i > 0 {
			if until := r.Signer.until; !until.IsZero() && !now.Before(until) {
				break
			}
			b = append(b, ' ')
		}
		b = key.appendSignature(b, b[:signed])
	}
	r.Header["Webhook-Signature"] = []string{string(b[signed:])}
	*buffer = b
	signBuffers.Put(buffer)
}

// newRequest returns the request for a transport. It changes and shares the header of r.
func (r *Request) newRequest(ctx context.Context, userAgent []string) *http.Request {
	req := new(http.Request).WithContext(ctx)
	req.Method, req.URL, req.Host, req.Header = r.Method, r.URL, r.URL.Host, r.Header
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	if req.Header["User-Agent"] == nil {
		req.Header["User-Agent"] = userAgent
	}
	if body := r.Body; r.Method != http.MethodGet {
		req.ContentLength = int64(len(body))
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Header["Idempotency-Key"] = nil // nil is not sent, but lets net/http repeat the request if a kept connection turns out closed
	}
	return req
}

// roundTrip sends a request with its TLS settings and reads the head of the response. It
// leaves a host whose name is not ASCII to [http.Transport], which converts the name.
func (s *Sender) roundTrip(req *http.Request, settings *TLS) (*http.Response, error) {
	if common, ok := s.transport.(*http.Transport); ok && *settings != (TLS{}) {
		transport, err := s.tlsTransports.transportFor(common, *settings, time.Now())
		if err != nil {
			return nil, err
		}
		return transport.RoundTrip(req)
	}
	if conns := s.connsFor(req.URL.Scheme); conns != nil {
		if res, err := conns.RoundTrip(req); err != http.ErrSkipAltProtocol {
			return res, err
		}
	}
	return s.transport.RoundTrip(req)
}

// connsFor returns the connections for the URLs of a scheme, or nil.
func (s *Sender) connsFor(scheme string) *connPool {
	switch scheme {
	case "http":
		return s.httpConns
	case "https":
		return s.httpsConns
	}
	return nil
}

// bodyBuffers are buffers for the bodies of responses.
var bodyBuffers = sync.Pool{New: func() any { return new([MaxBody]byte) }}

// readBody reads at most MaxBody of the body and closes it. The connection can be reused
// only if the body has ended by then. cancel is called if reading takes longer than
// BodyTimeout.
func (r *Result) readBody(res *http.Response, cancel context.CancelFunc) {
	defer res.Body.Close()
	if res.Body == http.NoBody || res.StatusCode == http.StatusSwitchingProtocols { // cancel would not end reading after 101
		return
	}
	timer := time.AfterFunc(BodyTimeout, cancel)
	defer timer.Stop()
	buffer := bodyBuffers.Get().(*[MaxBody]byte)
	defer bodyBuffers.Put(buffer)
	n, err := 0, error(nil)
	for n < len(buffer) && err == nil {
		var m int
		m, err = res.Body.Read(buffer[n:])
		n += m
	}
	r.Body, r.Truncated = bytes.Clone(buffer[:n]), err != io.EOF
}

// parseRetryAfter parses the header field Retry-After (RFC 9110 §10.2.3): seconds or a
// date. It returns 0 for an invalid value.
func parseRetryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}
