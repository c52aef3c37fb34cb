package v1

import (
	"time"

	"bellhop/dialog"
)

// Event is a [dialog.Event] as the API shows it and as the callbacks of dialect json have
// it, see [payload.View.AppendEvent]. Times except timestamp are in microseconds since
// 1970-01-01 UTC, durations in microseconds. Unknown values are left out. Fields are only
// ever added.
type Event struct {
	EventID   string    `json:"event_id" doc:"32 hex digits; the same in every delivery of the event"`
	EventType string    `json:"event_type" doc:"Type of the event, such as hangup"`
	EventTime int64     `json:"event_time" doc:"Time at which bellhop observed the event, in microseconds since 1970-01-01 UTC"`
	Timestamp time.Time `json:"timestamp" doc:"event_time in RFC 3339"`
	Extension string    `json:"extension" doc:"Extension of the event"`
	Domain    string    `json:"domain,omitempty" doc:"Domain of the extension"`
	CallID    string    `json:"call_id,omitempty" doc:"Call of the event; the same for all its legs"`
	Sequence  int       `json:"sequence,omitempty" doc:"Number of the event within its call: 1, 2, 3 and so on"`
	SubCallID string    `json:"sub_call_id,omitempty" doc:"The extension's part in the call; another one if it rings again"`

	CallFlow        string `json:"call_flow,omitempty" doc:"Direction seen from the extension: in or out"`
	CallStatus      string `json:"call_status,omitempty" doc:"Status of the call, such as CALLING, ANSWER or BUSY"`
	CallerIDNum     string `json:"caller_id_num,omitempty" doc:"Number of the caller"`
	CallerIDName    string `json:"caller_id_name,omitempty" doc:"Name of the caller"`
	CallerExtension string `json:"caller_extension,omitempty" doc:"Extension that calls, if the caller is one"`
	CalledNumber    string `json:"called_number,omitempty" doc:"Number as dialed"`
	CalledExtension string `json:"called_extension,omitempty" doc:"Extension that is called, if the called number is one"`
	CalledDID       string `json:"called_did,omitempty" doc:"Public number that was called"`
	CallAPIID       string `json:"callapi_id,omitempty" doc:"ID to control the call with: from the header that calls.callapi_id names in the config, else the PBX's Call-ID of the leg"`
	CallbackID      string `json:"callback_id,omitempty" doc:"ID of a call that the PBX initiated: from the header that calls.callback_id names in the config"`
	ClientAPIID     string `json:"client_api_id,omitempty" doc:"Client-Api-Id header of the phone's INVITE, at most 100 characters"`
	Diversion       string `json:"diversion,omitempty" doc:"Number that forwarded the call before it reached the PBX"`
	RemoteNumber    string `json:"remote_number,omitempty" doc:"On an incoming call: number that is really connected, if that is not the caller, for example after a transfer"`
	ANI             string `json:"ani,omitempty" doc:"On an outgoing call to an outside number: the caller's number shown there"`
	Tag             string `json:"tag,omitempty" doc:"From the header that calls.tag names in the config"`

	CallerExtensionID uint64 `json:"caller_extension_id,omitempty" doc:"Number of the extension in callbacks; absent until a callback has needed one"`
	CalledExtensionID uint64 `json:"called_extension_id,omitempty" doc:"Number of the extension in callbacks; absent until a callback has needed one"`

	Duration          *int64 `json:"duration,omitempty" doc:"On hangup: talk time in microseconds; on voicemail: its length, if known"`
	RingDuration      int64  `json:"ring_duration,omitempty" doc:"First 18x response to answer or end, in microseconds"`
	SetupTime         int64  `json:"setup_time,omitempty" doc:"INVITE to first 18x response or answer, in microseconds"`
	RecID             string `json:"rec_id,omitempty" doc:"ID of the recording: from the header that calls.rec_id names in the config"`
	SIPCode           int    `json:"sip_code,omitempty" doc:"On hangup: SIP status of the final response; absent after a BYE"`
	SIPReason         string `json:"sip_reason,omitempty" doc:"On hangup: reason phrase of the final response"`
	Q850              int    `json:"q850,omitempty" doc:"Q.850 cause of the Reason header"`
	HangupBy          string `json:"hangup_by,omitempty" doc:"Party that hung up: caller, callee or system"`
	AnsweredElsewhere bool   `json:"answered_elsewhere,omitempty" doc:"On hangup: another phone answered"`
	Missed            *bool  `json:"missed,omitempty" doc:"On hangup of an incoming call: it was missed"`
	Transferred       bool   `json:"transferred,omitempty" doc:"The outgoing call results from a forwarding or transfer"`
	Bridged           *bool  `json:"bridged,omitempty" doc:"On hangup of a queue or ivr: the caller talked to somebody"`
	BridgedDuration   int64  `json:"bridged_duration,omitempty" doc:"Time talked with agents, in microseconds"`
	Recovered         bool   `json:"recovered,omitempty" doc:"Published from stored state after a restart"`
	Correlation       string `json:"correlation,omitempty" doc:"Method of calls.correlate that matched the leg to its call, and its certainty: exact, likely, possible or tie"`
	UserAgent         string `json:"user_agent,omitempty" doc:"User-Agent of the extension's phone"`
	Verstat           string `json:"verstat,omitempty" doc:"Verification status of the caller's number (STIR/SHAKEN)"`
	OtherCallID       string `json:"other_call_id,omitempty" doc:"On transfer: call_id of the other call"`
	MessageText       string `json:"message_text,omitempty" doc:"Text of a message"`
	ContentType       string `json:"content_type,omitempty" doc:"Media type of a message"`

	SubscriptionID    string `json:"subscription_id,omitempty" doc:"On subscription-state: the subscription that changed"`
	SubscriptionState string `json:"subscription_state,omitempty" doc:"On subscription-state: paused, resumed or disabled"`
	Why               string `json:"why,omitempty" doc:"On subscription-state: reason of the pause or disabling"`

	CallerNumberE164 string            `json:"caller_number_e164,omitempty" doc:"caller_id_num in E.164"`
	CalledNumberE164 string            `json:"called_number_e164,omitempty" doc:"called_number in E.164"`
	CallerIDNumRaw   string            `json:"caller_id_num_raw,omitempty" doc:"Number as in the SIP message, if that differs"`
	CalledNumberRaw  string            `json:"called_number_raw,omitempty" doc:"Number as in the SIP message, if that differs"`
	Privacy          bool              `json:"privacy,omitempty" doc:"The caller asks for its number to be withheld"`
	Headers          map[string]string `json:"headers,omitempty" doc:"Header fields of the INVITE that calls.headers names in the config"`
}

// Call is a [dialog.Call] as the API shows it.
type Call struct {
	ID       string     `json:"call_id" doc:"The call_id of its events"`
	State    string     `json:"state" doc:"State of the call: calling, ringing or talking"`
	Since    time.Time  `json:"since" doc:"Time of the first INVITE"`
	Answered *time.Time `json:"answered,omitempty" doc:"Time of the first answer"`
	Parties  []Party    `json:"parties" nullable:"false" doc:"Extensions in the call, each with its own part of it"`
}

// Party is a [dialog.Party] as the API shows it.
type Party struct {
	ID           string     `json:"sub_call_id" doc:"The sub_call_id of its events"`
	Extension    string     `json:"extension" doc:"Extension of the party"`
	Domain       string     `json:"domain,omitempty" doc:"Domain of the extension"`
	Flow         string     `json:"call_flow" doc:"Direction seen from the extension: in or out"`
	Status       string     `json:"call_status" doc:"CALLING or ANSWER; after the hangup, the status of the hangup"`
	Since        time.Time  `json:"since" doc:"Time of the INVITE"`
	Answered     *time.Time `json:"answered,omitempty" doc:"Time of the answer"`
	Over         bool       `json:"over,omitempty" doc:"The hangup of this party was published"`
	CallerNum    string     `json:"caller_id_num,omitempty" doc:"Number of the caller"`
	CallerName   string     `json:"caller_id_name,omitempty" doc:"Name of the caller"`
	CalledNumber string     `json:"called_number,omitempty" doc:"Number as dialed"`
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
