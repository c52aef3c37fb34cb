package dialog

import (
	"slices"
	"strconv"
	"time"
)

// messageKey names a MESSAGE transaction.
type messageKey struct {
	callID, branch string
	origin         Side
}

// A pendingText is a MESSAGE that awaits its 2xx.
type pendingText struct {
	event Event
	fork  *textFork // nil: it goes to one device
}

// A textFork is one message to an extension, which the PBX sends to each of its
// devices.
type textFork struct {
	at      time.Time // of the first
	devices []string  // Request-URIs
	told    bool
}

const (
	// forksWithin is how long after the first device the PBX sends a message to the
	// last.
	forksWithin = 5 * time.Second

	maxDevices = 16
)

// textFork returns the message that the event of m is of, if it is one to an
// extension: the same text of the same sender a moment ago, to another device. A
// device that has had it already is sent another one.
func (t *Tracker) textFork(e *Event, m *Message) *textFork {
	if e.Type != MessageIn {
		return nil
	}
	key := hash(e.Extension.User, e.Extension.Domain, e.CallerNum, e.ContentType, e.MessageText)
	f, ok := t.texts.Get(key)
	age := time.Duration(0)
	if ok {
		age = m.At.Sub(f.at)
	}
	if !ok || age < 0 || age > forksWithin || len(f.devices) == maxDevices || slices.Contains(f.devices, m.URI()) {
		f = &textFork{at: m.At}
		t.texts.Add(key, f)
	}
	f.devices = append(f.devices, clone(m.URI()))
	return f
}

// message follows a MESSAGE (RFC 3428): what it says is told once the 2xx has
// passed. Each is a call of its own, of one event.
func (t *Tracker) message(m *Message) {
	key := messageKey{m.CallID, m.Branch, m.Origin()}
	if m.Request() {
		if e, ok := t.textEvent(m); ok {
			key.callID, key.branch = clone(m.CallID), clone(m.Branch)
			if _, known := t.messages.Get(key); !known {
				t.messages.Add(key, &pendingText{e, t.textFork(&e, m)})
			}
		}
		return
	}
	p, ok := t.messages.Get(key)
	if !ok || p == nil || m.Status < 200 {
		return
	}
	t.messages.Add(key, nil) // told, or refused: a repetition is nothing new
	if m.Status < 300 && (p.fork == nil || !p.fork.told) {
		if p.fork != nil {
			p.fork.told = true
		}
		e := &p.event
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
	contentType, text := readText(header(m.Head, "Content-Type"), m.Body)
	if reportsOnly(contentType) {
		return e, false
	}
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
		Privacy:      f.private,
		MessageText:  text,
		ContentType:  contentType,

		CallerNumRaw: f.numRaw, CalledNumberRaw: f.calledRaw,
	}
	if m.Src == Edge {
		e.Type, e.Flow, e.CallerExtension = MessageOut, Out, &ext
		if to := t.names.dialed(f.called, f.calledHost, m.At); to.User != "" {
			e.CalledExtension = &to
		}
	} else {
		e.Type, e.Flow, e.CalledExtension = MessageIn, In, &ext
		e.CalledNumber, e.CalledE164, e.CalledNumberRaw = ext.User, t.e164(ext.User, m.At), ""
		if t.names.kind(f.num, m.At) != "" {
			e.CallerExtension = &Extension{User: f.num}
		}
	}
	if m.Src == PBX { // a proxy forks a message to branches of its own
		e.Call = hash(m.CallID, m.FromTag, strconv.FormatUint(uint64(m.CSeq), 10), m.Src.String(), ext.User, ext.Domain)
	}
	e.Party = hash(e.Call, string(e.Flow), ext.User, ext.Domain)
	e.ID = hash(e.Party, string(e.Type))
	return e, true
}
