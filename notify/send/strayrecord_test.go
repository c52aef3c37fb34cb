package send

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/notify/send/tlstest"
)

// A batchConn buffers what is written while holds is set, to send it in one piece.
type batchConn struct {
	net.Conn
	held  bytes.Buffer
	holds bool
}

func (c *batchConn) Write(b []byte) (int, error) {
	if c.holds {
		return c.held.Write(b)
	}
	return c.Conn.Write(b)
}

// Surplus bytes in TLS records that arrived together with the response are noticed before
// the connection is used again: they are no response to the next request.
func TestUnreadRecords(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	a := tlstest.NewCA(t)
	cert, key := a.Sign("crm.example")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, late string
		dialed     []int // connections after each request; none is kept to a receiver of stray responses
	}{
		{"a refusal", "HTTP/1.1 500 Not Asked\r\nContent-Length: 0\r\n\r\n", []int{1, 2, 3}},
		{"a second 200", ok, []int{1, 2, 3}},
		{"a body", "thank you", []int{1, 2, 2}},
		{"an empty line", "\r\n", []int{1, 2, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				dialed := 0
				cp := newConnPool(func(context.Context, string, string) (net.Conn, error) {
					dialed++
					first := dialed == 1
					ours, theirs := net.Pipe()
					go func() {
						defer theirs.Close()
						batch := &batchConn{Conn: theirs}
						c := tls.Server(batch, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
						if c.Handshake() != nil {
							return
						}
						r := bufio.NewReader(c)
						for {
							req, err := http.ReadRequest(r)
							if err != nil {
								return
							}
							io.Copy(io.Discard, req.Body)
							batch.holds = true
							io.WriteString(c, ok)
							if first {
								io.WriteString(c, tt.late)
							}
							batch.holds = false
							batch.held.WriteTo(theirs)
						}
					}()
					return ours, nil
				}, &tls.Config{RootCAs: a.Pool(), MinVersion: tls.VersionTLS12, Time: func() time.Time { return a.Cert.NotAfter.Add(-time.Second) }})
				defer cp.close()
				for i, want := range tt.dialed {
					status, body, err := postTo(ctx, cp, "https://crm.example/hook")
					if err != nil || status != 200 || body != "ok" {
						t.Errorf("request %d: %d %q, %v", i+1, status, body, err)
					}
					if dialed != want {
						t.Errorf("request %d: %d connections were made, want %d", i+1, dialed, want)
					}
				}
			})
		})
	}
}

// A status line that net/http accepts on a new connection is accepted on a kept one too,
// without waiting for another.
func TestOddStatusOnKeptConnection(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, tt := range []struct {
		line string
		want int
	}{
		{"HTTP/1.1 999 Request denied", 999},
		{"HTTP/1.1 604 No Data", 604},
		{"HTTP/1.1  200  OK", 200},
		{"HTTP/1.1    202", 202},
		{"HTTP/1.0 200", 200},
	} {
		t.Run(tt.line, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				p := &fakePeer{t: t, scripts: []func(net.Conn, *bufio.Reader){talkScript(ok, tt.line+"\r\nContent-Length: 2\r\n\r\nno", ok)}}
				cp := newConnPool(p.dialScript, nil)
				defer cp.close()
				for _, want := range []int{200, tt.want} {
					if status, _, err := sendPOST(ctx, cp); err != nil || status != want {
						t.Errorf("%d, %v, want %d", status, err, want)
					}
				}
				if p.dialed != 1 {
					t.Errorf("%d connections were made, want 1", p.dialed)
				}
			})
		})
	}
}
