package dialog

import (
	"slices"
	"strings"
	"time"

	"bellhop/dialog/siptext"
)

// Keys of numberMatcher.legsByNumber that are not numbers. They are longer than
// similarDigits, so they differ from the tail of any number.
const (
	indexHidden   = "\x00hidden" // legs of callers whose number the PBX does not show
	indexOpen     = "\x00dialed" // legs of callers that dialed a number which may lead to any phone
	indexCallback = "\x00called" // legs on which the PBX calls an extension back
)

const (
	// promptGap is the longest time between a caller's INVITE and the INVITE of the PBX
	// that it causes, if the PBX does nothing else first. Measured: Asterisk 22 1.3 to 10
	// ms, FreeSWITCH 1.11 6 to 97 ms.
	promptGap = 100 * time.Millisecond

	// maxListening is how long a caller whom the PBX has answered remains a
	// candidate: the PBX may play an announcement before it calls somebody. It does
	// not apply if the dialed number is declared as a queue or IVR.
	maxListening = time.Minute

	// maxScanned is the largest number of legs that are compared with one INVITE. If
	// there are more, elimination finds no call.
	maxScanned = 1 << 10
)

// A recentCaller is a leg of the edge side whose caller dialed at the time at.
type recentCaller struct {
	leg *leg
	at  time.Time
}

// addRecentCaller adds the leg l, whose caller dialed at the time at. It removes legs
// that are older than promptGap.
func (s *numberMatcher) addRecentCaller(l *leg, at time.Time) {
	n := 0
	for n < len(s.recentCallers) && at.Sub(s.recentCallers[n].at) > promptGap {
		n++
	}
	s.recentCallers = append(s.recentCallers[n:], recentCaller{l, at})
}

// noteRedirect stores the users in the Contacts of m, the 3xx with which the phone on leg
// l refused the INVITE.
func (s *numberMatcher) noteRedirect(l *leg, m *Message) {
	var users []string
	for name, value := range siptext.Fields(m.Head) {
		if !siptext.SameName(name, "Contact") {
			continue
		}
		for v := range siptext.List(value) {
			contact := siptext.ParseNameAddr(v).URI
			if user := parseURI(contact).user; user != "" && len(users) < maxContacts {
				users = append(users, user)
			}
		}
	}
	l.redirectUsers = cloneString(strings.Join(users, "\n")) // Join returns a single element itself
	n := 0
	for n < len(s.redirectedLegs) && m.At.Sub(s.redirectedLegs[n].ended) > progressWindow {
		n++
	}
	if l.redirectUsers != "" {
		s.redirectedLegs = append(s.redirectedLegs[n:], l)
	}
}

// findRedirect returns the leg that a phone refused within progressWindow with a 3xx to
// the called number, and how well a Contact of that 3xx matches the number. It searches
// call c, or all live calls if c is nil, for the best match. found is nil if no Contact
// matches, or if Contacts of several calls match equally well.
func (s *numberMatcher) findRedirect(c *call, called string, now time.Time) (found *leg, best rank) {
	for _, l := range s.redirectedLegs {
		switch f := l.rankRedirect(called); {
		case called == "" || f == noRank || f < best || now.Sub(l.ended) > progressWindow || !l.call.live() || c != nil && l.call != c:
		case f > best:
			found, best = l, f
		case found != nil && found.call != l.call:
			found = nil
		case found != nil:
			found = l
		}
	}
	return found, best
}

// rankRedirect returns how well the number matches the best Contact of the 3xx that
// refused the leg; noRank if none matches. The PBX may add or remove a prefix. A phone
// may name several Contacts, which the PBX tries one after the other.
func (l *leg) rankRedirect(number string) (best rank) {
	for user := range strings.SplitSeq(l.redirectUsers, "\n") {
		switch {
		case user == number, sameNumber(user, number):
			return rankDialed
		case similarNumbers(user, number):
			best = rankDialedSimilar
		}
	}
	return best
}

// Ranks of candidates.
const (
	weakMatch   = iota + 1 // nothing in the INVITE excludes the call
	strongMatch            // a number in the INVITE also is one of the call
)

// candidates collects the calls that an INVITE may belong to. decide returns the call
// that ranks highest, if there is only one.
type candidates struct {
	best      int   // rank of call
	call      *call // of the highest rank so far; nil: none
	ambiguous bool  // another call has the same rank
	rival     *call // a call for which the PBX may be about to call somebody; it makes any other call ambiguous
}

// add adds a call with its rank. A higher rank is better.
func (x *candidates) add(c *call, rank int) {
	switch {
	case rank < x.best || rank == x.best && c == x.call:
	case rank == x.best:
		x.ambiguous = true
	default:
		x.best, x.call, x.ambiguous = rank, c, false
	}
}

// decide returns the call with the highest rank. The match is ambiguous if several calls
// have that rank, or if another call is the rival: one for which the PBX may be about to
// call somebody.
func (x *candidates) decide() match {
	switch {
	case x.call == nil:
		return match{}
	case x.ambiguous || x.rival != nil && x.rival != x.call:
		return match{nil, ambiguous}
	}
	return match{x.call, possible}
}

// An elimination is the search for the one call that an INVITE can belong to.
type elimination struct {
	hidden   bool       // the INVITE shows no number of the caller
	internal bool       // the number in its From is an extension
	all      candidates // calls whose callers wait for the PBX
	known    candidates // calls of extensions for which the PBX has shown another number before
	scanned  int        // number of legs compared so far
}

// matchByElimination looks for the only call that the INVITE can belong to, if the INVITE
// shows no number, or a number that matches nobody here. The caller may be anonymous. The
// PBX may also show a number of the company, or show an extension by a number that is not
// the name of its account.
func (s *numberMatcher) matchByElimination(i *inviteMatch) match {
	e := elimination{hidden: true}
	for _, number := range i.links.numbers {
		if !identifiesCaller(number) {
			continue
		}
		e.hidden = false
		if kind := s.directory.declared[number]; i.toExtension && (kind == Queue || kind == IVR) {
			return s.matchServiceNumber(i, number)
		}
		if number == i.target || s.knowsNumber(number, i.At) {
			return match{}
		}
	}
	e.internal = s.directory.kindOf(i.links.numbers[fromField], i.At) != ""
	if toTrunk := i.Trunk != ""; toTrunk && e.internal || !toTrunk && !i.toExtension {
		return match{}
	}
	if s.addWaitingCallers(&e, i); e.scanned > maxScanned {
		return match{}
	}
	if i.Trunk != "" {
		for _, r := range *s.refers {
			if r.replaces == "" && i.At.Sub(r.sentAt) <= progressWindow && r.leg.call.live() {
				e.all.rival = r.leg.call // the REFER's target may have another number
			}
		}
	}
	for _, d := range s.recentCallers {
		if i.At.Sub(d.at) <= promptGap {
			s.addRecentCandidate(&e, i, d.leg)
		}
	}
	if e.all.call == nil && e.all.rival == nil {
		return e.known.decide()
	}
	if e.known.best == strongMatch { // a caller has dialed this very extension
		e.all.rival = e.known.call
	}
	return e.all.decide()
}

// addWaitingCallers adds to e.all the calls whose callers wait for somebody, if the
// INVITE may belong to them. It finds their legs by index keys.
func (s *numberMatcher) addWaitingCallers(e *elimination, i *inviteMatch) {
	x := &e.all
	each := func(key string, enter func(*leg)) {
		for _, l := range s.legsByNumber[key] {
			if e.scanned++; e.scanned > maxScanned || x.ambiguous && x.best == strongMatch {
				return
			}
			enter(l)
		}
	}
	switch {
	case i.Trunk != "":
		each(indexOpen, func(l *leg) { s.addOpenCandidate(x, i, l) })
		each(indexCallback, func(l *leg) { s.addCallbackCandidate(x, i, l) })
	case e.hidden:
		each(indexHidden, func(l *leg) { s.addHiddenCandidate(x, i, l) })
	default:
		each(indexOpen, func(l *leg) {
			switch {
			case l.call.hasShownNumber(i):
				s.addOpenCandidate(x, i, l)
			case e.internal && s.shownNumberUnknown(l, i.At) && !isNumber(l.party.ext.User):
				s.addOpenCandidate(x, i, l)
				if l.awaitsNextLeg(i) {
					x.rival = l.call
				}
			}
		})
	}
}

// addRecentCandidate adds the call of leg l, whose caller dialed within promptGap, if the
// PBX may have sent the INVITE for this caller. If the PBX has already called somebody
// for the caller, the call is added only if the INVITE may be a fork. If it is uncertain
// that the INVITE is for this caller, the call becomes the rival of the candidates.
func (s *numberMatcher) addRecentCandidate(e *elimination, i *inviteMatch, l *leg) {
	x := &e.all
	if !l.awaitsAnswer() || l.state == talking && !e.hidden || !slices.Contains(l.call.legs, l) {
		return
	}
	if i.Trunk == "" && !e.hidden && l.call.mayBeFork(i) && l.call.hasShownNumber(i) {
		x.add(l.call, strongMatch)
		return
	}
	if l.call.hasCallee() {
		return
	}
	shown := x // candidates for an INVITE that shows a number
	if e.internal && !s.shownNumberUnknown(l, i.At) {
		shown = &e.known
	}
	switch {
	case i.Trunk != "":
		if l.calledExt.User == "" {
			x.rival = l.call // the PBX may call another number than was dialed
		}
	case e.hidden && l.hasNumber(indexHidden): // addHiddenCandidate decides
	case e.hidden && l.dialedTarget(i) && s.shownNumberKnown(l): // the PBX would show that number
	case e.hidden:
		if l.dialedTarget(i) || !s.targetKnown(l, i.At) {
			x.add(l.call, weakMatch) // the PBX may hide the number of a caller that shows it
			x.rival = l.call
		}
	case e.internal && !s.mayShowUnknown(l, i.At): // the PBX would show another number
	case l.dialedTarget(i):
		shown.add(l.call, strongMatch)
	case e.internal && !s.targetKnown(l, i.At): // the PBX may show a number of the company to anybody
		shown.add(l.call, weakMatch)
		shown.rival = l.call
	}
}

// mayShowUnknown reports whether an INVITE with an internal number that matches nobody
// here may be for the extension that calls on leg l. It may if the number that the PBX
// shows for the extension is not known yet, or if the extension is registered and its
// name is not a number.
func (s *numberMatcher) mayShowUnknown(l *leg, now time.Time) bool {
	p := l.party
	return s.shownNumberUnknown(l, now) || p != nil && p.flow == Out && !isNumber(p.ext.User) && s.directory.registered(p.ext.User, now)
}

// matchServiceNumber looks for the call of an INVITE that shows the number of a queue or
// IVR. If callers have dialed that number, the match is the call of the only caller who
// still waits. If none has, it is the call of the only phone to which the PBX has shown
// that number.
func (s *numberMatcher) matchServiceNumber(i *inviteMatch, number string) match {
	var x candidates
	called := false
	for n, l := range s.legsByNumber[indexOpen] {
		if n >= maxScanned {
			return match{}
		}
		if p := l.service; p != nil && !p.over && p.ext.User == number {
			if called = true; s.awaitsPBX(l, i.At) {
				x.add(l.call, weakMatch)
			}
		}
	}
	for _, l := range s.legsByNumber[numberTail(number)] {
		if !called && l.origin == PBX && l.callerNum == number && l.state == talking && l.call.caller == nil && !l.call.otherLegTalks(l) {
			x.add(l.call, weakMatch)
		}
	}
	return x.decide()
}

// hasShownNumber reports whether the PBX has shown the number in the INVITE on another leg
// of the call.
func (c *call) hasShownNumber(i *inviteMatch) bool {
	number := i.links.numbers[identity]
	return identifiesCaller(number) && slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX && o.callerNum == number })
}

// awaitsAnswer reports whether the caller on leg l waits for a person: it is not answered
// yet, or a queue or IVR of the PBX has answered it.
func (l *leg) awaitsAnswer() bool {
	return l.state == calling || l.state == ringing || l.state == talking && l.service != nil && l.service.kind != Conference
}

// knowsNumber reports whether number is known here, so that its call is not found by
// elimination. It is known if it is declared, registered or shown for an extension, or if
// a live leg is indexed by it or by a similar number.
func (s *numberMatcher) knowsNumber(number string, now time.Time) bool {
	if s.directory.declared[number] != "" || s.directory.registered(number, now) || s.directory.aliases.ownerOf(number) != "" {
		return true
	}
	return slices.ContainsFunc(s.legsByNumber[numberTail(number)], func(l *leg) bool { return l.hasNumber(number) || len(number) >= similarDigits })
}

// shownNumberUnknown reports whether a registered extension calls on leg l, and the number
// that the PBX shows for it is not known.
func (s *numberMatcher) shownNumberUnknown(l *leg, now time.Time) bool {
	p := l.party
	return l.origin == Edge && p != nil && p.flow == Out && s.directory.aliases.numberOf(p.ext.User) == "" && s.directory.registered(p.ext.User, now)
}

// shownNumberKnown reports whether the number that the PBX shows for the extension that
// calls on leg l is known.
func (s *numberMatcher) shownNumberKnown(l *leg) bool {
	return l.party != nil && s.directory.aliases.numberOf(l.party.ext.User) != ""
}

// targetKnown reports whether the number that a leg's caller dialed leads to one known
// phone: that of a registered extension, or one outside.
func (s *numberMatcher) targetKnown(l *leg, now time.Time) bool {
	if l.calledExt.User == "" {
		return !l.trunk // an undeclared public number may lead to any phone
	}
	return s.directory.registered(l.calledExt.User, now)
}

// addOpenCandidate adds the call of a caller that waits and has dialed a number which may
// lead to any phone. The call ranks higher if the extension that diverts the INVITE was
// called in it.
func (s *numberMatcher) addOpenCandidate(x *candidates, i *inviteMatch, l *leg) {
	if !s.awaitsPBX(l, i.At) || s.targetKnown(l, i.At) {
		return
	}
	switch kind := s.directory.declared[l.calledExt.User]; {
	case kind == Conference:
		return // a caller in a conference waits for nobody
	case kind == Queue || kind == IVR:
	case l.state == talking && i.At.Sub(l.answered) > maxListening:
		return
	case l.state != talking && !l.call.hasCallee():
		return // the target may be outside: the PBX would have called a member of a group
	}
	rank := weakMatch
	if i.diversion != "" && slices.ContainsFunc(l.call.parties, func(p *party) bool { return p.flow == In && p.ext.User == i.diversion }) {
		rank = strongMatch
	}
	x.add(l.call, rank)
}

// addCallbackCandidate adds the call of leg l if the PBX calls an extension back on it,
// the extension has answered, and the wanted number was not called yet. If the extension
// has not answered yet, the call becomes the rival.
func (s *numberMatcher) addCallbackCandidate(x *candidates, i *inviteMatch, l *leg) {
	if l.call.isCallbackLeg(l) && l.state != talking && l.state != over {
		x.rival = l.call // the callback may have been answered
		return
	}
	if l.call.isCallbackLeg(l) && l.phoneNumber != i.target && s.awaitsPBX(l, i.At) && !l.call.callback.dialed && i.At.Sub(l.answered) <= progressWindow {
		x.add(l.call, weakMatch)
	}
}

// addHiddenCandidate adds the call of a caller that waits and whose number the PBX does
// not show. The call ranks higher if the caller dialed the extension that the INVITE goes
// to.
func (s *numberMatcher) addHiddenCandidate(x *candidates, i *inviteMatch, l *leg) {
	switch {
	case !s.awaitsPBX(l, i.At) || s.directory.declared[l.calledExt.User] == Conference:
	case l.dialedTarget(i) && l.state != talking && !l.ambiguous && !l.call.ringsTarget(i.target):
		x.add(l.call, strongMatch)
	case !l.dialedTarget(i) && s.targetKnown(l, i.At):
	default:
		x.add(l.call, weakMatch)
		if l.awaitsNextLeg(i) {
			x.rival = l.call
		}
	}
}

// hasCallee reports whether the call has a leg on which the PBX calls somebody.
func (c *call) hasCallee() bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX })
}

// ringsTarget reports whether a leg of the call leads to the extension or outside number
// called.
func (c *call) ringsTarget(called string) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.leadsTo(called) })
}

// leadsTo reports whether the PBX calls the extension or outside number called on leg l,
// and the leg is not over.
func (l *leg) leadsTo(called string) bool {
	return l.origin == PBX && l.state != over && (l.calledUser == called || l.party != nil && l.party.ext.User == called)
}

// mayBeFork reports whether the INVITE may be a fork, because the PBX has sent an INVITE
// to another phone of the same extension within forkGap.
func (c *call) mayBeFork(i *inviteMatch) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool {
		return o.leadsTo(i.target) && i.At.Sub(o.began) <= forkGap && (o.peer != i.phone() || !o.peer.IsValid())
	})
}

// awaitsNextLeg reports whether the PBX may be about to call another number than the
// dialed one for the caller of leg l. It may if it has not answered the caller yet, or if
// it has answered the caller or called somebody within promptGap. If the INVITE goes to
// the dialed target itself, awaitsNextLeg reports whether the INVITE may be a fork.
func (l *leg) awaitsNextLeg(i *inviteMatch) bool {
	if l.dialedTarget(i) {
		return l.call.mayBeFork(i)
	}
	return l.state != talking || i.At.Sub(l.answered) <= promptGap ||
		slices.ContainsFunc(l.call.legs, func(o *leg) bool { return o.origin == PBX && i.At.Sub(o.began) <= promptGap })
}

// noteAmbiguous marks the callers that dialed the target of the INVITE i. Several calls
// fit i, so i was joined to none of them, and any of these callers may have been
// connected by i.
func (s *numberMatcher) noteAmbiguous(i *inviteMatch) {
	for _, number := range append(i.links.numbers[:], indexHidden) {
		for _, l := range s.legsByNumber[indexKey(number)] {
			if l.origin == Edge && l.dialedTarget(i) {
				l.ambiguous = true
			}
		}
	}
}

// indexCallerNumbers indexes a caller's leg by the numbers that the PBX may show instead
// of the one in the phone's INVITE, and by the index keys that apply.
func (s *numberMatcher) indexCallerNumbers(l *leg) {
	if p := l.party; p != nil {
		s.indexLegBy(l, p.ext.User)
		s.indexLegBy(l, s.directory.aliases.numberOf(p.ext.User))
	}
	if l.hidden {
		s.indexLegBy(l, indexHidden)
	}
	if !s.targetKnown(l, l.began) {
		s.indexLegBy(l, indexOpen)
	}
}

// indexCalleeNumbers indexes a leg of the PBX so that the next leg of its call can be
// matched. A callback is indexed under indexCallback, and the first leg of a call without
// a caller under the number that the PBX shows on it. If an INVITE to an extension shows
// no number, the caller's leg is indexed under indexHidden.
func (s *numberMatcher) indexCalleeNumbers(l *leg, i *inviteMatch) {
	c := l.call
	if c.isCallbackLeg(l) {
		s.indexLegBy(l, indexCallback)
	}
	switch {
	case c.caller == nil && len(c.legs) == 1:
		s.indexLegBy(l, l.callerNum)
	case c.caller != nil && i.toExtension && !slices.ContainsFunc(i.links.numbers[:], identifiesCaller):
		s.indexLegBy(c.caller, indexHidden)
	}
}
