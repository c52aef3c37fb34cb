package siptest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	msg "github.com/emiago/sipgo/sip"

	"bellhop/sip"
)

// An Agent is one end of SIP over UDP: it sends requests and repeats them until
// they are answered, and hands on those it gets. It knows as much of RFC 3261
// as a demonstration on a network without loss needs.
type Agent struct {
	Addr netip.AddrPort

	conn    sip.PacketConn
	handle  func(*Request)
	parser  *msg.Parser
	run     sync.WaitGroup
	done    chan struct{}
	mu      sync.Mutex
	waiting map[string]chan *msg.Response // by branch and CSeq method
	seen    map[string]*Request           // by branch and method: repetitions get the last response again
}

var serial atomic.Uint64

// unique makes a token nobody else made in this process.
func unique() string { return fmt.Sprintf("%x-%x", time.Now().UnixNano()&0xffffffff, serial.Add(1)) }

// newAgent reads conn until Close and calls handle, from one goroutine, for
// each request that is no repetition.
func newAgent(conn sip.PacketConn, handle func(*Request)) *Agent {
	a := &Agent{
		conn:    conn,
		handle:  handle,
		done:    make(chan struct{}),
		waiting: map[string]chan *msg.Response{},
		seen:    map[string]*Request{},
	}
	a.Addr, _ = netip.ParseAddrPort(conn.LocalAddr().String())
	known := map[string]msg.HeaderParser{} // the others stay as they came
	for name, p := range msg.DefaultHeadersParser() {
		switch name {
		case "via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "content-length", "l":
			known[name] = p
		}
	}
	a.parser = msg.NewParser(msg.WithHeadersParsers(known))
	a.run.Go(a.read)
	return a
}

// Close ends the agent and waits for its goroutines.
func (a *Agent) Close() {
	close(a.done)
	a.conn.Close()
	a.run.Wait()
}

func (a *Agent) read() {
	buf := make([]byte, 65535)
	for {
		n, from, err := a.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-a.done:
				return
			default:
				continue
			}
		}
		m, err := a.parser.ParseSIP(append([]byte(nil), buf[:n]...))
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case *msg.Response:
			a.answered(m)
		case *msg.Request:
			a.asked(m, from)
		}
	}
}

func (a *Agent) answered(m *msg.Response) {
	if m.Via() == nil || m.CSeq() == nil {
		return
	}
	branch, _ := m.Via().Params.Get("branch")
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.waiting[branch+string(m.CSeq().MethodName)]; c != nil {
		select {
		case c <- m:
		default: // more than anyone waits for
		}
	}
}

func (a *Agent) asked(m *msg.Request, from netip.AddrPort) {
	if m.Via() == nil || m.CSeq() == nil || m.CallID() == nil || m.From() == nil || m.To() == nil {
		return
	}
	branch, _ := m.Via().Params.Get("branch")
	key := branch + string(m.Method)
	a.mu.Lock()
	if r := a.seen[key]; r != nil {
		last := r.last
		a.mu.Unlock()
		if last != nil {
			a.conn.WriteToUDPAddrPort(last, from)
		}
		return
	}
	r := &Request{Request: m, agent: a, from: from, tag: unique()}
	a.seen[key] = r
	a.mu.Unlock()
	a.handle(r)
}

// A Request is one that an agent got.
type Request struct {
	*msg.Request
	agent *Agent
	from  netip.AddrPort
	tag   string
	last  []byte // under agent.mu
}

// Reply answers the request. extra are header lines and body, "" for none.
func (r *Request) Reply(status int, phrase, extra string) {
	var b strings.Builder
	fmt.Fprintf(&b, "SIP/2.0 %d %s\r\n", status, phrase)
	for _, name := range []string{"Via", "Record-Route", "From", "To", "Call-ID", "CSeq"} {
		for _, h := range r.GetHeaders(name) {
			fmt.Fprintf(&b, "%s: %s", h.Name(), h.Value())
			if _, tagged := r.To().Params.Get("tag"); name == "To" && !tagged && status > 100 {
				b.WriteString(";tag=" + r.tag)
			}
			b.WriteString("\r\n")
		}
	}
	b.WriteString(withLength(extra))
	r.agent.mu.Lock()
	r.last = []byte(b.String())
	r.agent.mu.Unlock()
	r.agent.conn.WriteToUDPAddrPort(r.last, r.from)
}

// withLength puts Content-Length between header lines and body.
func withLength(extra string) string {
	head, body, _ := strings.Cut(extra, "\r\n\r\n")
	if head != "" {
		head = strings.TrimSuffix(head, "\r\n") + "\r\n"
	}
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
}

// A sent request waits for its responses.
type sent struct {
	responses chan *msg.Response
	branch    string
	forget    func()
}

// send sends a request to an address and repeats it until something answers.
// head is the request without Via and Content-Length.
func (a *Agent) send(to netip.AddrPort, branch, start, head string) *sent {
	method, _, _ := strings.Cut(start, " ")
	if branch == "" {
		branch = "z9hG4bK-" + unique()
	}
	text := []byte(fmt.Sprintf("%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=%s;rport\r\nMax-Forwards: 70\r\n%s", start, a.Addr, branch, withLength(head)))
	if method == "ACK" {
		a.conn.WriteToUDPAddrPort(text, to)
		return nil
	}
	key := branch + method
	in := make(chan *msg.Response, 16)
	out := make(chan *msg.Response, 16)
	a.mu.Lock()
	a.waiting[key] = in
	a.mu.Unlock()
	stop := make(chan struct{})
	a.run.Go(func() {
		pause := 500 * time.Millisecond
		again := time.NewTimer(pause)
		defer again.Stop()
		for {
			select {
			case m := <-in:
				again.Stop()
				out <- m
			case <-again.C:
				a.conn.WriteToUDPAddrPort(text, to)
				pause *= 2
				again.Reset(pause)
			case <-stop:
				return
			case <-a.done:
				return
			}
		}
	})
	a.conn.WriteToUDPAddrPort(text, to)
	return &sent{responses: out, branch: branch, forget: sync.OnceFunc(func() {
		close(stop)
		a.mu.Lock()
		delete(a.waiting, key)
		a.mu.Unlock()
	})}
}

// final waits for the final response; nil if the agent is closed or none comes
// in half a minute.
func (a *Agent) final(s *sent) *msg.Response {
	defer s.forget()
	limit := time.NewTimer(32 * time.Second)
	defer limit.Stop()
	for {
		select {
		case m := <-s.responses:
			if m.StatusCode >= 200 {
				return m
			}
		case <-limit.C:
			return nil
		case <-a.done:
			return nil
		}
	}
}

// header returns the values of a header field, one string each, as they came.
func header(m msg.Message, name string) (values []string) {
	for _, h := range m.GetHeaders(name) {
		values = append(values, h.Value())
	}
	return values
}

// routes writes Route lines, in order or reversed.
func routes(values []string, reverse bool) string {
	var b strings.Builder
	for i := range values {
		v := values[i]
		if reverse {
			v = values[len(values)-1-i]
		}
		b.WriteString("Route: " + v + "\r\n")
	}
	return b.String()
}

// uriOf is the URI in a Contact or To value.
func uriOf(value string) string {
	if _, rest, ok := strings.Cut(value, "<"); ok {
		uri, _, _ := strings.Cut(rest, ">")
		return uri
	}
	uri, _, _ := strings.Cut(value, ";")
	return strings.TrimSpace(uri)
}

// userOf is the user part of a URI.
func userOf(uri string) string {
	_, rest, _ := strings.Cut(uri, ":")
	user, _, ok := strings.Cut(rest, "@")
	if !ok {
		return ""
	}
	return user
}
