package dialog

import "time"

// A fork is a dialog of a leg beside the one that its last message was of: an INVITE
// that was forked may be answered by several (RFC 3261 §13.2.2.4). The leg is up as
// long as one of them.
type fork struct {
	toTag           string
	nearSeq, farSeq uint32
	over            bool
	doubt           *doubt // that it is gone; nil: none
}

// maxForks is how many dialogs a leg has beside the first.
const maxForks = 16

// confirm notes the dialog of a 2xx that is not the first one.
func (l *leg) confirm(m *Message) {
	if m.Status/100 != 2 || m.ToTag == "" || l.toTag == "" || m.ToTag == l.toTag || len(l.forks) >= maxForks {
		return
	}
	for _, f := range l.forks {
		if f.toTag == m.ToTag {
			return
		}
	}
	l.forks = append(l.forks, fork{toTag: clone(m.ToTag)})
}

// turnTo makes the dialog that m is of the leg's own, if it is one of its forks.
func (l *leg) turnTo(m *Message) {
	if len(l.forks) == 0 {
		return
	}
	tag := m.ToTag
	if m.FromTag != l.fromTag {
		tag = m.FromTag
	}
	for i := range l.forks {
		if f := &l.forks[i]; !f.over && f.toTag == tag {
			l.swap(f, false)
			return
		}
	}
}

// swap puts a fork in the place of the leg's dialog, which becomes a fork.
func (l *leg) swap(f *fork, over bool) {
	now := fork{toTag: l.toTag, nearSeq: l.nearSeq, farSeq: l.farSeq, over: over, doubt: l.doubt}
	if over {
		now.doubt = nil
	}
	l.toTag, l.nearSeq, l.farSeq, l.doubt = f.toTag, f.nearSeq, f.farSeq, f.doubt
	*f = now
	l.claim = nil
}

// gone reports whether a fork has ended by a time as nothing proved it alive.
func (f *fork) gone(at time.Time) bool {
	return f.doubt != nil && !f.doubt.at.Add(linger).After(at)
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
		if f := &l.forks[i]; !f.over && !f.gone(at) {
			l.swap(f, true)
			if d := l.doubt; d != nil && d.at.Before(at) {
				d.at, d.seq = at, l.call.seq // until then another dialog was up
			}
			return
		}
	}
	t.end(l, at, o)
}

// A doubt is that a dialog is gone, because a request in it was answered so.
type doubt struct {
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
func (t *Tracker) lost(l *leg, m *Message) bool {
	if l.state != talking || m.Status != 481 && m.Status != 408 || m.Method == "NOTIFY" || m.Method == "SUBSCRIBE" {
		return false
	}
	switch {
	case m.Status == 481 && !m.Own && endsUsage(m.Method):
		t.endDialog(l, m.At, outcome{status: Answered, code: m.Status, phrase: m.Phrase(), by: BySystem})
		return true
	case l.doubt == nil:
		l.doubt = &doubt{at: m.At, seq: l.call.seq, by: m.Src, code: m.Status, phrase: clone(m.Phrase())}
	}
	return false
}

// proves notes that an end of a leg's dialog was heard of, by a message in it.
func (l *leg) proves(m *Message) {
	if d := l.doubt; d != nil && d.by == m.Src && !m.Own && m.Status != 481 && m.Status != 408 {
		l.doubt = nil
	}
}

// endDoubted ends a dialog whose end was not heard of any more: when that became
// doubtful, if nothing else was said of the call since.
func (t *Tracker) endDoubted(l *leg, at time.Time) {
	d := l.doubt
	if d.seq == l.call.seq && !d.at.Before(l.answered) && !d.at.Before(l.call.bridged) {
		at = d.at
	}
	l.doubt = nil
	t.endDialog(l, at, outcome{status: Answered, code: d.code, phrase: d.phrase, by: BySystem})
}

func (f *fork) fields(s *scribe) {
	keepText(s, "to_tag", &f.toTag)
	keepNumber(s, "near_seq", &f.nearSeq)
	keepNumber(s, "far_seq", &f.farSeq)
	keepFlag(s, "over", &f.over)
	keepObject(s, "doubt", &f.doubt, (*doubt).fields)
}

func (d *doubt) fields(s *scribe) {
	keepTime(s, "at", &d.at)
	keepNumber(s, "seq", &d.seq)
	keepNumber(s, "by", &d.by)
	keepNumber(s, "code", &d.code)
	keepText(s, "phrase", &d.phrase)
}
