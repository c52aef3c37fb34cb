package siptest

import (
	"fmt"
	"net/netip"
	"slices"

	"bellhop/dialog/siptext"

	msg "github.com/emiago/sipgo/sip"
)

// A dialog is a dialog as one of its ends sees it (RFC 3261 §12).
type dialog struct {
	ua           *userAgent
	callID       string
	local        string // From or To value of this end, with its tag
	remote       string // From or To value of the other end, with its tag once there is one
	remoteTarget string // URI for requests to the other end
	routeSet     []string
	nextHop      netip.AddrPort // address to which requests are sent
	cseq         int
}

// An outgoingInvite is an INVITE that this end has sent, with the dialog that it begins.
type outgoingInvite struct {
	dialog
	tx         *clientTransaction
	routeLines string // Route header lines
	requestURI string // Request-URI
}

// sendInvite sends an INVITE to nextHop. route is its Route values; extra is further
// header lines, an empty line and a body.
func (a *userAgent) sendInvite(nextHop netip.AddrPort, target, from, to string, route []string, extra string) *outgoingInvite {
	i := &outgoingInvite{
		dialog:     dialog{ua: a, callID: newToken() + "@" + a.Addr.Addr().String(), local: from + ";tag=" + newToken(), remote: to, nextHop: nextHop, cseq: 1},
		routeLines: routeLines(route),
		requestURI: target,
	}
	i.tx = a.sendRequest(nextHop, "", "INVITE "+target, i.headerLines("INVITE", i.routeLines)+a.contactLine(from)+extra)
	return i
}

// contactLine returns a Contact header line for the user in a From or To value.
func (a *userAgent) contactLine(value string) string {
	return fmt.Sprintf("Contact: <sip:%s@%s>\r\n", parseUser(parseURI(value)), a.Addr)
}

// headerLines returns the given Route lines and the header lines of a dialog for a
// request.
func (d *dialog) headerLines(method, route string) string {
	return fmt.Sprintf("%sFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\n", route, d.local, d.remote, d.callID, d.cseq, method)
}

// sendCancel sends a CANCEL for the INVITE. It does not wait for the response.
func (i *outgoingInvite) sendCancel() {
	s := i.ua.sendRequest(i.nextHop, i.tx.branch, "CANCEL "+i.requestURI, i.headerLines("CANCEL", i.routeLines))
	i.ua.goroutines.Go(func() { i.ua.waitFinal(s) })
}

// sendAck sends the ACK of a final response. A 2xx completes the dialog: its remote tag,
// remote target and route set.
func (i *outgoingInvite) sendAck(m *msg.Response) {
	to := headerValues(m, "To")[0]
	if m.StatusCode >= 300 {
		s := i.dialog
		s.remote = to
		i.ua.sendRequest(i.nextHop, i.tx.branch, "ACK "+i.requestURI, s.headerLines("ACK", i.routeLines))
		return
	}
	i.remote = to
	i.remoteTarget = i.requestURI
	if c := headerValues(m, "Contact"); len(c) > 0 {
		i.remoteTarget = parseURI(c[0])
	}
	i.routeSet = splitValues(headerValues(m, "Record-Route"))
	slices.Reverse(i.routeSet)
	i.ua.sendRequest(i.nextHop, "", "ACK "+i.remoteTarget, i.headerLines("ACK", routeLines(i.routeSet)))
}

// newDialog returns the dialog of an INVITE that this end accepts.
func (a *userAgent) newDialog(r *Request, nextHop netip.AddrPort) *dialog {
	to := headerValues(r, "To")[0]
	if _, tagged := r.To().Params.Get("tag"); !tagged {
		to += ";tag=" + r.toTag
	}
	s := &dialog{
		ua:       a,
		callID:   r.CallID().Value(),
		local:    to,
		remote:   headerValues(r, "From")[0],
		routeSet: splitValues(headerValues(r, "Record-Route")),
		nextHop:  nextHop,
	}
	s.remoteTarget = parseURI(s.remote)
	if c := headerValues(r, "Contact"); len(c) > 0 {
		s.remoteTarget = parseURI(c[0])
	}
	return s
}

// sendBye sends a BYE and waits for the final response; nil means that none came.
func (d *dialog) sendBye() *msg.Response {
	d.cseq++
	return d.ua.waitFinal(d.ua.sendRequest(d.nextHop, "", "BYE "+d.remoteTarget, d.headerLines("BYE", routeLines(d.routeSet))))
}

// splitValues splits header field values at commas.
func splitValues(lines []string) (values []string) {
	for _, l := range lines {
		values = slices.AppendSeq(values, siptext.List(l))
	}
	return values
}
