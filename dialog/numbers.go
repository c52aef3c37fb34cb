package dialog

import (
	"slices"
	"time"
)

// A numberMatcher finds the call of an INVITE by numbers and times.
type numberMatcher struct {
	legsByNumber    legIndex       // live legs by the tails of the numbers at their phones, and by the keys of elimination.go
	callersByDialed legIndex       // live legs of callers by the tail of the dialed number
	recentCallers   []recentCaller // legs whose caller dialed within promptGap, oldest first
	redirectedLegs  []*leg         // legs that were refused with 3xx in the last seconds, oldest first

	directory *directory
	refers    *recentRefers
}

func newNumberMatcher(d *directory, r *recentRefers) *numberMatcher {
	return &numberMatcher{legsByNumber: make(legIndex), callersByDialed: make(legIndex), directory: d, refers: r}
}

// progressWindow is the longest time between the last message of a call and the INVITE of
// its next leg, if only numbers and times match the two.
const progressWindow = 10 * time.Second

// matchNumbers looks for the one call whose caller the INVITE shows, and whose caller
// waits for the PBX (see awaitsPBX). The caller may have dialed another number than the
// INVITE goes to: the number of a group or queue, or a number that is forwarded. A caller
// who dialed somebody else's phone ranks lower. Two calls of equal rank are ambiguous.
//
// Towards a trunk a PBX often shows its own number instead of the caller's. Therefore
// these calls match as well: a call in which the trunk's number or the diverting number
// was dialed, a call with a 302 whose Contact is the trunk's number, and a call that the
// PBX began by showing the trunk's number to a phone. If no number matches,
// matchByElimination decides.
func (s *numberMatcher) matchNumbers(i *inviteMatch) (v match) {
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
		for _, l := range s.legsByNumber[numberTail(number)] {
			weigh(l, s.rankLeg(l, i, number))
		}
	}
	if i.Trunk != "" && s.directory.kindOf(i.links.numbers[fromField], i.At) == "" {
		s.weighDialers(i.target, i.At, weigh)
		s.weighDialers(i.diversion, i.At, weigh)
	}
	if l, f := s.findRedirect(nil, i.target, i.At); l != nil {
		weigh(l, f)
	}
	if shown := i.links.numbers[fromField]; shown == i.target || s.directory.kindOf(shown, i.At) == "" {
		for _, l := range s.legsByNumber[numberTail(i.target)] {
			if l.phoneNumber != i.target && similarNumbers(l.callerNum, i.target) && s.awaitsSecondParty(l, i.At) && s.showsUniquely(l) {
				weigh(l, rankCallee) // the PBX now calls the number that it showed as the caller
			}
		}
	}
	switch {
	case best == rankDialer && rival != nil && rival != v.call:
		return match{nil, ambiguous}
	case v.confidence == "":
		i.eliminated = true
		return s.matchByElimination(i)
	}
	return v
}

// weighDialers calls weigh for the leg of each caller who dialed the number, or one with
// the same last digits, and waits for the PBX to connect the call (see awaitsPBX). The
// rank is rankDialed for the same number, and rankDialedSimilar for the same last digits.
func (s *numberMatcher) weighDialers(dialed string, now time.Time, weigh func(*leg, rank)) {
	for _, l := range s.callersByDialed[numberTail(dialed)] {
		switch {
		case dialed == "" || !s.awaitsPBX(l, now):
		case l.calledUser == dialed:
			weigh(l, rankDialed)
		case similarNumbers(l.calledUser, dialed):
			weigh(l, rankDialedSimilar)
		}
	}
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

// rankLeg returns how well leg l matches an INVITE that shows number; noRank: not at all.
func (s *numberMatcher) rankLeg(l *leg, i *inviteMatch, number string) rank {
	same := l.hasNumber(number)
	switch {
	case l.origin == PBX && l.phoneNumber == i.target:
		if number == i.target && l.mayForkCallback(i) {
			return rankCallee
		}
		return noRank // a phone is not connected with itself
	case l.origin == PBX && l.phoneNumber != number:
		if s.awaitsSecondParty(l, i.At) && s.showsSameNumber(l, i, number) {
			return rankCallee
		}
		return noRank
	case !same && !similarNumbers(l.phoneNumber, number), !s.awaitsPBX(l, i.At):
		return noRank
	case l.origin == PBX:
		return rankCallee
	}
	dials := l.state != talking && l.dialedTarget(i) && !l.ambiguous && !l.call.ringsTarget(i.target)
	switch settled := !l.dialedTarget(i) && (l.dialedPhoneRings() || s.directory.registered(l.calledExt.User, i.At)); {
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

// hasNumber reports whether number is the number at the leg's phone, or another one under
// which the leg is in legsByNumber.
func (l *leg) hasNumber(number string) bool {
	return l.phoneNumber == number || slices.Contains(l.otherNumbers, number)
}

// awaitsSecondParty reports whether the PBX has called the phone of leg l first, and may
// now call the number that it showed there. It may if the phone was answered within
// progressWindow, the call has no caller, and no other leg of the call is answered.
func (s *numberMatcher) awaitsSecondParty(l *leg, now time.Time) bool {
	return l.origin == PBX && l.call.caller == nil && l.state == talking && now.Sub(l.answered) <= progressWindow && !l.call.otherLegTalks(l)
}

// showsSameNumber reports whether leg l may be the first leg of the call to which the
// INVITE i belongs. number is a number of i. The PBX must show it on l and in no other
// call that it began, and the phone of l must have answered within promptGap.
//
// Asterisk sends the second INVITE 2 to 5 ms after the answer, 43 ms on a machine with a
// load of 5 (December 2026). promptGap allows for that. Many calls may show a number that
// is no extension, such as the company's. For such a number only forkGap is allowed.
func (s *numberMatcher) showsSameNumber(l *leg, i *inviteMatch, number string) bool {
	gap := promptGap
	if s.directory.kindOf(number, i.At) == "" {
		gap = forkGap
	}
	return l.callerNum == number && i.At.Sub(l.answered) <= gap && s.showsUniquely(l)
}

// showsUniquely reports whether no other call that the PBX began shows the same caller's
// number as leg l.
func (s *numberMatcher) showsUniquely(l *leg) bool {
	return !slices.ContainsFunc(s.legsByNumber[numberTail(l.callerNum)], func(o *leg) bool {
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

// awaitsPBX reports whether the PBX may yet connect the person at the phone of leg l with
// somebody.
func (s *numberMatcher) awaitsPBX(l *leg, now time.Time) bool {
	c := l.call
	switch p := l.service; {
	case l.state == calling, l.state == ringing:
		return l.origin == Edge && now.Sub(c.lastHeard) <= progressWindow
	case l.state != talking:
		return false
	case !c.otherLegTalks(l): // the person waits in a queue, hears an IVR, or the other end has left
	case p != nil && now.Sub(c.bridgedSince) <= forkGap: // an agent has just answered: the queue may still call others
	case p != nil && !p.over && c.bridgedSince.IsZero() && !c.wasBridged: // no agent has answered: the phone that transferred the person to the queue talks
	default:
		return s.refers.last(c, now) != nil // a phone transfers the person
	}
	return true
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

// similarDigits is the number of last digits that similar numbers share.
const similarDigits = 6

// numberTail returns the last similarDigits characters of a number, or all if it has
// fewer.
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

// indexLeg adds a leg to legsByNumber under number, which is that of its phone, and under
// its other numbers. It adds a caller's leg to callersByDialed under the dialed number.
func (s *numberMatcher) indexLeg(l *leg, number string) {
	if identifiesCaller(number) {
		l.phoneNumber = number
		s.legsByNumber.add(numberTail(number), l)
	}
	for _, a := range l.otherNumbers {
		s.legsByNumber.add(indexKey(a), l)
	}
	if l.origin == Edge {
		s.callersByDialed.add(numberTail(l.calledUser), l)
	}
}

// unindexLeg removes a leg from legsByNumber and callersByDialed.
func (s *numberMatcher) unindexLeg(l *leg) {
	s.legsByNumber.remove(numberTail(l.phoneNumber), l)
	for _, a := range l.otherNumbers {
		s.legsByNumber.remove(indexKey(a), l)
	}
	if l.origin == Edge {
		s.callersByDialed.remove(numberTail(l.calledUser), l)
	}
}

// indexLegBy adds a leg to legsByNumber under a further number, or under a key such as
// indexHidden. It does nothing if the leg is over, or the number identifies no caller. It
// retains the string.
func (s *numberMatcher) indexLegBy(l *leg, number string) {
	if !identifiesCaller(number) || l.hasNumber(number) || l.state == over {
		return
	}
	l.otherNumbers = append(l.otherNumbers, number)
	s.legsByNumber.add(indexKey(number), l)
}

// indexKey returns the key in legsByNumber for one of a leg's other numbers. That is the
// tail of the number. A key such as indexHidden is returned unchanged.
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
