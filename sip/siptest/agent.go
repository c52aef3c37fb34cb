package siptest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	msg "github.com/emiago/sipgo/sip"

	"bellhop/dialog/siptext"
	"bellhop/sip"
)

// A userAgent sends and receives SIP over UDP. It retransmits its requests until the first
// response, and calls handleRequest for received ones. It implements as much of RFC 3261
// as a demonstration on a network without loss needs.
type userAgent struct {
	Addr netip.AddrPort

	conn             sip.PacketConn
	handleRequest    func(*Request)
	parser           *msg.Parser
	goroutines       sync.WaitGroup
	done             chan struct{}
	mu               sync.Mutex
	responseChans    map[string]chan *msg.Response // of client transactions, by branch and CSeq method
	receivedRequests map[string]*Request           // by branch and method, to answer retransmissions
}

var serial atomic.Uint64

// newToken returns a token that is unique in this process.
func newToken() string { return fmt.Sprintf("%x-%x", time.Now().UnixNano()&0xffffffff, serial.Add(1)) }

// newUserAgent returns a user agent that reads conn until Close. It calls handle, from one
// goroutine, for each request that is not a retransmission.
func newUserAgent(conn sip.PacketConn, handle func(*Request)) *userAgent {
	a := &userAgent{
		conn:             conn,
		handleRequest:    handle,
		done:             make(chan struct{}),
		responseChans:    map[string]chan *msg.Response{},
		receivedRequests: map[string]*Request{},
	}
	a.Addr, _ = netip.ParseAddrPort(conn.LocalAddr().String())
	known := map[string]msg.HeaderParser{} // other header fields are not parsed
	for name, p := range msg.DefaultHeadersParser() {
		switch name {
		case "via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "content-length", "l":
			known[name] = p
		}
	}
	a.parser = msg.NewParser(msg.WithHeadersParsers(known))
	a.goroutines.Go(a.readMessages)
	return a
}

// Close closes the socket and waits for the goroutines of the user agent.
func (a *userAgent) Close() {
	close(a.done)
	a.conn.Close()
	a.goroutines.Wait()
}

func (a *userAgent) readMessages() {
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
			a.dispatchResponse(m)
		case *msg.Request:
			a.dispatchRequest(m, from)
		}
	}
}

func (a *userAgent) dispatchResponse(m *msg.Response) {
	if m.Via() == nil || m.CSeq() == nil {
		return
	}
	branch, _ := m.Via().Params.Get("branch")
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.responseChans[branch+string(m.CSeq().MethodName)]; c != nil {
		select {
		case c <- m:
		default: // the client transaction has stopped reading
		}
	}
}

func (a *userAgent) dispatchRequest(m *msg.Request, from netip.AddrPort) {
	if m.Via() == nil || m.CSeq() == nil || m.CallID() == nil || m.From() == nil || m.To() == nil {
		return
	}
	branch, _ := m.Via().Params.Get("branch")
	key := branch + string(m.Method)
	a.mu.Lock()
	if r := a.receivedRequests[key]; r != nil {
		last := r.lastResponse
		a.mu.Unlock()
		if last != nil {
			a.conn.WriteToUDPAddrPort(last, from)
		}
		return
	}
	r := &Request{Request: m, ua: a, from: from, toTag: newToken()}
	a.receivedRequests[key] = r
	a.mu.Unlock()
	a.handleRequest(r)
}

// A Request is a request that a user agent has received.
type Request struct {
	*msg.Request
	ua           *userAgent
	from         netip.AddrPort
	toTag        string
	lastResponse []byte // guarded by ua.mu
}

// Reply sends a response. extra is further header lines, an empty line and a body; each
// may be missing.
func (r *Request) Reply(status int, phrase, extra string) {
	var b strings.Builder
	fmt.Fprintf(&b, "SIP/2.0 %d %s\r\n", status, phrase)
	for _, name := range []string{"Via", "Record-Route", "From", "To", "Call-ID", "CSeq"} {
		for _, h := range r.GetHeaders(name) {
			fmt.Fprintf(&b, "%s: %s", h.Name(), h.Value())
			if _, tagged := r.To().Params.Get("tag"); name == "To" && !tagged && status > 100 {
				b.WriteString(";tag=" + r.toTag)
			}
			b.WriteString("\r\n")
		}
	}
	b.WriteString(addContentLength(extra))
	r.ua.mu.Lock()
	r.lastResponse = []byte(b.String())
	r.ua.mu.Unlock()
	r.ua.conn.WriteToUDPAddrPort(r.lastResponse, r.from)
}

// addContentLength returns extra with a Content-Length after its header lines.
func addContentLength(extra string) string {
	head, body, _ := strings.Cut(extra, "\r\n\r\n")
	if head != "" {
		head = strings.TrimSuffix(head, "\r\n") + "\r\n"
	}
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
}

// A clientTransaction is a request that was sent, with the responses to it.
type clientTransaction struct {
	responses chan *msg.Response
	branch    string
	stop      func()
}

// sendRequest sends a request to an address, and retransmits it until the first response.
// It sends an ACK only once and then returns nil. If branch is "", it makes a new branch.
// start is the start line without the version. head is the header lines and the body,
// without Via, Max-Forwards and Content-Length.
func (a *userAgent) sendRequest(to netip.AddrPort, branch, start, head string) *clientTransaction {
	method, _, _ := strings.Cut(start, " ")
	if branch == "" {
		branch = "z9hG4bK-" + newToken()
	}
	text := []byte(fmt.Sprintf("%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=%s;rport\r\nMax-Forwards: 70\r\n%s", start, a.Addr, branch, addContentLength(head)))
	if method == "ACK" {
		a.conn.WriteToUDPAddrPort(text, to)
		return nil
	}
	key := branch + method
	in := make(chan *msg.Response, 16)
	out := make(chan *msg.Response, 16)
	a.mu.Lock()
	a.responseChans[key] = in
	a.mu.Unlock()
	stop := make(chan struct{})
	a.goroutines.Go(func() {
		interval := 500 * time.Millisecond
		timer := time.NewTimer(interval)
		defer timer.Stop()
		for {
			select {
			case m := <-in:
				timer.Stop()
				out <- m
			case <-timer.C:
				a.conn.WriteToUDPAddrPort(text, to)
				interval *= 2
				timer.Reset(interval)
			case <-stop:
				return
			case <-a.done:
				return
			}
		}
	})
	a.conn.WriteToUDPAddrPort(text, to)
	return &clientTransaction{responses: out, branch: branch, stop: sync.OnceFunc(func() {
		close(stop)
		a.mu.Lock()
		delete(a.responseChans, key)
		a.mu.Unlock()
	})}
}

// waitFinal waits for the final response and ends the transaction. It returns nil if the
// user agent is closed, or if no final response comes within 32 s.
func (a *userAgent) waitFinal(s *clientTransaction) *msg.Response {
	defer s.stop()
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

// headerValues returns the values of all header fields called name, as received.
func headerValues(m msg.Message, name string) (values []string) {
	for _, h := range m.GetHeaders(name) {
		values = append(values, h.Value())
	}
	return values
}

// routeLines returns a Route header line for each value.
func routeLines(values []string) string {
	var b strings.Builder
	for _, v := range values {
		b.WriteString("Route: " + v + "\r\n")
	}
	return b.String()
}

// parseURI returns the URI in a Contact or To value.
func parseURI(value string) string { return siptext.ParseNameAddr(value).URI }

// parseUser returns the user part of a URI, or "".
func parseUser(uri string) string { return siptext.ParseURI(uri).User }
