package dialog

import (
	"iter"
	"slices"
	"strings"
	"time"

	"bellhop/dialog/siptext"
)

// DefaultCorrelate is the order of the correlation methods if the configuration sets none.
var DefaultCorrelate = []string{"header:X-CID", "session-id", "replaces", "icid", "call-id", "numbers"}

// The confidence that a leg belongs to the call that it was joined to. Subscribers see the
// text after the method's name: add texts, never change one.
const (
	exact     = ":exact"    // an id says so
	likely    = ":likely"   // both numbers and the time agree, or the Call-IDs are similar
	possible  = ":possible" // no other call fits
	ambiguous = ":tie"      // two calls fit equally well: the leg is joined to neither
)

// ownCID is the header field whose value bellhop authenticates.
const ownCID = "X-CID"

// A method finds the call that an INVITE with an unknown Call-ID belongs to.
type method struct {
	name   string // as in the configuration; of header:NAME, the header's name in lower case
	header string // header field to compare, of a method header:NAME other than header:X-CID
}

// A match is the result of a method: no call, one call, or several that fit equally.
type match struct {
	call       *call  // nil: none, or several
	confidence string // exact, likely, possible or ambiguous; "": no call was found
}

// An inviteMatch is an INVITE whose call is being looked for.
type inviteMatch struct {
	*Message
	links       *callHints
	target      string // extension that the INVITE goes to, or else the number
	toExtension bool   // it goes to an extension's phone

	diversion string // number that diverted the call

	eliminated bool   // no number in the INVITE matched a caller
	refer      *refer // REFER that the INVITE follows; nil: none, or not known
}

// parseMethods returns the correlation methods that the configuration names.
func parseMethods(words []string) (ms []method) {
	if words == nil {
		words = DefaultCorrelate
	}
	for _, w := range words {
		switch name, isHeader := strings.CutPrefix(w, "header:"); {
		case isHeader && siptext.SameName(name, ownCID):
			ms = append(ms, method{name: strings.ToLower(name)})
		case isHeader:
			ms = append(ms, method{strings.ToLower(name), name})
		default:
			ms = append(ms, method{name: w})
		}
	}
	return ms
}

// correlateInvite looks for the call of an INVITE with a new Call-ID. The first method that
// finds one or several calls decides. It also returns the method:confidence for events.
//
// An INVITE that comes from neither the PBX nor a trunk refers to a call only by ids that
// the PBX itself would use: an id that bellhop has authenticated, or both tags of a dialog.
func (t *Tracker) correlateInvite(i *inviteMatch) (c *call, correlation string) {
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

// A key is an id in an INVITE that the legs of a call share, with the name of the method
// that compares it.
type key struct{ method, value string }

// callKey is the method name in the key of a call that was restored from the event log
// alone. Its first INVITE is not known, but if it is repeated it yields the same call id.
const callKey = "call"

// A keyHolder is the call that has a key. If several have it, call is nil.
type keyHolder struct {
	call  *call
	count int // number of calls that have it
}

// matchKey returns the call that has a key.
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

// liveMatch returns a match with c, or no match if c is nil or over: a call that is over
// gets no further legs.
func liveMatch(c *call, sure string) match {
	if c == nil || !c.live() {
		return match{}
	}
	return match{c, sure}
}

// matchOwnID matches the X-CID that bellhop has added to the caller's INVITE. The id names
// one call alone, so an INVITE that has it after the call's end is a straggler of it.
func (t *Tracker) matchOwnID(id string) match {
	if c := t.keyHolders[key{"x-cid", id}].call; c != nil {
		return match{c, exact}
	}
	return match{}
}

// ownID returns the authenticated X-CID of an INVITE, if the configuration correlates by
// it; "" if another call has it already: it names one call alone.
func (t *Tracker) ownID(m *Message) string {
	goes := slices.ContainsFunc(t.methods, func(by method) bool { return by.name == "x-cid" })
	if !goes || t.keyHolders[key{"x-cid", m.CID}].count > 0 {
		return ""
	}
	return m.CID
}

// matchHeader matches a header field that the PBX adds to the INVITEs of a call: the values
// are equal, or the value is the Call-ID of the caller's leg.
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

// fieldValue returns the value of a method's header field.
func (k *callHints) fieldValue(header string) string {
	for _, f := range k.configured {
		if f[0] == header {
			return f[1]
		}
	}
	return ""
}

// matchSessionID matches the two UUIDs of Session-ID (RFC 7989 §5).
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

// sessionIDs returns the UUIDs in a Session-ID, without the null UUID, which identifies
// nothing.
func sessionIDs(value string) []string {
	local, params, _ := strings.Cut(value, ";")
	remote, _ := siptext.Param(params, "remote")
	var ids []string
	for _, id := range []string{strings.TrimSpace(local), remote} {
		if len(id) == 32 && strings.Trim(id, "0") != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// matchTransfer matches the dialog that Replaces names (RFC 3891), or a REFER that a phone
// of a call has sent (RFC 3515). A REFER is matched by Referred-By, or else by its target,
// unless somebody in another call has dialed that number.
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
		case r.replaces != "" || i.At.Sub(r.sentAt) > progressWindow:
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

// callToConnect returns the other call that the REFER r transfers, if the phone that sent r
// talks with nobody in its own call: it has picked up a call, or taken one that was parked.
// The number that the INVITE shows identifies the other call. nil: r transfers its own
// call.
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

// matchReferTarget decides whether an INVITE to the target of the REFER r was caused by r,
// if only the called number and the time suggest it. A caller in another call who dialed
// that number, and for whom no phone rings yet, may have caused it as well: then the number
// that the INVITE shows decides.
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
		return match{} // matchNumbers finds the dialer's call
	case dialer != nil:
		return match{nil, ambiguous}
	case connects:
		return match{c, likely}
	case slices.ContainsFunc(t.callersByDialed[numberTail(i.target)], func(l *leg) bool {
		return l.call != c && l.dialedTarget(i) && l.state != talking && t.awaitsPBX(l, i.At) && !l.call.ringsTarget(i.target)
	}):
		return match{nil, ambiguous} // the shown number belongs to neither
	}
	return match{c, possible}
}

// connectsNumber reports whether a number is that of the person whom the REFER connects: of
// another phone in the call, or the number that the sender of the REFER called or was
// called by.
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

// asksForInvite reports whether an INVITE from a phone is the one that the REFER asks for:
// it comes from a phone in the same call, and goes to the REFER's target.
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

// matchSimilarCallID matches Call-IDs that a PBX derives from the caller's: one contains
// the other, as in 123@pbx_b2b-1, or both begin with the same 30 characters.
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
	return match{} // also if several Call-IDs begin so: then it identifies none
}

const (
	minCallID       = 8  // shorter Call-IDs are not searched in others
	sameCallIDStart = 30 // two Call-IDs that share so many first characters are similar
	maxSeparators   = 12 // separators in the text that a PBX adds to a Call-ID, at either end
)

// innerCallIDs ranges over the Call-IDs from which a PBX may have derived id: first without
// text added at the end, the shortest first, then without text added at the beginning. The
// added text is short. A lookup takes time in proportion to a Call-ID's length, so
// maxSeparators bounds their number.
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

// isSeparator reports whether c may stand between a Call-ID and the text that a PBX adds.
func isSeparator(c byte) bool { return strings.IndexByte("-_.@:;+~", c) >= 0 }

// progressWindow is the time after the last message of a call in which its next leg may
// begin, if only numbers and the time match.
const progressWindow = 10 * time.Second

// matchNumbers looks for the one call whose caller is shown in the INVITE, and waits for
// the PBX. The caller may have dialed another number than the INVITE goes to: that of a
// group, of a queue, or one that is forwarded. A caller who dialed somebody else's phone
// ranks last. Two calls of equal rank are ambiguous.
//
// Towards a trunk a PBX often shows a number of its own instead of the caller's. Then the
// call is the one in which the trunk's number was dialed, or the diverting number, or a
// number in the Contact of a 302, or a number that the PBX has shown to the phone that it
// called first. If no number matches, matchByElimination decides.
func (t *Tracker) matchNumbers(i *inviteMatch) (v match) {
	if i.Src != PBX {
		return match{}
	}
	best := noRank
	var rival *call // another call of the same caller, for which the PBX may be about to call somebody
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
				weigh(l, rankCallee) // the PBX now calls the number that it showed as the caller
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

// similarNumbers reports whether two numbers are equal, or end in the same digits.
func similarNumbers(a, b string) bool {
	return a == b || len(a) >= similarDigits && len(b) >= similarDigits && numberTail(a) == numberTail(b)
}

// rank orders the legs that an INVITE may belong to: the highest one wins.
type rank int

const (
	noRank             rank = iota
	rankCallee              // a phone that was called before, and is to be connected with somebody else
	rankDialedSimilar       // a similar number was dialed: the PBX removes a prefix, or adds one
	rankDialed              // the number was dialed
	rankSettledSimilar      // as rankSimilarCaller, but the dialed number is that of another phone
	rankSimilarCaller       // the caller's number is similar
	rankDialerSimilar       // as rankSimilarCaller, and the INVITE goes to the dialed target, which does not ring yet
	rankSettledCaller       // as rankCaller, but the dialed number is that of another phone
	rankCaller              // the caller's number is equal
	rankDialer              // as rankCaller, and the INVITE goes to the dialed target, which does not ring yet
)

// rankLeg returns how well an INVITE that shows a number matches a leg.
func (t *Tracker) rankLeg(l *leg, i *inviteMatch, number string) rank {
	same := l.hasNumber(number)
	switch {
	case l.origin == PBX && l.phoneNumber == i.target:
		if number == i.target && l.mayForkCallback(i) {
			return rankCallee
		}
		return noRank // a phone is not connected with itself
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

// dialedTarget reports whether the leg's caller dialed the target of the INVITE.
func (l *leg) dialedTarget(i *inviteMatch) bool {
	return l.calledUser == i.target || i.toExtension && l.calledExt.User == i.target
}

// hasNumber reports whether the person at the leg's phone is known by a number.
func (l *leg) hasNumber(number string) bool {
	return l.phoneNumber == number || slices.Contains(l.otherNumbers, number)
}

// awaitsSecondParty reports whether the PBX has called the phone of leg l first, and is
// about to call the number that it shows there: the phone has answered within
// progressWindow, the call has no caller, and no other leg of it is answered.
func (t *Tracker) awaitsSecondParty(l *leg, now time.Time) bool {
	return l.origin == PBX && l.call.caller == nil && l.state == talking && now.Sub(l.answered) <= progressWindow && !l.call.otherLegTalks(l)
}

// showsSameNumber reports whether the number in the INVITE is the one that the PBX shows on
// leg l and in no other call that it began, and the phone of l has just answered. Asterisk
// sends the second INVITE 2 to 5 ms after the answer, 43 ms on a machine with a load of 5
// (December 2026). Many calls may show a number of the company, so the time for such a
// number is shorter.
func (t *Tracker) showsSameNumber(l *leg, i *inviteMatch, number string) bool {
	gap := promptGap
	if t.directory.kindOf(number, i.At) == "" {
		gap = forkGap
	}
	return l.callerNum == number && i.At.Sub(l.answered) <= gap && t.showsUniquely(l)
}

// showsUniquely reports whether no other call that the PBX began shows the same caller's
// number as leg l.
func (t *Tracker) showsUniquely(l *leg) bool {
	return !slices.ContainsFunc(t.legsByNumber[numberTail(l.callerNum)], func(o *leg) bool {
		return o.call != l.call && o.origin == PBX && o.callerNum == l.callerNum && o.call.caller == nil
	})
}

// dialedPhoneRings reports whether a phone of the extension that a caller dialed rings, or
// is about to.
func (l *leg) dialedPhoneRings() bool {
	for _, o := range l.call.legs {
		if o.origin == PBX && (o.state == calling || o.state == ringing) && o.party != nil && o.party.ext.User == l.calledExt.User {
			return true
		}
	}
	return false
}

// awaitsPBX reports whether the person at a leg's phone waits for the PBX to connect it:
//
//   - It calls, is not answered yet, and the call had a message within progressWindow.
//   - It is alone in the call: it waits in a queue, hears an IVR, or the other end
//     has left.
//   - It was referred within progressWindow.
//   - It waits in a queue, and the first agent has answered within forkGap: the queue
//     may still call other agents.
//   - It was transferred to a queue, and no agent has answered yet: the phone that
//     transferred it may still be in the call.
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

// otherLegTalks reports whether a leg other than l is answered.
func (c *call) otherLegTalks(l *leg) bool {
	for _, o := range c.legs {
		if o != l && o.state == talking {
			return true
		}
	}
	return false
}

// recentRefer returns the last REFER that a phone of the call has sent within
// progressWindow to have a number called; nil: none.
func (t *Tracker) recentRefer(c *call, now time.Time) *refer {
	for _, r := range slices.Backward(t.recentRefers) {
		if r.leg.call == c && r.replaces == "" && now.Sub(r.sentAt) <= progressWindow {
			return r
		}
	}
	return nil
}

// similarDigits is the number of last digits that similar numbers share.
const similarDigits = 6

// numberTail returns the last digits of a number, which similar numbers share.
func numberTail(number string) string { return number[max(0, len(number)-similarDigits):] }

// identifiesCaller reports whether a number is present and not anonymous.
func identifiesCaller(number string) bool { return number != "" && !isAnonymousUser(number) }

// identifyingNumber returns s if it identifies a caller, else "".
func identifyingNumber(s string) string {
	if identifiesCaller(s) {
		return s
	}
	return ""
}

// indexLeg adds a leg to the index under the number at its phone, its other numbers, and
// the number that its caller dialed.
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

// unindexLeg removes a leg from the index.
func (t *Tracker) unindexLeg(l *leg) {
	t.legsByNumber.remove(numberTail(l.phoneNumber), l)
	for _, a := range l.otherNumbers {
		t.legsByNumber.remove(indexKey(a), l)
	}
	if l.origin == Edge {
		t.callersByDialed.remove(numberTail(l.calledUser), l)
	}
}

// indexLegBy adds a leg to the index under a further number or index key. It retains the
// string.
func (t *Tracker) indexLegBy(l *leg, number string) {
	if !identifiesCaller(number) || l.hasNumber(number) || l.state == over {
		return
	}
	l.otherNumbers = append(l.otherNumbers, number)
	t.legsByNumber.add(indexKey(number), l)
}

// indexKey returns the key in legsByNumber for one of a leg's other numbers: its tail, or
// an index key as it is.
func indexKey(number string) string {
	switch number {
	case indexHidden, indexOpen, indexCallback:
		return number
	}
	return numberTail(number)
}

// A legIndex finds legs by the tail of a number.
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

// indexCall adds the Call-ID and ids of m to the keys by which other legs find the call. An
// untrusted sender cannot add an id that another live call has.
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

// addKey adds a key to a call. A key that two live calls have identifies neither.
func (t *Tracker) addKey(c *call, k key) {
	if k.value == "" || slices.Contains(c.keys, k) || len(c.keys) >= maxKeys {
		return
	}
	h, known := t.keyHolders[k]
	switch {
	case !known:
		k.value, h.call = cloneString(k.value), c
	case h.call != nil && !h.call.live():
		h.call = c // the other call is over
	default:
		h.call = nil // two live calls have the key
	}
	h.count++
	t.keyHolders[k] = h
	c.keys = append(c.keys, k)
}

// removeCallID removes a Call-ID without legs from a call: a queue may ring its agents for
// hours. The first Call-ID stays, because the call's id is derived from it.
func (t *Tracker) removeCallID(c *call, id string) {
	if n := slices.Index(c.callIDs, id); n > 0 {
		c.callIDs = slices.Delete(c.callIDs, n, n+1)
		delete(t.callByCallID, id)
	}
}

// unindexCall removes a call's Call-IDs and keys from the index.
func (t *Tracker) unindexCall(c *call) {
	for _, id := range c.callIDs {
		delete(t.callByCallID, id)
	}
	for _, k := range c.keys {
		h := t.keyHolders[k]
		if h.count--; h.count <= 0 {
			delete(t.keyHolders, k)
		} else {
			t.keyHolders[k] = h
		}
	}
}

// maxKeys is the number of ids by which one call is found, beside its Call-IDs.
const maxKeys = 256
