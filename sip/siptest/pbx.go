package siptest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"bellhop/sip"
)

// A PBX is a registrar and a back-to-back user agent: a call between two phones
// is two dialogs with Call-IDs of their own, as in Asterisk. It stores Path
// (RFC 3327) and passes X-CID on.
type PBX struct {
	agent *Agent

	mu       sync.Mutex
	bindings map[string]binding  // by user
	calls    map[string]*bridged // by Call-ID of either dialog, and by branch of the INVITE that came
}

type binding struct {
	contact string
	path    []string
	from    netip.AddrPort // who brought the REGISTER
}

// bridged is a call: the INVITE that came, and the one that was sent for it.
type bridged struct {
	in   *Request
	out  *invite
	a, b *session // the dialogs, once it is answered
}

// NewPBX makes a PBX on a socket, which Close closes.
func NewPBX(conn sip.PacketConn) *PBX {
	p := &PBX{bindings: map[string]binding{}, calls: map[string]*bridged{}}
	p.agent = newAgent(conn, p.asked)
	return p
}

// Addr is where the PBX listens.
func (p *PBX) Addr() netip.AddrPort { return p.agent.Addr }

// Close ends it without a word to its calls.
func (p *PBX) Close() { p.agent.Close() }

func (p *PBX) asked(r *Request) {
	switch r.Method {
	case "REGISTER":
		p.register(r)
	case "INVITE":
		p.invited(r)
	case "CANCEL":
		p.canceled(r)
	case "ACK":
	case "BYE":
		p.hungUp(r)
	default:
		r.Reply(200, "OK", "")
	}
}

func (p *PBX) register(r *Request) {
	contacts := header(r, "Contact")
	if len(contacts) == 0 {
		r.Reply(400, "No Contact", "")
		return
	}
	p.mu.Lock()
	p.bindings[userOf(uriOf(header(r, "To")[0]))] = binding{uriOf(contacts[0]), split(header(r, "Path")), r.from}
	p.mu.Unlock()
	var extra strings.Builder
	for _, v := range header(r, "Path") {
		extra.WriteString("Path: " + v + "\r\n")
	}
	fmt.Fprintf(&extra, "Contact: %s\r\n", contacts[0])
	r.Reply(200, "OK", extra.String())
}

func (p *PBX) invited(r *Request) {
	r.Reply(100, "Trying", "")
	p.mu.Lock()
	b, known := p.bindings[userOf(r.Recipient.String())]
	p.mu.Unlock()
	if !known {
		r.Reply(404, "Not Found", "")
		return
	}
	extra := offer
	for _, v := range header(r, "X-CID") {
		extra = "X-CID: " + v + "\r\n" + extra
	}
	from, _, _ := strings.Cut(header(r, "From")[0], ";tag=")
	c := &bridged{in: r}
	c.out = p.agent.call(b.from, b.contact, from, "<"+b.contact+">", b.path, extra)
	branch, _ := r.Via().Params.Get("branch")
	p.mu.Lock()
	p.calls[branch] = c
	p.calls[c.out.callID] = c
	p.calls[r.CallID().Value()] = c
	p.mu.Unlock()
	p.agent.run.Go(func() { p.bridge(c) })
}

// bridge passes the responses of the called phone to the caller.
func (p *PBX) bridge(c *bridged) {
	defer c.out.sent.forget()
	contact := fmt.Sprintf("Contact: <sip:%s>\r\n", p.agent.Addr)
	for {
		select {
		case m := <-c.out.sent.responses:
			switch {
			case m.StatusCode == 100:
			case m.StatusCode < 200:
				c.in.Reply(int(m.StatusCode), m.Reason, contact)
			case m.StatusCode < 300:
				c.out.acknowledge(m)
				p.mu.Lock()
				c.a, c.b = p.agent.accepted(c.in, c.in.from), &c.out.session
				p.mu.Unlock()
				c.in.Reply(200, "OK", contact+offer)
				return
			default:
				c.out.acknowledge(m)
				c.in.Reply(int(m.StatusCode), m.Reason, "")
				p.forget(c)
				return
			}
		case <-p.agent.done:
			return
		}
	}
}

func (p *PBX) canceled(r *Request) {
	r.Reply(200, "OK", "")
	branch, _ := r.Via().Params.Get("branch")
	p.mu.Lock()
	c := p.calls[branch]
	p.mu.Unlock()
	if c != nil {
		c.out.cancel()
	}
}

func (p *PBX) hungUp(r *Request) {
	id := r.CallID().Value()
	p.mu.Lock()
	c := p.calls[id]
	p.mu.Unlock()
	if c == nil || c.a == nil {
		r.Reply(481, "Call Does Not Exist", "")
		return
	}
	r.Reply(200, "OK", "")
	p.forget(c)
	other := c.a
	if id == c.a.callID {
		other = c.b
	}
	p.agent.run.Go(func() { other.bye() })
}

func (p *PBX) forget(c *bridged) {
	branch, _ := c.in.Via().Params.Get("branch")
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, branch)
	delete(p.calls, c.out.callID)
	delete(p.calls, c.in.CallID().Value())
}
