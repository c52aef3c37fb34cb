package store

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"bellhop/admin"
	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog"
	"bellhop/dialog/keep"
	"bellhop/notify"
)

// natsErrors are the errors of NATS servers: those that nats-server sends and those that
// nats.go distinguishes.
var natsErrors = []string{
	"Unknown Protocol Operation", "Attempted To Connect To Route Port", "Authorization Violation",
	"Authorization Timeout", "Invalid Client Protocol", "Maximum Control Line Exceeded",
	"maximum control line exceeded", "maximum control line exceeded: State 6, max_control_line 4096, Buffer len 0 (snip: x...)",
	"Parser Error", "Secure Connection - TLS Required", "Stale Connection", "Maximum Connections Exceeded",
	"maximum account active connections exceeded", "maximum subscriptions exceeded", "Slow Consumer",
	"Maximum Payload Violation", "Invalid Subject", "Invalid Publish Subject", "Invalid Subscription",
	"Failed Account Registration", "No Responders Requires Headers Support", "Message Header Exceeds Limit",
	"Connection throttling is active. Please try again later.", "Server Shutdown",
	"User Authentication Expired", "User Authentication Revoked", "Account Authentication Expired",
	"Account Authentication Revoked", "User Authentication Expired, again", "Credentials have been revoked",
	"Permissions Violation for Subscription to \"heard\" (sid \"1\")",
	"Permissions Violation for Publish to \"$JS.API.INFO\"",
	"nothing that anybody knows", "", "'",
}

// ill are malformed answers of a fake server.
type ill struct {
	name   string
	early  bool // in place of the PONG that ends the connect; else behind it
	text   string
	closes bool // and closes the connection
}

func ills() (all []ill) {
	for _, early := range []bool{true, false} {
		for _, e := range natsErrors {
			for _, closes := range []bool{true, false} {
				all = append(all, ill{e, early, "-ERR '" + e + "'\r\n", closes})
			}
		}
		for name, text := range map[string]string{
			"bare error":      "-ERR\r\n",
			"error, half":     "-ERR 'Author",
			"garbage":         "\x00\x01\xff\xfe\r\n\r\n",
			"HTTP":            "HTTP/1.1 400 Bad Request\r\n\r\n",
			"half a message":  "MSG heard 1 5\r\nhe",
			"negative size":   "MSG heard 1 -5\r\n",
			"monstrous size":  "MSG heard 1 99999999999999999999\r\n",
			"no size":         "MSG heard\r\n",
			"bad header size": "HMSG heard 1 99 5\r\nhello\r\n",
			"bad INFO":        "INFO {\"max_payload\":\r\n",
			"nothing":         "",
			"error in a line": "PING\r\nPONG\r\n-ERR 'Parser Error'\r\nMSG heard 1 5\r\nhello\r\n",
			"error and lies":  "MSG heard 1 2\r\n-ERR 'Parser Error'\r\n",
		} {
			all = append(all, ill{name, early, text, true})
		}
	}
	return all
}

// breakSubject is the subject on which a client asks a fakeServer to end its connection.
const breakSubject = "break"

// A fakeServer speaks enough of the NATS protocol for a client to receive its own
// messages. The first connection works; later ones get an error or malformed data.
type fakeServer struct {
	net.Listener
	ails []ill
}

func newFakeServer(t *testing.T, ails ...ill) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{l, ails}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var a *ill
			if i > 0 && i <= len(ails) {
				a = &ails[i-1]
			}
			serving.Go(func() { defer conn.Close(); f.serve(conn, a) })
		}
	})
	return f
}

// serve serves one client until the connection ends.
func (f *fakeServer) serve(conn net.Conn, a *ill) {
	fmt.Fprintf(conn, "INFO {\"server_id\":\"fake\",\"max_payload\":1048576,\"headers\":true,\"proto\":1}\r\n")
	sids := make(map[string]string) // by subject
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch words := strings.Fields(line); words[0] {
		case "PING":
			if a == nil || !a.early {
				io.WriteString(conn, "PONG\r\n")
			}
			if a != nil {
				io.WriteString(conn, a.text)
				if a.closes {
					return
				}
				a = nil
			}
		case "SUB":
			sids[words[1]] = words[len(words)-1]
		case "PUB":
			size, _ := strconv.Atoi(words[len(words)-1])
			payload := make([]byte, size+2)
			if _, err := io.ReadFull(r, payload); err != nil {
				return
			}
			if words[1] == breakSubject {
				return
			}
			if sid, ok := sids[words[1]]; ok {
				fmt.Fprintf(conn, "MSG %s %s %d\r\n%s", words[1], sid, size, payload)
			}
		}
	}
}

// wantWhole publishes until a subscription receives the message.
func wantWhole(nc *nats.Conn, sub *nats.Subscription, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for ctx.Err() == nil {
		if nc.IsClosed() {
			return fmt.Errorf("the connection is closed for good: %w", nc.LastError())
		}
		nc.Publish(sub.Subject, []byte(text))
		for {
			m, err := sub.NextMsg(20 * time.Millisecond)
			if err != nil {
				break
			}
			if string(m.Data) == text {
				return nil
			}
		}
	}
	return fmt.Errorf("nothing is heard: the connection is %s, %w", nc.Status(), nc.LastError())
}

// TestServerErrorsReconnect has a server send every error, while connecting or
// afterwards, twice in a row: the client reconnects with its subscriptions.
func TestServerErrorsReconnect(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	for _, a := range ills() {
		f := newFakeServer(t, a, a)
		c := storetest.Config("")
		c.Store.NATS = []config.NATSURL{config.NATSURL("nats://" + f.Addr().String())}
		all.Go(func() {
			nc, err := connectStore(c, nil, quiet())
			if err != nil {
				t.Errorf("%+v: %v", a, err)
				return
			}
			defer nc.Close()
			sub, err := nc.SubscribeSync("heard")
			if err != nil {
				t.Errorf("%+v: %v", a, err)
				return
			}
			err = errors.Join(wantWhole(nc, sub, "at first"), nc.Publish(breakSubject, nil), wantWhole(nc, sub, "again"))
			if err != nil {
				t.Errorf("%+v: %v", a, err)
			}
		})
	}
}

// TestLongLineKeepsStoreConnected has real servers reject a line that is too long, over
// each kind of connection.
func TestLongLineKeepsStoreConnected(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil) // has a certificate
	defer web.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(web.Certificate())
	cert := &tls.Config{Certificates: web.TLS.Certificates}
	for _, tt := range []struct {
		scheme string
		o      server.Options
	}{
		{"nats", server.Options{}},
		{"nats", server.Options{TLSConfig: cert}}, // that requires it
		{"tls", server.Options{TLSConfig: cert}},
		{"tls", server.Options{TLSConfig: cert, AllowNonTLS: true}},
		{"ws", server.Options{Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true}}},
		{"wss", server.Options{Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: -1, TLSConfig: cert}}},
	} {
		t.Run(tt.scheme, func(t *testing.T) {
			tt.o.Host, tt.o.Port = "127.0.0.1", -1
			srv := storetest.StartServer(t, &tt.o)
			at := srv.ClientURL()
			if strings.HasPrefix(tt.scheme, "ws") {
				at = srv.WebsocketURL()
			}
			u, err := url.Parse(at)
			if err != nil {
				t.Fatal(err)
			}
			c := storetest.Config("")
			c.Store.NATS = []config.NATSURL{config.NATSURL(tt.scheme + "://" + u.Host)}
			dialer, urls, err := newServerDialer(c.Store.NATS)
			if err != nil {
				t.Fatal(err)
			}
			dialer.config = &tls.Config{RootCAs: trusted}
			wantLongLine(t, urls, nats.SetCustomDialer(dialer), nats.SkipHostLookup())
		})
	}
	t.Run("embedded", func(t *testing.T) {
		m := newSupervisor(storetest.Config(t.TempDir()), quiet())
		if err := m.startEmbedded(); err != nil {
			t.Fatal(err)
		}
		defer m.stopEmbedded()
		wantLongLine(t, "", nats.InProcessServer(m), nats.ReconnectBufSize(-1))
	})
}

// wantLongLine connects, sends a line that every server rejects, and waits for the
// reconnection.
func wantLongLine(t *testing.T, urls string, options ...nats.Option) {
	t.Helper()
	broken := make(chan error, 1)
	options = append(options, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { broken <- err }))
	nc, err := nats.Connect(urls, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub, err := nc.SubscribeSync("heard")
	if err != nil {
		t.Fatal(err)
	}
	if err := wantWhole(nc, sub, strings.Repeat("at first\r\n-ERR 'x'\r\n", 10_000)); err != nil {
		t.Error(err)
	}
	nc.Publish(strings.Repeat("long", maxControlLine/2), nil) // it breaks before or after that returns
	select {
	case <-broken:
	case <-time.After(patience):
		t.Fatal("a long line is taken")
	}
	if err := wantWhole(nc, sub, "again"); err != nil {
		t.Error(err)
	}
}

// hostileName returns a name with unusual characters.
func hostileName(r *rand.Rand) string {
	alphabets := []string{"x", "1", ".", "*", ">", "é", "\x00", "\xff", "\r\n", " ", "\"", "/", "..", "$JS.API.", "-ERR 'x'\r\n", "\t", "%", "@"}
	lengths := []int{0, 1, 30, 255, 256, 257, 1000, 2300, 2400, 4096, 9000, 14_000}
	var name strings.Builder
	most := lengths[r.IntN(len(lengths))]
	alphabet, mixed := alphabets[r.IntN(len(alphabets))], r.IntN(3) == 0
	if r.IntN(2) == 0 {
		alphabet, mixed = "1", false // as a name is
	}
	for name.Len()+len(alphabet) <= most {
		name.WriteString(alphabet)
		if mixed && r.IntN(8) == 0 {
			alphabet = alphabets[r.IntN(len(alphabets))]
		}
	}
	return name.String()
}

// TestNamesOfAnyLengthKeepStoreConnected uses calls and requests with names of all
// lengths and kinds: the connection to the embedded server stays up.
func TestNamesOfAnyLengthKeepStoreConnected(t *testing.T) {
	t.Parallel()
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	st := opened(t, storetest.Config(t.TempDir()))
	n, err := notify.Open(t.Context(), st, notify.Config{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(StartTask(func(ctx context.Context) { n.Run(ctx) }))
	keeper, err := keep.Open(t.Context(), st, keep.Config{Node: "N", OldestUnpublished: n.EventLog.OldestUnpublished, LogEnd: n.EventLog.End, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(StartTask(func(ctx context.Context) { keeper.Run(ctx) }))
	tracker := dialog.New(dialog.Config{Pattern: regexp.MustCompile(`(?s)^.*$`), Learn: true})
	if err := tracker.Restore("", nil, nil); err != nil {
		t.Fatal(err)
	}
	api, err := admin.Open(t.Context(), st, admin.Config{Token: "token", Config: ops.Config{Notifier: n, Log: quiet()}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string, header ...string) {
		u := &url.URL{Path: path}
		req := httptest.NewRequest(method, "http://bellhop/", strings.NewReader(body))
		req.URL.RawPath, req.URL.Path = u.EscapedPath(), path
		if path, query, found := strings.Cut(path, "?"); found {
			key, value, _ := strings.Cut(query, "=")
			req.URL.RawPath, req.URL.Path, req.URL.RawQuery = "", path, key+"="+url.QueryEscape(value)
		}
		req.RemoteAddr = "127.0.0.1:1"
		req.Header.Set("Authorization", "Bearer token")
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		answer := httptest.NewRecorder()
		api.Handler().ServeHTTP(answer, req.WithContext(t.Context()))
		if answer.Code >= 500 && answer.Code != http.StatusNotImplemented {
			t.Errorf("%s %.100q: %d %.300s", method, path, answer.Code, answer.Body)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	name := func() string { return hostileName(random) }
	observe := func(m dialog.Message) {
		m.At = time.Now()
		n.EventLog.Append(tracker.Observe(m))
	}
	for range rounds {
		head := fmt.Sprintf("From: %q <sip:%s@%s>\r\nTo: <sip:%s@%s>\r\nContact: <sip:%s@%s>\r\nDiversion: <sip:%s@x>\r\n",
			name(), name(), name(), name(), name(), name(), name(), name())
		m := dialog.Message{Src: dialog.Edge, Dst: dialog.PBX, Method: "INVITE", CallID: name(), FromTag: name(), Branch: name(), AOR: name() + "@" + name(), CSeq: 1}
		if random.IntN(2) == 0 {
			m.Src, m.Dst = dialog.PBX, dialog.Edge
		}
		observe(dialog.Message{Src: dialog.PBX, Dst: dialog.Edge, Method: "REGISTER", Status: 200, CallID: m.CallID, Head: "SIP/2.0 200 OK\r\n" + head})
		m.Head = "INVITE sip:" + name() + "@" + name() + " SIP/2.0\r\n" + head
		observe(m)
		answer := m
		answer.Src, answer.Dst, answer.ToTag = m.Dst, m.Src, name()
		for _, status := range []int{180, 200} {
			answer.Status, answer.Head = status, fmt.Sprintf("SIP/2.0 %d X\r\n%s", status, head)
			observe(answer)
		}
		now := time.Now()
		keeper.Put(tracker.Changed(now), now, now)
		bye := m
		bye.Method, bye.ToTag, bye.CSeq, bye.Head = "BYE", answer.ToTag, 2, "BYE sip:x SIP/2.0\r\n"+head
		observe(bye)
		keeper.Put(tracker.Changed(now), now, now)

		for _, path := range []string{"/v1/subscriptions/", "/v1/deliveries/", "/v1/calls/", "/v1/extensions/", "/v1/tokens/", "/v1/events?since=", "/v1/events?call=", "/v1/events?extension=",
			"/v1/subscriptions?cursor=", "/v1/deliveries?cursor=", "/v1/audit?cursor=", "/v1/subscriptions?type=", "/api/ver1.0/extension/@"} {
			ask("GET", path+name(), "")
		}
		ask("GET", "/v1/calls/"+name()+"/trace", "")
		ask("GET", "/uapi/extensions/@me/"+name()+"/phoneCallEvents/"+name(), "")
		ask("DELETE", "/uapi/extensions/@me/"+name()+"/phoneCallEvents/0/"+name(), "")
		ask("GET", "/api/ver1.0/extension/"+name()+"/event/"+name(), "")
		ask("GET", "/v1/events", "", "Accept", "text/event-stream", "Last-Event-ID", "x"+name())
		ask("POST", "/v1/deliveries/"+name()+"/redeliver", "", "Idempotency-Key", name())
		body, _ := json.Marshal(map[string]any{"extension": name(), "types": []string{name()}, "url": "http://" + name(), "note": name()})
		ask("POST", "/v1/subscriptions", string(body), "Idempotency-Key", name())
		body, _ = json.Marshal(map[string]any{"extension": "1" + name(), "types": []string{"hangup"}, "url": "http://127.0.0.1/", "note": name()})
		ask("POST", "/v1/subscriptions", string(body))
		body, _ = json.Marshal(map[string]any{"note": name(), "scope": "read", "extensions": []string{name()}})
		ask("POST", "/v1/tokens", string(body))
	}
	observe(dialog.Message{Src: dialog.Edge, Dst: dialog.PBX, Method: "INVITE", CallID: "good", FromTag: "1", Branch: "b", Head: "INVITE sip:2@pbx SIP/2.0\r\nFrom: <sip:1@pbx>\r\nTo: <sip:2@pbx>\r\n"})
	observe(dialog.Message{Src: dialog.PBX, Dst: dialog.Edge, Method: "INVITE", Status: 486, CallID: "good", FromTag: "1", ToTag: "2", Branch: "b", Head: "SIP/2.0 486 Busy Here\r\nFrom: <sip:1@pbx>\r\nTo: <sip:2@pbx>\r\n"})
	deadline := time.Now().Add(patience)
	for (n.Stats().Unpublished > 0 || keeper.Pending() > 0) && time.Now().Before(deadline) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	if s := n.Stats(); s.Unpublished > 0 || s.Published == 0 || s.Dropped > 0 || s.Panics > 0 {
		t.Errorf("%d events published, %d unpublished, %d dropped, %d panics", s.Published, s.Unpublished, s.Dropped, s.Panics)
	}
	if w := keeper.Pending(); w > 0 {
		t.Errorf("%d live calls are not kept", w)
	}
	events, _, err := n.Events(t.Context(), notify.Query{Extension: "1@pbx", Limit: 10})
	if err != nil || len(events) == 0 {
		t.Errorf("of a good call there are %d events, %v", len(events), err)
	}
	if nc := st.Conn(); nc.IsClosed() || nc.Stats().Reconnects > 0 {
		t.Errorf("the connection was made anew %d times: %v", nc.Stats().Reconnects, nc.LastError())
	}
	t.Logf("%d events", n.Stats().Published)
}

// TestVerifiesServerNames expects a certificate for the configured name of a server.
// That of a server that another one announced by its address must have the name of a
// configured server.
func TestVerifiesServerNames(t *testing.T) {
	for _, tt := range []struct {
		servers    []config.NATSURL
		host, want string
	}{
		{[]config.NATSURL{"tls://a.example:4222"}, "a.example", "a.example"},
		{[]config.NATSURL{"tls://192.0.2.1:4222", "tls://a.example"}, "192.0.2.1", "192.0.2.1"},
		{[]config.NATSURL{"tls://192.0.2.1:4222", "tls://a.example"}, "192.0.2.2", "a.example"},
		{[]config.NATSURL{"tls://192.0.2.1:4222"}, "192.0.2.2", "192.0.2.2"},
		{[]config.NATSURL{"wss://[2001:db8::1]"}, "2001:db8::1", "2001:db8::1"},
	} {
		d, _, err := newServerDialer(tt.servers)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.tlsConfig(tt.host).ServerName; got != tt.want {
			t.Errorf("%v: the certificate of %s is for %s, want %s", tt.servers, tt.host, got, tt.want)
		}
	}
	if _, urls, err := newServerDialer([]config.NATSURL{"wss://a.example/x", "ws://u:p@[2001:db8::1]:80"}); err != nil || urls != "ws://a.example:443/x,ws://u:p@[2001:db8::1]:80" {
		t.Errorf("nats.go is given %s, %v", urls, err)
	}
}
