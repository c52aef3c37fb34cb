package dialog

// messageKey names a MESSAGE transaction.
type messageKey struct {
	callID, branch string
	origin         Side
}

// message follows a MESSAGE (RFC 3428): what it says is told once the 2xx has
// passed. Each is a call of its own, of one event.
func (t *Tracker) message(m *Message) {
	key := messageKey{m.CallID, m.Branch, m.Origin()}
	if m.Request() {
		if e, ok := t.textEvent(m); ok {
			key.callID, key.branch = clone(m.CallID), clone(m.Branch)
			if _, known := t.messages.Get(key); !known {
				t.messages.Add(key, &e)
			}
		}
		return
	}
	e, ok := t.messages.Get(key)
	if !ok || e == nil || m.Status < 200 {
		return
	}
	t.messages.Add(key, nil) // told, or refused: a repetition is nothing new
	if m.Status < 300 {
		e.At, e.Observed = t.clock.wall(m.At), m.At
		t.said = append(t.said, *e)
	}
}

// textEvent returns the event that a MESSAGE is if it is accepted.
func (t *Tracker) textEvent(m *Message) (e Event, ok bool) {
	f, ext, ok := t.read(m, new(links))
	if !ok || !t.names.phone(ext) {
		return e, false
	}
	contentType := header(m.Head, "Content-Type")
	text := m.Body
	if SecretBody(contentType) {
		text = ""
	}
	f.keep(&ext.User, &ext.Domain, &contentType, &text)
	e = Event{
		Call:         hash(m.CallID, m.FromTag, m.Branch, m.Src.String()),
		Seq:          1,
		Extension:    ext,
		CallerNum:    f.num,
		CallerName:   f.name,
		CalledNumber: f.called,
		CallerE164:   t.e164(f.num, m.At),
		CalledE164:   t.e164(f.called, m.At),
		CallAPIID:    f.callAPI,
		Headers:      f.headers,
		UserAgent:    f.agent,
		MessageText:  text,
		ContentType:  contentType,
	}
	if m.Src == Edge {
		e.Type, e.Flow, e.CallerExtension = MessageOut, Out, &ext
		if to := t.names.dialed(f.called, f.calledHost, m.At); to.User != "" {
			e.CalledExtension = &to
		}
	} else {
		e.Type, e.Flow, e.CalledExtension = MessageIn, In, &ext
		e.CalledNumber, e.CalledE164 = ext.User, t.e164(ext.User, m.At)
		if t.names.kind(f.num, m.At) != "" {
			e.CallerExtension = &Extension{User: f.num}
		}
	}
	e.Party = hash(e.Call, string(e.Flow), ext.User, ext.Domain)
	e.ID = hash(e.Party, string(e.Type))
	return e, true
}
