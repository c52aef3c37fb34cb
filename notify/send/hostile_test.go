package send

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sendTo sends r to a URL, within 15 seconds.
func sendTo(t *testing.T, s *Sender, r Request, to string) Result {
	t.Helper()
	var err error
	if r.URL, err = url.Parse(to); err != nil {
		t.Fatal(err)
	}
	r.Method = cmp.Or(r.Method, http.MethodPost)
	if r.Header == nil {
		r.Header = http.Header{"Webhook-Id": {"e-s"}}
	}
	if r.Method != http.MethodGet {
		r.Body = []byte("the body")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	return s.Send(ctx, cancel, &r)
}

// textOf returns the error of a result, or its status.
func textOf(r Result) string {
	if r.Err != nil {
		return r.Err.Error()
	}
	return r.Status
}

// A hostile receiver costs a request its timeout at most, and a few kilobytes.
func TestHostileReceivers(t *testing.T) {
	drip := func(c net.Conn, text string) {
		for i := range text {
			if _, err := c.Write([]byte{text[i]}); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
	flood := func(c net.Conn, begin, text string) {
		io.WriteString(c, begin)
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
	for _, tt := range []struct {
		name   string
		serve  func(net.Conn) // called when the request has been read
		status int            // 0: no response
		want   string
		took   time.Duration
	}{
		{"answers 200", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }, 200, "200 OK", 0},
		{"silent", func(c net.Conn) { c.Read(make([]byte, 1)) }, 0, "context deadline exceeded", 15 * time.Second},
		{"hangs up", func(net.Conn) {}, 0, "the receiver closed the connection without a response: EOF", 0},
		{"drips its head", func(c net.Conn) { drip(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n") }, 0, "context deadline exceeded", 15 * time.Second},
		{"drips its body", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
			drip(c, strings.Repeat("x", 4000))
		}, 200, "200 OK", time.Second},
		{"drips its body, late", func(c net.Conn) {
			time.Sleep(14500 * time.Millisecond)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
			drip(c, strings.Repeat("x", 4000))
		}, 200, "200 OK", 15 * time.Second},
		{"drips its chunks", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
			drip(c, strings.Repeat("1\r\nx\r\n", 100))
		}, 500, "500 No", time.Second},
		{"10 GB", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", strings.Repeat("x", 1000))
		}, 200, "200 OK", 0},
		{"without end", func(c net.Conn) { flood(c, "HTTP/1.0 200 OK\r\n\r\n", strings.Repeat("x", 1000)) }, 200, "200 OK", 0},
		{"chunks without end", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1;"+strings.Repeat("x", 1000)+"\r\nx\r\n")
		}, 200, "200 OK", 0},
		{"one chunk extension without end", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "xxxxxxxxxx")
		}, 200, "200 OK", 0},
		{"trailers without end", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n0\r\n", "X-A: b\r\n")
		}, 200, "200 OK", 0},
		{"less than it says", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\nok") }, 200, "200 OK", 0},
		{"header fields without end", func(c net.Conn) { flood(c, "HTTP/1.1 200 OK\r\n", "X-A: b\r\n") },
			200, "200 OK", 0},
		{"a header field without end", func(c net.Conn) { flood(c, "HTTP/1.1 200 OK\r\nX-A: ", "bbbbbbbb") },
			200, "200 OK", 0},
		{"a status line without end", func(c net.Conn) { flood(c, "HTTP/1.1 200 ", "OK") },
			0, "read response: its head is longer than 16384 bytes", 0},
		{"early hints without end", func(c net.Conn) { flood(c, "", "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n") },
			0, "read response: its head is longer than 16384 bytes", 0},
		{"17 KB of header", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: "+strings.Repeat("b", 17<<10)+"\r\n\r\n")
		}, 200, "200 OK", 0},
		{"17 KB of header after a 500", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 0\r\nX-A: "+strings.Repeat("b", 17<<10)+"\r\n\r\n")
		}, 500, "500 No", 0},
		{"another protocol", func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_10.0\r\n") },
			0, "read response: it is not HTTP: malformed HTTP response \"SSH-2.0-OpenSSH_10.0\"", 0},
		{"switches protocols", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			c.Read(make([]byte, 1))
		}, 101, "101 Switching Protocols", 0},
		{"a gzip bomb", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "\x1f\x8b\b\x00\x00\x00\x00\x00")
		}, 200, "200 OK", 0},
		{"a redirect to loopback", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
		}, 307, "307 Temporary Redirect", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Config{})
				var written atomic.Int64
				var serving sync.WaitGroup
				dials := 0
				s.httpConns.dial = func(_ context.Context, _, addr string) (net.Conn, error) {
					dials++
					if addr != "crm.example:80" {
						t.Errorf("connected to %s", addr)
					}
					ours, theirs := net.Pipe()
					serving.Go(func() {
						defer theirs.Close()
						if _, err := http.ReadRequest(bufio.NewReader(theirs)); err != nil {
							t.Error(err)
						}
						tt.serve(countingConn{theirs, &written})
					})
					return ours, nil
				}
				begin := time.Now()
				res := sendTo(t, s, Request{Method: http.MethodGet}, "http://crm.example/hook")
				if res.StatusCode != tt.status || textOf(res) != tt.want || res.NoConnection {
					t.Errorf("%d, %q; want %d, %q", res.StatusCode, textOf(res), tt.status, tt.want)
				}
				if took := time.Since(begin); took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				s.Close()
				serving.Wait()
				if n := written.Load(); n > 64<<10 {
					t.Errorf("%d bytes were read", n)
				}
				if dials != 1 {
					t.Errorf("%d connections were made", dials)
				}
			})
		})
	}
}

// A countingConn counts the bytes written to it.
type countingConn struct {
	net.Conn
	written *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// A response does not affect later requests, and the environment affects none.
func TestRequestsAreIndependent(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	r := newReceiver(t)
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "s3cret"})
		w.Header().Set("Alt-Svc", `h2=":1"`)
		w.Header().Set("Strict-Transport-Security", "max-age=1000")
		r.ServeHTTP(w, req)
	})
	s := New(Config{Allow: loopback, Version: "v1"})
	defer s.Close()
	for range 3 {
		if res := sendTo(t, s, Request{}, r.URL); res.StatusCode != 200 {
			t.Fatal(textOf(res))
		}
		got := <-r.got
		for _, name := range []string{"Cookie", "Accept-Encoding", "Referer", "Proxy-Authorization", "Authorization"} {
			if v, ok := got.Header[name]; ok {
				t.Errorf("a request has %s: %q", name, v)
			}
		}
		if v := got.UserAgent(); v != "bellhop/v1" {
			t.Errorf("a request is from %q", v)
		}
	}
}

// A receiver must prove its identity, by TLS 1.2 or later.
func TestReceiversAreAuthenticated(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config *tls.Config
		want   string
	}{
		{"signed by nobody known", &tls.Config{}, "certificate signed by unknown authority"},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version"},
	} {
		r := httptest.NewUnstartedServer(http.NotFoundHandler())
		r.TLS = tt.config
		r.Config.ErrorLog = log.New(io.Discard, "", 0)
		r.StartTLS()
		s := New(Config{Allow: loopback})
		if res := sendTo(t, s, Request{}, r.URL); res.Err == nil || !strings.Contains(res.Err.Error(), tt.want) {
			t.Errorf("%s: %q; want %q", tt.name, textOf(res), tt.want)
		}
		s.Close()
		r.Close()
	}
}

// A nameServer is a DNS server on loopback. The function answer returns the addresses for
// the nth question of a name.
type nameServer struct {
	net.PacketConn
	asked atomic.Int64
}

func newNameServer(t *testing.T, answer func(name string, n int) (v4 []string)) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{PacketConn: c}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serveDNS(answer)
	}()
	t.Cleanup(func() { c.Close(); <-ended })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

func (s *nameServer) serveDNS(answer func(string, int) []string) {
	b := make([]byte, 1500)
	for {
		n, from, err := s.ReadFrom(b)
		if err != nil {
			return
		}
		if reply := s.replyQuery(b[:n], answer); reply != nil {
			s.WriteTo(reply, from)
		}
	}
}

// replyQuery answers a query of one question (RFC 1035 §4): A from answer, all other types
// with nothing.
func (s *nameServer) replyQuery(query []byte, answer func(string, int) []string) []byte {
	if len(query) < 12 {
		return nil
	}
	var labels []string
	i := 12
	for i < len(query) && query[i] != 0 {
		n := int(query[i])
		if i+1+n >= len(query) {
			return nil
		}
		labels = append(labels, string(query[i+1:i+1+n]))
		i += 1 + n
	}
	if i+5 > len(query) {
		return nil
	}
	question := query[12 : i+5]
	var addrs []string
	if question[len(question)-3] == 1 { // A
		addrs = answer(strings.Join(labels, "."), int(s.asked.Add(1)))
	}
	reply := append([]byte{query[0], query[1], 0x85, 0x80, 0, 1, 0, byte(len(addrs)), 0, 0, 0, 0}, question...)
	for _, a := range addrs {
		reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name again, A, IN, TTL 0
		reply = append(reply, net.ParseIP(a).To4()...)
	}
	return reply
}

// A name that resolves differently the second time, or to two addresses at once, gains
// nothing. 127.0.0.9 stands for a public address.
func TestDNSRebindingIsDenied(t *testing.T) {
	inside, err := net.Listen("tcp", "127.0.0.1:0") // must not be reached
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	var reached atomic.Bool
	go func() {
		if c, err := inside.Accept(); err == nil {
			reached.Store(true)
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(inside.Addr().String())
	outside, err := net.Listen("tcp", "127.0.0.9:"+port)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // so that the name is looked up again
	})}
	go srv.Serve(outside)
	defer srv.Close()

	config := Config{Allow: parsePrefixes("127.0.0.9/32")}
	to, get := "http://rebind.example.:"+port+"/", Request{Method: http.MethodGet}

	config.Resolver = newNameServer(t, func(_ string, n int) []string {
		if n == 1 {
			return []string{"127.0.0.9"}
		}
		return []string{"127.0.0.1"}
	})
	s := New(config)
	defer s.Close()
	if res := sendTo(t, s, get, to); res.StatusCode != 200 {
		t.Fatalf("the first request: %s", textOf(res))
	}
	for range 3 {
		if res := sendTo(t, s, get, to); !res.NoConnection || !strings.Contains(textOf(res), "egress to 127.0.0.1:"+port+" is refused") {
			t.Fatalf("after the name has changed: %q", textOf(res))
		}
	}

	srv.Close() // the allowed address does not answer: the other one is tried
	config.Resolver = newNameServer(t, func(string, int) []string { return []string{"127.0.0.9", "127.0.0.1"} })
	s = New(config)
	defer s.Close()
	if res := sendTo(t, s, get, to); !res.NoConnection || textOf(res) == "" {
		t.Fatalf("of two addresses: %q", textOf(res))
	}
	if reached.Load() {
		t.Error("the inside was reached")
	}
}

// A denied address is not dialed in any spelling. Names are resolved as by a resolver that
// accepts the old spellings.
func TestAddressSpellingsAreDenied(t *testing.T) {
	config := Config{Resolver: newNameServer(t, func(name string, _ int) []string {
		if strings.HasPrefix(name, "169") || strings.HasPrefix(name, "metadata") || strings.HasPrefix(name, "2852039166") {
			return []string{"169.254.169.254"}
		}
		return []string{"127.0.0.1"}
	})}
	s, machine := New(config), New(Config{})
	defer s.Close()
	defer machine.Close()
	for _, tt := range []struct {
		host string
		to   string // the denied address; "": it is no host name
	}{
		{"127.0.0.1", "127.0.0.1"},
		{"127.0.0.1:8080", "127.0.0.1"},
		{"127.1", "127.0.0.1"},
		{"127.0.1", "127.0.0.1"},
		{"2130706433", "127.0.0.1"},
		{"0x7f000001", "127.0.0.1"},
		{"0x7f.1", "127.0.0.1"},
		{"0x7F.0X0.0x0.0x1", "127.0.0.1"},
		{"0177.0.0.1", "127.0.0.1"},
		{"017700000001", "127.0.0.1"},
		{"127.000.000.001", "127.0.0.1"},
		{"127.0.0.1.", "127.0.0.1"},
		{"2852039166", "169.254.169.254"},
		{"169.254.43518", "169.254.169.254"},
		{"169.254.169.254", "169.254.169.254"},
		{"metadata.google.internal", "169.254.169.254"},
		{"metadata.google.internal.", "169.254.169.254"},
		{"localhost", "127.0.0.1"},
		{"LOCALHOST", "127.0.0.1"},
		{"localhost.", "127.0.0.1"},
		{"localhost.localdomain", "127.0.0.1"},
		{"127.0.0.1.nip.example", "127.0.0.1"},
		{"xn--80ak6aa92e.example", "127.0.0.1"},
		{"0", "0.0.0.0"},
		{"0.0.0.0", "0.0.0.0"},
		{"255.255.255.255", "255.255.255.255"},
		{"224.0.0.1", "224.0.0.1"},
		{"[::ffff:127.0.0.1]", "127.0.0.1"},
		{"[::ffff:7f00:1]", "127.0.0.1"},
		{"[0:0:0:0:0:FFFF:7F00:0001]", "127.0.0.1"},
		{"[::ffff:0:0]", "0.0.0.0"},
		{"[::ffff:a9fe:a9fe]", "169.254.169.254"},
		{"[::1]", "[::1]"},
		{"[0:0:0:0:0:0:0:1]", "[::1]"},
		{"[::]", "[::]"},
		{"[::127.0.0.1]", "[::7f00:1]"},
		{"[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]"},
		{"[fd00:ec2::254]", "[fd00:ec2::254]"},

		// Not ASCII: refused in new subscriptions, and denied if they were stored before.
		{"１２７.０.０.１", "127.0.0.1"},
		{"①②⑦.⓪.⓪.①", "127.0.0.1"},
		{"127。0。0。1", "127.0.0.1"},
		{"ｌｏｃａｌｈｏｓｔ", "127.0.0.1"},
		{"ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "127.0.0.1"},
		{"%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", "127.0.0.1"}, // full-width digits, escaped

		// The user part is no host.
		{"crm.example@127.0.0.1", "127.0.0.1"},
		{"crm.example:80@127.0.0.1", "127.0.0.1"},
		{"crm.example%40127.0.0.1", ""},
		{"%31%32%37.0.0.1", ""},
		{"127.0.0.1%00.crm.example", ""},
		{"crm.example\\@127.0.0.1", ""},
		{"[::1%25lo]", "[::1"},
		{"[fe80::1%25lo]", "[fe80::1%lo]"},
	} {
		to := "http://" + tt.host + "/"
		if _, err := url.Parse(to); err != nil {
			if tt.to != "" {
				t.Errorf("%s: %v", tt.host, err)
			}
			continue
		}
		res := sendTo(t, s, Request{Method: http.MethodGet}, to)
		if strings.Trim(tt.host, ".0123456789") == "" && strings.Contains(textOf(res), "no such host") {
			// To Go it is neither name nor address; to the C library it is an address.
			if res = sendTo(t, machine, Request{Method: http.MethodGet}, to); strings.Contains(textOf(res), "no such host") {
				continue
			}
		}
		if want := cmp.Or(tt.to, "no address at all"); res.Err == nil || !strings.Contains(textOf(res), fmt.Sprintf("egress to %s", want)) || !strings.Contains(textOf(res), "refused") {
			t.Errorf("%s: %q; want %s refused", tt.host, textOf(res), want)
		}
	}
}
