package dialog

import (
	"slices"
	"time"
)

// A callback is silent while nobody else is called: the extension that the PBX calls
// in the extension's own name is then no caller. If nobody is called in the end, or
// not for a while, though the extension has answered, the extension was called like any
// other, and that is what events tell. Of a callback that nobody takes nothing is told.

// silent reports whether nothing was told yet of the callback that leg l is of, and no
// other phone of the extension is called.
func (c *call) silent(l *leg) bool {
	return c.backs(l) && c.callsBack(c.back.ext) && c.seq == 0 &&
		!slices.ContainsFunc(c.legs, func(o *leg) bool { return o != l && o.party == c.back && o.state != over })
}

// callsBack reports whether the PBX calls an extension back, and has called nobody else
// for it yet.
func (c *call) callsBack(ext Extension) bool {
	return c.back != nil && c.back.ext == ext && !c.back.dialed && !c.back.over
}

// backTalks returns the leg on which the extension that the PBX calls back has
// answered; nil: it has not.
func (c *call) backTalks() *leg {
	for _, o := range c.legs {
		if c.backs(o) && o.state == talking {
			return o
		}
	}
	return nil
}

// callsBackToo reports whether the INVITE is for a further phone of the extension that
// the PBX calls back on leg l.
func (l *leg) callsBackToo(i *incoming) bool {
	return l.call.backs(l) && !l.call.back.dialed && l.state < challenged && i.At.Sub(l.began) <= forkGap && l.peer != i.phone()
}

// giveUpCallback tells that the extension of a silent callback was called.
func (t *Tracker) giveUpCallback(l *leg) {
	c := l.call
	back := c.back
	c.back = nil
	p := back.first.newParty(back.ext, In)
	p.rec = back.rec
	for _, o := range c.legs {
		if o.party == back {
			o.party = p
		}
	}
	c.removeParty(back)
	t.dial(p, DialIn, p.first.began)
	if !l.rang.IsZero() {
		p.rang = l.rang
		e := t.say(p, Ringing, l.rang)
		e.Status = Calling
		e.SetupTime = l.rang.Sub(p.first.began)
	}
	if l.answered.IsZero() {
		return
	}
	p.answered, p.answeredAt = l.answered, t.clock.wall(l.answered)
	e := t.say(p, Answer, l.answered)
	e.Status, e.Leg = Answered, t.idOf(l)
	e.SetupTime, e.RingDuration = p.times(l.answered)
	t.hold(l, l.early, l.answered)
	if l.state == talking {
		c.bridge(l, l.answered)
	}
}

// removeParty takes a party of which nothing was told from its call.
func (c *call) removeParty(p *party) {
	c.parties = slices.DeleteFunc(c.parties, func(o *party) bool { return o == p })
}

// silentUntil returns when a silent callback is given up, if leg l is answered.
func (l *leg) silentUntil() time.Time { return l.answered.Add(progressed) }

// calledFor returns the party that the PBX has called before for whom it shows on
// leg l as the caller: the extension of l itself. nil: there is none.
func (t *Tracker) calledFor(l *leg) *party {
	if l.party == nil || !t.names.shownAs(l.party.ext.User, l.num) {
		return nil
	}
	for _, o := range l.call.legs {
		if o.origin == PBX && o.party != nil && o.party != l.party && o.party.flow == In {
			return o.party
		}
	}
	return nil
}
