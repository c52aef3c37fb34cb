package dialog

import (
	"slices"
	"time"
)

// In a callback, the PBX calls an extension and shows the extension's own number there.
// When the extension answers, the PBX calls the wanted number on a second leg. Until that
// leg begins the callback is silent: it emits no event. If the second leg does not begin
// within progressWindow after the answer, or before the extension hangs up, the call was
// an ordinary one, and its events are those of an incoming call. A callback that is not
// answered emits no event.

// callbackSilent reports whether leg l belongs to a callback that has emitted no event
// yet, and no other phone of the extension rings or talks.
func (c *call) callbackSilent(l *leg) bool {
	return c.isCallbackLeg(l) && c.awaitsCallback(c.callback.ext) && c.seq == 0 &&
		!slices.ContainsFunc(c.legs, func(o *leg) bool { return o != l && o.party == c.callback && o.state != over })
}

// awaitsCallback reports whether the PBX calls ext back, and has not called the wanted
// number yet.
func (c *call) awaitsCallback(ext Extension) bool {
	return c.callback != nil && c.callback.ext == ext && !c.callback.dialed && !c.callback.over
}

// callbackLeg returns the leg on which the extension that the PBX calls back has answered;
// nil: none.
func (c *call) callbackLeg() *leg {
	for _, o := range c.legs {
		if c.isCallbackLeg(o) && o.state == talking {
			return o
		}
	}
	return nil
}

// mayForkCallback reports whether the INVITE may go to a further phone of the extension
// that the PBX calls back on leg l.
func (l *leg) mayForkCallback(i *inviteMatch) bool {
	return l.call.isCallbackLeg(l) && !l.call.callback.dialed && l.state < challenged && i.At.Sub(l.began) <= forkGap && l.peer != i.phone()
}

// giveUpCallback turns a silent callback into an incoming call of its extension, and
// emits the events that this incoming call has had so far.
func (t *partyTracker) giveUpCallback(l *leg) {
	c := l.call
	back := c.callback
	c.callback = nil
	p := back.firstLeg.newParty(back.ext, In)
	p.recID = back.recID
	for _, o := range c.legs {
		if o.party == back {
			o.party = p
		}
	}
	c.removeParty(back)
	t.emitDial(p, DialIn, p.firstLeg.began)
	if !l.rang.IsZero() {
		p.rang = l.rang
		e := t.emitEvent(p, Ringing, l.rang)
		e.Status = Calling
		e.SetupTime = l.rang.Sub(p.firstLeg.began)
	}
	if l.answered.IsZero() {
		return
	}
	p.answered, p.answeredWall = l.answered, t.emitter.wallTime(l.answered)
	e := t.emitEvent(p, Answer, l.answered)
	e.Status, e.Leg = Answered, t.legID(l)
	e.SetupTime, e.RingDuration = p.ringTimes(l.answered)
	t.emitHold(l, l.earlyDirection, l.answered)
	if l.state == talking {
		c.startBridge(l, l.answered)
	}
}

// silentUntil returns the end of the time in which a callback may stay silent after the
// answer on its leg l. giveUpCallback is then due.
func (l *leg) silentUntil() time.Time { return l.answered.Add(progressWindow) }

// addCallback adds an outgoing party of ext to leg l, on which the PBX calls ext back.
// dialCallback emits its dial-out once the PBX calls the wanted number.
func (t *partyTracker) addCallback(l *leg, ext Extension) {
	l.party = l.newParty(ext, Out)
	l.call.callback = l.party
}

// dialCallback emits the dial-out of a callback when its extension has answered and the
// PBX calls the wanted number on leg l. If l goes to the phone of an extension, ext, the
// wanted number is that extension, because the Request-URI has only the contact of the
// phone. Otherwise the wanted number is the user of the Request-URI.
func (t *partyTracker) dialCallback(l *leg, ext Extension) {
	p := l.call.callback
	if p == nil || p.dialed || p.over || p.firstLeg == l {
		return
	}
	up := l.call.callbackLeg()
	if up == nil {
		return
	}
	p.firstLeg = up // of several phones, the one that answered
	p.dialedNumber, p.dialedE164 = l.calledUser, l.calledE164
	if ext.User != "" {
		p.dialedNumber, p.dialedE164 = ext.User, ""
	}
	t.emitDial(p, DialOut, l.began)
}

// isCallbackLeg reports whether the PBX calls an extension back on leg l.
func (c *call) isCallbackLeg(l *leg) bool { return c.callback != nil && l.party == c.callback }
