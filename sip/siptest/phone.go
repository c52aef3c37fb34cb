package siptest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"bellhop/sip"
)

// offer is a session description that nobody sends media for.
const offer = "Content-Type: application/sdp\r\n\r\nv=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\na=sendrecv\r\n"

// A Behavior is what a phone does when it is called.
type Behavior struct {
	Busy   bool          // 486 in place of 200, at once if Answer is 0
	Answer time.Duration // 200 after ringing so long; 0: it rings until the caller gives up
}

// A Phone is an extension's phone: it registers, calls and is called. Its
// methods wait until what they ask for is done.
type Phone struct {
	agent *Agent
	proxy netip.AddrPort
	name  string // display name
	user  string

	mu       sync.Mutex
	behavior Behavior
	ringing  *Request
	talking  map[string]*session // by Call-ID
}

// NewPhone makes a phone that sends everything to proxy. conn is its socket,
// which Close closes.
func NewPhone(conn sip.PacketConn, proxy netip.AddrPort, user, name string) *Phone {
	p := &Phone{proxy: proxy, name: name, user: user, talking: map[string]*session{}}
	p.agent = newAgent(conn, p.asked)
	return p
}

// Close hangs the phone up without a word.
func (p *Phone) Close() { p.agent.Close() }

// Behave says what the phone does with calls from now on.
func (p *Phone) Behave(b Behavior) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behavior = b
}

func (p *Phone) aor() string { return fmt.Sprintf("<sip:%s@%s>", p.user, p.proxy) }

// Register registers the phone for an hour.
func (p *Phone) Register() error {
	a := p.agent
	head := fmt.Sprintf("From: %s;tag=%s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: 1 REGISTER\r\nContact: <sip:%s@%s>;expires=3600\r\n",
		p.aor(), unique(), p.aor(), unique(), p.user, a.Addr)
	m := a.final(a.send(p.proxy, "", "REGISTER sip:"+p.proxy.String(), head))
	if m == nil {
		return fmt.Errorf("phone %s: REGISTER was not answered", p.user)
	}
	if m.StatusCode != 200 {
		return fmt.Errorf("phone %s: REGISTER was answered %d %s", p.user, m.StatusCode, m.Reason)
	}
	return nil
}

// A Call is a call that a phone placed.
type Call struct {
	phone *Phone
	of    *invite
}

// Dial calls a number. The call must be ended by Wait with a failure, or by
// Hangup after Wait with a 2xx.
func (p *Phone) Dial(number string) *Call {
	to := fmt.Sprintf("<sip:%s@%s>", number, p.proxy)
	from := fmt.Sprintf("%q %s", p.name, p.aor())
	return &Call{p, p.agent.call(p.proxy, uriOf(to), from, to, nil, offer)}
}

// Ringing waits for the first 18x and reports whether it came before a final
// response and before ctx ended. The final response is lost to Wait.
func (c *Call) Ringing(ctx context.Context) bool {
	for {
		select {
		case m := <-c.of.sent.responses:
			if m.StatusCode >= 180 {
				return m.StatusCode < 200
			}
		case <-ctx.Done():
			return false
		}
	}
}

// Wait waits for the final response, acknowledges it and returns its status; 0
// when ctx ends first.
func (c *Call) Wait(ctx context.Context) int {
	defer c.of.sent.forget()
	for {
		select {
		case m := <-c.of.sent.responses:
			if m.StatusCode >= 200 {
				c.of.acknowledge(m)
				return int(m.StatusCode)
			}
		case <-ctx.Done():
			return 0
		}
	}
}

// Cancel gives the call up; Wait says how that ended.
func (c *Call) Cancel() { c.of.cancel() }

// Hangup ends an answered call.
func (c *Call) Hangup() error {
	m := c.of.bye()
	if m == nil || m.StatusCode != 200 {
		return fmt.Errorf("phone %s: BYE was not answered with 200", c.phone.user)
	}
	return nil
}

// asked handles a request to the phone.
func (p *Phone) asked(r *Request) {
	switch r.Method {
	case "INVITE":
		p.called(r)
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
		_, known := p.talking[r.CallID().Value()]
		delete(p.talking, r.CallID().Value())
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

func (p *Phone) called(r *Request) {
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
	contact := fmt.Sprintf("Contact: <sip:%s@%s>\r\n", p.user, p.agent.Addr)
	r.Reply(180, "Ringing", contact)
	if b.Answer == 0 {
		return
	}
	p.agent.run.Go(func() {
		t := time.NewTimer(b.Answer)
		defer t.Stop()
		select {
		case <-t.C:
		case <-p.agent.done:
			return
		}
		p.mu.Lock()
		answer := p.ringing == r
		if answer {
			p.ringing = nil
			if !b.Busy {
				p.talking[r.CallID().Value()] = p.agent.accepted(r, p.proxy)
			}
		}
		p.mu.Unlock()
		switch {
		case answer && b.Busy:
			r.Reply(486, "Busy Here", "")
		case answer:
			r.Reply(200, "OK", contact+offer)
		}
	})
}
