package dialog

import (
	"slices"
	"strings"
	"time"
)

// Under these a leg is in the tracker's byNumber beside the numbers of who is at its
// phone. They are longer than the tail of a number, and no number.
const (
	indexHidden   = "\x00hidden" // the PBX does not show the caller's number
	indexOpen     = "\x00dialed" // the caller dialed a number that may lead to anybody
	indexCallback = "\x00called" // the PBX calls an extension back
)

const (
	// prompt is how long after a caller's INVITE a PBX sends the INVITE that it
	// causes, if nothing comes between. Measured: Asterisk 22 1.3 to 10 ms, FreeSWITCH
	// 1.11 6 to 97 ms.
	promptGap = 100 * time.Millisecond

	// listens is how long a caller listens to what the PBX plays, if nobody declared
	// the number that was dialed to be a queue or a menu.
	maxListening = time.Minute

	// maxScanned is how many legs are looked at for one INVITE. Of more, one is
	// not found by elimination.
	maxScanned = 1 << 10
)

// A dialer is a leg of the edge side that began a moment ago.
type recentCaller struct {
	leg *leg
	at  time.Time
}

// dials notes that the caller of a leg has dialed at a time.
func (t *Tracker) addRecentCaller(l *leg, at time.Time) {
	n := 0
	for n < len(t.recentCallers) && at.Sub(t.recentCallers[n].at) > promptGap {
		n++
	}
	t.recentCallers = append(t.recentCallers[n:], recentCaller{l, at})
}

// moves notes that a phone was called on leg l and has answered 3xx.
func (t *Tracker) noteRedirect(l *leg, m *Message) {
	var users []string
	for name, value := range headerFields(m.Head) {
		if !sameHeader(name, "Contact") {
			continue
		}
		for v := range listValues(value) {
			_, contact, _ := parseNameAddr(v)
			if user := parseURI(contact).user; user != "" && len(users) < maxContacts {
				users = append(users, user)
			}
		}
	}
	l.redirectUsers = strings.Join(users, "\n")
	n := 0
	for n < len(t.redirectedLegs) && m.At.Sub(t.redirectedLegs[n].ended) > progressWindow {
		n++
	}
	if l.redirectUsers != "" {
		t.redirectedLegs = append(t.redirectedLegs[n:], l)
	}
}

// movedTo returns the leg that was refused with 3xx a moment ago, in a call or in
// any if c is nil, and one of whose Contacts names the number called, and how well it
// does; nil: none, or legs of several calls.
func (t *Tracker) findRedirect(c *call, called string, now time.Time) (found *leg, best rank) {
	for _, l := range t.redirectedLegs {
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

// movesTo returns how well a Contact of the 3xx that refused a leg names the number: the
// PBX may take a prefix off, or put one on. A phone may name several, of which the PBX
// tries one after the other.
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

// contest finds the call that fits an INVITE best, if it is only one.
type candidates struct {
	best      int
	call      *call
	ambiguous bool
	rival     *call // the PBX may be about to call somebody for it
}

// enter has a call compete.
func (x *candidates) add(c *call, rank int) {
	switch {
	case rank < x.best || rank == x.best && c == x.call:
	case rank == x.best:
		x.ambiguous = true
	default:
		x.best, x.call, x.ambiguous = rank, c, false
	}
}

func (x *candidates) decide() match {
	switch {
	case x.call == nil:
		return match{}
	case x.ambiguous || x.rival != nil && x.rival != x.call:
		return match{nil, ambiguous}
	}
	return match{x.call, possible}
}

// byElimination looks for the one call that the INVITE can be of, if it shows no
// number or one that is nobody's here: the caller is anonymous, the PBX calls an
// extension otherwise than it logs in, or shows a number of the company's.
func (t *Tracker) matchByElimination(i *inviteMatch) match {
	hidden := true
	for _, number := range i.links.numbers {
		if !identifiesCaller(number) {
			continue
		}
		hidden = false
		if kind := t.directory.declared[number]; i.toExtension && (kind == Queue || kind == IVR) {
			return t.matchServiceNumber(i, number)
		}
		if number == i.target || t.knowsNumber(number, i.At) {
			return match{}
		}
	}
	var x candidates
	scanned := 0
	each := func(key string, enter func(*leg)) {
		for _, l := range t.legsByNumber[key] {
			if scanned++; scanned > maxScanned || x.ambiguous && x.best == 2 {
				return
			}
			enter(l)
		}
	}
	internal := t.directory.kindOf(i.links.numbers[fromField], i.At) != ""
	switch {
	case i.Trunk != "" && internal:
		return match{}
	case i.Trunk != "":
		each(indexOpen, func(l *leg) { t.addOpenCandidate(&x, i, l) })
		each(indexCallback, func(l *leg) { t.addCallbackCandidate(&x, i, l) })
	case !i.toExtension:
		return match{}
	case hidden:
		each(indexHidden, func(l *leg) { t.addHiddenCandidate(&x, i, l) })
	default:
		each(indexOpen, func(l *leg) {
			switch {
			case l.call.hasShownNumber(i):
				t.addOpenCandidate(&x, i, l)
			case internal && t.shownNumberUnknown(l, i.At) && !isNumber(l.party.ext.User):
				t.addOpenCandidate(&x, i, l)
				if l.awaitsNextLeg(i) {
					x.rival = l.call
				}
			}
		})
	}
	if scanned > maxScanned {
		return match{}
	}
	if i.Trunk != "" {
		for _, r := range t.recentRefers {
			if r.replaces == "" && i.At.Sub(r.at) <= progressWindow && r.leg.call.live() {
				x.rival = r.leg.call // whom it asks for may be reached by another number
			}
		}
	}
	var known candidates // of extensions for which the PBX has shown another number before
	for _, d := range t.recentCallers {
		l := d.leg
		if i.At.Sub(d.at) > promptGap || !l.awaitsAnswer() || l.state == talking && !hidden || !slices.Contains(l.call.legs, l) {
			continue
		}
		if i.Trunk == "" && !hidden && l.call.mayBeFork(i) && l.call.hasShownNumber(i) {
			x.add(l.call, 2)
			continue
		}
		if l.call.hasCallee() {
			continue
		}
		field := &x
		if internal && !t.shownNumberUnknown(l, i.At) {
			field = &known
		}
		switch {
		case i.Trunk != "":
			if l.calledExt.User == "" {
				x.rival = l.call // the PBX may call another number than was dialed
			}
		case hidden && (l.hasNumber(indexHidden) || l.dialedTarget(i) && t.shownNumberKnown(l)):
		case hidden && (l.dialedTarget(i) || !t.targetKnown(l, i.At)):
			x.add(l.call, 1) // the PBX may hide the number of one who shows it
			x.rival = l.call
		case hidden || internal && !t.mayShowUnknown(l, i.At):
		case l.dialedTarget(i):
			field.add(l.call, 2)
		case internal && !t.targetKnown(l, i.At): // a number of the company's may be shown to anybody
			field.add(l.call, 1)
			field.rival = l.call
		}
	}
	if x.call == nil && x.rival == nil {
		return known.decide()
	}
	if known.best == 2 { // a caller has dialed exactly this extension
		x.rival = known.call
	}
	return x.decide()
}

// mayShow reports whether the PBX may show an internal number that is nobody's here for the
// extension that calls on leg l: its number is not known, or it is named otherwise.
func (t *Tracker) mayShowUnknown(l *leg, now time.Time) bool {
	p := l.party
	return t.shownNumberUnknown(l, now) || p != nil && p.flow == Out && !isNumber(p.ext.User) && t.directory.registered(p.ext.User, now)
}

// byHost looks for the call of an INVITE that shows the number of a queue or a menu: of
// the only caller who waits there, or, if nobody calls it, of the only phone that the PBX
// has called in its name.
func (t *Tracker) matchServiceNumber(i *inviteMatch, number string) match {
	var x candidates
	called := false
	for n, l := range t.legsByNumber[indexOpen] {
		if n >= maxScanned {
			return match{}
		}
		if p := l.service; p != nil && !p.over && p.ext.User == number {
			if called = true; t.awaitsPBX(l, i.At) {
				x.add(l.call, 1)
			}
		}
	}
	for _, l := range t.legsByNumber[numberTail(number)] {
		if !called && l.origin == PBX && l.callerNum == number && l.state == talking && l.call.caller == nil && !l.call.otherLegTalks(l) {
			x.add(l.call, 1)
		}
	}
	return x.decide()
}

// shows reports whether the PBX has shown the number that the INVITE shows on another
// leg of the call.
func (c *call) hasShownNumber(i *inviteMatch) bool {
	number := i.links.numbers[identity]
	return identifiesCaller(number) && slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX && o.callerNum == number })
}

// waits reports whether the caller on leg l waits for the PBX: it is not answered yet, or
// the PBX itself has answered it in the name of a queue or a menu.
func (l *leg) awaitsAnswer() bool {
	return l.state == calling || l.state == ringing || l.state == talking && l.service != nil && l.service.kind != Conference
}

// explains reports whether a number is somebody's whose legs are known by it.
func (t *Tracker) knowsNumber(number string, now time.Time) bool {
	if t.directory.declared[number] != "" || t.directory.registered(number, now) || t.directory.aliases.ownerOf(number) != "" {
		return true
	}
	return slices.ContainsFunc(t.legsByNumber[numberTail(number)], func(l *leg) bool { return l.hasNumber(number) || len(number) >= similarDigits })
}

// nameless reports whether an extension calls on leg l of which it is not known
// which number the PBX shows for it.
func (t *Tracker) shownNumberUnknown(l *leg, now time.Time) bool {
	p := l.party
	return l.origin == Edge && p != nil && p.flow == Out && t.directory.aliases.numberOf(p.ext.User) == "" && t.directory.registered(p.ext.User, now)
}

// showsOwn reports whether the PBX has shown the number of the extension that calls on
// leg l before.
func (t *Tracker) shownNumberKnown(l *leg) bool {
	return l.party != nil && t.directory.aliases.numberOf(l.party.ext.User) != ""
}

// settled reports whether it is clear whom a leg's caller dialed: a phone that has
// registered, or somebody outside.
func (t *Tracker) targetKnown(l *leg, now time.Time) bool {
	if l.calledExt.User == "" {
		return !l.trunk // a public number that nobody declared may lead to anybody
	}
	return t.directory.registered(l.calledExt.User, now)
}

// enterOpen has the call of a caller compete who dialed a number that may lead to
// anybody. One in which the extension that diverts the INVITE was called comes first.
func (t *Tracker) addOpenCandidate(x *candidates, i *inviteMatch, l *leg) {
	if !t.awaitsPBX(l, i.At) || t.targetKnown(l, i.At) {
		return
	}
	switch kind := t.directory.declared[l.calledExt.User]; {
	case kind == Conference:
		return // it waits for nobody
	case kind == Queue || kind == IVR:
	case l.state == talking && i.At.Sub(l.answered) > maxListening:
		return
	case l.state != talking && !l.call.hasCallee():
		return // it may be a number outside: the PBX would have called a member of a group
	}
	rank := 1
	if i.diversion != "" && slices.ContainsFunc(l.call.parties, func(p *party) bool { return p.flow == In && p.ext.User == i.diversion }) {
		rank = 2
	}
	x.add(l.call, rank)
}

// enterBack has the call compete in which the PBX has reached an extension, and may
// now call whom it wanted.
func (t *Tracker) addCallbackCandidate(x *candidates, i *inviteMatch, l *leg) {
	if l.call.isCallbackLeg(l) && l.state != talking && l.state != over {
		x.rival = l.call // it may have been answered
		return
	}
	if l.call.isCallbackLeg(l) && l.phoneNumber != i.target && t.awaitsPBX(l, i.At) && !l.call.callback.dialed && i.At.Sub(l.answered) <= progressWindow {
		x.add(l.call, 1)
	}
}

// enterHidden has the call of a caller compete whose number the PBX does not show.
// One who dialed the extension comes before others who wait.
func (t *Tracker) addHiddenCandidate(x *candidates, i *inviteMatch, l *leg) {
	switch {
	case !t.awaitsPBX(l, i.At) || t.directory.declared[l.calledExt.User] == Conference:
	case l.dialedTarget(i) && l.state != talking && !l.ambiguous && !l.call.ringsTarget(i.target):
		x.add(l.call, 2)
	case !l.dialedTarget(i) && t.targetKnown(l, i.At):
	default:
		x.add(l.call, 1)
		if l.awaitsNextLeg(i) {
			x.rival = l.call
		}
	}
}

// rings reports whether the PBX has called somebody for the caller.
func (c *call) hasCallee() bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX })
}

// ringsFor reports whether the PBX has called an extension, or a number outside, in
// the call, and that leg is up.
func (c *call) ringsTarget(called string) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.leadsTo(called) })
}

// calls reports whether the PBX calls an extension, or a number outside, on leg l.
func (l *leg) leadsTo(called string) bool {
	return l.origin == PBX && l.state != over && (l.calledUser == called || l.party != nil && l.party.ext.User == called)
}

// forks reports whether the INVITE may be for a further phone of an extension that
// the PBX began to call in the call a moment ago.
func (c *call) mayBeFork(i *inviteMatch) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool {
		return o.leadsTo(i.target) && i.At.Sub(o.began) <= forkGap && (o.peer != i.phone() || !o.peer.IsValid())
	})
}

// awaitsLeg reports whether the PBX may be about to call somebody for the caller of leg
// l, whoever was dialed: it has not answered yet, or did so a moment ago, or calls
// somebody right now.
func (l *leg) awaitsNextLeg(i *inviteMatch) bool {
	if l.dialedTarget(i) {
		return l.call.mayBeFork(i)
	}
	return l.state != talking || i.At.Sub(l.answered) <= promptGap ||
		slices.ContainsFunc(l.call.legs, func(o *leg) bool { return o.origin == PBX && i.At.Sub(o.began) <= promptGap })
}

// noteContested notes of the callers who dialed whom the INVITE goes to, which is joined to no
// call because several could be meant: their call may have its leg by now.
func (t *Tracker) noteAmbiguous(i *inviteMatch) {
	for _, number := range append(i.links.numbers[:], indexHidden) {
		for _, l := range t.legsByNumber[indexKey(number)] {
			if l.origin == Edge && l.dialedTarget(i) {
				l.ambiguous = true
			}
		}
	}
}

// reachCaller lets the leg of a caller be found by what the PBX may show instead of
// the number that the phone tells.
func (t *Tracker) indexCallerNumbers(l *leg) {
	if p := l.party; p != nil {
		t.indexLegBy(l, p.ext.User)
		t.indexLegBy(l, t.directory.aliases.numberOf(p.ext.User))
	}
	if l.hidden {
		t.indexLegBy(l, indexHidden)
	}
	if !t.targetKnown(l, l.began) {
		t.indexLegBy(l, indexOpen)
	}
}

// reachCalled lets a leg of the PBX's be found by what the next leg of its call may
// tell. A caller whose number is not shown there is found as one who hides it.
func (t *Tracker) indexCalleeNumbers(l *leg, i *inviteMatch) {
	c := l.call
	if c.isCallbackLeg(l) {
		t.indexLegBy(l, indexCallback)
	}
	switch {
	case c.caller == nil && len(c.legs) == 1:
		t.indexLegBy(l, l.callerNum)
	case c.caller != nil && i.toExtension && !slices.ContainsFunc(i.links.numbers[:], identifiesCaller):
		t.indexLegBy(c.caller, indexHidden)
	}
}
