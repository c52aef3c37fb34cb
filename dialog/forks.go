package dialog

import "time"

// A fork is a dialog of a leg beside the one that its last message was of: an INVITE
// that was forked may be answered by several (RFC 3261 §13.2.2.4). The leg is up as
// long as one of them.
type fork struct {
	toTag          string
	uacSeq, uasSeq uint32
	over           bool
	loss           *dialogLoss // that it is gone; nil: none
}

// maxForks is how many dialogs a leg has beside the first.
const maxForks = 16

// confirm notes the dialog of a 2xx that is not the first one.
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

// turnTo makes the dialog that m is of the leg's own, if it is one of its forks.
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

// swap puts a fork in the place of the leg's dialog, which becomes a fork.
func (l *leg) swapFork(f *fork, over bool) {
	now := fork{toTag: l.toTag, uacSeq: l.uacSeq, uasSeq: l.uasSeq, over: over, loss: l.loss}
	if over {
		now.loss = nil
	}
	l.toTag, l.uacSeq, l.uasSeq, l.loss = f.toTag, f.uacSeq, f.uasSeq, f.loss
	*f = now
	l.unverified = nil
}

// gone reports whether a fork has ended by a time as nothing proved it alive.
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

// endDialog ends the dialog of a leg, and the leg if it was the last one.
func (t *Tracker) endDialog(l *leg, at time.Time, o outcome) {
	for i := range l.forks {
		if f := &l.forks[i]; !f.over && !f.goneBy(at) {
			l.swapFork(f, true)
			if d := l.loss; d != nil && d.at.Before(at) {
				d.at, d.seq = at, l.call.seq // until then another dialog was up
			}
			return
		}
	}
	t.endLeg(l, at, o)
}

// A doubt is that a dialog is gone, because a request in it was answered so.
type dialogLoss struct {
	at     time.Time
	seq    int  // of the call's last event by then
	by     Side // whose end is doubted
	code   int
	phrase string
}

// endsUsage reports whether a 481 to a request says that the session is gone: to one
// that is of the INVITE's usage (RFC 5057 §5.1, RFC 6086 §4.2.1).
func endsUsage(method string) bool {
	return method == "INVITE" || method == "UPDATE" || method == "INFO" || method == "PRACK"
}

// lost shows a leg the final response m to a request in its dialog, and reports whether
// that has ended the dialog. A 481 from the other end ends it if the request is of the
// session. A 481 to another request, and a 408 to any, make it doubtful: within 32 s
// that end must be heard of, else the dialog has ended with the response. A NOTIFY, or a
// SUBSCRIBE, is of a subscription, which ends alone.
func (t *Tracker) noteDialogLoss(l *leg, m *Message) bool {
	if l.state != talking || m.Status != 481 && m.Status != 408 || m.Method == "NOTIFY" || m.Method == "SUBSCRIBE" {
		return false
	}
	switch {
	case m.Status == 481 && !m.Own && endsUsage(m.Method):
		t.endDialog(l, m.At, outcome{status: Answered, code: m.Status, phrase: m.Phrase(), by: BySystem})
		return true
	case l.loss == nil:
		l.loss = &dialogLoss{at: m.At, seq: l.call.seq, by: m.Src, code: m.Status, phrase: cloneString(m.Phrase())}
	}
	return false
}

// proves notes that an end of a leg's dialog was heard of, by a message in it.
func (l *leg) clearDialogLoss(m *Message) {
	if d := l.loss; d != nil && d.by == m.Src && !m.Own && m.Status != 481 && m.Status != 408 {
		l.loss = nil
	}
}

// endDoubted ends a dialog whose end was not heard of any more: when that became
// doubtful, if nothing else was said of the call since.
func (t *Tracker) endLostDialog(l *leg, at time.Time) {
	d := l.loss
	if d.seq == l.call.seq && !d.at.Before(l.answered) && !d.at.Before(l.call.bridgedSince) {
		at = d.at
	}
	l.loss = nil
	t.endDialog(l, at, outcome{status: Answered, code: d.code, phrase: d.phrase, by: BySystem})
}

func (f *fork) codeFields(s *snapshotCodec) {
	codeText(s, "to_tag", &f.toTag)
	codeNumber(s, "near_seq", &f.uacSeq)
	codeNumber(s, "far_seq", &f.uasSeq)
	codeFlag(s, "over", &f.over)
	codeObject(s, "doubt", &f.loss, (*dialogLoss).codeFields)
}

func (d *dialogLoss) codeFields(s *snapshotCodec) {
	codeTime(s, "at", &d.at)
	codeNumber(s, "seq", &d.seq)
	codeNumber(s, "by", &d.by)
	codeNumber(s, "code", &d.code)
	codeText(s, "phrase", &d.phrase)
}
