// Package websocket reads and writes SIP over WebSocket (RFC 7118), on the server's side.
//
// [Accept] reads and answers the opening handshake of a connection. Later, a [Decoder] makes
// messages of the bytes that the connection delivers, and the Append functions make frames
// of what is sent. A [Keepalive] decides when a silent client is pinged. The caller reads,
// writes and closes the connection, and limits time and memory.
package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/gobwas/ws"
)

// maxHandshake is the size of the largest opening handshake that a client may send.
const maxHandshake = 8 << 10

// Refusals of handshakes that package ws would accept.
var (
	errOrigin   = ws.RejectConnectionError(ws.RejectionStatus(http.StatusForbidden), ws.RejectionReason("the origin is not allowed"))
	errProtocol = ws.RejectConnectionError(ws.RejectionStatus(http.StatusBadRequest), ws.RejectionReason("the subprotocol sip is not offered"))
	errTooLarge = fmt.Errorf("larger than %d bytes", maxHandshake)
	errBareLF   = errors.New("a line ends without CR")
)

// refusalLines are header field lines of every answer that refuses a handshake, because a
// browser shows it as a page. Strict-Transport-Security is not among them: it would apply to
// all ports of the host, and so cut off a page of the PBX there that has no TLS.
const refusalLines = "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"

// Accept reads the opening handshake of a client from c and answers it (RFC 6455 §4.2).
// first holds its bytes that were read before. rest holds the bytes after the handshake.
// The caller sets the deadlines of c, and closes c if Accept returns an error.
//
// The client must offer the subprotocol sip (RFC 7118 §4.1). If there are origins, in the
// form of [ParseOrigin], it must name one of them. Browsers always name their origin.
func Accept(c io.ReadWriter, first []byte, origins []string) (rest []byte, err error) {
	head, rest, err := readHandshake(c, first)
	if err != nil {
		return nil, fmt.Errorf("read WebSocket handshake: %w", err)
	}
	var origin string
	allowed, named, offered, accepted := len(origins) == 0, false, false, false
	u := ws.Upgrader{
		Header: ws.HandshakeHeaderFunc(func(w io.Writer) (int64, error) {
			if accepted {
				return 0, nil
			}
			n, err := io.WriteString(w, refusalLines)
			return int64(n), err
		}),
		OnHeader: func(key, value []byte) error {
			if string(key) == "Origin" && len(origins) > 0 {
				origin = string(bytes.ToLower(value))
				allowed, named = !named && slices.Contains(origins, origin), true
			}
			return nil
		},
		Protocol: func(p []byte) bool {
			offered = bytes.EqualFold(p, []byte("sip"))
			return offered
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			switch {
			case !allowed:
				return nil, errOrigin
			case !offered:
				return nil, errProtocol
			}
			accepted = true
			return nil, nil
		},
	}
	_, err = u.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(head), c})
	switch {
	case errors.Is(err, errOrigin):
		err = fmt.Errorf("accept WebSocket from origin %q: %w", origin, err)
	case err != nil:
		err = fmt.Errorf("accept WebSocket: %w", err)
	}
	if err != nil && isFromPage(head) {
		err = &PageError{err}
	}
	return rest, err
}

// A PageError is the refusal of a request that a web page has caused. The client is not
// at fault, because any page can make the browsers of its visitors send such a request.
type PageError struct{ Err error }

func (e *PageError) Error() string { return e.Err.Error() }
func (e *PageError) Unwrap() error { return e.Err }

// isFromPage reports whether a request has a header field that browsers add for a page.
func isFromPage(head []byte) bool {
	lower := bytes.ToLower(head)
	return bytes.Contains(lower, []byte("\r\norigin:")) || bytes.Contains(lower, []byte("\r\nsec-fetch-site:"))
}

// readHandshake reads from c up to the blank line that ends a handshake. It answers a
// handshake that is too large, or whose lines another reader could cut differently.
func readHandshake(c io.ReadWriter, first []byte) (head, rest []byte, err error) {
	b := append(make([]byte, 0, max(len(first), 1<<10)), first...)
	for searched := 0; ; {
		if i := bytes.Index(b[searched:], []byte("\r\n\r\n")); i >= 0 {
			end := searched + i + 4
			head, rest = b[:end], b[end:]
			break
		}
		searched = max(len(b)-3, 0)
		if len(b) >= maxHandshake {
			return nil, nil, refuse(c, http.StatusRequestHeaderFieldsTooLarge, errTooLarge)
		}
		if len(b) == cap(b) {
			b = append(make([]byte, 0, min(2*cap(b), maxHandshake)), b...)
		}
		n, err := c.Read(b[len(b):cap(b)])
		if b = b[:len(b)+n]; n == 0 && err != nil {
			return nil, nil, err
		}
	}
	if len(head) > maxHandshake {
		return nil, nil, refuse(c, http.StatusRequestHeaderFieldsTooLarge, errTooLarge)
	}
	if bytes.Count(head, []byte("\n")) != bytes.Count(head, []byte("\r\n")) {
		return nil, nil, refuse(c, http.StatusBadRequest, errBareLF)
	}
	return head, bytes.Clone(rest), nil
}

// refuse answers a handshake with an HTTP status and returns reason.
func refuse(c io.Writer, status int, reason error) error {
	fmt.Fprintf(c, "HTTP/1.1 %d %s\r\n%sConnection: close\r\nContent-Length: 0\r\n\r\n", status, http.StatusText(status), refusalLines)
	return reason
}
