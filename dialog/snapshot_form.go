package dialog

import (
	"net/netip"
	"time"

	"bellhop/dialog/sdp"
)

// A callSnapshot is a live call as stored, a JSON object. Its names are permanent: add
// names, never change one. Zero fields are left out, unknown names are ignored.
//
// Legs and parties refer to each other by their position in Legs and Parties, counted
// from 1. 0 means none.
type callSnapshot struct {
	ID               string        `json:"id,omitempty"`
	Seq              int           `json:"seq,omitempty"`
	Began            stamp         `json:"began,omitempty"`
	LastHeard        stamp         `json:"heard,omitempty"`
	CallIDs          []string      `json:"call_ids,omitempty"`
	Keys             []keySnapshot `json:"keys,omitempty"`
	Caller           int           `json:"caller,omitempty"` // a leg
	CalleesStatus    Status        `json:"callees,omitempty"`
	Callback         int           `json:"back,omitempty"`    // a party
	LeavingParty     int           `json:"leaving,omitempty"` // a party
	Correlation      string        `json:"joined,omitempty"`
	BridgedSince     stamp         `json:"bridged,omitempty"`
	WasBridged       bool          `json:"was_bridged,omitempty"`
	PickedUp         bool          `json:"picked_up,omitempty"`
	HandedOnTo       string        `json:"handed_on,omitempty"`
	BridgedFor       time.Duration `json:"talked,omitempty"`
	LastTalker       string        `json:"last_talker,omitempty"`
	LastTalkerDomain string        `json:"last_talker_domain,omitempty"`
	ShownOutside     string        `json:"shown,omitempty"`

	// HasLegs and HasParties are the numbers of legs and parties that the call has. They
	// come first in Legs and Parties, before removed ones to which others still refer.
	HasLegs    int             `json:"has_legs,omitempty"`
	HasParties int             `json:"has_parties,omitempty"`
	Refers     []referSnapshot `json:"refers,omitempty"`
	Legs       []legSnapshot   `json:"legs,omitempty"`
	Parties    []partySnapshot `json:"parties,omitempty"`
}

// A stamp is a time in UTC (RFC 3339), by the wall clock as it was set when the snapshot was
// made; "": none. As a string it takes a third less CPU to encode than a [time.Time]
// (December 2026).
type stamp string

type keySnapshot struct {
	Method string `json:"by,omitempty"`
	Value  string `json:"value,omitempty"`
}

type legSnapshot struct {
	Party           int                 `json:"party,omitempty"`
	Service         int                 `json:"host,omitempty"` // a party
	Origin          Side                `json:"origin,omitempty"`
	Trunk           bool                `json:"trunk,omitempty"`
	State           state               `json:"state,omitempty"`
	CallID          string              `json:"call_id,omitempty"`
	FromTag         string              `json:"from_tag,omitempty"`
	ToTag           string              `json:"to_tag,omitempty"`
	Branch          string              `json:"branch,omitempty"`
	PartySeed       string              `json:"turn,omitempty"`
	CSeq            uint32              `json:"cseq,omitempty"`
	Began           stamp               `json:"began,omitempty"`
	Rang            stamp               `json:"rang,omitempty"`
	LastHeard       stamp               `json:"heard,omitempty"`
	DialAt          stamp               `json:"dial_at,omitempty"`
	Answered        stamp               `json:"answered,omitempty"`
	Ended           stamp               `json:"ended,omitempty"`
	Expires         stamp               `json:"expires,omitempty"`
	Offer           sdp.Direction       `json:"offer,omitempty"`
	OfferSeq        uint32              `json:"offer_seq,omitempty"`
	EarlyDirection  sdp.Direction       `json:"early,omitempty"`
	Canceled        bool                `json:"canceled,omitempty"`
	CanceledAt      stamp               `json:"canceled_at,omitempty"`
	CancelReason    reasonSnapshot      `json:"why,omitzero"`
	PickedUp        bool                `json:"picked_up,omitempty"`
	ByeTag          string              `json:"bye_tag,omitempty"`
	EndedBy         HangupBy            `json:"by,omitempty"`
	Refusal         outcomeSnapshot     `json:"refused,omitzero"`
	inviteSnapshot                      // names of its own in the same object
	CalledExt       string              `json:"called_ext,omitempty"`
	CalledExtDomain string              `json:"called_ext_domain,omitempty"`
	NotAgent        bool                `json:"no_agent,omitempty"`
	OtherCaller     bool                `json:"stranger,omitempty"`
	ReferredTo      string              `json:"referred_to,omitempty"`
	Correlation     string              `json:"joined,omitempty"`
	PhoneNumber     string              `json:"number,omitempty"`
	OtherNumbers    []string            `json:"also,omitempty"`
	Ambiguous       bool                `json:"contested,omitempty"`
	RedirectUsers   string              `json:"moved_to,omitempty"`
	CallerGoneAt    stamp               `json:"forsaken,omitempty"`
	TransactionLost bool                `json:"cut,omitempty"`
	TriedByPBX      bool                `json:"tried,omitempty"`
	HasReferred     bool                `json:"refers,omitempty"`
	Peer            netip.AddrPort      `json:"peer,omitzero"`
	UACSeq          uint32              `json:"near_seq,omitempty"`
	UASSeq          uint32              `json:"far_seq,omitempty"`
	Unverified      *unverifiedSnapshot `json:"claim,omitempty"`
	RefersSent      int                 `json:"refers_sent,omitempty"`
	PBXOfferCSeq    uint32              `json:"asked_pbx,omitempty"`
	PhoneOfferCSeq  uint32              `json:"asked_phone,omitempty"`
	Muted           bool                `json:"muted,omitempty"`
	Forks           []forkSnapshot      `json:"forks,omitempty"`
	Loss            *lossSnapshot       `json:"doubt,omitempty"`
}

// An inviteSnapshot has the facts of an INVITE, in the object of its leg.
type inviteSnapshot struct {
	CallerNum    string   `json:"num,omitempty"`
	CallerName   string   `json:"name,omitempty"`
	Verstat      string   `json:"verstat,omitempty"`
	CalledUser   string   `json:"called,omitempty"`
	CalledHost   string   `json:"called_host,omitempty"`
	CalledDID    string   `json:"did,omitempty"`
	Diversion    string   `json:"diversion,omitempty"`
	CallAPIID    string   `json:"callapi,omitempty"`
	ClientAPIID  string   `json:"client_api,omitempty"`
	CallBackID   string   `json:"callback,omitempty"`
	Tag          string   `json:"tag,omitempty"`
	RecID        string   `json:"rec,omitempty"`
	UserAgent    string   `json:"agent,omitempty"`
	Headers      []string `json:"headers,omitempty"` // names and values in turn
	CallerE164   string   `json:"num_e164,omitempty"`
	CalledE164   string   `json:"called_e164,omitempty"`
	Credentials  bool     `json:"credentials,omitempty"`
	Hidden       bool     `json:"hidden,omitempty"`
	OfferSum     uint32   `json:"asked,omitempty"`
	CallerNumRaw string   `json:"num_raw,omitempty"`
	CalledRaw    string   `json:"called_raw,omitempty"`
	Private      bool     `json:"private,omitempty"`
	Withheld     bool     `json:"withheld,omitempty"`
}

// An unverifiedSnapshot has no REFER. A REFER has no effect before it is accepted, and
// its acceptance is not recognized after a restart.
type unverifiedSnapshot struct {
	Branch   string        `json:"branch,omitempty"`
	SentAt   stamp         `json:"at,omitempty"`
	EventSeq int           `json:"seq,omitempty"`
	Q850     int           `json:"q850,omitempty"`
	RecID    string        `json:"rec,omitempty"`
	Offer    sdp.Direction `json:"offer,omitempty"`
}

type reasonSnapshot struct {
	Q850     int  `json:"q850,omitempty"`
	SIP      int  `json:"sip,omitempty"`
	Q850Zero bool `json:"zero,omitempty"`
}

type outcomeSnapshot struct {
	Status    Status   `json:"status,omitempty"`
	Code      int      `json:"code,omitempty"`
	Phrase    string   `json:"phrase,omitempty"`
	Q850      int      `json:"q850,omitempty"`
	By        HangupBy `json:"by,omitempty"`
	Elsewhere bool     `json:"elsewhere,omitempty"`
}

type forkSnapshot struct {
	ToTag  string        `json:"to_tag,omitempty"`
	UACSeq uint32        `json:"near_seq,omitempty"`
	UASSeq uint32        `json:"far_seq,omitempty"`
	Over   bool          `json:"over,omitempty"`
	Loss   *lossSnapshot `json:"doubt,omitempty"`
}

type lossSnapshot struct {
	At       stamp  `json:"at,omitempty"`
	EventSeq int    `json:"seq,omitempty"`
	Side     Side   `json:"by,omitempty"`
	Code     int    `json:"code,omitempty"`
	Phrase   string `json:"phrase,omitempty"`
}

type referSnapshot struct {
	Leg             int    `json:"leg,omitempty"`
	Awaited         bool   `json:"awaited,omitempty"` // a new leg may follow it
	Open            bool   `json:"open,omitempty"`    // its leg waits for its outcome
	ByParty         bool   `json:"sends,omitempty"`   // its party, whose legs have ended, waits for its outcome
	SentAt          stamp  `json:"at,omitempty"`
	CSeq            uint32 `json:"cseq,omitempty"`
	ReferredBy      string `json:"by,omitempty"`
	Target          string `json:"to,omitempty"`
	Contact         string `json:"contact,omitempty"`
	TargetExt       string `json:"ext,omitempty"`
	TargetExtDomain string `json:"ext_domain,omitempty"`
	Replaces        string `json:"replaces,omitempty"`
	OtherCall       string `json:"other,omitempty"`
	Accepted        bool   `json:"accepted,omitempty"`
	Emitted         bool   `json:"told,omitempty"`
	Progressed      bool   `json:"begun,omitempty"`
	EarlyStatus     int    `json:"taken,omitempty"`
	EarlyPhrase     string `json:"taken_phrase,omitempty"`
}

type partySnapshot struct {
	ID             string            `json:"id,omitempty"`
	Ext            string            `json:"ext,omitempty"`
	ExtDomain      string            `json:"ext_domain,omitempty"`
	Flow           Flow              `json:"flow,omitempty"`
	FirstLeg       int               `json:"first,omitempty"`
	Kind           Kind              `json:"kind,omitempty"`
	DialedNumber   string            `json:"called,omitempty"`
	DialedE164     string            `json:"called_e164,omitempty"`
	Dialed         bool              `json:"dialed,omitempty"`
	Rang           stamp             `json:"rang,omitempty"`
	Answered       stamp             `json:"answered,omitempty"`
	AnsweredWall   stamp             `json:"answered_at,omitempty"` // by the wall clock of that moment; older versions lack it
	Over           bool              `json:"over,omitempty"`
	LeftAt         stamp             `json:"left,omitempty"`
	Outcome        outcomeSnapshot   `json:"outcome,omitzero"`
	UserAgent      string            `json:"agent,omitempty"`
	RecID          string            `json:"rec,omitempty"`
	RemoteNumber   string            `json:"remote,omitempty"`
	CallAPIID      string            `json:"callapi,omitempty"`
	Distributor    *Extension        `json:"through,omitempty"`
	Transferee     *Extension        `json:"transferee,omitempty"`
	Transferred    bool              `json:"transferred,omitempty"`
	Holding        bool              `json:"holds,omitempty"`
	RepeatedEvents int               `json:"repeated,omitempty"`
	Template       *templateSnapshot `json:"like,omitempty"`
}

// A templateSnapshot has the fields that all events of a party share.
type templateSnapshot struct {
	CallerNum       string     `json:"caller_num,omitempty"`
	CallerName      string     `json:"caller_name,omitempty"`
	CallerExtension *Extension `json:"caller_extension,omitempty"`
	CalledNumber    string     `json:"called_number,omitempty"`
	CalledExtension *Extension `json:"called_extension,omitempty"`
	CalledDID       string     `json:"called_did,omitempty"`
	CallAPIID       string     `json:"callapi_id,omitempty"`
	Diversion       string     `json:"diversion,omitempty"`
	ClientAPIID     string     `json:"client_api_id,omitempty"`
	Correlation     string     `json:"correlation,omitempty"`
	UserAgent       string     `json:"user_agent,omitempty"`
	Verstat         string     `json:"verstat,omitempty"`
	Transferred     bool       `json:"transferred,omitempty"`
	CallBackID      string     `json:"callback_id,omitempty"`
	RemoteNumber    string     `json:"remote_number,omitempty"`
	ANI             string     `json:"ani,omitempty"`
	Tag             string     `json:"tag,omitempty"`
	Headers         []string   `json:"headers,omitempty"` // names and values in turn
	CallerE164      string     `json:"caller_e164,omitempty"`
	CalledE164      string     `json:"called_e164,omitempty"`
	CallerNumRaw    string     `json:"caller_num_raw,omitempty"`
	CalledNumberRaw string     `json:"called_number_raw,omitempty"`
	Privacy         bool       `json:"privacy,omitempty"`
	Distributor     *Extension `json:"distributor,omitempty"`
}
