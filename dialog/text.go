package dialog

import (
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"bellhop/dialog/body"
	"bellhop/dialog/siptext"
)

// A messageKey identifies a MESSAGE transaction.
type messageKey struct {
	callID, branch string
	origin         Side
}

// A pendingText is a MESSAGE that awaits its 2xx.
type pendingText struct {
	event    Event
	textFork *textFork // nil: it goes to one device
}

// A textFork is one message to an extension, which the PBX sends to each of its devices.
type textFork struct {
	at      time.Time // time of the first MESSAGE
	devices []string  // Request-URIs
	emitted bool
}

// A textTracker follows MESSAGEs (RFC 3428) until their 2xx.
type textTracker struct {
	pending *simplelru.LRU[messageKey, *pendingText] // MESSAGEs that await their 2xx; nil: completed
	forks   *simplelru.LRU[string, *textFork]        // messages that may go to further devices, by their content

	emitter   *emitter
	directory *directory
}

func newTextTracker(e *emitter, d *directory) *textTracker {
	t := &textTracker{emitter: e, directory: d}
	t.pending, _ = simplelru.NewLRU[messageKey, *pendingText](maxMessages, nil) // fails only without a size
	t.forks, _ = simplelru.NewLRU[string, *textFork](maxMessages, nil)
	return t
}

const (
	// forksWithin is the longest time between the PBX's MESSAGEs to the first and to the
	// last device.
	forksWithin = 5 * time.Second

	maxDevices  = 16
	maxMessages = 1 << 10
)

// textFork returns the textFork that the MESSAGE m belongs to, whose event is e; nil if m
// does not go to an extension. MESSAGEs of the same sender with the same text to the same
// extension belong to one textFork, if they come within forksWithin and go to different
// devices. A second MESSAGE to the same device begins another textFork.
func (t *textTracker) textFork(e *Event, m *Message) *textFork {
	if e.Type != MessageIn {
		return nil
	}
	key := deriveID(e.Extension.User, e.Extension.Domain, e.CallerNum, e.ContentType, e.MessageText)
	f, ok := t.forks.Get(key)
	age := time.Duration(0)
	if ok {
		age = m.At.Sub(f.at)
	}
	if !ok || age < 0 || age > forksWithin || len(f.devices) == maxDevices || slices.Contains(f.devices, m.URI()) {
		f = &textFork{at: m.At}
		t.forks.Add(key, f)
	}
	f.devices = append(f.devices, cloneString(m.URI()))
	return f
}

// observeText processes a MESSAGE (RFC 3428) or its response. The event is emitted once
// the 2xx is observed. Each event has a call id of its own.
func (t *textTracker) observeText(m *Message) {
	key := messageKey{m.CallID, m.Branch, m.Origin()}
	if m.Request() {
		if e, ok := t.textEvent(m); ok {
			key.callID, key.branch = cloneString(m.CallID), cloneString(m.Branch)
			if _, known := t.pending.Get(key); !known {
				t.pending.Add(key, &pendingText{e, t.textFork(&e, m)})
			}
		}
		return
	}
	p, ok := t.pending.Get(key)
	if !ok || p == nil || m.Status < 200 {
		return
	}
	t.pending.Add(key, nil) // completed: a repetition emits nothing
	if m.Status < 300 && (p.textFork == nil || !p.textFork.emitted) {
		if p.textFork != nil {
			p.textFork.emitted = true
		}
		t.emitter.emit(m.At, &p.event)
	}
}

// textEvent returns the event to emit once the MESSAGE m is accepted. ok is false if m is
// neither from nor to an extension's phone, or is a report about a message (see
// [body.IsReport]).
func (t *textTracker) textEvent(m *Message) (e Event, ok bool) {
	f, ext := t.directory.readInvite(m, new(callHints))
	if ext.User == "" || !t.directory.isPhone(ext) {
		return e, false
	}
	contentType, text := body.Text(siptext.Field(m.Head, "Content-Type"), m.Body)
	if body.IsReport(contentType) {
		return e, false
	}
	if body.IsSecret(contentType) {
		text = ""
	}
	f.cloneStrings(&ext.User, &ext.Domain, &contentType, &text)
	e = Event{
		Call:         deriveID(m.CallID, m.FromTag, m.Branch, m.Src.String()),
		Seq:          1,
		Extension:    ext,
		CallerNum:    f.callerNum,
		CallerName:   f.callerName,
		CalledNumber: f.calledUser,
		CallerE164:   t.directory.toE164(f.callerNum, m.At),
		CalledE164:   t.directory.toE164(f.calledUser, m.At),
		CallAPIID:    f.callAPIID,
		Headers:      f.headers,
		UserAgent:    f.userAgent,
		Privacy:      f.private,
		MessageText:  text,
		ContentType:  contentType,

		CallerNumRaw: f.callerNumRaw, CalledNumberRaw: f.calledRaw,
	}
	if m.Src == Edge {
		e.Type, e.Flow, e.CallerExtension = MessageOut, Out, &ext
		if to := t.directory.dialedExtension(f.calledUser, f.calledHost, m.At); to.User != "" {
			e.CalledExtension = &to
		}
	} else {
		e.Type, e.Flow, e.CalledExtension = MessageIn, In, &ext
		e.CalledNumber, e.CalledE164, e.CalledNumberRaw = ext.User, t.directory.toE164(ext.User, m.At), ""
		if t.directory.kindOf(f.callerNum, m.At) != "" {
			e.CallerExtension = &Extension{User: f.callerNum}
		}
	}
	if m.Src == PBX { // a proxy forks a message, each branch with an id of its own
		e.Call = deriveID(m.CallID, m.FromTag, strconv.FormatUint(uint64(m.CSeq), 10), m.Src.String(), ext.User, ext.Domain)
	}
	e.Party = deriveID(e.Call, string(e.Flow), ext.User, ext.Domain)
	e.ID = EventID(e.Party, e.Type)
	return e, true
}
