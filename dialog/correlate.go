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
	exact     = ":exact"    // an id says so
	likely    = ":likely"   // both numbers and the time agree, or the Call-IDs are alike
	possible  = ":possible" // nobody else can be meant
	ambiguous = ":tie"      // two calls could be meant: joined to neither
)

// ownCID is the header field whose value bellhop authenticates.
const ownCID = "X-CID"

// A method finds the call that an INVITE with an unknown Call-ID belongs to.
type method struct {
	name   string // in the configuration and, for a header, its name in events
	header string // of the methods called header:NAME, but for our own
}

// A verdict is what a method found: nothing, one call, or several that cannot be
// told apart.
type match struct {
	call       *call
	confidence string // exact, likely, possible or tie; "": nothing
}

// incoming is an INVITE that is looking for its call.
type inviteMatch struct {
	*Message
	links       *callHints
	target      string // the extension that it goes to, or else the number
	toExtension bool   // it goes to an extension's phone

	diversion string // the number that sent the call on

	eliminated bool   // no number told whose the INVITE is
	refer      *refer // that the INVITE follows; nil: none, or not known
}

// methods reads the words of the configuration.
func parseMethods(words []string) (ms []method) {
	if words == nil {
		words = DefaultCorrelate
	}
	for _, w := range words {
		switch name, isHeader := strings.CutPrefix(w, "header:"); {
		case isHeader && sameHeader(name, ownCID):
			ms = append(ms, method{name: strings.ToLower(name)})
		case isHeader:
			ms = append(ms, method{strings.ToLower(name), name})
		default:
			ms = append(ms, method{name: w})
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
func (t *Tracker) correlateInvite(i *inviteMatch) (c *call, word string) {
	for _, by := range t.methods {
		var v match
		switch {
		case !i.trusted() && by.name != "x-cid" && by.name != "replaces":
		case by.header != "":
			v = t.matchHeader(by, i)
		case by.name == "x-cid":
			v = t.matchOwnID(i.CID)
		case by.name == "session-id":
			v = t.matchSessionID(i)
		case by.name == "replaces":
			v = t.matchTransfer(i)
		case by.name == "icid":
			v = t.matchKey(key{by.name, i.links.icid})
		case by.name == "call-id":
			v = t.matchSimilarCallID(i)
		case by.name == "numbers":
			if v = t.matchNumbers(i); v.confidence == ambiguous {
				t.noteAmbiguous(i)
			}
		}
		if v.confidence != "" {
			return v.call, by.name + v.confidence
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
type keyHolder struct {
	call  *call
	calls int
}

func (t *Tracker) matchKey(k key) match {
	switch h, ok := t.keyHolders[k]; {
	case !ok:
		return match{}
	case h.call == nil:
		return match{nil, ambiguous}
	default:
		return liveMatch(h.call, exact)
	}
}

// found is the verdict that c is the call, if there is one and it is not over: a
// call that is has no further legs.
func liveMatch(c *call, sure string) match {
	if c == nil || !c.live() {
		return match{}
	}
	return match{c, sure}
}

// byOwnID goes by the id that bellhop has given the caller's INVITE. It is the
// call's own: what comes with it when the call is over is a straggler of it.
func (t *Tracker) matchOwnID(id string) match {
	if c := t.keyHolders[key{"x-cid", id}].call; c != nil {
		return match{c, exact}
	}
	return match{}
}

// ownID is the id in an INVITE that names its call, if calls go by it; "" if it
// names another call already: it is one call's alone.
func (t *Tracker) ownID(m *Message) string {
	goes := slices.ContainsFunc(t.methods, func(by method) bool { return by.name == "x-cid" })
	if !goes || t.keyHolders[key{"x-cid", m.CID}].calls > 0 {
		return ""
	}
	return m.CID
}

// byHeader goes by a header field that the PBX puts into the INVITEs of a call:
// they have the same value, or it is the Call-ID of the caller's leg.
func (t *Tracker) matchHeader(by method, i *inviteMatch) match {
	v := i.links.fieldValue(by.header)
	if v == "" {
		return match{}
	}
	if v := t.matchKey(key{by.name, v}); v.confidence != "" {
		return v
	}
	return liveMatch(t.callByCallID[v], exact)
}

// value returns the value of a method's header field.
func (k *callHints) fieldValue(header string) string {
	for _, f := range k.configured {
		if f[0] == header {
			return f[1]
		}
	}
	return ""
}

// bySession goes by the two UUIDs of Session-ID (RFC 7989 §5).
func (t *Tracker) matchSessionID(i *inviteMatch) (v match) {
	for _, id := range sessionIDs(i.links.session) {
		switch one := t.matchKey(key{"session-id", id}); {
		case one.confidence == "":
		case v.confidence == "" || v.call == one.call:
			v = one
		default:
			return match{nil, ambiguous}
		}
	}
	return v
}

// sessionIDs are the UUIDs in a Session-ID; the null UUID names nothing.
func sessionIDs(value string) []string {
	local, params, _ := strings.Cut(value, ";")
	remote, _ := paramValue(";"+params, "remote")
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
func (t *Tracker) matchTransfer(i *inviteMatch) (v match) {
	if i.links.replaces != "" {
		callID, toTag, fromTag := readReplaces(i.links.replaces)
		if l := t.findDialog(callID, toTag, fromTag); l != nil {
			return match{l.call, exact}
		}
		if i.trusted() {
			if v := liveMatch(t.callByCallID[callID], exact); v.confidence != "" {
				return v
			}
		}
	}
	var followed *refer
	for _, r := range t.recentRefers {
		switch {
		case r.replaces != "" || i.At.Sub(r.at) > progressWindow:
		case !i.trusted() && !r.asksForInvite(i):
		case i.links.referredBy != "" && i.links.referredBy != r.referredBy:
		case i.links.referredBy == "" && (i.Src != PBX || i.target != r.target):
		case !r.leg.call.live():
		case v.confidence != "" && v.call != r.leg.call:
			return match{nil, ambiguous}
		default:
			v, followed = match{r.leg.call, exact}, r
		}
	}
	if followed != nil {
		i.refer = followed
		if c := t.callToConnect(i, followed); c != nil {
			return match{c, exact}
		}
		if i.links.referredBy == "" {
			return t.matchReferTarget(i, followed)
		}
	}
	return v
}

// connectsOther returns the other call that the REFER r sends on, if the phone that sent it
// talks with nobody of its own call: it has picked up a call, or taken one that was
// parked. The number that the INVITE shows tells whose it is. nil: it is r's own call.
func (t *Tracker) callToConnect(i *inviteMatch, r *refer) *call {
	if i.Src != PBX || len(r.leg.call.legs) > 1 {
		return nil
	}
	var others candidates
	for _, number := range i.links.numbers {
		if !identifiesCaller(number) || r.leg.hasNumber(number) {
			continue
		}
		for _, l := range t.legsByNumber[numberTail(number)] {
			if l.hasNumber(number) && l.state == talking && l.call != r.leg.call && !l.call.otherLegTalks(l) {
				others.add(l.call, 1)
			}
		}
	}
	return others.decide().call
}

// followsRefer decides whether an INVITE to whom the REFER r names is because of it, if
// nothing but the number called and the time says so. A caller in another call who
// dialed that number, and for whom nobody rings yet, may be meant as well: then the
// number that the INVITE shows decides.
func (t *Tracker) matchReferTarget(i *inviteMatch, r *refer) match {
	c := r.leg.call
	connects := false
	var dialer *leg
	for _, number := range i.links.numbers {
		if !identifiesCaller(number) {
			continue
		}
		connects = connects || r.connectsNumber(number)
		for _, l := range t.legsByNumber[numberTail(number)] {
			if f := t.rankLeg(l, i, number); l.call != c && (f == rankDialer || f == rankDialerSimilar) {
				dialer = l
			}
		}
	}
	switch {
	case dialer != nil && (!connects || c.ringsTarget(i.target) && !c.mayBeFork(i)):
		return match{} // byNumbers finds the dialer's call
	case dialer != nil:
		return match{nil, ambiguous}
	case connects:
		return match{c, likely}
	case slices.ContainsFunc(t.callersByDialed[numberTail(i.target)], func(l *leg) bool {
		return l.call != c && l.dialedTarget(i) && l.state != talking && t.awaitsPBX(l, i.At) && !l.call.ringsTarget(i.target)
	}):
		return match{nil, ambiguous} // the number shown is neither's
	}
	return match{c, possible}
}

// connects reports whether a number is that of whom the REFER connects: of another
// phone in the call, or the one that the phone which sent it called or was called by.
func (r *refer) connectsNumber(number string) bool {
	l := r.leg
	other := l.callerNum
	if l.origin == Edge {
		other = l.calledUser
	}
	return similarNumbers(other, number) || slices.ContainsFunc(l.call.legs, func(o *leg) bool {
		return o != l && o.state == talking && (o.hasNumber(number) || similarNumbers(o.phoneNumber, number))
	})
}

// sentTo reports whether the INVITE, which is a phone's, is what the REFER asks
// for: from a phone in the same call, to whom the REFER names.
func (r *refer) asksForInvite(i *inviteMatch) bool {
	if i.target != r.target && (i.target != r.contact || r.contact == "") {
		return false
	}
	for _, l := range r.leg.call.legs {
		if l.state != over && l.matchesHost(i.From) {
			return true
		}
	}
	return false
}

// byLikeCallID goes by Call-IDs that a PBX makes out of the caller's: one
// contains the other, as in 123@pbx_b2b-1, or both begin with the same 30
// characters.
func (t *Tracker) matchSimilarCallID(i *inviteMatch) match {
	if i.Src != PBX {
		return match{}
	}
	id := i.CallID
	for inner := range innerCallIDs(id) {
		if v := liveMatch(t.callByCallID[inner], likely); v.confidence != "" {
			return v
		}
	}
	if len(id) < sameCallIDStart {
		return match{}
	}
	if v := t.matchKey(key{"call-id", id[:sameCallIDStart]}); v.confidence == exact {
		return match{v.call, likely}
	}
	return match{} // also where several begin so: that says nothing
}

const (
	minCallID       = 8  // shorter Call-IDs are not looked for in others
	sameCallIDStart = 30 // characters in common make two Call-IDs alike
	maxSeparators   = 12 // separators in what a PBX adds to a Call-ID, at either end
)

// innerCallIDs ranges over the Call-IDs that a PBX may have made id of: without
// an end that it has added, the shortest first, then without a beginning. What a
// PBX adds is short: each Call-ID is looked up in the time of its length, and
// there are few.
func innerCallIDs(id string) iter.Seq[string] {
	return func(yield func(string) bool) {
		added := 0
		for n := len(id) - 1; n >= minCallID && added < maxSeparators; n-- {
			if isSeparator(id[n]) {
				added++
				if !yield(id[:n]) {
					return
				}
			}
		}
		added = 0
		for n := 0; n < len(id)-minCallID && added < maxSeparators; n++ {
			if isSeparator(id[n]) {
				added++
				if !yield(id[n+1:]) {
					return
				}
			}
		}
	}
}

// separator reports whether c may stand between a Call-ID and what a PBX adds.
func isSeparator(c byte) bool { return strings.IndexByte("-_.@:;+~", c) >= 0 }

// progressed is how long after the last message of a call its next leg may
// begin, if only numbers and the time say that it is the call's.
const progressWindow = 10 * time.Second

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
func (t *Tracker) matchNumbers(i *inviteMatch) (v match) {
	if i.Src != PBX {
		return match{}
	}
	best := noRank
	var rival *call // another line of the caller, for which the PBX may be about to call somebody
	weigh := func(l *leg, f rank) {
		if f == rankCaller && l.awaitsNextLeg(i) {
			rival = l.call
		}
		switch {
		case f < best || f == noRank || l.call == v.call && f == best:
		case f > best:
			best, v = f, match{l.call, possible}
			if f >= rankSettledCaller && l.dialedTarget(i) {
				v.confidence = likely
			}
		default:
			v = match{nil, ambiguous}
		}
	}
	for n, number := range i.links.numbers {
		if !identifiesCaller(number) || slices.Contains(i.links.numbers[:n], number) {
			continue
		}
		for _, l := range t.legsByNumber[numberTail(number)] {
			weigh(l, t.rankLeg(l, i, number))
		}
	}
	if i.Trunk != "" && t.directory.kindOf(i.links.numbers[fromField], i.At) == "" {
		for _, dialed := range []string{i.target, i.diversion} {
			for _, l := range t.callersByDialed[numberTail(dialed)] {
				switch {
				case dialed == "" || !t.awaitsPBX(l, i.At):
				case l.calledUser == dialed:
					weigh(l, rankDialed)
				case len(l.calledUser) >= similarDigits && len(dialed) >= similarDigits:
					weigh(l, rankDialedSimilar)
				}
			}
		}
	}
	if l, f := t.findRedirect(nil, i.target, i.At); l != nil {
		weigh(l, f)
	}
	if shown := i.links.numbers[fromField]; shown == i.target || t.directory.kindOf(shown, i.At) == "" {
		for _, l := range t.legsByNumber[numberTail(i.target)] {
			if l.phoneNumber != i.target && similarNumbers(l.callerNum, i.target) && t.awaitsSecondParty(l, i.At) && t.showsUniquely(l) {
				weigh(l, rankCallee) // the PBX now calls the number that it has shown
			}
		}
	}
	switch {
	case best == rankDialer && rival != nil && rival != v.call:
		return match{nil, ambiguous}
	case v.confidence == "":
		i.eliminated = true
		return t.matchByElimination(i)
	}
	return v
}

// alikeNumbers reports whether two numbers are the same, or alike.
func similarNumbers(a, b string) bool {
	return a == b || len(a) >= similarDigits && len(b) >= similarDigits && numberTail(a) == numberTail(b)
}

// fit says how well an INVITE fits in with a leg.
type rank int

const (
	noRank             rank = iota
	rankCallee              // who was called before, and is to be connected with somebody else
	rankDialedSimilar       // a number dialed that is alike: the PBX takes a prefix off, or puts one on
	rankDialed              // the number dialed
	rankSettledSimilar      // as alikeFits, and the number dialed is that of another phone
	rankSimilarCaller       // a caller whose number is alike
	rankDialerSimilar       // as alikeFits, and he calls whom the INVITE goes to, who does not ring yet
	rankSettledCaller       // as callerFits, and the number dialed is that of another phone
	rankCaller              // the caller
	rankDialer              // as callerFits, and he calls whom the INVITE goes to, who does not ring yet
)

// fits says how well an INVITE of the caller with that number fits in with a
// leg.
func (t *Tracker) rankLeg(l *leg, i *inviteMatch, number string) rank {
	same := l.hasNumber(number)
	switch {
	case l.origin == PBX && l.phoneNumber == i.target:
		if number == i.target && l.mayForkCallback(i) {
			return rankCallee
		}
		return noRank // nobody is connected with himself
	case l.origin == PBX && l.phoneNumber != number:
		if t.awaitsSecondParty(l, i.At) && t.showsSameNumber(l, i, number) {
			return rankCallee
		}
		return noRank
	case !same && (len(l.phoneNumber) < similarDigits || len(number) < similarDigits || numberTail(l.phoneNumber) != numberTail(number)), !t.awaitsPBX(l, i.At):
		return noRank
	case l.origin == PBX:
		return rankCallee
	}
	dials := l.state != talking && l.dialedTarget(i) && !l.ambiguous && !l.call.ringsTarget(i.target)
	switch settled := !l.dialedTarget(i) && (l.dialedPhoneRings() || t.directory.registered(l.calledExt.User, i.At)); {
	case same && dials:
		return rankDialer
	case dials:
		return rankDialerSimilar
	case same && settled:
		return rankSettledCaller
	case same:
		return rankCaller
	case settled:
		return rankSettledSimilar
	}
	return rankSimilarCaller
}

// dialed reports whether the leg's caller dialed whom the INVITE goes to.
func (l *leg) dialedTarget(i *inviteMatch) bool {
	return l.calledUser == i.target || i.toExtension && l.calledExt.User == i.target
}

// numbered reports whether who is at the leg's phone is known by a number.
func (l *leg) hasNumber(number string) bool {
	return l.phoneNumber == number || slices.Contains(l.otherNumbers, number)
}

// callsFor reports whether the PBX has called the phone of leg l for somebody whom
// it shows there, and who is about to be called: the phone was answered a moment ago,
// and nobody calls in the call.
func (t *Tracker) awaitsSecondParty(l *leg, now time.Time) bool {
	return l.origin == PBX && l.call.caller == nil && l.state == talking && now.Sub(l.answered) <= progressWindow && !l.call.otherLegTalks(l)
}

// showsAgain reports whether the PBX now shows a number that it shows on leg l alone,
// whose phone was answered just now. Asterisk sends the second INVITE 2 to 5 ms after the
// answer, 43 ms on a machine with a load of 5 (December 2026). Many calls may show a
// number of the company's: that counts for a shorter time.
func (t *Tracker) showsSameNumber(l *leg, i *inviteMatch, number string) bool {
	gap := promptGap
	if t.directory.kindOf(number, i.At) == "" {
		gap = forkGap
	}
	return l.callerNum == number && i.At.Sub(l.answered) <= gap && t.showsUniquely(l)
}

// showsAlone reports whether the PBX shows the caller's number of leg l, which is in a
// call that the PBX began, in no other such call.
func (t *Tracker) showsUniquely(l *leg) bool {
	return !slices.ContainsFunc(t.legsByNumber[numberTail(l.callerNum)], func(o *leg) bool {
		return o.call != l.call && o.origin == PBX && o.callerNum == l.callerNum && o.call.caller == nil
	})
}

// ringsDialed reports whether a phone of the extension that a caller dialed
// rings, or is about to.
func (l *leg) dialedPhoneRings() bool {
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
func (t *Tracker) awaitsPBX(l *leg, now time.Time) bool {
	c := l.call
	switch l.state {
	case calling, ringing:
		return l.origin == Edge && now.Sub(c.lastHeard) <= progressWindow
	case talking:
		waits := l.service != nil && (now.Sub(c.bridgedSince) <= forkGap || !l.service.over && c.bridgedSince.IsZero() && !c.wasBridged)
		return !c.otherLegTalks(l) || waits || t.recentRefer(c, now) != nil
	}
	return false
}

// talksBeside reports whether another leg than l is up.
func (c *call) otherLegTalks(l *leg) bool {
	for _, o := range c.legs {
		if o != l && o.state == talking {
			return true
		}
	}
	return false
}

// referred returns the last REFER that a phone of the call has sent lately, to
// have somebody called; nil: none.
func (t *Tracker) recentRefer(c *call, now time.Time) *refer {
	for _, r := range slices.Backward(t.recentRefers) {
		if r.leg.call == c && r.replaces == "" && now.Sub(r.at) <= progressWindow {
			return r
		}
	}
	return nil
}

// alike is how many digits at the end make two numbers alike.
const similarDigits = 6

// tail is what numbers that are alike have in common.
func numberTail(number string) string { return number[max(0, len(number)-similarDigits):] }

// telling reports whether a number can tell who calls.
func identifiesCaller(number string) bool { return number != "" && !isAnonymousUser(number) }

// number returns a number that can tell who calls, or "".
func identifyingNumber(s string) string {
	if identifiesCaller(s) {
		return s
	}
	return ""
}

// reach lets a leg be found by the number of who is at its phone, and by the
// number dialed.
func (t *Tracker) indexLeg(l *leg, number string) {
	if identifiesCaller(number) {
		l.phoneNumber = number
		t.legsByNumber.add(numberTail(number), l)
	}
	for _, a := range l.otherNumbers {
		t.legsByNumber.add(indexKey(a), l)
	}
	if l.origin == Edge {
		t.callersByDialed.add(numberTail(l.calledUser), l)
	}
}

// unreach undoes reach.
func (t *Tracker) unindexLeg(l *leg) {
	t.legsByNumber.remove(numberTail(l.phoneNumber), l)
	for _, a := range l.otherNumbers {
		t.legsByNumber.remove(indexKey(a), l)
	}
	if l.origin == Edge {
		t.callersByDialed.remove(numberTail(l.calledUser), l)
	}
}

// alsoReach lets a leg be found by another number, or by a key, too. It keeps the
// string.
func (t *Tracker) indexLegBy(l *leg, number string) {
	if !identifiesCaller(number) || l.hasNumber(number) || l.state == over {
		return
	}
	l.otherNumbers = append(l.otherNumbers, number)
	t.legsByNumber.add(indexKey(number), l)
}

// alsoKey is under which a leg is in byNumber for one of its further numbers: a key
// is no number, and has no tail.
func indexKey(number string) string {
	switch number {
	case indexHidden, indexOpen, indexCallback:
		return number
	}
	return numberTail(number)
}

// legsBy finds legs by a number.
type legIndex map[string][]*leg

func (by legIndex) add(number string, l *leg) { by[number] = append(by[number], l) }

func (by legIndex) remove(number string, l *leg) {
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
func (t *Tracker) indexCall(c *call, m *Message, links *callHints) {
	if t.callByCallID[m.CallID] == nil {
		id := cloneString(m.CallID)
		t.callByCallID[id] = c
		c.callIDs = append(c.callIDs, id)
	}
	give := func(by, value string) {
		k := key{by, value}
		if h := t.keyHolders[k]; m.trusted() || h.call == nil || h.call == c || !h.call.live() {
			t.addKey(c, k)
		}
	}
	for n := range t.methods {
		by := &t.methods[n]
		switch {
		case by.header != "":
			give(by.name, links.fieldValue(by.header))
		case by.name == "x-cid":
			t.addKey(c, key{by.name, t.ownID(m)})
		case by.name == "session-id":
			for _, id := range sessionIDs(links.session) {
				give(by.name, id)
			}
		case by.name == "icid":
			give(by.name, links.icid)
		case by.name == "call-id" && m.Src == Edge && len(m.CallID) >= sameCallIDStart:
			t.addKey(c, key{by.name, m.CallID[:sameCallIDStart]})
		}
	}
}

// give lets a call be found by a key.
func (t *Tracker) addKey(c *call, k key) {
	if k.value == "" || slices.Contains(c.keys, k) || len(c.keys) >= maxKeys {
		return
	}
	h, known := t.keyHolders[k]
	switch {
	case !known:
		k.value, h.call = cloneString(k.value), c
	case h.call != nil && !h.call.live():
		h.call = c // it was the key of a call that is over
	default:
		h.call = nil // another call's too
	}
	h.calls++
	t.keyHolders[k] = h
	c.keys = append(c.keys, k)
}

// unname takes a Call-ID from a call that has no leg of it any more: a queue may
// ring its agents for hours. The first one, which the call's id comes from, stays.
func (t *Tracker) removeCallID(c *call, id string) {
	if n := slices.Index(c.callIDs, id); n > 0 {
		c.callIDs = slices.Delete(c.callIDs, n, n+1)
		delete(t.callByCallID, id)
	}
}

// release takes a call's keys from it.
func (t *Tracker) unindexCall(c *call) {
	for _, id := range c.callIDs {
		delete(t.callByCallID, id)
	}
	for _, k := range c.keys {
		h := t.keyHolders[k]
		if h.calls--; h.calls <= 0 {
			delete(t.keyHolders, k)
		} else {
			t.keyHolders[k] = h
		}
	}
}

// maxKeys is how many ids one call is found by, beside its Call-IDs.
const maxKeys = 256
