package dialog

import "time"

// A callback is silent while nobody else is called: the extension that the PBX calls
// in the extension's own name is then no caller. If nobody is called in the end, or
// not for a while after the extension has answered, the extension was called like any
// other, and that is what events tell.

// silent reports whether nothing was told yet of the callback that leg l is of.
func (c *call) silent(l *leg) bool {
	return c.backs(l) && !c.back.dialed && !c.back.over && c.seq == 0
}

// giveUpCallback tells that the extension of a silent callback was called.
func (t *Tracker) giveUpCallback(l *leg) {
	c := l.call
	back := c.back
	c.back = nil
	t.join(l, back.ext, In) // tells of the dial
	p := l.party
	p.first, p.rec = back.first, back.rec
	for _, o := range c.legs {
		if o.party == back {
			o.party = p
		}
	}
	c.removeParty(back)
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
	if l.state == talking {
		c.bridge(l, l.answered)
	}
}

// removeParty takes a party of which nothing was told from its call.
func (c *call) removeParty(p *party) {
	for n, o := range c.parties {
		if o == p {
			c.parties = append(c.parties[:n:n], c.parties[n+1:]...)
			return
		}
	}
}

// silentUntil returns when a silent callback is given up, if leg l is answered.
func (l *leg) silentUntil() time.Time { return l.answered.Add(progressed) }

// calledFor returns the party that the PBX has called before for whom it shows on
// leg l as the caller: the extension of l itself. nil: there is none.
func (l *leg) calledFor() *party {
	if l.party == nil || l.num != l.party.ext.User {
		return nil
	}
	for _, o := range l.call.legs {
		if o.origin == PBX && o.party != nil && o.party != l.party && o.party.flow == In {
			return o.party
		}
	}
	return nil
}
