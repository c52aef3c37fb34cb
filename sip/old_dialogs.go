package sip

import "bellhop/dialog/siptext"

// A Dialog is a dialog that was up when this process started.
type Dialog struct {
	CallID string
	Tag    string // tag of one of its ends
}

// oldDialogs holds the tags of a worker's dialogs, by Call-ID, in which the edge side may
// use tokens of version 1. Earlier versions of bellhop made such tokens.
type oldDialogs map[string][]string

// contains reports whether m belongs to one of the old dialogs.
func (o oldDialogs) contains(m *message) bool {
	if len(o) == 0 {
		return false
	}
	for _, tag := range o[string(m.text(m.callID))] {
		if tag == string(m.text(m.fromTag)) || tag == string(m.text(m.toTag)) {
			return true
		}
	}
	return false
}

// remove removes the dialogs of a Call-ID, after a BYE was answered.
func (o oldDialogs) remove(callID []byte) {
	if len(o) > 0 {
		delete(o, string(callID))
	}
}

// RestoreDialogs adds dialogs that were up when this process started. Tokens of version 1
// are bound to no dialog. The edge side may use such a token in one of these dialogs
// until that dialog ends, and in no other dialog. RestoreDialogs must be called before
// Run.
func (px *Proxy) RestoreDialogs(dialogs []Dialog) {
	for _, d := range dialogs {
		w := px.workerOfCallID([]byte(d.CallID))
		if w.router.oldDialogs == nil {
			w.router.oldDialogs = oldDialogs{}
		}
		w.router.oldDialogs[d.CallID] = append(w.router.oldDialogs[d.CallID], d.Tag)
	}
}

// routeUnboundFromEdge routes an edge-side request with tokens of version 1 in a dialog
// that was up when this process started. It follows the rules of the earlier versions of
// bellhop that made such tokens.
func (rt *router) routeUnboundFromEdge(p *packet, r *routeDecision, next *siptext.URI, tokens *poppedTokens) *fault {
	last := &tokens.last
	if last.flow.peer.IsValid() && last.flow != tokens.first.flow && last.flow.peer != p.peer {
		r.dst, r.binding = edgeSide, bindingID{}
		if rt.takeFlow(p, r, last) {
			return rt.checkFlow(r)
		}
		return last.flow.closedFault()
	}
	a, known := uriAddr(next)
	pbx := rt.peers.pbxOfAddr(a)
	switch {
	case pbx != nil:
		return rt.routeToPBX(p, r, pbx)
	case !known || rt.listeners.areNamedBy(next):
		return rt.routeToAnyPBX(p, r)
	case rt.peers.isPBXHost(a.Addr()):
		return rt.routeToAddr(p, r, a)
	}
	r.dst = edgeSide
	return rt.routeToEdge(p, r, a)
}
