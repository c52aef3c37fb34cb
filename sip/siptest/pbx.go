package siptest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	msg "github.com/emiago/sipgo/sip"

	"bellhop/sip"
)

// A PBX is a registrar and a back-to-back user agent. A call between two phones is two
// dialogs with different Call-IDs, as in Asterisk. The PBX stores Path (RFC 3327), copies
// X-CID into the outgoing INVITE, and lets the phones exchange media between them.
type PBX struct {
	ua *userAgent

	mu       sync.Mutex
	bindings map[string]binding      // by user
	calls    map[string]*bridgedCall // by Call-ID of either dialog, and by branch of the incoming INVITE
}

// A binding is a registered Contact with its Path.
type binding struct {
	contact  string
	routeSet []string
	nextHop  netip.AddrPort // sender of the REGISTER
}

// A bridgedCall is a call: the incoming INVITE and the one sent to the called phone.
type bridgedCall struct {
	incoming                   *Request
	outgoing                   *outgoingInvite
	callerDialog, calleeDialog *dialog // nil until the call is answered
}

// NewPBX starts a PBX on a socket. Close closes the socket.
func NewPBX(conn sip.PacketConn) *PBX {
	p := &PBX{bindings: map[string]binding{}, calls: map[string]*bridgedCall{}}
	p.ua = newUserAgent(conn, p.handleRequest)
	return p
}

// Addr returns the address that the PBX listens on.
func (p *PBX) Addr() netip.AddrPort { return p.ua.Addr }

// Close stops the PBX. It sends no BYE for its calls.
func (p *PBX) Close() { p.ua.Close() }

func (p *PBX) handleRequest(r *Request) {
	switch r.Method {
	case "REGISTER":
		p.handleRegister(r)
	case "INVITE":
		p.handleInvite(r)
	case "CANCEL":
		p.handleCancel(r)
	case "ACK":
	case "BYE":
		p.handleBye(r)
	default:
		r.Reply(200, "OK", "")
	}
}

func (p *PBX) handleRegister(r *Request) {
	contacts := headerValues(r, "Contact")
	if len(contacts) == 0 {
		r.Reply(400, "No Contact", "")
		return
	}
	p.mu.Lock()
	p.bindings[parseUser(parseURI(headerValues(r, "To")[0]))] = binding{parseURI(contacts[0]), splitValues(headerValues(r, "Path")), r.from}
	p.mu.Unlock()
	var extra strings.Builder
	for _, v := range headerValues(r, "Path") {
		extra.WriteString("Path: " + v + "\r\n")
	}
	fmt.Fprintf(&extra, "Contact: %s\r\n", contacts[0])
	r.Reply(200, "OK", extra.String())
}

func (p *PBX) handleInvite(r *Request) {
	r.Reply(100, "Trying", "")
	p.mu.Lock()
	b, known := p.bindings[parseUser(r.Recipient.String())]
	p.mu.Unlock()
	if !known {
		r.Reply(404, "Not Found", "")
		return
	}
	extra := mediaOf(r)
	for _, v := range headerValues(r, "X-CID") {
		extra = "X-CID: " + v + "\r\n" + extra
	}
	from, _, _ := strings.Cut(headerValues(r, "From")[0], ";tag=")
	c := &bridgedCall{incoming: r}
	c.outgoing = p.ua.sendInvite(b.nextHop, b.contact, from, "<"+b.contact+">", b.routeSet, extra)
	branch, _ := r.Via().Params.Get("branch")
	p.mu.Lock()
	p.calls[branch] = c
	p.calls[c.outgoing.callID] = c
	p.calls[r.CallID().Value()] = c
	p.mu.Unlock()
	p.ua.goroutines.Go(func() { p.relayResponses(c) })
}

// relayResponses relays the responses of the called phone to the caller, up to the final
// one.
func (p *PBX) relayResponses(c *bridgedCall) {
	defer c.outgoing.tx.stop()
	contact := fmt.Sprintf("Contact: <sip:%s>\r\n", p.ua.Addr)
	for {
		select {
		case m := <-c.outgoing.tx.responses:
			switch {
			case m.StatusCode == 100:
			case m.StatusCode < 200:
				c.incoming.Reply(int(m.StatusCode), m.Reason, contact)
			case m.StatusCode < 300:
				c.outgoing.sendAck(m)
				p.mu.Lock()
				c.callerDialog, c.calleeDialog = p.ua.newDialog(c.incoming, c.incoming.from), &c.outgoing.dialog
				p.mu.Unlock()
				c.incoming.Reply(200, "OK", contact+mediaOf(m))
				return
			default:
				c.outgoing.sendAck(m)
				c.incoming.Reply(int(m.StatusCode), m.Reason, "")
				p.removeCall(c)
				return
			}
		case <-p.ua.done:
			return
		}
	}
}

// mediaOf returns a Content-Type line and the session description of a message.
func mediaOf(m msg.Message) string {
	if len(m.Body()) == 0 {
		return sdpOffer
	}
	return "Content-Type: application/sdp\r\n\r\n" + string(m.Body())
}

func (p *PBX) handleCancel(r *Request) {
	r.Reply(200, "OK", "")
	branch, _ := r.Via().Params.Get("branch")
	p.mu.Lock()
	c := p.calls[branch]
	p.mu.Unlock()
	if c != nil {
		c.outgoing.sendCancel()
	}
}

func (p *PBX) handleBye(r *Request) {
	id := r.CallID().Value()
	p.mu.Lock()
	c := p.calls[id]
	p.mu.Unlock()
	if c == nil || c.callerDialog == nil {
		r.Reply(481, "Call Does Not Exist", "")
		return
	}
	r.Reply(200, "OK", "")
	p.removeCall(c)
	other := c.callerDialog
	if id == c.callerDialog.callID {
		other = c.calleeDialog
	}
	p.ua.goroutines.Go(func() { other.sendBye() })
}

func (p *PBX) removeCall(c *bridgedCall) {
	branch, _ := c.incoming.Via().Params.Get("branch")
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, branch)
	delete(p.calls, c.outgoing.callID)
	delete(p.calls, c.incoming.CallID().Value())
}
