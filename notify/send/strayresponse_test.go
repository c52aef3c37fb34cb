package send

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/notify/send/tlstest"
)

// talkScript serves a connection: before each response it writes surplus bytes of the
// response before. A script that ends closes the connection.
func talkScript(all ...string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for _, answer := range all {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

// The status line of a response decides, whatever follows it, and no byte of a response
// counts for the next.
func TestStatusLineDecides(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, tt := range []struct {
		name    string
		scripts []func(net.Conn, *bufio.Reader)
		want    []string // status and body, or a part of an error
		dialed  int
	}{
		{"a body announced behind a 204", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n"), talkScript(ok, ok)},
			[]string{"204 ", "200 ok", "200 ok"}, 2},
		{"chunks announced behind a 204", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"), talkScript(ok, ok)},
			[]string{"204 ", "200 ok", "200 ok"}, 2},
		{"a type of content behind a 304", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 304 Not Modified\r\nContent-Type: text/html\r\n\r\n"), talkScript(ok, ok)},
			[]string{"304 ", "200 ok", "200 ok"}, 2},
		{"an unannounced body behind a 204, late", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 204 No Content\r\n\r\n", "done"+ok), talkScript(ok)},
			[]string{"204 ", "200 ok", "200 ok"}, 2},
		{"a long body behind a 204, late", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 204 No Content\r\n\r\n", strings.Repeat("<p>thank you</p>\n", 500)+ok), talkScript(ok)},
			[]string{"204 ", "200 ok", "200 ok"}, 2},
		{"an empty line too many, late", []func(net.Conn, *bufio.Reader){talkScript(ok, "\r\n"+ok), talkScript(ok)}, []string{"200 ok", "200 ok", "200 ok"}, 2},
		{"more than was announced, late", []func(net.Conn, *bufio.Reader){talkScript(ok, "ay\n"+ok), talkScript(ok)}, []string{"200 ok", "200 ok", "200 ok"}, 2},
		{"what reads like an answer, late", []func(net.Conn, *bufio.Reader){talkScript(ok, "HTTP/1.1 is spoken here. "+ok), talkScript(ok)}, []string{"200 ok", "200 ok", "200 ok"}, 2},
		{"a page that names a protocol, late", []func(net.Conn, *bufio.Reader){talkScript(ok, "<i>HTTP/1.1</i>"+ok), talkScript(ok)}, []string{"200 ok", "200 ok", "200 ok"}, 2},
		{"too much, and the end", []func(net.Conn, *bufio.Reader){talkScript(ok, "that is all"), talkScript(ok, ok)}, []string{"200 ok", "200 ok", "200 ok"}, 2},
		{"an empty line first", []func(net.Conn, *bufio.Reader){talkScript("\r\n\r\n" + ok), talkScript(ok)}, []string{"200 ok", "200 ok"}, 2},
		{"another protocol first", []func(net.Conn, *bufio.Reader){talkScript("220 mail.example ESMTP\r\n" + ok), talkScript(ok)}, []string{"it is not HTTP", "200 ok"}, 2},
		{"a header line without a colon", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 200 OK\r\nWarning in hook.php on line 3\r\n\r\nok"), talkScript(ok)}, []string{"200 ", "200 ok"}, 2},
		{"a space before a colon", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 201 Created\r\nX Key : y\r\nContent-Length: 2\r\n\r\nok"), talkScript(ok)}, []string{"201 ok", "200 ok"}, 2},
		{"two lengths", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), talkScript(ok)}, []string{"200 ", "200 ok"}, 2},
		{"a length that is no number", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 202 Accepted\r\nContent-Length: two\r\n\r\nok"), talkScript(ok)}, []string{"202 ", "200 ok"}, 2},
		{"an encoding that nobody knows", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 200 OK\r\nTransfer-Encoding: sideways\r\n\r\nok"), talkScript(ok)}, []string{"200 ", "200 ok"}, 2},
		{"a broken line behind a 500", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 500 Oh No\r\n:x\r\n\r\n"), talkScript(ok)}, []string{"500 ", "200 ok"}, 2},
		{"a broken line behind a hint", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 103 Early Hints\r\n:x\r\n\r\n" + ok), talkScript(ok)}, []string{"it is not HTTP", "200 ok"}, 2},
		{"the end behind the status line", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 200 OK\r\n"), talkScript(ok)}, []string{"200 ", "200 ok"}, 2},
		{"half a status line", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 200 OK"), talkScript(ok)}, []string{"it is not HTTP", "200 ok"}, 2},
		{"a status of two digits", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 20 OK\r\n\r\n"), talkScript(ok)}, []string{"it is not HTTP", "200 ok"}, 2},
		{"chunks that are none", []func(net.Conn, *bufio.Reader){talkScript("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), talkScript(ok)}, []string{"invalid byte in chunk length", "200 ok"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fakePeer{t: t, scripts: tt.scripts}
				cp := newConnPool(p.dialScript, nil)
				defer cp.close()
				for i, want := range tt.want {
					wantAnswer(t, cp, i, want)
				}
				if p.dialed != tt.dialed {
					t.Errorf("%d connections were made, want %d", p.dialed, tt.dialed)
				}
			})
		})
	}
}

// A receiver that sends a status line and nothing more has answered: the attempt does not
// fail when its time is over.
func TestStatusLineThenSilence(t *testing.T) {
	for status, want := range map[string]int{"200 OK": 200, "500 No": 500, "410 Gone": 410} {
		t.Run(status, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Config{})
				s.httpConns.dial = (&fakePeer{t: t, scripts: []func(net.Conn, *bufio.Reader){func(c net.Conn, r *bufio.Reader) {
					http.ReadRequest(r)
					io.WriteString(c, "HTTP/1.1 "+status+"\r\nX-A: b\r\n")
					io.Copy(io.Discard, r)
				}}}).dialScript
				if res := sendTo(t, s, Request{}, "http://crm.example/hook"); res.StatusCode != want || textOf(res) != status {
					t.Errorf("%d, %s", res.StatusCode, textOf(res))
				}
			})
		})
	}
}

// Surplus bytes after a response, or the end of the connection, are noticed before the
// connection is used again, over TCP and TLS: the next request uses a new one.
func TestUnreadBytes(t *testing.T) {
	a := tlstest.NewCA(t)
	cert, key := a.Sign("127.0.0.1")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	for _, secure := range []bool{false, true} {
		for name, late := range map[string]func(io.WriteCloser){
			"a body":        func(c io.WriteCloser) { io.WriteString(c, "hello") },
			"an empty line": func(c io.WriteCloser) { io.WriteString(c, "\r\n") },
			"an answer":     func(c io.WriteCloser) { io.WriteString(c, "HTTP/1.1 500 Not Asked\r\nContent-Length: 0\r\n\r\n") },
			"the end":       func(c io.WriteCloser) { c.Close() },
		} {
			t.Run(fmt.Sprint(name, ", TLS ", secure), func(t *testing.T) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				kept := make(chan struct{}) // the first connection is kept
				go func() {
					for nth := 0; ; nth++ {
						c, err := l.Accept()
						if err != nil {
							return
						}
						if secure {
							c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
						}
						go func() {
							talkScript("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c, bufio.NewReader(c))
							if nth == 0 {
								<-kept
								late(c)
							}
						}()
					}
				}()
				var config *tls.Config
				if secure {
					config = &tls.Config{RootCAs: a.Pool(), MinVersion: tls.VersionTLS12}
				}
				dialed := 0
				cp := newConnPool(func(ctx context.Context, network, address string) (net.Conn, error) {
					dialed++
					return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
				}, config)
				defer cp.close()
				url := "http://127.0.0.1/"
				if secure {
					url = "https://127.0.0.1/"
				}
				ask := func() {
					t.Helper()
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
					res, err := cp.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					if b, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(b) != "ok" {
						t.Fatalf("%s %q, %v", res.Status, b, err)
					}
				}
				ask()
				var first *conn
				for _, all := range cp.idle {
					first = all[0]
				}
				if first == nil || hasUnreadBytes(first.Conn) {
					t.Fatal("the connection is not kept, or has unread bytes")
				}
				close(kept)
				for runtime.GOOS == "linux" && !hasUnreadBytes(first.Conn) {
					runtime.Gosched() // until the bytes have arrived
				}
				ask()
				if dialed != 2 {
					t.Errorf("%d connections were made, want 2", dialed)
				}
				if runtime.GOOS == "linux" && cp.isStray(first.address) != (name == "an answer") {
					t.Errorf("the receiver is distrusted: %v", cp.isStray(first.address))
				}
			})
		}
	}
}

// A stray response that arrives after the next request was written is taken for its
// response. A receiver that was seen to send one gets one request a connection for a while;
// others do not.
func TestStrayResponses(t *testing.T) {
	const ok, late = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
	for _, tt := range []struct {
		name  string
		first string // its first response
		want  string // response to the third request
	}{
		{"another answer", ok + late, "200 ok"},
		{"the same again", ok + ok, "200 ok"},
		{"a line, and another answer", ok + "\r\n\r\nHTTP/1.0 100 Continue\r\n", "200 ok"},
		{"a line", ok + "\r\n", "400 "},
		{"a page", ok + "<p>HTTP/1.1 is spoken here", "400 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fakePeer{t: t, scripts: []func(net.Conn, *bufio.Reader){talkScript(tt.first), talkScript(ok, late, late), talkScript(ok, ok, ok, ok)}}
				cp := newConnPool(p.dialScript, nil)
				defer cp.close()
				for i, want := range []string{"200 ok", "200 ok", tt.want} {
					wantAnswer(t, cp, i, want)
				}
				if tt.want != "200 ok" {
					return
				}
				dials := func(url string, want int) {
					t.Helper()
					dialed := p.dialed
					for range 3 {
						if status, _, err := postTo(t.Context(), cp, url); status != 200 || err != nil {
							t.Error(status, err)
						}
					}
					if p.dialed -= dialed; p.dialed != want {
						t.Errorf("%d connections to %s were made, want %d", p.dialed, url, want)
					}
					p.dialed += dialed
				}
				dials("http://crm.example/hook", 3)
				dials("http://other.example/hook", 1)
				time.Sleep(strayDuration)
				dials("http://crm.example/hook", 1)
			})
		})
	}
}

// Connections of https URLs are kept, each for the name that it was made for.
func TestSecureConnsAreKept(t *testing.T) {
	a := tlstest.NewCA(t)
	url := startTLSReceiver(t, a, "127.0.0.1")
	cert, key := a.Sign("bellhop")
	s := New(Config{Allow: loopback})
	defer s.Close()
	r := Request{TLS: TLS{a.PEM, cert, key}}
	for range 3 {
		if res := sendTo(t, s, r, url); res.StatusCode != 200 {
			t.Fatal(textOf(res))
		}
	}
	for _, own := range s.tlsTransports.all {
		if own.conns.kept != 1 {
			t.Errorf("%d connections are kept, want one", own.conns.kept)
		}
	}
	url = strings.Replace(url, "127.0.0.1", "localhost", 1)
	if res := sendTo(t, s, r, url); res.Err == nil || res.NoConnection || !strings.Contains(res.Err.Error(), "localhost") {
		t.Errorf("another name: no connection %v, %s", res.NoConnection, textOf(res))
	}
}
