package siptest

import (
	"fmt"
	"net/netip"
	"strings"

	msg "github.com/emiago/sipgo/sip"
)

// A session is one end of a dialog (RFC 3261 §12).
type session struct {
	agent  *Agent
	callID string
	local  string // From or To value with our tag
	remote string // the other's, with its tag once it has one
	target string // URI of the other end
	routes []string
	first  netip.AddrPort // where requests are sent
	cseq   int
}

// invite is an INVITE that this end sent.
type invite struct {
	session
	sent   *sent
	route  string // Route lines
	target string // Request-URI
}

// call sends an INVITE. route are the Route values to send it along.
func (a *Agent) call(first netip.AddrPort, target, from, to string, route []string, extra string) *invite {
	i := &invite{
		session: session{agent: a, callID: unique() + "@" + a.Addr.Addr().String(), local: from + ";tag=" + unique(), remote: to, first: first, cseq: 1},
		route:   routes(route, false),
		target:  target,
	}
	i.sent = a.send(first, "", "INVITE "+target, i.fields("INVITE", i.route)+a.contact(from)+extra)
	return i
}

// contact is a Contact line of the agent for the user of a From or To value.
func (a *Agent) contact(value string) string {
	return fmt.Sprintf("Contact: <sip:%s@%s>\r\n", userOf(uriOf(value)), a.Addr)
}

func (s *session) fields(method, route string) string {
	return fmt.Sprintf("%sFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\n", route, s.local, s.remote, s.callID, s.cseq, method)
}

// cancel gives the call up.
func (i *invite) cancel() {
	s := i.agent.send(i.first, i.sent.branch, "CANCEL "+i.target, i.fields("CANCEL", i.route))
	i.agent.run.Go(func() { i.agent.final(s) })
}

// acknowledge sends the ACK of a final response and, after a 2xx, makes the
// dialog of it.
func (i *invite) acknowledge(m *msg.Response) {
	to := header(m, "To")[0]
	if m.StatusCode >= 300 {
		s := i.session
		s.remote = to
		i.agent.send(i.first, i.sent.branch, "ACK "+i.target, s.fields("ACK", i.route))
		return
	}
	i.remote = to
	i.session.target = i.target
	if c := header(m, "Contact"); len(c) > 0 {
		i.session.target = uriOf(c[0])
	}
	rr := split(header(m, "Record-Route"))
	for n := len(rr) - 1; n >= 0; n-- {
		i.routes = append(i.routes, rr[n])
	}
	i.agent.send(i.first, "", "ACK "+i.session.target, i.fields("ACK", routes(i.routes, false)))
}

// accepted is the dialog of an INVITE that this end answered.
func (a *Agent) accepted(r *Request, first netip.AddrPort) *session {
	to := header(r, "To")[0]
	if _, tagged := r.To().Params.Get("tag"); !tagged {
		to += ";tag=" + r.tag
	}
	s := &session{
		agent:  a,
		callID: r.CallID().Value(),
		local:  to,
		remote: header(r, "From")[0],
		routes: split(header(r, "Record-Route")),
		first:  first,
	}
	s.target = uriOf(s.remote)
	if c := header(r, "Contact"); len(c) > 0 {
		s.target = uriOf(c[0])
	}
	return s
}

// bye ends the dialog and waits until the other end has said so.
func (s *session) bye() *msg.Response {
	s.cseq++
	return s.agent.final(s.agent.send(s.first, "", "BYE "+s.target, s.fields("BYE", routes(s.routes, false))))
}

// split takes apart the values that share a line.
func split(lines []string) (values []string) {
	for _, l := range lines {
		for v := range strings.SplitSeq(l, ",") {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}
