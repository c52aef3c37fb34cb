package dialog

import "time"

// A fork is a further dialog of a leg: several phones may answer a forked INVITE (RFC
// 3261 §13.2.2.4). The leg itself holds its current dialog, which is that of its last
// message. A leg is up while any of its dialogs is up.
type fork struct {
	toTag          string
	uacSeq, uasSeq uint32
	over           bool
	loss           *dialogLoss // suspected end; nil: none
}

// maxForks is the largest number of forks of a leg.
const maxForks = 16

// addFork adds the dialog that m creates, if m is a 2xx to the leg's INVITE with a To tag
// that no dialog of the leg has. Beyond maxForks it adds none.
func (l *leg) addFork(m *Message) {
	if m.Status/100 != 2 || m.ToTag == "" || l.toTag == "" || m.ToTag == l.toTag || len(l.forks) >= maxForks {
		return
	}
	for _, f := range l.forks {
		if f.toTag == m.ToTag {
			return
		}
	}
	l.forks = append(l.forks, fork{toTag: cloneString(m.ToTag)})
}

// selectFork makes the dialog of m the leg's current dialog, if it is a fork that is not
// over.
func (l *leg) selectFork(m *Message) {
	if len(l.forks) == 0 {
		return
	}
	tag := m.ToTag
	if m.FromTag != l.fromTag {
		tag = m.FromTag
	}
	for i := range l.forks {
		if f := &l.forks[i]; !f.over && f.toTag == tag {
			l.swapFork(f, false)
			return
		}
	}
}

// swapFork makes the fork f the leg's current dialog, and the previous current dialog a
// fork. over reports whether that previous dialog has ended.
func (l *leg) swapFork(f *fork, over bool) {
	now := fork{toTag: l.toTag, uacSeq: l.uacSeq, uasSeq: l.uasSeq, over: over, loss: l.loss}
	if over {
		now.loss = nil
	}
	l.toTag, l.uacSeq, l.uasSeq, l.loss = f.toTag, f.uacSeq, f.uasSeq, f.loss
	*f = now
	l.unverified = nil
}

// goneBy reports whether a fork has ended by the time at, because its end was suspected
// at least lingerTime before and no message has refuted that.
func (f *fork) goneBy(at time.Time) bool {
	return f.loss != nil && !f.loss.at.Add(lingerTime).After(at)
}

// hasDialog reports whether a dialog of the leg that is not over has the To tag.
func (l *leg) hasDialog(toTag string) bool {
	for _, f := range l.forks {
		if f.toTag == toTag && !f.over {
			return true
		}
	}
	return l.toTag == toTag
}

// endDialog ends the current dialog of a leg. If another dialog of the leg is up, it
// becomes the current one; otherwise the leg ends with outcome o.
func (t *legTracker) endDialog(l *leg, at time.Time, o outcome) {
	for i := range l.forks {
		if f := &l.forks[i]; !f.over && !f.goneBy(at) {
			l.swapFork(f, true)
			if d := l.loss; d != nil && d.at.Before(at) {
				d.at, d.eventSeq = at, l.call.seq // another dialog was up until then
			}
			return
		}
	}
	t.endLeg(l, at, o)
}

// A dialogLoss is the suspected end of a dialog, after a 408 or 481 to a request in it.
type dialogLoss struct {
	at       time.Time
	eventSeq int  // Seq of the call's last event at that time
	side     Side // side of the peer that may be gone: the response came from it
	code     int
	phrase   string
}

// endsUsage reports whether a 481 to a request with this method ends the session, because
// the request belongs to the INVITE usage of the dialog (RFC 5057 §5.1, RFC 6086 §4.2.1).
func endsUsage(method string) bool {
	return method == "INVITE" || method == "UPDATE" || method == "INFO" || method == "PRACK"
}

// noteDialogLoss applies the response m to a request in a leg's dialog, and reports
// whether m has ended the dialog. A 481 that the peer sent ends it if
// endsUsage(m.Method). After any other 481, or a 408, the end of the dialog is only
// suspected. If no message refutes it within lingerTime, endLostDialog ends the dialog. A
// 408 or 481 to a NOTIFY or SUBSCRIBE is ignored, because it ends only the subscription.
func (t *legTracker) noteDialogLoss(l *leg, m *Message) bool {
	if l.state != talking || m.Status != 481 && m.Status != 408 || m.Method == "NOTIFY" || m.Method == "SUBSCRIBE" {
		return false
	}
	switch {
	case m.Status == 481 && !m.Own && endsUsage(m.Method):
		t.endDialog(l, m.At, outcome{status: Answered, code: m.Status, phrase: m.Phrase(), by: BySystem})
		return true
	case l.loss == nil:
		l.loss = &dialogLoss{at: m.At, eventSeq: l.call.seq, side: m.Src, code: m.Status, phrase: m.Phrase()}
	}
	return false
}

// clearDialogLoss drops the suspicion that the leg's dialog has ended, if m comes from
// the side that may be gone. A 408, a 481 or a response that bellhop generated does not
// count.
func (l *leg) clearDialogLoss(m *Message) {
	if d := l.loss; d != nil && d.side == m.Src && !m.Own && m.Status != 481 && m.Status != 408 {
		l.loss = nil
	}
}

// endLostDialog ends a dialog after noteDialogLoss has suspected its end and no message
// has refuted it. The dialog ends at the time of that 408 or 481. If the call has gone on
// since then, because it emitted an event, the leg was answered or a callee was bridged,
// the dialog ends at the time at.
func (t *legTracker) endLostDialog(l *leg, at time.Time) {
	d := l.loss
	if d.eventSeq == l.call.seq && !d.at.Before(l.answered) && !d.at.Before(l.call.bridgedSince) {
		at = d.at
	}
	l.loss = nil
	t.endDialog(l, at, outcome{status: Answered, code: d.code, phrase: d.phrase, by: BySystem})
}
