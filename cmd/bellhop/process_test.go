package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// patience is how long a test waits for a step: much longer than the step takes on a
// busy machine. No test uses it to prove speed.
const patience = 5 * time.Minute

// A site is the environment of a bellhop process: its addresses, its config, and the
// receiver of its callbacks.
type site struct {
	t        *testing.T
	dir      string // of everything that is written
	hop      netip.AddrPort
	pbx      sip.Addr
	phones   sip.Proto
	admin    netip.AddrPort
	store    string // lines of [store] beside dir
	receiver *receiver
}

// newSite finds free ports, and writes the config.
func newSite(t *testing.T, phones, pbx sip.Proto) *site {
	s := &site{t: t, dir: t.TempDir(), phones: phones}
	s.hop = freePort(t, "127.0.0.4")
	s.admin = freePort(t, "127.0.0.4")
	s.pbx = sip.Addr{Proto: pbx, AddrPort: freePort(t, "127.0.0.3")}
	s.receiver = newReceiver(t)
	s.configure("")
	return s
}

const testToken = "a-token-for-tests"

// configure writes the config, followed by more.
func (s *site) configure(more string) {
	s.t.Helper()
	s.write("config.toml", fmt.Sprintf(`
[sip]
listen = ["udp://%[1]v", "tcp://%[1]v"]
pbx = ["%[2]v"]
[notify]
allow = ["127.0.0.0/8"]
[store]
dir = '%[3]s'
%[7]s
[admin]
listen = "%[4]v"
token = "%[5]s"
[log]
format = "json"
%[6]s`, s.hop, s.pbx, filepath.Join(s.dir, "data"), s.admin, testToken, more, s.store))
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// nextPort is the port that freePort tries next.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(os.Getpid())) }

// freePort returns a port that is free over UDP and TCP and that no other test has. The
// kernel assigns ports from 32768 on to sockets without a port, so the port stays free
// until the test listens there.
func freePort(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	const first, ports = 10000, 20000
	for range ports {
		at := netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(first+nextPort.Add(1)%ports))
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			continue
		}
		l.Close()
		c, err := net.ListenPacket("udp", at.String())
		if err != nil {
			continue
		}
		c.Close()
		return at
	}
	t.Fatal("no port is free over both UDP and TCP")
	panic("unreachable")
}

// A process was started by a test and ends with it.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	name string
	out  output // stdout and stderr
	done chan struct{}
	err  error // how it ended, once done is closed
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func launch(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, name: name, done: make(chan struct{})}
	cmd.Stderr = &p.out
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
		if t.Failed() && p.out.String() != "" {
			t.Logf("%s wrote:\n%s", name, tail(p.out.String()))
		}
	})
	return p
}

// tail returns the last lines of a text.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// exits waits for the end of the process, and checks its exit status.
func (p *process) exits(status int, within time.Duration) {
	p.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.t.Fatalf("%s still runs after %v", p.name, within)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		p.t.Fatalf("%s: %v, want exit status %d", p.name, p.cmd.ProcessState, status)
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// bellhop starts a command of bellhop in a process.
func bellhop(t *testing.T, args ...string) *process {
	t.Helper()
	return launch(t, "bellhop", exec.Command(program(t), args...))
}

// serve starts bellhop, and waits until it is ready.
func (s *site) serve() *process {
	s.t.Helper()
	p := bellhop(s.t, "serve", "--config", filepath.Join(s.dir, "config.toml"))
	s.eventually("bellhop is ready", func() bool {
		select {
		case <-p.done:
			s.t.Fatalf("bellhop ended: %v", p.err)
		default:
		}
		res, err := client.Get("http://" + s.admin.String() + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return p
}

// client opens a connection for each request: an idle one would keep a goroutine.
var client = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

// stop drains bellhop. In a measurement it must exit well before a service manager would
// kill it.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	within := patience
	if *soak {
		within = 10 * time.Second
	}
	p.exits(0, within)
}

// eventually calls ok repeatedly until it returns true, for patience at most.
func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	s.within(patience, what, ok)
}

// within is eventually with another time limit.
func (s *site) within(patience time.Duration, what string, ok func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			s.t.Fatalf("after %v it is still not so that %s", patience, what)
		}
		<-tick.C
	}
}

// api sends a request to the admin API, and fails the test unless the status is 2xx.
func (s *site) api(method, path string, in, out any) {
	s.t.Helper()
	status, answer := s.request(method, path, in)
	if status/100 != 2 {
		s.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		s.t.Fatalf("%s %s: %v: %s", method, path, err, answer)
	}
}

// request sends a request to the admin API, and returns the response.
func (s *site) request(method, path string, in any) (status int, answer []byte) {
	s.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+s.admin.String()+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if answer, err = io.ReadAll(res.Body); err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, answer
}

// subscribe subscribes the receiver to every extension, in a dialect.
func (s *site) subscribe(dialect, method string, types ...string) {
	s.t.Helper()
	var sub struct{ ID string }
	s.api("POST", "/v1/subscriptions", map[string]any{
		"extension_regex": ".*",
		"types":           types,
		"url":             "http://" + s.receiver.addr + "/" + dialect,
		"method":          method,
		"dialect":         dialect,
	}, &sub)
}

// A receiver is a web application that records callbacks.
type receiver struct {
	t      *testing.T
	addr   string
	server *httptest.Server
	news   chan struct{} // something came

	mu   sync.Mutex
	came []received
}

// A received is a callback. Its fields have the names of the dialect.
type received struct {
	dialect string
	id      string // webhook-id
	fields  map[string]string
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, addr: freePort(t, "127.0.0.5").String(), news: make(chan struct{}, 1)}
	r.up()
	t.Cleanup(r.down)
	return r
}

// up makes the receiver listen, at its previous address if it had one.
func (r *receiver) up() {
	r.t.Helper()
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: r}}
	r.server.Start()
}

// down closes the port and the connections.
func (r *receiver) down() { r.server.Close() }

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	c := received{dialect: strings.Trim(req.URL.Path, "/"), id: req.Header.Get("Webhook-Id"), fields: map[string]string{}}
	how := req.Method + " " + req.Header.Get("Content-Type")
	switch c.dialect + " " + how {
	case "telphin POST application/x-www-form-urlencoded", "unified GET ":
		if err := req.ParseForm(); err != nil {
			r.t.Errorf("callback: %v", err)
		}
		for name, values := range req.Form {
			if len(values) != 1 {
				r.t.Errorf("callback has %d times %s", len(values), name)
			}
			c.fields[name] = values[0]
		}
	case "json POST application/json":
		var body struct {
			Type      string
			Timestamp time.Time
			Data      map[string]any
		}
		d := json.NewDecoder(req.Body)
		d.UseNumber()
		if err := d.Decode(&body); err != nil {
			r.t.Errorf("callback: %v", err)
		}
		for name, value := range body.Data {
			c.fields[name] = fmt.Sprint(value)
		}
		if want := "call." + strings.ReplaceAll(c.fields["event_type"], "-", "_"); body.Type != want {
			r.t.Errorf("callback of type %s, want %s", body.Type, want)
		}
		if got := strconv.FormatInt(body.Timestamp.UnixMicro(), 10); got != c.fields["event_time"] {
			r.t.Errorf("callback with timestamp %s, want its event_time %s", got, c.fields["event_time"])
		}
	default:
		r.t.Errorf("callback to %s by %s", req.URL.Path, how)
	}
	r.mu.Lock()
	r.came = append(r.came, c)
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
	w.WriteHeader(http.StatusNoContent)
}

// wait waits until the received callbacks are enough.
func (r *receiver) wait(what string, within time.Duration, enough func([]received) bool) {
	r.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		r.mu.Lock()
		ok, n := enough(r.came), len(r.came)
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-r.news:
		case <-timer.C:
			r.t.Fatalf("after %v, %d callbacks are not %s", within, n, what)
		}
	}
}

// take returns the callbacks received since the last take.
func (r *receiver) take() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	came := r.came
	r.came = nil
	return came
}

// bound reports whether a process listens at an address, without connecting to it.
func bound(t *testing.T, at sip.Addr) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/net/" + at.Proto.String())
	if err != nil {
		t.Fatal(err)
	}
	ip := at.Addr().As4()
	slices.Reverse(ip[:]) // the kernel prints the word as this machine reads it
	want := fmt.Sprintf(": %s:%04X 00000000:0000 ", strings.ToUpper(hex.EncodeToString(ip[:])), at.Port())
	return bytes.Contains(table, []byte(want))
}
