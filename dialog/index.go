package dialog

import "slices"

// A callIndex finds calls by the ids in their messages.
type callIndex struct {
	callByCallID map[string]*call
	keyHolders   map[key]keyHolder
	methods      []method // that the configuration names, in order
}

func newCallIndex() *callIndex {
	return &callIndex{callByCallID: make(map[string]*call), keyHolders: make(map[key]keyHolder)}
}

// A key is an id in an INVITE that the legs of a call share, with the name of the method
// that compares it.
type key struct{ method, value string }

// callKey is the method name of the key of a call that was restored from the event log
// alone. The value of that key is the call's id. The id is derived from the first INVITE,
// so a repetition of that INVITE finds the call.
const callKey = "call"

// A keyHolder is the call that has a key. If several have it, call is nil.
type keyHolder struct {
	call  *call
	count int // number of calls that have it
}

// matchKey finds the live call that has a key. The match is ambiguous if several calls
// have the key.
func (x *callIndex) matchKey(k key) match {
	switch h, ok := x.keyHolders[k]; {
	case !ok:
		return match{}
	case h.call == nil:
		return match{nil, ambiguous}
	default:
		return liveMatch(h.call, exact)
	}
}

// matchOwnID finds the call by the X-CID that bellhop added to the caller's INVITE. The
// id belongs to one call only. So the call matches even if it is over: the INVITE is then
// late.
func (x *callIndex) matchOwnID(id string) match {
	if c := x.keyHolders[key{"x-cid", id}].call; c != nil {
		return match{c, exact}
	}
	return match{}
}

// ownID returns the authenticated X-CID of an INVITE as the id of a new call. It returns
// "" if the configuration does not correlate by X-CID, or if another call has that id.
func (x *callIndex) ownID(m *Message) string {
	goes := slices.ContainsFunc(x.methods, func(by method) bool { return by.name == "x-cid" })
	if !goes || x.keyHolders[key{"x-cid", m.CID}].count > 0 {
		return ""
	}
	return m.CID
}

// indexCall indexes the call by the Call-ID and the ids in m, so that its other legs find
// it. An untrusted sender cannot add the value of a header field that another live call
// has.
func (x *callIndex) indexCall(c *call, m *Message, links *callHints) {
	if x.callByCallID[m.CallID] == nil {
		id := cloneString(m.CallID)
		x.callByCallID[id] = c
		c.callIDs = append(c.callIDs, id)
	}
	give := func(by, value string) {
		k := key{by, value}
		if h := x.keyHolders[k]; m.trusted() || h.call == nil || h.call == c || !h.call.live() {
			x.addKey(c, k)
		}
	}
	for n := range x.methods {
		by := &x.methods[n]
		switch {
		case by.header != "":
			give(by.name, links.fieldValue(by.header))
		case by.name == "x-cid":
			x.addKey(c, key{by.name, x.ownID(m)})
		case by.name == "session-id":
			for _, id := range sessionIDs(links.session) {
				give(by.name, id)
			}
		case by.name == "icid":
			give(by.name, links.icid)
		case by.name == "call-id" && m.Src == Edge && len(m.CallID) >= sameCallIDStart:
			x.addKey(c, key{by.name, m.CallID[:sameCallIDStart]})
		}
	}
}

// addKey adds a key to a call. If two live calls have the same key, it identifies
// neither.
func (x *callIndex) addKey(c *call, k key) {
	if k.value == "" || slices.Contains(c.keys, k) || len(c.keys) >= maxKeys {
		return
	}
	h, known := x.keyHolders[k]
	k.value = cloneString(k.value)
	switch {
	case !known:
		h.call = c
	case h.call != nil && !h.call.live():
		h.call = c // the other call is over
	default:
		h.call = nil // two live calls have the key
	}
	h.count++
	x.keyHolders[k] = h
	c.keys = append(c.keys, k)
}

// removeCallID removes a Call-ID that no leg of the call has any longer. Otherwise a call
// would gather Call-IDs, because a queue may ring its agents for hours. The first Call-ID
// stays, because the call's id is derived from it.
func (x *callIndex) removeCallID(c *call, id string) {
	if n := slices.Index(c.callIDs, id); n > 0 {
		c.callIDs = slices.Delete(c.callIDs, n, n+1)
		delete(x.callByCallID, id)
	}
}

// unindexCall removes a call's Call-IDs and keys from the index.
func (x *callIndex) unindexCall(c *call) {
	for _, id := range c.callIDs {
		delete(x.callByCallID, id)
	}
	for _, k := range c.keys {
		h := x.keyHolders[k]
		if h.count--; h.count <= 0 {
			delete(x.keyHolders, k)
		} else {
			x.keyHolders[k] = h
		}
	}
}

// findDialog returns the live leg whose dialog has the Call-ID and both tags, in either
// order; nil: none. If a restart lost the leg's To tag, its From tag suffices.
func (x *callIndex) findDialog(callID, tag, other string) *leg {
	c := x.callByCallID[callID]
	if c == nil || tag == "" || other == "" {
		return nil
	}
	for _, l := range c.legs {
		if l.callID != callID || l.state == over {
			continue
		}
		switch unknown := l.transactionLost && l.toTag == ""; { // unknown: the leg was restored from the event log alone
		case l.fromTag == tag && (l.hasDialog(other) || unknown), l.fromTag == other && (l.hasDialog(tag) || unknown):
			return l
		}
	}
	return nil
}

// replacedBy returns the answered legs with the Call-ID that the REFER's Replaces names.
func (x *callIndex) replacedBy(r *refer) (legs []*leg) {
	if c := x.callByCallID[r.replaces]; c != nil && r.replaces != "" {
		for _, l := range c.legs {
			if l.callID == r.replaces && l.state == talking {
				legs = append(legs, l)
			}
		}
	}
	return legs
}

// maxKeys is the largest number of keys of one call.
const maxKeys = 256
