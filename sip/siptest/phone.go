package siptest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"bellhop/sip"
)

// sdpOffer is a Content-Type line and a session description. No media is ever sent for
// it.
const sdpOffer = "Content-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\na=sendrecv\r\n"

// A Behavior is the reaction of a phone to incoming calls.
type Behavior struct {
	Busy   bool          // send 486 instead of 200, without ringing if Answer is 0
	Answer time.Duration // ring this long, then send 200; 0: ring until the caller gives up
}

// A Phone is a phone of one extension. It registers, places calls and receives calls. Its
// methods wait for the responses to the requests that they send.
type Phone struct {
	ua    *userAgent
	proxy netip.AddrPort
	name  string // display name
	user  string

	mu       sync.Mutex
	behavior Behavior
	ringing  *Request
	dialogs  map[string]*dialog // by Call-ID
}

// NewPhone starts a phone that sends all requests to proxy. Close closes its socket conn.
func NewPhone(conn sip.PacketConn, proxy netip.AddrPort, user, name string) *Phone {
	p := &Phone{proxy: proxy, name: name, user: user, dialogs: map[string]*dialog{}}
	p.ua = newUserAgent(conn, p.handleRequest)
	return p
}

// Close stops the phone. It sends no BYE for its calls.
func (p *Phone) Close() { p.ua.Close() }

// Behave sets the reaction of the phone to further incoming calls.
func (p *Phone) Behave(b Behavior) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behavior = b
}

func (p *Phone) addressOfRecord() string { return fmt.Sprintf("<sip:%s@%s>", p.user, p.proxy) }

// Register registers the phone for an hour and waits for the response.
func (p *Phone) Register() error {
	a := p.ua
	head := fmt.Sprintf("From: %s;tag=%s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: 1 REGISTER\r\nContact: <sip:%s@%s>;expires=3600\r\n",
		p.addressOfRecord(), newToken(), p.addressOfRecord(), newToken(), p.user, a.Addr)
	m := a.waitFinal(a.sendRequest(p.proxy, "", "REGISTER sip:"+p.proxy.String(), head))
	if m == nil {
		return fmt.Errorf("register phone %s: no response", p.user)
	}
	if m.StatusCode != 200 {
		return fmt.Errorf("register phone %s: response %d %s", p.user, m.StatusCode, m.Reason)
	}
	return nil
}

// A Call is a call that a phone has placed.
type Call struct {
	phone  *Phone
	invite *outgoingInvite
}

// Dial sends an INVITE to a number. The caller must call Wait and, if that returns a 2xx,
// end the call with Hangup.
func (p *Phone) Dial(number string) *Call {
	to := fmt.Sprintf("<sip:%s@%s>", number, p.proxy)
	from := fmt.Sprintf("%q %s", p.name, p.addressOfRecord())
	return &Call{p, p.ua.sendInvite(p.proxy, parseURI(to), from, to, nil, sdpOffer)}
}

// WaitRinging waits for the first provisional response above 179. It returns false if a
// final response comes first or ctx ends. It consumes that final response, so a later
// Wait does not get it.
func (c *Call) WaitRinging(ctx context.Context) bool {
	for {
		select {
		case m := <-c.invite.tx.responses:
			if m.StatusCode >= 180 {
				return m.StatusCode < 200
			}
		case <-ctx.Done():
			return false
		}
	}
}

// Wait waits for the final response, sends the ACK and returns the status, or 0 if ctx
// ends first.
func (c *Call) Wait(ctx context.Context) int {
	defer c.invite.tx.stop()
	for {
		select {
		case m := <-c.invite.tx.responses:
			if m.StatusCode >= 200 {
				c.invite.sendAck(m)
				return int(m.StatusCode)
			}
		case <-ctx.Done():
			return 0
		}
	}
}

// Cancel sends a CANCEL. Wait then returns the status of the call.
func (c *Call) Cancel() { c.invite.sendCancel() }

// Hangup ends an answered call with a BYE, and waits for the response.
func (c *Call) Hangup() error {
	m := c.invite.sendBye()
	if m == nil || m.StatusCode != 200 {
		return fmt.Errorf("hang up phone %s: no 200 response to the BYE", c.phone.user)
	}
	return nil
}

// handleRequest answers a request to the phone.
func (p *Phone) handleRequest(r *Request) {
	switch r.Method {
	case "INVITE":
		p.handleInvite(r)
	case "CANCEL":
		r.Reply(200, "OK", "")
		p.mu.Lock()
		ringing := p.ringing
		p.ringing = nil
		p.mu.Unlock()
		if ringing != nil {
			ringing.Reply(487, "Request Terminated", "")
		}
	case "ACK":
	case "BYE":
		p.mu.Lock()
		_, known := p.dialogs[r.CallID().Value()]
		delete(p.dialogs, r.CallID().Value())
		p.mu.Unlock()
		if !known {
			r.Reply(481, "Call Does Not Exist", "")
			return
		}
		r.Reply(200, "OK", "")
	default:
		r.Reply(405, "Method Not Allowed", "")
	}
}

func (p *Phone) handleInvite(r *Request) {
	p.mu.Lock()
	b := p.behavior
	atOnce := b.Busy && b.Answer == 0
	if !atOnce {
		p.ringing = r
	}
	p.mu.Unlock()
	if atOnce {
		r.Reply(486, "Busy Here", "")
		return
	}
	contact := fmt.Sprintf("Contact: <sip:%s@%s>\r\n", p.user, p.ua.Addr)
	r.Reply(180, "Ringing", contact)
	if b.Answer == 0 {
		return
	}
	p.ua.goroutines.Go(func() {
		t := time.NewTimer(b.Answer)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.ua.done:
			return
		}
		p.mu.Lock()
		answer := p.ringing == r
		if answer {
			p.ringing = nil
			if !b.Busy {
				p.dialogs[r.CallID().Value()] = p.ua.newDialog(r, p.proxy)
			}
		}
		p.mu.Unlock()
		switch {
		case answer && b.Busy:
			r.Reply(486, "Busy Here", "")
		case answer:
			r.Reply(200, "OK", contact+sdpOffer)
		}
	})
}
