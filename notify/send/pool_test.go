package send

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A fakePeer plays receivers: a script of its own serves each connection; the last script
// serves all further ones.
type fakePeer struct {
	t       *testing.T
	scripts []func(net.Conn, *bufio.Reader)
	dialed  int
}

func (p *fakePeer) dialScript(context.Context, string, string) (net.Conn, error) {
	script := p.scripts[min(p.dialed, len(p.scripts)-1)]
	p.dialed++
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		script(theirs, bufio.NewReader(theirs))
	}()
	return ours, nil
}

// replyWith returns a script that answers one request after another.
func replyWith(all ...string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for _, answer := range all {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil || string(body) != "the body" {
				return // without a response
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
		io.Copy(io.Discard, r) // until it is closed
	}
}

// sendPOST sends one request and returns the response.
func sendPOST(ctx context.Context, cp *connPool) (status int, body string, err error) {
	return postTo(ctx, cp, "http://crm.example/hook")
}

func postTo(ctx context.Context, cp *connPool, url string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader("the body"))
	if err != nil {
		return 0, "", err
	}
	res, err := cp.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, MaxBody))
	return res.StatusCode, string(b), err
}

func TestConnsAreReused(t *testing.T) {
	const (
		ok    = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		empty = "HTTP/1.1 204 No Content\r\n\r\n"
	)
	closed := func(net.Conn, *bufio.Reader) {}
	for _, tt := range []struct {
		name    string
		scripts []func(net.Conn, *bufio.Reader)
		want    []string // status and body, or a part of an error
		dialed  int
	}{
		{"kept", []func(net.Conn, *bufio.Reader){replyWith(ok, empty, ok)}, []string{"200 ok", "204 ", "200 ok"}, 1},
		{"chunked", []func(net.Conn, *bufio.Reader){replyWith("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", ok)}, []string{"200 ok", "200 ok"}, 1},
		{"hints come first", []func(net.Conn, *bufio.Reader){replyWith("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+ok, ok)}, []string{"200 ok", "200 ok"}, 1},
		{"Connection: close", []func(net.Conn, *bufio.Reader){replyWith("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"), replyWith(ok)}, []string{"200 ok", "200 ok"}, 2},
		{"HTTP/1.0", []func(net.Conn, *bufio.Reader){replyWith("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"), replyWith(ok)}, []string{"200 ok", "200 ok"}, 2},
		{"more than is read", []func(net.Conn, *bufio.Reader){
			replyWith("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000)), replyWith(ok),
		}, []string{"200 " + strings.Repeat("x", MaxBody), "200 ok"}, 2},
		{"more than was announced", []func(net.Conn, *bufio.Reader){replyWith(ok + "HTTP/1.1 500 Not Asked\r\n\r\n"), replyWith(ok)}, []string{"200 ok", "200 ok"}, 2},
		{"another protocol", []func(net.Conn, *bufio.Reader){replyWith("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), replyWith(ok)}, []string{"101 ", "200 ok"}, 2},
		{"closed while it was kept", []func(net.Conn, *bufio.Reader){func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.CopyN(io.Discard, r, int64(len("the body")))
			io.WriteString(c, ok)
		}, replyWith(ok)}, []string{"200 ok", "200 ok"}, 2},
		{"closed at once", []func(net.Conn, *bufio.Reader){closed}, []string{"closed the connection without a response", "closed the connection without a response"}, 2},
		{"closed within the head", []func(net.Conn, *bufio.Reader){func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.CopyN(io.Discard, r, int64(len("the body")))
			io.WriteString(c, "HTTP/1.1 200 O")
		}}, []string{"read response: it is not HTTP: unexpected EOF"}, 1},
		{"answered before it was sent", []func(net.Conn, *bufio.Reader){func(c net.Conn, r *bufio.Reader) {
			r.Peek(1)
			go io.Copy(io.Discard, r)
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}, replyWith(ok)}, []string{"413 ", "200 ok"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &fakePeer{t: t, scripts: tt.scripts}
				cp := newConnPool(p.dialScript, nil)
				defer cp.close()
				for i, want := range tt.want {
					wantAnswer(t, cp, i, want)
					synctest.Wait() // all connections are closed that will be
				}
				if p.dialed != tt.dialed {
					t.Errorf("%d connections were made, want %d", p.dialed, tt.dialed)
				}
			})
		})
	}
}

// An idle connection is closed after a while, and when the pool is closed.
func TestConnsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int32
		p := &fakePeer{t: t, scripts: []func(net.Conn, *bufio.Reader){func(c net.Conn, r *bufio.Reader) {
			open.Add(1)
			replyWith("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n")(c, r)
			open.Add(-1)
		}}}
		cp := newConnPool(p.dialScript, nil)
		ask := func() {
			t.Helper()
			if status, _, err := sendPOST(t.Context(), cp); status != 204 {
				t.Fatal(status, err)
			}
			synctest.Wait()
		}
		ask()
		time.Sleep(connIdleTimeout - time.Second)
		ask()
		time.Sleep(connIdleTimeout - time.Second)
		if p.dialed != 1 || open.Load() != 1 {
			t.Errorf("%d connections were made and %d are open, want the one that was used in time", p.dialed, open.Load())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if open.Load() != 0 {
			t.Errorf("%d connections are open that nobody uses", open.Load())
		}
		ask()
		cp.close()
		synctest.Wait()
		if p.dialed != 2 || open.Load() != 0 {
			t.Errorf("%d connections were made and %d are open after the end, want 2 and none", p.dialed, open.Load())
		}
	})
}

// A canceled request closes its connection, whatever it waits for.
func TestCanceledRequestClosesConn(t *testing.T) {
	for name, answer := range map[string]string{"no answer": "", "half a head": "HTTP/1.1 200", "half a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := false
				p := &fakePeer{t: t, scripts: []func(net.Conn, *bufio.Reader){func(c net.Conn, r *bufio.Reader) {
					replyWith(answer)(c, r)
					ended = true
				}}}
				cp := newConnPool(p.dialScript, nil)
				defer cp.close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				if _, _, err := sendPOST(ctx, cp); err == nil {
					t.Error("it did not fail")
				}
				synctest.Wait()
				if took := time.Since(begin); took != time.Minute || !ended {
					t.Errorf("after %v the connection is closed: %v", took, ended)
				}
			})
		})
	}
}

// wantAnswer sends request i, from 0, and checks its status and body, or that its error
// contains want.
func wantAnswer(t *testing.T, cp *connPool, i int, want string) {
	t.Helper()
	status, body, err := sendPOST(t.Context(), cp)
	got := fmt.Sprint(status, " ", body)
	if err != nil {
		got = err.Error()
	}
	if got != want && (err == nil || !strings.Contains(got, want)) {
		t.Errorf("request %d: got %.80q, want %.80q", i+1, got, want)
	}
}
