package payload

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"bellhop/dialog"
)

// A Sampler makes up events of an extension. They belong to one call of each flow,
// between the extension and an outside number.
type Sampler struct {
	words     []string // of the types that are asked for, in order
	extension dialog.Extension
	flow      dialog.Flow  // of events that exist in both: out if dial-out is asked for but not dial-in
	state     dialog.Event // the event of type subscription-state
	salt      string
	now       time.Time
}

// NewSampler returns a sampler of the types that words name, such as dial-in, answer or
// answer-in. extension is a user or user@domain; "" is the user 101. state is the event of
// type subscription-state. The ids depend on salt.
func NewSampler(extension string, words []string, state dialog.Event, salt string, now time.Time) *Sampler {
	user, domain, _ := strings.Cut(extension, "@")
	p := &Sampler{
		words: words, flow: dialog.In, state: state, salt: salt, now: now,
		extension: dialog.Extension{User: cmp.Or(user, "101"), Domain: cmp.Or(domain, "pbx.example")},
	}
	if slices.Contains(words, "dial-out") && !slices.Contains(words, "dial-in") {
		p.flow = dialog.Out
	}
	return p
}

// makeID returns an id as long as a real one. The same words give the same id.
func (p *Sampler) makeID(of ...string) string {
	sum := sha256.Sum256([]byte(p.salt + strings.Join(of, " ")))
	return "test-" + hex.EncodeToString(sum[:])[:27]
}

// Event returns the sample event of the type that a word names. Its ID begins with "test-".
func (p *Sampler) Event(typ string) *dialog.Event {
	kind, flow := dialog.Type(typ), p.flow
	switch typ {
	case "answer-in", "answer-out":
		kind = dialog.Answer
		fallthrough
	case "dial-in", "dial-out", "message-in", "message-out":
		_, f, _ := strings.Cut(typ, "-")
		flow = dialog.Flow(f)
	case "voicemail":
		flow = dialog.In
	}
	e := p.makeCallEvent(kind, flow)
	e.Seq = 1 + slices.Index(p.words, typ)
	switch kind {
	case dialog.DialIn, dialog.DialOut, dialog.Ringing:
		e.Status = dialog.Calling
	case dialog.Transfer: // the other party is transferred to an outside number
		e.CallerExtension, e.CalledNumber, e.CalledExtension = &p.extension, "+442079460147", nil
		e.SipCode, e.SipReason = 200, "OK"
	case dialog.Hangup:
		e.RingDuration, e.SetupTime, e.Duration, e.AnsweredAt = 4*time.Second, 120*time.Millisecond, time.Minute, p.now.Add(-time.Minute)
		e.HangupBy, e.Q850 = dialog.ByCaller, 16
		if flow == dialog.In {
			e.Missed = new(bool)
		}
	case dialog.MessageIn, dialog.MessageOut:
		e.Call, e.Party, e.Seq = p.makeID(typ), p.makeID(typ, "party"), 1
		e.Status, e.Correlation, e.MessageText, e.ContentType = "", "", "A message by which bellhop tests this receiver", "text/plain"
	case dialog.Voicemail:
		e.Call, e.Party, e.Seq = p.makeID(typ), p.makeID(typ, "party"), 1
		e.Status, e.UserAgent, e.Correlation, e.CallAPIID, e.Duration = "", "", "", "", 12*time.Second
	case dialog.Registered, dialog.Unregistered:
		e = dialog.Event{Type: kind, Call: p.makeID("registration"), Party: p.makeID("registration", "party"), Seq: 1, Extension: p.extension, UserAgent: sampleAgent}
		if kind == dialog.Unregistered {
			e.Seq = 2
		}
	case dialog.SubscriptionState:
		e = p.state
	}
	e.ID, e.At = p.makeID("event", typ), p.now
	return &e
}

const sampleAgent = "Yealink SIP-T46U 108.86.0.20"

// makeCallEvent returns an event of the answered call of a flow.
func (p *Sampler) makeCallEvent(t dialog.Type, flow dialog.Flow) dialog.Event {
	e := dialog.Event{
		Type: t, Call: p.makeID("call", string(flow)), Party: p.makeID("party", string(flow)), Extension: p.extension, Flow: flow, Status: dialog.Answered,
		CallerNum: "+442079460123", CallerName: "Jane Smith", CalledNumber: p.extension.User, CalledExtension: &p.extension,
		CallAPIID: p.makeID("api", string(flow)) + "@192.0.2.7", UserAgent: sampleAgent, Correlation: "x-cid:exact",
	}
	if flow == dialog.Out {
		e.CallerNum, e.CallerName, e.CallerExtension = p.extension.User, "Alex Jones", &p.extension
		e.CalledNumber, e.CalledExtension = "+442079460123", nil
	}
	return e
}
