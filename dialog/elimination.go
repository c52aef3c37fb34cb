package dialog

import (
	"slices"
	"strings"
	"time"
)

// Under these a leg is in the tracker's byNumber beside the numbers of who is at its
// phone. They are longer than the tail of a number, and no number.
const (
	keyHidden = "\x00hidden" // the PBX does not show the caller's number
	keyOpen   = "\x00dialed" // the caller dialed a number that may lead to anybody
	keyBack   = "\x00called" // the PBX calls an extension back
)

const (
	// prompt is how long after a caller's INVITE a PBX sends the INVITE that it
	// causes, if nothing comes between. Measured: Asterisk 22 1.3 to 10 ms, FreeSWITCH
	// 1.11 6 to 97 ms.
	prompt = 100 * time.Millisecond

	// listens is how long a caller listens to what the PBX plays, if nobody declared
	// the number that was dialed to be a queue or a menu.
	listens = time.Minute

	// maxScanned is how many legs are looked at for one INVITE. Of more, one is
	// not found by elimination.
	maxScanned = 1 << 10
)

// A dialer is a leg of the edge side that began a moment ago.
type dialer struct {
	leg *leg
	at  time.Time
}

// dials notes that the caller of a leg has dialed at a time.
func (t *Tracker) dials(l *leg, at time.Time) {
	n := 0
	for n < len(t.dialers) && at.Sub(t.dialers[n].at) > prompt {
		n++
	}
	t.dialers = append(t.dialers[n:], dialer{l, at})
}

// moves notes that a phone was called on leg l and has answered 3xx.
func (t *Tracker) moves(l *leg, m *Message) {
	var users []string
	for name, value := range fields(m.Head) {
		if !is(name, "Contact") {
			continue
		}
		for v := range list(value) {
			_, contact, _ := nameAddr(v)
			if user := parseURI(contact).user; user != "" && len(users) < maxContacts {
				users = append(users, user)
			}
		}
	}
	l.movedTo = strings.Join(users, "\n")
	n := 0
	for n < len(t.moved) && m.At.Sub(t.moved[n].ended) > progressed {
		n++
	}
	if l.movedTo != "" {
		t.moved = append(t.moved[n:], l)
	}
}

// movedTo returns the leg that was refused with 3xx a moment ago, in a call or in
// any if c is nil, and one of whose Contacts names the number called, and how well it
// does; nil: none, or legs of several calls.
func (t *Tracker) movedTo(c *call, called string, now time.Time) (found *leg, best fit) {
	for _, l := range t.moved {
		switch f := l.movesTo(called); {
		case called == "" || f == noFit || f < best || now.Sub(l.ended) > progressed || !l.call.live() || c != nil && l.call != c:
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
func (l *leg) movesTo(number string) (best fit) {
	for user := range strings.SplitSeq(l.movedTo, "\n") {
		switch {
		case user == number, sameNumber(user, number):
			return dialedFits
		case alikeNumbers(user, number):
			best = dialedAlike
		}
	}
	return best
}

// contest finds the call that fits an INVITE best, if it is only one.
type contest struct {
	best  int
	call  *call
	tied  bool
	rival *call // the PBX may be about to call somebody for it
}

// enter has a call compete.
func (x *contest) enter(c *call, rank int) {
	switch {
	case rank < x.best || rank == x.best && c == x.call:
	case rank == x.best:
		x.tied = true
	default:
		x.best, x.call, x.tied = rank, c, false
	}
}

func (x *contest) verdict() verdict {
	switch {
	case x.call == nil:
		return verdict{}
	case x.tied || x.rival != nil && x.rival != x.call:
		return verdict{nil, tie}
	}
	return verdict{x.call, possible}
}

// byElimination looks for the one call that the INVITE can be of, if it shows no
// number or one that is nobody's here: the caller is anonymous, the PBX calls an
// extension otherwise than it logs in, or shows a number of the company's.
func (t *Tracker) byElimination(i *incoming) verdict {
	hidden := true
	for _, number := range i.links.numbers {
		if !telling(number) {
			continue
		}
		hidden = false
		if kind := t.names.declared[number]; i.ext && (kind == Queue || kind == IVR) {
			return t.byHost(i, number)
		}
		if number == i.called || t.explains(number, i.At) {
			return verdict{}
		}
	}
	var x contest
	scanned := 0
	each := func(key string, enter func(*leg)) {
		for _, l := range t.byNumber[key] {
			if scanned++; scanned > maxScanned || x.tied && x.best == 2 {
				return
			}
			enter(l)
		}
	}
	internal := t.names.kind(i.links.numbers[fromField], i.At) != ""
	switch {
	case i.Trunk != "" && internal:
		return verdict{}
	case i.Trunk != "":
		each(keyOpen, func(l *leg) { t.enterOpen(&x, i, l) })
		each(keyBack, func(l *leg) { t.enterBack(&x, i, l) })
	case !i.ext:
		return verdict{}
	case hidden:
		each(keyHidden, func(l *leg) { t.enterHidden(&x, i, l) })
	default:
		each(keyOpen, func(l *leg) {
			switch {
			case l.call.shows(i):
				t.enterOpen(&x, i, l)
			case internal && t.nameless(l, i.At) && !digits(l.party.ext.User):
				t.enterOpen(&x, i, l)
				if l.awaitsLeg(i) {
					x.rival = l.call
				}
			}
		})
	}
	if scanned > maxScanned {
		return verdict{}
	}
	if i.Trunk != "" {
		for _, r := range t.refers {
			if r.replaces == "" && i.At.Sub(r.at) <= progressed && r.leg.call.live() {
				x.rival = r.leg.call // whom it asks for may be reached by another number
			}
		}
	}
	var known contest // of extensions for which the PBX has shown another number before
	for _, d := range t.dialers {
		l := d.leg
		if i.At.Sub(d.at) > prompt || !l.waits() || l.state == talking && !hidden || !slices.Contains(l.call.legs, l) {
			continue
		}
		if i.Trunk == "" && !hidden && l.call.forks(i) && l.call.shows(i) {
			x.enter(l.call, 2)
			continue
		}
		if l.call.rings() {
			continue
		}
		field := &x
		if internal && !t.nameless(l, i.At) {
			field = &known
		}
		switch {
		case i.Trunk != "":
			if l.calledExt.User == "" {
				x.rival = l.call // the PBX may call another number than was dialed
			}
		case hidden && (l.numbered(keyHidden) || l.dialed(i) && t.showsOwn(l)):
		case hidden && (l.dialed(i) || !t.settled(l, i.At)):
			x.enter(l.call, 1) // the PBX may hide the number of one who shows it
			x.rival = l.call
		case hidden || internal && !t.mayShow(l, i.At):
		case l.dialed(i):
			field.enter(l.call, 2)
		case internal && !t.settled(l, i.At): // a number of the company's may be shown to anybody
			field.enter(l.call, 1)
			field.rival = l.call
		}
	}
	if x.call == nil && x.rival == nil {
		return known.verdict()
	}
	if known.best == 2 { // a caller has dialed exactly this extension
		x.rival = known.call
	}
	return x.verdict()
}

// mayShow reports whether the PBX may show an internal number that is nobody's here for the
// extension that calls on leg l: its number is not known, or it is named otherwise.
func (t *Tracker) mayShow(l *leg, now time.Time) bool {
	p := l.party
	return t.nameless(l, now) || p != nil && p.flow == Out && !digits(p.ext.User) && t.names.registered(p.ext.User, now)
}

// byHost looks for the call of an INVITE that shows the number of a queue or a menu: of
// the only caller who waits there, or, if nobody calls it, of the only phone that the PBX
// has called in its name.
func (t *Tracker) byHost(i *incoming, number string) verdict {
	var x contest
	called := false
	for n, l := range t.byNumber[keyOpen] {
		if n >= maxScanned {
			return verdict{}
		}
		if p := l.host; p != nil && !p.over && p.ext.User == number {
			if called = true; t.inHands(l, i.At) {
				x.enter(l.call, 1)
			}
		}
	}
	for _, l := range t.byNumber[tail(number)] {
		if !called && l.origin == PBX && l.num == number && l.state == talking && l.call.caller == nil && !l.call.talksBeside(l) {
			x.enter(l.call, 1)
		}
	}
	return x.verdict()
}

// shows reports whether the PBX has shown the number that the INVITE shows on another
// leg of the call.
func (c *call) shows(i *incoming) bool {
	number := i.links.numbers[identity]
	return telling(number) && slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX && o.num == number })
}

// waits reports whether the caller on leg l waits for the PBX: it is not answered yet, or
// the PBX itself has answered it in the name of a queue or a menu.
func (l *leg) waits() bool {
	return l.state == calling || l.state == ringing || l.state == talking && l.host != nil && l.host.kind != Conference
}

// explains reports whether a number is somebody's whose legs are known by it.
func (t *Tracker) explains(number string, now time.Time) bool {
	if t.names.declared[number] != "" || t.names.registered(number, now) || t.names.aliases.owner(number) != "" {
		return true
	}
	return slices.ContainsFunc(t.byNumber[tail(number)], func(l *leg) bool { return l.numbered(number) || len(number) >= alike })
}

// nameless reports whether an extension calls on leg l of which it is not known
// which number the PBX shows for it.
func (t *Tracker) nameless(l *leg, now time.Time) bool {
	p := l.party
	return l.origin == Edge && p != nil && p.flow == Out && t.names.aliases.number(p.ext.User) == "" && t.names.registered(p.ext.User, now)
}

// showsOwn reports whether the PBX has shown the number of the extension that calls on
// leg l before.
func (t *Tracker) showsOwn(l *leg) bool {
	return l.party != nil && t.names.aliases.number(l.party.ext.User) != ""
}

// settled reports whether it is clear whom a leg's caller dialed: a phone that has
// registered, or somebody outside.
func (t *Tracker) settled(l *leg, now time.Time) bool {
	if l.calledExt.User == "" {
		return !l.trunk // a public number that nobody declared may lead to anybody
	}
	return t.names.registered(l.calledExt.User, now)
}

// enterOpen has the call of a caller compete who dialed a number that may lead to
// anybody. One in which the extension that diverts the INVITE was called comes first.
func (t *Tracker) enterOpen(x *contest, i *incoming, l *leg) {
	if !t.inHands(l, i.At) || t.settled(l, i.At) {
		return
	}
	switch kind := t.names.declared[l.calledExt.User]; {
	case kind == Conference:
		return // it waits for nobody
	case kind == Queue || kind == IVR:
	case l.state == talking && i.At.Sub(l.answered) > listens:
		return
	case l.state != talking && !l.call.rings():
		return // it may be a number outside: the PBX would have called a member of a group
	}
	rank := 1
	if i.diversion != "" && slices.ContainsFunc(l.call.parties, func(p *party) bool { return p.flow == In && p.ext.User == i.diversion }) {
		rank = 2
	}
	x.enter(l.call, rank)
}

// enterBack has the call compete in which the PBX has reached an extension, and may
// now call whom it wanted.
func (t *Tracker) enterBack(x *contest, i *incoming, l *leg) {
	if l.call.backs(l) && l.state != talking && l.state != over {
		x.rival = l.call // it may have been answered
		return
	}
	if l.call.backs(l) && l.number != i.called && t.inHands(l, i.At) && !l.call.back.dialed && i.At.Sub(l.answered) <= progressed {
		x.enter(l.call, 1)
	}
}

// enterHidden has the call of a caller compete whose number the PBX does not show.
// One who dialed the extension comes before others who wait.
func (t *Tracker) enterHidden(x *contest, i *incoming, l *leg) {
	switch {
	case !t.inHands(l, i.At) || t.names.declared[l.calledExt.User] == Conference:
	case l.dialed(i) && l.state != talking && !l.contested && !l.call.ringsFor(i.called):
		x.enter(l.call, 2)
	case !l.dialed(i) && t.settled(l, i.At):
	default:
		x.enter(l.call, 1)
		if l.awaitsLeg(i) {
			x.rival = l.call
		}
	}
}

// rings reports whether the PBX has called somebody for the caller.
func (c *call) rings() bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX })
}

// ringsFor reports whether the PBX has called an extension, or a number outside, in
// the call, and that leg is up.
func (c *call) ringsFor(called string) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.calls(called) })
}

// calls reports whether the PBX calls an extension, or a number outside, on leg l.
func (l *leg) calls(called string) bool {
	return l.origin == PBX && l.state != over && (l.called == called || l.party != nil && l.party.ext.User == called)
}

// forks reports whether the INVITE may be for a further phone of an extension that
// the PBX began to call in the call a moment ago.
func (c *call) forks(i *incoming) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool {
		return o.calls(i.called) && i.At.Sub(o.began) <= forkGap && (o.peer != i.phone() || !o.peer.IsValid())
	})
}

// awaitsLeg reports whether the PBX may be about to call somebody for the caller of leg
// l, whoever was dialed: it has not answered yet, or did so a moment ago, or calls
// somebody right now.
func (l *leg) awaitsLeg(i *incoming) bool {
	if l.dialed(i) {
		return l.call.forks(i)
	}
	return l.state != talking || i.At.Sub(l.answered) <= prompt ||
		slices.ContainsFunc(l.call.legs, func(o *leg) bool { return o.origin == PBX && i.At.Sub(o.began) <= prompt })
}

// noteContested notes of the callers who dialed whom the INVITE goes to, which is joined to no
// call because several could be meant: their call may have its leg by now.
func (t *Tracker) noteContested(i *incoming) {
	for _, number := range append(i.links.numbers[:], keyHidden) {
		for _, l := range t.byNumber[alsoKey(number)] {
			if l.origin == Edge && l.dialed(i) {
				l.contested = true
			}
		}
	}
}

// reachCaller lets the leg of a caller be found by what the PBX may show instead of
// the number that the phone tells.
func (t *Tracker) reachCaller(l *leg) {
	if p := l.party; p != nil {
		t.alsoReach(l, p.ext.User)
		t.alsoReach(l, t.names.aliases.number(p.ext.User))
	}
	if l.hidden {
		t.alsoReach(l, keyHidden)
	}
	if !t.settled(l, l.began) {
		t.alsoReach(l, keyOpen)
	}
}

// reachCalled lets a leg of the PBX's be found by what the next leg of its call may
// tell. A caller whose number is not shown there is found as one who hides it.
func (t *Tracker) reachCalled(l *leg, i *incoming) {
	c := l.call
	if c.backs(l) {
		t.alsoReach(l, keyBack)
	}
	switch {
	case c.caller == nil && len(c.legs) == 1:
		t.alsoReach(l, l.num)
	case c.caller != nil && i.ext && !slices.ContainsFunc(i.links.numbers[:], telling):
		t.alsoReach(c.caller, keyHidden)
	}
}
