package dialog

import "time"

// A fork is a dialog of a leg beside the one that its last message belonged to: several
// phones may answer a forked INVITE (RFC 3261 §13.2.2.4). The leg is up as long as one of
// its dialogs.
type fork struct {
	toTag          string
	uacSeq, uasSeq uint32
	over           bool
	loss           *dialogLoss // suspected end; nil: none
}

// maxForks is the number of dialogs of a leg beside the first.
const maxForks = 16

// addFork adds the dialog of a 2xx that is not the leg's first one.
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

// selectFork makes the dialog of m the leg's current one, if it is one of its forks.
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

// swapFork exchanges a fork and the leg's current dialog, which becomes a fork. over
// reports that the current dialog has ended.
func (l *leg) swapFork(f *fork, over bool) {
	now := fork{toTag: l.toTag, uacSeq: l.uacSeq, uasSeq: l.uasSeq, over: over, loss: l.loss}
	if over {
		now.loss = nil
	}
	l.toTag, l.uacSeq, l.uasSeq, l.loss = f.toTag, f.uacSeq, f.uasSeq, f.loss
	*f = now
	l.unverified = nil
}

// goneBy reports whether a fork has ended by the time at: its end was suspected lingerTime
// before or earlier, and no message has refuted that.
func (f *fork) goneBy(at time.Time) bool {
	return f.loss != nil && !f.loss.at.Add(lingerTime).After(at)
}

// hasDialog reports whether the leg has a dialog with the To tag that is not over.
func (l *leg) hasDialog(toTag string) bool {
	for _, f := range l.forks {
		if f.toTag == toTag && !f.over {
			return true
		}
	}
	return l.toTag == toTag
}

// endDialog ends the current dialog of a leg, and the leg with its last one.
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

// A dialogLoss is the suspected end of a dialog, after a response such as 408 to a request
// in it.
type dialogLoss struct {
	at       time.Time
	eventSeq int  // Seq of the call's last event at that time
	side     Side // side whose end may be gone
	code     int
	phrase   string
}

// endsUsage reports whether a 481 to a request ends the session: to a request that belongs
// to the INVITE usage (RFC 5057 §5.1, RFC 6086 §4.2.1).
func endsUsage(method string) bool {
	return method == "INVITE" || method == "UPDATE" || method == "INFO" || method == "PRACK"
}

// noteDialogLoss applies the final response m to a request in a leg's dialog, and reports
// whether it has ended the dialog. A 481 from the other end ends it if the request belongs
// to the session. After a 481 to another request, or a 408 to any, the end of the dialog is
// suspected: unless a message of that other end comes within 32 s, the dialog has ended with
// the response. A NOTIFY or SUBSCRIBE belongs to a subscription, which ends alone.
func (t *legTracker) noteDialogLoss(l *leg, m *Message) bool {
	if l.state != talking || m.Status != 481 && m.Status != 408 || m.Method == "NOTIFY" || m.Method == "SUBSCRIBE" {
		return false
	}
	switch {
	case m.Status == 481 && !m.Own && endsUsage(m.Method):
		t.endDialog(l, m.At, outcome{status: Answered, code: m.Status, phrase: m.Phrase(), by: BySystem})
		return true
	case l.loss == nil:
		l.loss = &dialogLoss{at: m.At, eventSeq: l.call.seq, side: m.Src, code: m.Status, phrase: cloneString(m.Phrase())}
	}
	return false
}

// clearDialogLoss clears the suspected end of the leg's dialog, if m is a message of that
// end.
func (l *leg) clearDialogLoss(m *Message) {
	if d := l.loss; d != nil && d.side == m.Src && !m.Own && m.Status != 481 && m.Status != 408 {
		l.loss = nil
	}
}

// endLostDialog ends a dialog whose suspected end was not refuted. It ended when it was
// first suspected, if the call has emitted no event since.
func (t *legTracker) endLostDialog(l *leg, at time.Time) {
	d := l.loss
	if d.eventSeq == l.call.seq && !d.at.Before(l.answered) && !d.at.Before(l.call.bridgedSince) {
		at = d.at
	}
	l.loss = nil
	t.endDialog(l, at, outcome{status: Answered, code: d.code, phrase: d.phrase, by: BySystem})
}
