package notify

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

	"bellhop/dialog"
)

// attemptOnce makes one attempt at a hangup.
func attemptOnce(t *testing.T, n *Notifier, s Subscription) *attempt {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	e := callOf(1)[2]
	a := &attempt{plannedAttempt: plannedAttempt{kind: dialog.Hangup, retention: durable, sub: &s, url: u, event: &e}}
	n.sender.makeAttempt(t.Context(), n, a)
	return a
}

// newUnstored returns a notifier without a store, which can only make attempts. The dialect
// must not need extension numbers.
func newUnstored(c Config) *Notifier { return &Notifier{config: c, sender: newSender(c)} }

// A hostile receiver costs an attempt its timeout at most, and a few kilobytes.
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
		name    string
		serve   func(net.Conn) // called when the request has been read
		outcome outcome
		detail  string
		took    time.Duration
	}{
		{"answers 200", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }, delivered, "200 OK", 0},
		{"silent", func(c net.Conn) { c.Read(make([]byte, 1)) }, willRetry, "no response within 15s", 15 * time.Second},
		{"hangs up", func(net.Conn) {}, willRetry, "the receiver closed the connection without a response: EOF", 0},
		{"drips its head", func(c net.Conn) { drip(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n") }, willRetry, "no response within 15s", 15 * time.Second},
		{"drips its body", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
			drip(c, strings.Repeat("x", 4000))
		}, delivered, "200 OK", time.Second},
		{"drips its body, late", func(c net.Conn) {
			time.Sleep(14500 * time.Millisecond)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
			drip(c, strings.Repeat("x", 4000))
		}, delivered, "200 OK", 15 * time.Second},
		{"drips its chunks", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
			drip(c, strings.Repeat("1\r\nx\r\n", 100))
		}, willRetry, "500 No", time.Second},
		{"10 GB", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", strings.Repeat("x", 1000))
		}, delivered, "200 OK", 0},
		{"without end", func(c net.Conn) { flood(c, "HTTP/1.0 200 OK\r\n\r\n", strings.Repeat("x", 1000)) }, delivered, "200 OK", 0},
		{"chunks without end", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1;"+strings.Repeat("x", 1000)+"\r\nx\r\n")
		}, delivered, "200 OK", 0},
		{"one chunk extension without end", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "xxxxxxxxxx")
		}, delivered, "200 OK", 0},
		{"trailers without end", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n0\r\n", "X-A: b\r\n")
		}, delivered, "200 OK", 0},
		{"less than it says", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\nok") }, delivered, "200 OK", 0},
		{"header fields without end", func(c net.Conn) { flood(c, "HTTP/1.1 200 OK\r\n", "X-A: b\r\n") },
			delivered, "200 OK", 0},
		{"a header field without end", func(c net.Conn) { flood(c, "HTTP/1.1 200 OK\r\nX-A: ", "bbbbbbbb") },
			delivered, "200 OK", 0},
		{"a status line without end", func(c net.Conn) { flood(c, "HTTP/1.1 200 ", "OK") },
			willRetry, "read response: its head is longer than 16384 bytes", 0},
		{"early hints without end", func(c net.Conn) { flood(c, "", "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n") },
			willRetry, "read response: its head is longer than 16384 bytes", 0},
		{"17 KB of header", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: "+strings.Repeat("b", 17<<10)+"\r\n\r\n")
		}, delivered, "200 OK", 0},
		{"17 KB of header after a 500", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 0\r\nX-A: "+strings.Repeat("b", 17<<10)+"\r\n\r\n")
		}, willRetry, "500 No", 0},
		{"another protocol", func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_10.0\r\n") },
			willRetry, "read response: it is not HTTP: malformed HTTP response \"SSH-2.0-OpenSSH_10.0\"", 0},
		{"switches protocols", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			c.Read(make([]byte, 1))
		}, willRetry, "101 Switching Protocols", 0},
		{"a gzip bomb", func(c net.Conn) {
			flood(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "\x1f\x8b\b\x00\x00\x00\x00\x00")
		}, delivered, "200 OK", 0},
		{"a redirect to loopback", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
		}, willRetry, "307 Temporary Redirect", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newUnstored(Config{})
				var written atomic.Int64
				var serving sync.WaitGroup
				dials := 0
				n.sender.httpConns.dial = func(_ context.Context, _, addr string) (net.Conn, error) {
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
				s := testSubscription("", "http://crm.example/hook")
				s.Dialect = Unified
				s.Method = http.MethodGet
				begin := time.Now()
				a := attemptOnce(t, n, s)
				if a.outcome != tt.outcome || a.detail != tt.detail {
					t.Errorf("%v, %q; want %v, %q", a.outcome, a.detail, tt.outcome, tt.detail)
				}
				if took := time.Since(begin); took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				n.sender.close()
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
	r := newReceiver(t, nil)
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "s3cret"})
		w.Header().Set("Alt-Svc", `h2=":1"`)
		w.Header().Set("Strict-Transport-Security", "max-age=1000")
		r.ServeHTTP(w, req)
	})
	n := newUnstored(Config{Allow: loopback, Version: "v1"})
	defer n.sender.close()
	s := testSubscription("a", r.URL)
	s.Dialect, s.Method = Unified, http.MethodPost
	for range 3 {
		if a := attemptOnce(t, n, s); a.outcome != delivered {
			t.Fatalf("%v: %s", a.outcome, a.detail)
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
		n := newUnstored(Config{Allow: loopback})
		s := testSubscription("a", r.URL)
		s.Dialect = Unified
		if a := attemptOnce(t, n, s); a.outcome != willRetry || !strings.Contains(a.detail, tt.want) {
			t.Errorf("%s: %v, %q; want %q", tt.name, a.outcome, a.detail, tt.want)
		}
		n.sender.close()
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
	s := testSubscription("a", "http://rebind.example.:"+port+"/")
	s.Dialect, s.Method = Unified, http.MethodGet

	config.Resolver = newNameServer(t, func(_ string, n int) []string {
		if n == 1 {
			return []string{"127.0.0.9"}
		}
		return []string{"127.0.0.1"}
	})
	n := newUnstored(config)
	defer n.sender.close()
	if a := attemptOnce(t, n, s); a.outcome != delivered {
		t.Fatalf("the first attempt: %v, %s", a.outcome, a.detail)
	}
	for range 3 {
		if a := attemptOnce(t, n, s); a.outcome != willRetry || !strings.Contains(a.detail, "egress to 127.0.0.1:"+port+" is refused") {
			t.Fatalf("after the name has changed: %v, %q", a.outcome, a.detail)
		}
	}

	srv.Close() // the allowed address does not answer: the other one is tried
	config.Resolver = newNameServer(t, func(string, int) []string { return []string{"127.0.0.9", "127.0.0.1"} })
	n = newUnstored(config)
	defer n.sender.close()
	if a := attemptOnce(t, n, s); a.outcome != willRetry || a.detail == "" {
		t.Fatalf("of two addresses: %v, %q", a.outcome, a.detail)
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
	n, machine := newUnstored(config), newUnstored(Config{})
	defer n.sender.close()
	defer machine.sender.close()
	for _, tt := range []struct {
		host  string
		saved bool   // Validate accepts it
		to    string // the denied address; "": it is no host name
	}{
		{"127.0.0.1", true, "127.0.0.1"},
		{"127.0.0.1:8080", true, "127.0.0.1"},
		{"127.1", true, "127.0.0.1"},
		{"127.0.1", true, "127.0.0.1"},
		{"2130706433", true, "127.0.0.1"},
		{"0x7f000001", true, "127.0.0.1"},
		{"0x7f.1", true, "127.0.0.1"},
		{"0x7F.0X0.0x0.0x1", true, "127.0.0.1"},
		{"0177.0.0.1", true, "127.0.0.1"},
		{"017700000001", true, "127.0.0.1"},
		{"127.000.000.001", true, "127.0.0.1"},
		{"127.0.0.1.", true, "127.0.0.1"},
		{"2852039166", true, "169.254.169.254"},
		{"169.254.43518", true, "169.254.169.254"},
		{"169.254.169.254", true, "169.254.169.254"},
		{"metadata.google.internal", true, "169.254.169.254"},
		{"metadata.google.internal.", true, "169.254.169.254"},
		{"localhost", true, "127.0.0.1"},
		{"LOCALHOST", true, "127.0.0.1"},
		{"localhost.", true, "127.0.0.1"},
		{"localhost.localdomain", true, "127.0.0.1"},
		{"127.0.0.1.nip.example", true, "127.0.0.1"},
		{"xn--80ak6aa92e.example", true, "127.0.0.1"},
		{"0", true, "0.0.0.0"},
		{"0.0.0.0", true, "0.0.0.0"},
		{"255.255.255.255", true, "255.255.255.255"},
		{"224.0.0.1", true, "224.0.0.1"},
		{"[::ffff:127.0.0.1]", true, "127.0.0.1"},
		{"[::ffff:7f00:1]", true, "127.0.0.1"},
		{"[0:0:0:0:0:FFFF:7F00:0001]", true, "127.0.0.1"},
		{"[::ffff:0:0]", true, "0.0.0.0"},
		{"[::ffff:a9fe:a9fe]", true, "169.254.169.254"},
		{"[::1]", true, "[::1]"},
		{"[0:0:0:0:0:0:0:1]", true, "[::1]"},
		{"[::]", true, "[::]"},
		{"[::127.0.0.1]", true, "[::7f00:1]"},
		{"[64:ff9b::127.0.0.1]", true, "[64:ff9b::7f00:1]"},
		{"[fd00:ec2::254]", true, "[fd00:ec2::254]"},

		// Not ASCII: refused by Validate, and denied if they were stored before.
		{"１２７.０.０.１", false, "127.0.0.1"},
		{"①②⑦.⓪.⓪.①", false, "127.0.0.1"},
		{"127。0。0。1", false, "127.0.0.1"},
		{"ｌｏｃａｌｈｏｓｔ", false, "127.0.0.1"},
		{"ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", false, "127.0.0.1"},
		{"%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", true, "127.0.0.1"}, // full-width digits, escaped

		// The user part is no host.
		{"crm.example@127.0.0.1", false, "127.0.0.1"},
		{"crm.example:80@127.0.0.1", false, "127.0.0.1"},
		{"crm.example%40127.0.0.1", false, ""},
		{"%31%32%37.0.0.1", false, ""},
		{"127.0.0.1%00.crm.example", false, ""},
		{"crm.example\\@127.0.0.1", false, ""},
		{"[::1%25lo]", true, "[::1"},
		{"[fe80::1%25lo]", true, "[fe80::1%lo]"},
	} {
		s := testSubscription("a", "http://"+tt.host+"/")
		s.Dialect, s.Method = Unified, http.MethodGet
		if err := s.Validate(); (err == nil) != tt.saved {
			t.Errorf("%s is saved: %v", tt.host, err)
		}
		if _, err := url.Parse(s.URL); err != nil {
			if tt.to != "" {
				t.Errorf("%s: %v", tt.host, err)
			}
			continue
		}
		a := attemptOnce(t, n, s)
		if strings.Trim(tt.host, ".0123456789") == "" && strings.Contains(a.detail, "no such host") {
			// To Go it is neither name nor address; to the C library it is an address.
			if a = attemptOnce(t, machine, s); strings.Contains(a.detail, "no such host") {
				continue
			}
		}
		if want := cmp.Or(tt.to, "no address at all"); a.outcome != willRetry || !strings.Contains(a.detail, fmt.Sprintf("egress to %s", want)) || !strings.Contains(a.detail, "refused") {
			t.Errorf("%s: %v, %q; want %s refused", tt.host, a.outcome, a.detail, want)
		}
	}
}
