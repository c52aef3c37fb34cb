package admin

import (
	"time"

	"bellhop/dialog"
)

// Event is a [dialog.Event] as the API shows it, with the field names of the json
// dialect and the extension of the event. Times are microseconds since 1970-01-01 UTC
// and durations are microseconds, except timestamp. Unknown values are left out. Fields
// are only ever added.
type Event struct {
	EventID   string    `json:"event_id"`
	EventType string    `json:"event_type"`
	EventTime int64     `json:"event_time"`
	Timestamp time.Time `json:"timestamp" doc:"event_time in RFC 3339"`
	Extension string    `json:"extension" doc:"Extension of the event"`
	Domain    string    `json:"domain,omitempty" doc:"Domain of the extension"`
	CallID    string    `json:"call_id,omitempty" doc:"Call of the event; the same for all its legs"`
	Sequence  int       `json:"sequence,omitempty" doc:"Number of the event within its call: 1, 2, 3 and so on"`
	SubCallID string    `json:"sub_call_id,omitempty" doc:"The extension's part in the call; another one if it rings again"`

	CallFlow        string `json:"call_flow,omitempty" doc:"Direction seen from the extension: in or out"`
	CallStatus      string `json:"call_status,omitempty"`
	CallerIDNum     string `json:"caller_id_num,omitempty"`
	CallerIDName    string `json:"caller_id_name,omitempty"`
	CallerExtension string `json:"caller_extension,omitempty"`
	CalledNumber    string `json:"called_number,omitempty" doc:"Number as dialed"`
	CalledExtension string `json:"called_extension,omitempty"`
	CalledDID       string `json:"called_did,omitempty"`
	CallAPIID       string `json:"callapi_id,omitempty"`
	CallbackID      string `json:"callback_id,omitempty"`
	ClientAPIID     string `json:"client_api_id,omitempty"`
	Diversion       string `json:"diversion,omitempty"`
	RemoteNumber    string `json:"remote_number,omitempty"`
	ANI             string `json:"ani,omitempty"`
	Tag             string `json:"tag,omitempty"`

	CallerExtensionID uint64 `json:"caller_extension_id,omitempty" doc:"Number of the extension in callbacks; absent until a callback has needed one"`
	CalledExtensionID uint64 `json:"called_extension_id,omitempty" doc:"Number of the extension in callbacks; absent until a callback has needed one"`

	Duration          *int64 `json:"duration,omitempty" doc:"Talk time in microseconds; on hangup"`
	RingDuration      int64  `json:"ring_duration,omitempty"`
	SetupTime         int64  `json:"setup_time,omitempty"`
	RecID             string `json:"rec_id,omitempty"`
	SIPCode           int    `json:"sip_code,omitempty"`
	SIPReason         string `json:"sip_reason,omitempty"`
	Q850              int    `json:"q850,omitempty"`
	HangupBy          string `json:"hangup_by,omitempty" doc:"Party that hung up: caller, callee or system"`
	AnsweredElsewhere bool   `json:"answered_elsewhere,omitempty"`
	Missed            *bool  `json:"missed,omitempty"`
	Transferred       bool   `json:"transferred,omitempty"`
	Bridged           *bool  `json:"bridged,omitempty"`
	BridgedDuration   int64  `json:"bridged_duration,omitempty"`
	Recovered         bool   `json:"recovered,omitempty" doc:"Published from stored state after a restart"`
	Correlation       string `json:"correlation,omitempty"`
	UserAgent         string `json:"user_agent,omitempty"`
	Verstat           string `json:"verstat,omitempty"`
	OtherCallID       string `json:"other_call_id,omitempty"`
	MessageText       string `json:"message_text,omitempty"`
	ContentType       string `json:"content_type,omitempty"`

	SubscriptionID    string `json:"subscription_id,omitempty" doc:"On subscription-state: the subscription that changed"`
	SubscriptionState string `json:"subscription_state,omitempty" doc:"On subscription-state: paused, resumed or disabled"`
	Why               string `json:"why,omitempty" doc:"On subscription-state: reason of the pause or disabling"`

	CallerNumberE164 string            `json:"caller_number_e164,omitempty"`
	CalledNumberE164 string            `json:"called_number_e164,omitempty"`
	CallerIDNumRaw   string            `json:"caller_id_num_raw,omitempty" doc:"Number as in the SIP message, if that differs"`
	CalledNumberRaw  string            `json:"called_number_raw,omitempty" doc:"Number as in the SIP message, if that differs"`
	Privacy          bool              `json:"privacy,omitempty" doc:"The caller asks for its number to be withheld"`
	Headers          map[string]string `json:"headers,omitempty"`
}

// extensionIDs are the numbers of the extensions of an event; 0: none is allotted yet.
type extensionIDs struct{ caller, called uint64 }

func eventOf(e dialog.Event, ids extensionIDs) Event {
	v := Event{
		EventID:   e.ID,
		EventType: string(e.Type),
		EventTime: e.At.UnixMicro(),
		Timestamp: e.At.UTC(),
		Extension: e.Extension.User,
		Domain:    e.Extension.Domain,
		CallID:    e.Call,
		Sequence:  e.Seq,
		SubCallID: e.Party,

		CallFlow:        string(e.Flow),
		CallStatus:      string(e.Status),
		CallerIDNum:     e.CallerNum,
		CallerIDName:    e.CallerName,
		CallerExtension: userOf(e.CallerExtension),
		CalledNumber:    e.CalledNumber,
		CalledExtension: userOf(e.CalledExtension),
		CalledDID:       e.CalledDID,
		CallAPIID:       e.CallAPIID,
		CallbackID:      e.CallBackID,
		ClientAPIID:     e.ClientAPIID,
		Diversion:       e.Diversion,
		RemoteNumber:    e.RemoteNumber,
		ANI:             e.ANI,
		Tag:             e.Tag,

		CallerExtensionID: ids.caller,
		CalledExtensionID: ids.called,

		RingDuration:      e.RingDuration.Microseconds(),
		SetupTime:         e.SetupTime.Microseconds(),
		RecID:             e.RecID,
		SIPCode:           e.SipCode,
		SIPReason:         e.SipReason,
		Q850:              e.Q850,
		HangupBy:          string(e.HangupBy),
		AnsweredElsewhere: e.Elsewhere,
		Missed:            e.Missed,
		Transferred:       e.Transferred,
		Bridged:           e.Bridged,
		BridgedDuration:   e.BridgedFor.Microseconds(),
		Recovered:         e.Recovered,
		Correlation:       e.Correlation,
		UserAgent:         e.UserAgent,
		Verstat:           e.Verstat,
		OtherCallID:       e.OtherCall,
		MessageText:       e.MessageText,
		ContentType:       e.ContentType,

		CallerNumberE164: e.CallerE164,
		CalledNumberE164: e.CalledE164,
		CallerIDNumRaw:   e.CallerNumRaw,
		CalledNumberRaw:  e.CalledNumberRaw,
		Privacy:          e.Privacy,
	}
	if e.Type == dialog.Hangup || e.Duration > 0 {
		d := e.Duration.Microseconds()
		v.Duration = &d
	}
	if s := e.Subscription; s != nil {
		v.SubscriptionID, v.SubscriptionState, v.Why = s.ID, s.State, s.Why
	}
	if len(e.Headers) > 0 {
		v.Headers = make(map[string]string, len(e.Headers))
		for _, h := range e.Headers {
			v.Headers[h[0]] = h[1]
		}
	}
	return v
}

func userOf(e *dialog.Extension) string {
	if e == nil {
		return ""
	}
	return e.User
}

// Call is a [dialog.Call] as the API shows it.
type Call struct {
	ID       string     `json:"call_id"`
	State    string     `json:"state" doc:"State of the call: calling, ringing or talking"`
	Since    time.Time  `json:"since"`
	Answered *time.Time `json:"answered,omitempty"`
	Parties  []Party    `json:"parties" nullable:"false"`
}

// Party is a [dialog.Party] as the API shows it.
type Party struct {
	ID           string     `json:"sub_call_id"`
	Extension    string     `json:"extension"`
	Domain       string     `json:"domain,omitempty"`
	Flow         string     `json:"call_flow" doc:"Direction seen from the extension: in or out"`
	Status       string     `json:"call_status" doc:"CALLING or ANSWER; after the hangup, the status of the hangup"`
	Since        time.Time  `json:"since"`
	Answered     *time.Time `json:"answered,omitempty"`
	Over         bool       `json:"over,omitempty" doc:"The hangup of this party was published"`
	CallerNum    string     `json:"caller_id_num,omitempty"`
	CallerName   string     `json:"caller_id_name,omitempty"`
	CalledNumber string     `json:"called_number,omitempty"`
}

func callOf(c dialog.Call) Call {
	v := Call{ID: c.ID, State: c.State, Since: c.Since.UTC(), Answered: timeOf(c.Answered), Parties: make([]Party, len(c.Parties))}
	for i, p := range c.Parties {
		v.Parties[i] = Party{
			ID:           p.ID,
			Extension:    p.Extension.User,
			Domain:       p.Extension.Domain,
			Flow:         string(p.Flow),
			Status:       string(p.Status),
			Since:        p.Since.UTC(),
			Answered:     timeOf(p.Answered),
			Over:         p.Over,
			CallerNum:    p.CallerNum,
			CallerName:   p.CallerName,
			CalledNumber: p.CalledNumber,
		}
	}
	return v
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
