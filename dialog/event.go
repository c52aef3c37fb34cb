package dialog

import (
	"strings"
	"time"
)

// Type is the type of an event. The event log stores the text and subscriptions name it,
// so a text must never change.
type Type string

const (
	DialIn     Type = "dial-in"     // an INVITE was forwarded to the extension's phone, or the PBX has accepted one for a queue, IVR or conference
	DialOut    Type = "dial-out"    // the PBX has accepted the extension's INVITE
	Answer     Type = "answer"      // first 2xx: from the extension if Flow is In, to it if Out
	Hangup     Type = "hangup"      // exactly one per dial, always the party's last event
	MessageIn  Type = "message-in"  // a MESSAGE to the extension was accepted
	MessageOut Type = "message-out" // a MESSAGE from the extension was accepted
	Voicemail  Type = "voicemail"   // more new voice messages than in the NOTIFY before
	Ringing    Type = "ringing"     // first 18x from the callee

	Hold         Type = "hold"         // the extension put the other end on hold
	Resume       Type = "resume"       // the extension resumed the call
	Transfer     Type = "transfer"     // the outcome of the extension's accepted REFER is known
	Registered   Type = "registered"   // the first binding of the extension appeared
	Unregistered Type = "unregistered" // the last binding of the extension was removed, or has expired

	SubscriptionState Type = "subscription-state" // outside of calls: whether a subscription of the extension is paused, resumed or disabled; the tracker never emits it
)

// A TypeInfo has the properties that all events of a type share.
type TypeInfo struct {
	Type   Type
	Live   bool // of use only for seconds, while the call is in that state; other events are of use for days
	OptIn  bool // published only while a subscription names the type
	ByFlow bool // a subscription may name it with one flow only, as answer-in or answer-out
}

// Types are all types of events, those of a call in the order in which they occur.
var Types = []TypeInfo{
	{Type: DialIn, Live: true},
	{Type: DialOut, Live: true},
	{Type: Ringing, Live: true, OptIn: true},
	{Type: Answer, Live: true, ByFlow: true},
	{Type: Hold, Live: true, OptIn: true},
	{Type: Resume, Live: true, OptIn: true},
	{Type: Transfer, OptIn: true},
	{Type: Hangup},
	{Type: MessageIn},
	{Type: MessageOut},
	{Type: Voicemail},
	{Type: Registered, OptIn: true},
	{Type: Unregistered, OptIn: true},
	{Type: SubscriptionState, OptIn: true},
}

// typeInfos has the TypeInfo of each type.
var typeInfos = func() map[Type]TypeInfo {
	all := make(map[Type]TypeInfo, len(Types))
	for _, t := range Types {
		all[t.Type] = t
	}
	return all
}()

// Live reports whether events of the type are of use for seconds only. It returns false
// for an unknown type.
func (t Type) Live() bool { return typeInfos[t].Live }

// OptIn reports whether events of the type are published only while a subscription names
// it.
func (t Type) OptIn() bool { return typeInfos[t].OptIn }

// Flow is the direction of a party: In if the extension is called, Out if it calls.
type Flow string

const (
	In  Flow = "in"
	Out Flow = "out"
)

// Flows are all flows.
var Flows = []Flow{In, Out}

// Status is the state of a party's call; in a transfer, its outcome. At a hangup it is a
// word of Asterisk's DIALSTATUS, or FORWARDED, or UNKNOWN.
type Status string

const (
	Calling     Status = "CALLING" // at dial-in and dial-out
	Answered    Status = "ANSWER"
	Busy        Status = "BUSY"
	NoAnswer    Status = "NOANSWER"
	Canceled    Status = "CANCEL"
	Congestion  Status = "CONGESTION"
	ChanUnavail Status = "CHANUNAVAIL"
	Forwarded   Status = "FORWARDED" // a 3xx sent the call elsewhere
	Unknown     Status = "UNKNOWN"
)

// Statuses are all statuses.
var Statuses = []Status{Calling, Answered, Busy, NoAnswer, Canceled, Congestion, ChanUnavail, Forwarded, Unknown}

// HangupBy is who ended a party's call.
type HangupBy string

const (
	ByCaller HangupBy = "caller"
	ByCallee HangupBy = "callee"
	BySystem HangupBy = "system"
)

// HangupSides are all sides that end calls.
var HangupSides = []HangupBy{ByCaller, ByCallee, BySystem}

// MaxName is the largest size in bytes of the user, and of the domain, of an extension. A
// longer name in a message is not an extension. Names become subjects and keys of the
// store, so a stranger must not choose their size.
const MaxName = 256

// An Extension is a number of the PBX that people subscribe to.
type Extension struct {
	User   string `json:"user"`             // 101, 0003*210
	Domain string `json:"domain,omitempty"` // host of its AOR, or of the URI it was seen in
}

// String returns user@domain, or the user alone if no domain is known.
func (e Extension) String() string {
	if e.Domain == "" {
		return e.User
	}
	return e.User + "@" + e.Domain
}

// Is reports whether name names the extension, as its user alone or as user@domain. The
// case of the domain is ignored.
func (e Extension) Is(name string) bool {
	if rest, ok := strings.CutPrefix(name, e.User); ok {
		return rest == "" || e.Domain != "" && rest[0] == '@' && strings.EqualFold(rest[1:], e.Domain)
	}
	return false
}

// A LegID identifies the dialog of a leg.
type LegID struct {
	Node    string `json:"node,omitempty"` // node that follows it, if several nodes share the log
	Origin  Side   `json:"origin"`
	CallID  string `json:"call_id"`
	FromTag string `json:"from_tag"`
	ToTag   string `json:"to_tag,omitempty"`
	Peer    string `json:"peer,omitempty"` // address of the edge side; absent in events of older versions
}

// An Event is one thing that happened to an extension, usually in a call. It is emitted
// once. An empty field is unknown or does not apply. No field changes after the Tracker
// has returned the event. Text from a message is unchanged, so sanitize it for the place
// where it is shown.
//
// The event log stores the JSON form, so fields may be added but never changed or
// removed.
type Event struct {
	ID   string    `json:"id"`   // 32 hex digits, derived from party and type; each delivery has the same
	Call string    `json:"call"` // CallID: the same for all legs; 32 hex digits
	Seq  int       `json:"seq"`  // 1, 2, 3 … within the call, without gaps
	At   time.Time `json:"at"`   // when bellhop observed it, by the wall clock of that moment; not when a webhook is sent
	Type Type      `json:"type"`

	Party     string    `json:"party"`     // SubCallID; 32 hex digits
	Extension Extension `json:"extension"` // whose event it is
	Flow      Flow      `json:"flow,omitempty"`
	Status    Status    `json:"status,omitempty"`

	CallerNum       string     `json:"caller_num,omitempty"`
	CallerName      string     `json:"caller_name,omitempty"`
	CallerExtension *Extension `json:"caller_extension,omitempty"` // extension that calls, if it is one
	CalledNumber    string     `json:"called_number,omitempty"`    // as dialed, without escapes and visual separators
	CalledExtension *Extension `json:"called_extension,omitempty"` // extension that is called, if it is one
	CalledDID       string     `json:"called_did,omitempty"`       // public number that was called
	CallAPIID       string     `json:"callapi_id,omitempty"`       // from the answer on, of the leg that was answered
	Diversion       string     `json:"diversion,omitempty"`
	ClientAPIID     string     `json:"client_api_id,omitempty"`

	Duration     time.Duration `json:"duration,omitempty"`      // hangup: answer to hangup; voicemail: length, if known
	RingDuration time.Duration `json:"ring_duration,omitempty"` // first 18x to answer or end
	SetupTime    time.Duration `json:"setup_time,omitempty"`    // INVITE to the first 18x or answer
	AnsweredAt   time.Time     `json:"answered_at,omitzero"`    // hangup of an answered party: the At of its answer
	RecID        string        `json:"rec_id,omitempty"`        // hangup, voicemail
	SipCode      int           `json:"sip_code,omitempty"`      // hangup: final response; 0 after a BYE
	SipReason    string        `json:"sip_reason,omitempty"`    // hangup: reason phrase
	Q850         int           `json:"q850,omitempty"`          // from Reason: Q.850;cause=N
	HangupBy     HangupBy      `json:"hangup_by,omitempty"`     // hangup
	Elsewhere    bool          `json:"elsewhere,omitempty"`     // hangup: another leg answered
	Missed       *bool         `json:"missed,omitempty"`        // hangup, flow in
	Recovered    bool          `json:"recovered,omitempty"`     // its call was restored after a restart
	Correlation  string        `json:"correlation,omitempty"`   // how its leg was joined to the call; for the leg that began the call: how the last other leg was
	UserAgent    string        `json:"user_agent,omitempty"`    // of the party's phone; registered: of the first phone
	Verstat      string        `json:"verstat,omitempty"`       // of the caller's number
	Transferred  bool          `json:"transferred,omitempty"`   // flow out that results from forwarding or a transfer
	Bridged      *bool         `json:"bridged,omitempty"`       // queue and ivr
	BridgedFor   time.Duration `json:"bridged_for,omitempty"`   // queue and ivr: how long agents talked with the caller
	CallBackID   string        `json:"callback_id,omitempty"`   //
	RemoteNumber string        `json:"remote_number,omitempty"` // number that the PBX connected the extension with, if not the caller's
	ANI          string        `json:"ani,omitempty"`           // caller's number as the PBX shows it to a trunk
	Tag          string        `json:"tag,omitempty"`           //
	OtherCall    string        `json:"other_call,omitempty"`    // transfer: id of the other call, if the REFER's Replaces names a dialog of it
	MessageText  string        `json:"message_text,omitempty"`  // message-in, message-out
	ContentType  string        `json:"content_type,omitempty"`  // message-in, message-out
	Headers      [][2]string   `json:"headers,omitempty"`       // configured ones, in order
	CallerE164   string        `json:"caller_e164,omitempty"`   //
	CalledE164   string        `json:"called_e164,omitempty"`   //

	// CallerNumRaw and CalledNumberRaw are the numbers as written in the message, if that
	// differs (RFC 3261 §19.1.4, RFC 3966 §5.1.1).
	CallerNumRaw    string `json:"caller_num_raw,omitempty"`
	CalledNumberRaw string `json:"called_number_raw,omitempty"`

	Privacy bool `json:"privacy,omitempty"` // the caller asks to hide its number (RFC 3323)

	Distributor *Extension `json:"distributor,omitempty"` // flow in: queue or IVR on whose behalf the extension was called; nil: none

	Leg LegID `json:"leg,omitzero"` // dial-in, dial-out, answer: for Restore, not for subscribers

	Subscription *Subscription `json:"subscription,omitempty"` // subscription-state: the subscription

	// Observed is the time At on the steady clock of [Message.At], which is never set. It
	// is zero in a process that did not emit the event.
	Observed time.Time `json:"-"`
}

// OrderKey returns the key of events that must be delivered in order: the call of e, or
// the user of its extension if e belongs to no call. The key is stored: never change the
// form.
func (e *Event) OrderKey() string {
	if e.Call == "" {
		return e.Extension.User
	}
	return e.Call
}

// A Subscription is the state of a webhook subscription, in an event of type
// subscription-state.
type Subscription struct {
	ID    string `json:"id"`
	State string `json:"state"`         // paused, resumed or disabled
	Why   string `json:"why,omitempty"` // why it is paused or disabled
}
