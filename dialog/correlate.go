package dialog

import (
	"iter"
	"slices"
	"strings"
	"time"
)

// DefaultCorrelate is the order in which the tracker looks for the call of a
// leg with a Call-ID of its own, unless the configuration has another.
var DefaultCorrelate = []string{"header:X-CID", "session-id", "replaces", "icid", "call-id", "numbers"}

// How sure it is that a leg belongs to the call it was joined to. The text is
// what subscribers see behind the method's name: never change one, only add.
const (
	exact    = ":exact"    // an id says so
	likely   = ":likely"   // both numbers and the time agree, or the Call-IDs are alike
	possible = ":possible" // nobody else can be meant
	tie      = ":tie"      // two calls could be meant: joined to neither
)

// ownCID is the header field whose value bellhop authenticates.
const ownCID = "X-CID"

// A method finds the call that an INVITE with an unknown Call-ID belongs to.
type method struct {
	word   string // in the configuration and, for a header, its name in events
	header string // of the methods called header:NAME, but for our own
}

// A verdict is what a method found: nothing, one call, or several that cannot be
// told apart.
type verdict struct {
	call *call
	sure string // exact, likely, possible or tie; "": nothing
}

// incoming is an INVITE that is looking for its call.
type incoming struct {
	*Message
	links  *links
	called string // the extension that it goes to, or else the number
	ext    bool   // it goes to an extension's phone

	diversion string // the number that sent the call on

	eliminated bool   // no number told whose the INVITE is
	refer      *refer // that the INVITE follows; nil: none, or not known
}

// methods reads the words of the configuration.
func methods(words []string) (ms []method) {
	if words == nil {
		words = DefaultCorrelate
	}
	for _, w := range words {
		switch name, isHeader := strings.CutPrefix(w, "header:"); {
		case isHeader && is(name, ownCID):
			ms = append(ms, method{word: strings.ToLower(name)})
		case isHeader:
			ms = append(ms, method{strings.ToLower(name), name})
		default:
			ms = append(ms, method{word: w})
		}
	}
	return ms
}

// correlate looks for the call of an INVITE whose Call-ID is new, by one method
// after the other; the first that finds something decides. It returns what
// events are to say of it.
//
// Who is neither the PBX nor a trunk names a call only by what the PBX itself
// goes by: an id that bellhop has authenticated, or both tags of a dialog.
func (t *Tracker) correlate(i *incoming) (c *call, word string) {
	for _, by := range t.methods {
		var v verdict
		switch {
		case !i.trusted() && by.word != "x-cid" && by.word != "replaces":
		case by.header != "":
			v = t.byHeader(by, i)
		case by.word == "x-cid":
			v = t.byOwnID(i.CID)
		case by.word == "session-id":
			v = t.bySession(i)
		case by.word == "replaces":
			v = t.byTransfer(i)
		case by.word == "icid":
			v = t.byKey(key{by.word, i.links.icid})
		case by.word == "call-id":
			v = t.byLikeCallID(i)
		case by.word == "numbers":
			if v = t.byNumbers(i); v.sure == tie {
				t.noteContested(i)
			}
		}
		if v.sure != "" {
			return v.call, by.word + v.sure
		}
	}
	return nil, ""
}

// A key is an id in an INVITE that the legs of a call share, and the word of the
// method that goes by it.
type key struct{ by, value string }

// callKey is the word of a key that is the id of a call of which only the log
// was left: what its first INVITE was is not known, but it would get that id.
const callKey = "call"

// A holder is who has a key: a call, or several, and then call is nil.
type holder struct {
	call *call
	n    int
}

func (t *Tracker) byKey(k key) verdict {
	switch h, ok := t.keys[k]; {
	case !ok:
		return verdict{}
	case h.call == nil:
		return verdict{nil, tie}
	default:
		return found(h.call, exact)
	}
}

// found is the verdict that c is the call, if there is one and it is not over: a
// call that is has no further legs.
func found(c *call, sure string) verdict {
	if c == nil || !c.live() {
		return verdict{}
	}
	return verdict{c, sure}
}

// byOwnID goes by the id that bellhop has given the caller's INVITE. It is the
// call's own: what comes with it when the call is over is a straggler of it.
func (t *Tracker) byOwnID(id string) verdict {
	if c := t.keys[key{"x-cid", id}].call; c != nil {
		return verdict{c, exact}
	}
	return verdict{}
}

// ownID is the id in an INVITE that names its call, if calls go by it; "" if it
// names another call already: it is one call's alone.
func (t *Tracker) ownID(m *Message) string {
	goes := slices.ContainsFunc(t.methods, func(by method) bool { return by.word == "x-cid" })
	if !goes || t.keys[key{"x-cid", m.CID}].n > 0 {
		return ""
	}
	return m.CID
}

// byHeader goes by a header field that the PBX puts into the INVITEs of a call:
// they have the same value, or it is the Call-ID of the caller's leg.
func (t *Tracker) byHeader(by method, i *incoming) verdict {
	v := i.links.value(by.header)
	if v == "" {
		return verdict{}
	}
	if v := t.byKey(key{by.word, v}); v.sure != "" {
		return v
	}
	return found(t.byCallID[v], exact)
}

// value returns the value of a method's header field.
func (k *links) value(header string) string {
	for _, f := range k.configured {
		if f[0] == header {
			return f[1]
		}
	}
	return ""
}

// bySession goes by the two UUIDs of Session-ID (RFC 7989 §5).
func (t *Tracker) bySession(i *incoming) (v verdict) {
	for _, id := range sessionIDs(i.links.session) {
		switch one := t.byKey(key{"session-id", id}); {
		case one.sure == "":
		case v.sure == "" || v.call == one.call:
			v = one
		default:
			return verdict{nil, tie}
		}
	}
	return v
}

// sessionIDs are the UUIDs in a Session-ID; the null UUID names nothing.
func sessionIDs(value string) []string {
	local, params, _ := strings.Cut(value, ";")
	remote, _ := param(";"+params, "remote")
	var ids []string
	for _, id := range []string{strings.TrimSpace(local), remote} {
		if len(id) == 32 && strings.Trim(id, "0") != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// byTransfer goes by the dialog that Replaces names (RFC 3891), or by a REFER
// that a phone of a call has sent (RFC 3515): who refers, as Referred-By says, or else
// to whom, unless somebody in another call has dialed that number.
func (t *Tracker) byTransfer(i *incoming) (v verdict) {
	if i.links.replaces != "" {
		callID, toTag, fromTag := readReplaces(i.links.replaces)
		if l := t.dialogWith(callID, toTag, fromTag); l != nil {
			return verdict{l.call, exact}
		}
		if i.trusted() {
			if v := found(t.byCallID[callID], exact); v.sure != "" {
				return v
			}
		}
	}
	var followed *refer
	for _, r := range t.refers {
		switch {
		case r.replaces != "" || i.At.Sub(r.at) > progressed:
		case !i.trusted() && !r.sentTo(i):
		case i.links.referredBy != "" && i.links.referredBy != r.by:
		case i.links.referredBy == "" && (i.Src != PBX || i.called != r.to):
		case !r.leg.call.live():
		case v.sure != "" && v.call != r.leg.call:
			return verdict{nil, tie}
		default:
			v, followed = verdict{r.leg.call, exact}, r
		}
	}
	if followed != nil {
		i.refer = followed
		if c := t.connectsOther(i, followed); c != nil {
			return verdict{c, exact}
		}
		if i.links.referredBy == "" {
			return t.followsRefer(i, followed)
		}
	}
	return v
}

// connectsOther returns the other call that the REFER r sends on, if the phone that sent it
// talks with nobody of its own call: it has picked up a call, or taken one that was
// parked. The number that the INVITE shows tells whose it is. nil: it is r's own call.
func (t *Tracker) connectsOther(i *incoming, r *refer) *call {
	if i.Src != PBX || len(r.leg.call.legs) > 1 {
		return nil
	}
	var others contest
	for _, number := range i.links.numbers {
		if !telling(number) || r.leg.numbered(number) {
			continue
		}
		for _, l := range t.byNumber[tail(number)] {
			if l.numbered(number) && l.state == talking && l.call != r.leg.call && !l.call.talksBeside(l) {
				others.enter(l.call, 1)
			}
		}
	}
	return others.verdict().call
}

// followsRefer decides whether an INVITE to whom the REFER r names is because of it, if
// nothing but the number called and the time says so. A caller in another call who
// dialed that number, and for whom nobody rings yet, may be meant as well: then the
// number that the INVITE shows decides.
func (t *Tracker) followsRefer(i *incoming, r *refer) verdict {
	c := r.leg.call
	connects := false
	var dialer *leg
	for _, number := range i.links.numbers {
		if !telling(number) {
			continue
		}
		connects = connects || r.connects(number)
		for _, l := range t.byNumber[tail(number)] {
			if f := t.fits(l, i, number); l.call != c && (f == dialerFits || f == dialerAlike) {
				dialer = l
			}
		}
	}
	switch {
	case dialer != nil && (!connects || c.ringsFor(i.called) && !c.forks(i)):
		return verdict{} // byNumbers finds the dialer's call
	case dialer != nil:
		return verdict{nil, tie}
	case connects:
		return verdict{c, likely}
	case slices.ContainsFunc(t.byDialed[tail(i.called)], func(l *leg) bool {
		return l.call != c && l.dialed(i) && l.state != talking && t.inHands(l, i.At) && !l.call.ringsFor(i.called)
	}):
		return verdict{nil, tie} // the number shown is neither's
	}
	return verdict{c, possible}
}

// connects reports whether a number is that of whom the REFER connects: of another
// phone in the call, or the one that the phone which sent it called or was called by.
func (r *refer) connects(number string) bool {
	l := r.leg
	other := l.num
	if l.origin == Edge {
		other = l.called
	}
	return alikeNumbers(other, number) || slices.ContainsFunc(l.call.legs, func(o *leg) bool {
		return o != l && o.state == talking && (o.numbered(number) || alikeNumbers(o.number, number))
	})
}

// sentTo reports whether the INVITE, which is a phone's, is what the REFER asks
// for: from a phone in the same call, to whom the REFER names.
func (r *refer) sentTo(i *incoming) bool {
	if i.called != r.to && (i.called != r.contact || r.contact == "") {
		return false
	}
	for _, l := range r.leg.call.legs {
		if l.state != over && l.ownHost(i.From) {
			return true
		}
	}
	return false
}

// byLikeCallID goes by Call-IDs that a PBX makes out of the caller's: one
// contains the other, as in 123@pbx_b2b-1, or both begin with the same 30
// characters.
func (t *Tracker) byLikeCallID(i *incoming) verdict {
	if i.Src != PBX {
		return verdict{}
	}
	id := i.CallID
	for inner := range innerCallIDs(id) {
		if v := found(t.byCallID[inner], likely); v.sure != "" {
			return v
		}
	}
	if len(id) < sameStart {
		return verdict{}
	}
	if v := t.byKey(key{"call-id", id[:sameStart]}); v.sure == exact {
		return verdict{v.call, likely}
	}
	return verdict{} // also where several begin so: that says nothing
}

const (
	minCallID = 8  // shorter Call-IDs are not looked for in others
	sameStart = 30 // characters in common make two Call-IDs alike
	maxAdded  = 12 // separators in what a PBX adds to a Call-ID, at either end
)

// innerCallIDs ranges over the Call-IDs that a PBX may have made id of: without
// an end that it has added, the shortest first, then without a beginning. What a
// PBX adds is short: each Call-ID is looked up in the time of its length, and
// there are few.
func innerCallIDs(id string) iter.Seq[string] {
	return func(yield func(string) bool) {
		added := 0
		for n := len(id) - 1; n >= minCallID && added < maxAdded; n-- {
			if separator(id[n]) {
				added++
				if !yield(id[:n]) {
					return
				}
			}
		}
		added = 0
		for n := 0; n < len(id)-minCallID && added < maxAdded; n++ {
			if separator(id[n]) {
				added++
				if !yield(id[n+1:]) {
					return
				}
			}
		}
	}
}

// separator reports whether c may stand between a Call-ID and what a PBX adds.
func separator(c byte) bool { return strings.IndexByte("-_.@:;+~", c) >= 0 }

// progressed is how long after the last message of a call its next leg may
// begin, if only numbers and the time say that it is the call's.
const progressed = 10 * time.Second

// byNumbers looks for the one call whose caller is the caller of this INVITE,
// and who is in the hands of the PBX. That another number was dialed is no
// hindrance, as that may be a group's, a queue's, or be forwarded; but a call to
// somebody else's phone comes last. Of two calls that fit equally well it is
// neither.
//
// Towards a trunk a PBX often puts a number of its own in place of the caller's.
// Then the call is the one in which the trunk's number was dialed, or the number
// that diverts, or that the Contact of a 302 has named, or that the PBX has shown to
// the phone that it called first. If no number tells, byElimination does.
func (t *Tracker) byNumbers(i *incoming) (v verdict) {
	if i.Src != PBX {
		return verdict{}
	}
	best := noFit
	var rival *call // another line of the caller, for which the PBX may be about to call somebody
	weigh := func(l *leg, f fit) {
		if f == callerFits && l.awaitsLeg(i) {
			rival = l.call
		}
		switch {
		case f < best || f == noFit || l.call == v.call && f == best:
		case f > best:
			best, v = f, verdict{l.call, possible}
			if f >= settledFits && l.dialed(i) {
				v.sure = likely
			}
		default:
			v = verdict{nil, tie}
		}
	}
	for n, number := range i.links.numbers {
		if !telling(number) || slices.Contains(i.links.numbers[:n], number) {
			continue
		}
		for _, l := range t.byNumber[tail(number)] {
			weigh(l, t.fits(l, i, number))
		}
	}
	if i.Trunk != "" && t.names.kind(i.links.numbers[fromField], i.At) == "" {
		for _, dialed := range []string{i.called, i.diversion} {
			for _, l := range t.byDialed[tail(dialed)] {
				switch {
				case dialed == "" || !t.inHands(l, i.At):
				case l.called == dialed:
					weigh(l, dialedFits)
				case len(l.called) >= alike && len(dialed) >= alike:
					weigh(l, dialedAlike)
				}
			}
		}
	}
	if l, f := t.movedTo(nil, i.called, i.At); l != nil {
		weigh(l, f)
	}
	if shown := i.links.numbers[fromField]; shown == i.called || t.names.kind(shown, i.At) == "" {
		for _, l := range t.byNumber[tail(i.called)] {
			if l.number != i.called && alikeNumbers(l.num, i.called) && t.callsFor(l, i.At) && t.showsAlone(l) {
				weigh(l, calleeFits) // the PBX now calls the number that it has shown
			}
		}
	}
	switch {
	case best == dialerFits && rival != nil && rival != v.call:
		return verdict{nil, tie}
	case v.sure == "":
		i.eliminated = true
		return t.byElimination(i)
	}
	return v
}

// alikeNumbers reports whether two numbers are the same, or alike.
func alikeNumbers(a, b string) bool {
	return a == b || len(a) >= alike && len(b) >= alike && tail(a) == tail(b)
}

// fit says how well an INVITE fits in with a leg.
type fit int

const (
	noFit        fit = iota
	calleeFits       // who was called before, and is to be connected with somebody else
	dialedAlike      // a number dialed that is alike: the PBX takes a prefix off, or puts one on
	dialedFits       // the number dialed
	settledAlike     // as alikeFits, and the number dialed is that of another phone
	alikeFits        // a caller whose number is alike
	dialerAlike      // as alikeFits, and he calls whom the INVITE goes to, who does not ring yet
	settledFits      // as callerFits, and the number dialed is that of another phone
	callerFits       // the caller
	dialerFits       // as callerFits, and he calls whom the INVITE goes to, who does not ring yet
)

// fits says how well an INVITE of the caller with that number fits in with a
// leg.
func (t *Tracker) fits(l *leg, i *incoming, number string) fit {
	same := l.numbered(number)
	switch {
	case l.origin == PBX && l.number == i.called:
		if number == i.called && l.callsBackToo(i) {
			return calleeFits
		}
		return noFit // nobody is connected with himself
	case l.origin == PBX && l.number != number:
		if t.callsFor(l, i.At) && t.showsAgain(l, i, number) {
			return calleeFits
		}
		return noFit
	case !same && (len(l.number) < alike || len(number) < alike || tail(l.number) != tail(number)), !t.inHands(l, i.At):
		return noFit
	case l.origin == PBX:
		return calleeFits
	}
	dials := l.state != talking && l.dialed(i) && !l.contested && !l.call.ringsFor(i.called)
	switch settled := !l.dialed(i) && (l.ringsDialed() || t.names.registered(l.calledExt.User, i.At)); {
	case same && dials:
		return dialerFits
	case dials:
		return dialerAlike
	case same && settled:
		return settledFits
	case same:
		return callerFits
	case settled:
		return settledAlike
	}
	return alikeFits
}

// dialed reports whether the leg's caller dialed whom the INVITE goes to.
func (l *leg) dialed(i *incoming) bool {
	return l.called == i.called || i.ext && l.calledExt.User == i.called
}

// numbered reports whether who is at the leg's phone is known by a number.
func (l *leg) numbered(number string) bool {
	return l.number == number || slices.Contains(l.also, number)
}

// callsFor reports whether the PBX has called the phone of leg l for somebody whom
// it shows there, and who is about to be called: the phone was answered a moment ago,
// and nobody calls in the call.
func (t *Tracker) callsFor(l *leg, now time.Time) bool {
	return l.origin == PBX && l.call.caller == nil && l.state == talking && now.Sub(l.answered) <= progressed && !l.call.talksBeside(l)
}

// showsAgain reports whether the PBX now shows a number that it shows on leg l alone,
// whose phone was answered just now. Asterisk sends the second INVITE 2 to 5 ms after the
// answer, 43 ms on a machine with a load of 5 (December 2026). Many calls may show a
// number of the company's: that counts for a shorter time.
func (t *Tracker) showsAgain(l *leg, i *incoming, number string) bool {
	gap := prompt
	if t.names.kind(number, i.At) == "" {
		gap = forkGap
	}
	return l.num == number && i.At.Sub(l.answered) <= gap && t.showsAlone(l)
}

// showsAlone reports whether the PBX shows the caller's number of leg l, which is in a
// call that the PBX began, in no other such call.
func (t *Tracker) showsAlone(l *leg) bool {
	return !slices.ContainsFunc(t.byNumber[tail(l.num)], func(o *leg) bool {
		return o.call != l.call && o.origin == PBX && o.num == l.num && o.call.caller == nil
	})
}

// ringsDialed reports whether a phone of the extension that a caller dialed
// rings, or is about to.
func (l *leg) ringsDialed() bool {
	for _, o := range l.call.legs {
		if o.origin == PBX && (o.state == calling || o.state == ringing) && o.party != nil && o.party.ext.User == l.calledExt.User {
			return true
		}
	}
	return false
}

// inHands reports whether who is at a leg's phone is in the hands of the PBX:
// calls, is not answered yet, and something was heard of the call lately; or is
// alone in the call, as one who waits in a queue, hears a menu or was left by the
// other; or was referred a moment ago. A queue may still call its agents in the
// moment in which the first of them answers, and while who has sent the caller there
// has not left.
func (t *Tracker) inHands(l *leg, now time.Time) bool {
	c := l.call
	switch l.state {
	case calling, ringing:
		return l.origin == Edge && now.Sub(c.heard) <= progressed
	case talking:
		waits := l.host != nil && (now.Sub(c.bridged) <= forkGap || !l.host.over && c.bridged.IsZero() && !c.wasBridged)
		return !c.talksBeside(l) || waits || t.referred(c, now) != nil
	}
	return false
}

// talksBeside reports whether another leg than l is up.
func (c *call) talksBeside(l *leg) bool {
	for _, o := range c.legs {
		if o != l && o.state == talking {
			return true
		}
	}
	return false
}

// referred returns the last REFER that a phone of the call has sent lately, to
// have somebody called; nil: none.
func (t *Tracker) referred(c *call, now time.Time) *refer {
	for _, r := range slices.Backward(t.refers) {
		if r.leg.call == c && r.replaces == "" && now.Sub(r.at) <= progressed {
			return r
		}
	}
	return nil
}

// alike is how many digits at the end make two numbers alike.
const alike = 6

// tail is what numbers that are alike have in common.
func tail(number string) string { return number[max(0, len(number)-alike):] }

// telling reports whether a number can tell who calls.
func telling(number string) bool { return number != "" && !anonymousNumber(number) }

// number returns a number that can tell who calls, or "".
func number(s string) string {
	if telling(s) {
		return s
	}
	return ""
}

// reach lets a leg be found by the number of who is at its phone, and by the
// number dialed.
func (t *Tracker) reach(l *leg, number string) {
	if telling(number) {
		l.number = number
		t.byNumber.add(tail(number), l)
	}
	for _, a := range l.also {
		t.byNumber.add(alsoKey(a), l)
	}
	if l.origin == Edge {
		t.byDialed.add(tail(l.called), l)
	}
}

// unreach undoes reach.
func (t *Tracker) unreach(l *leg) {
	t.byNumber.remove(tail(l.number), l)
	for _, a := range l.also {
		t.byNumber.remove(alsoKey(a), l)
	}
	if l.origin == Edge {
		t.byDialed.remove(tail(l.called), l)
	}
}

// alsoReach lets a leg be found by another number, or by a key, too. It keeps the
// string.
func (t *Tracker) alsoReach(l *leg, number string) {
	if !telling(number) || l.numbered(number) || l.state == over {
		return
	}
	l.also = append(l.also, number)
	t.byNumber.add(alsoKey(number), l)
}

// alsoKey is under which a leg is in byNumber for one of its further numbers: a key
// is no number, and has no tail.
func alsoKey(number string) string {
	switch number {
	case keyHidden, keyOpen, keyBack:
		return number
	}
	return tail(number)
}

// legsBy finds legs by a number.
type legsBy map[string][]*leg

func (by legsBy) add(number string, l *leg) { by[number] = append(by[number], l) }

func (by legsBy) remove(number string, l *leg) {
	n := slices.Index(by[number], l)
	switch {
	case n < 0:
	case len(by[number]) == 1:
		delete(by, number)
	default:
		by[number] = slices.Delete(by[number], n, n+1)
	}
}

// index notes the keys by which the other legs of m's call find it. An id that
// leads to another call is not taken from it by a stranger who uses it too.
func (t *Tracker) index(c *call, m *Message, links *links) {
	if t.byCallID[m.CallID] == nil {
		id := clone(m.CallID)
		t.byCallID[id] = c
		c.callIDs = append(c.callIDs, id)
	}
	give := func(by, value string) {
		k := key{by, value}
		if h := t.keys[k]; m.trusted() || h.call == nil || h.call == c || !h.call.live() {
			t.give(c, k)
		}
	}
	for n := range t.methods {
		by := &t.methods[n]
		switch {
		case by.header != "":
			give(by.word, links.value(by.header))
		case by.word == "x-cid":
			t.give(c, key{by.word, t.ownID(m)})
		case by.word == "session-id":
			for _, id := range sessionIDs(links.session) {
				give(by.word, id)
			}
		case by.word == "icid":
			give(by.word, links.icid)
		case by.word == "call-id" && m.Src == Edge && len(m.CallID) >= sameStart:
			t.give(c, key{by.word, m.CallID[:sameStart]})
		}
	}
}

// give lets a call be found by a key.
func (t *Tracker) give(c *call, k key) {
	if k.value == "" || slices.Contains(c.keys, k) || len(c.keys) >= maxKeys {
		return
	}
	h, known := t.keys[k]
	switch {
	case !known:
		k.value, h.call = clone(k.value), c
	case h.call != nil && !h.call.live():
		h.call = c // it was the key of a call that is over
	default:
		h.call = nil // another call's too
	}
	h.n++
	t.keys[k] = h
	c.keys = append(c.keys, k)
}

// unname takes a Call-ID from a call that has no leg of it any more: a queue may
// ring its agents for hours. The first one, which the call's id comes from, stays.
func (t *Tracker) unname(c *call, id string) {
	if n := slices.Index(c.callIDs, id); n > 0 {
		c.callIDs = slices.Delete(c.callIDs, n, n+1)
		delete(t.byCallID, id)
	}
}

// release takes a call's keys from it.
func (t *Tracker) release(c *call) {
	for _, id := range c.callIDs {
		delete(t.byCallID, id)
	}
	for _, k := range c.keys {
		h := t.keys[k]
		if h.n--; h.n <= 0 {
			delete(t.keys, k)
		} else {
			t.keys[k] = h
		}
	}
}

// maxKeys is how many ids one call is found by, beside its Call-IDs.
const maxKeys = 256
