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

// callKey is the method name in the key of a call that was restored from the event log
// alone. The key is the call id: the first INVITE, if the phone repeats it, yields the same.
const callKey = "call"

// A keyHolder is the call that has a key. If several have it, call is nil.
type keyHolder struct {
	call  *call
	count int // number of calls that have it
}

// matchKey returns the call that has a key.
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

// matchOwnID matches the X-CID that bellhop has added to the caller's INVITE. The id names
// one call alone, so an INVITE that has it after the call's end is a straggler of it.
func (x *callIndex) matchOwnID(id string) match {
	if c := x.keyHolders[key{"x-cid", id}].call; c != nil {
		return match{c, exact}
	}
	return match{}
}

// ownID returns the authenticated X-CID of an INVITE, if the configuration correlates by
// it; "" if another call has it already: it names one call alone.
func (x *callIndex) ownID(m *Message) string {
	goes := slices.ContainsFunc(x.methods, func(by method) bool { return by.name == "x-cid" })
	if !goes || x.keyHolders[key{"x-cid", m.CID}].count > 0 {
		return ""
	}
	return m.CID
}

// indexCall adds the Call-ID and ids of m to the keys by which other legs find the call. An
// untrusted sender cannot add an id that another live call has.
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

// addKey adds a key to a call. A key that two live calls have identifies neither.
func (x *callIndex) addKey(c *call, k key) {
	if k.value == "" || slices.Contains(c.keys, k) || len(c.keys) >= maxKeys {
		return
	}
	h, known := x.keyHolders[k]
	switch {
	case !known:
		k.value, h.call = cloneString(k.value), c
	case h.call != nil && !h.call.live():
		h.call = c // the other call is over
	default:
		h.call = nil // two live calls have the key
	}
	h.count++
	x.keyHolders[k] = h
	c.keys = append(c.keys, k)
}

// removeCallID removes a Call-ID without legs from a call: a queue may ring its agents for
// hours. The first Call-ID stays, because the call's id is derived from it.
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

// findDialog returns the leg whose dialog has that Call-ID and both tags, in either order;
// nil: none.
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

// replacedBy returns the legs of the dialog that the REFER's Replaces names.
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

// maxKeys is the number of ids by which one call is found, beside its Call-IDs.
const maxKeys = 256
