// Package subscription defines what a receiver asks for: which events of which extensions,
// and where and in which form they are sent.
//
// A [Subscription] has one form for the store, the API and the page. [Subscription.Validate]
// is pure: it needs no store, network or clock. A [Filter] tells which events a subscription
// covers. Nothing here does I/O.
package subscription

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"bellhop/notify/payload"
)

// A Subscription selects events of an extension, and sets the URL and the form in which a
// receiver gets them. The JSON form is what the store keeps and the API shows: fields are
// only ever added.
type Subscription struct {
	ID string `json:"id" doc:"ID of the subscription"` // 30 of [A-Za-z0-9], set when it is stored

	// Exactly one of Extension and ExtensionRegex is set. Extension is exact: 101 is the user
	// 101 in any domain, 101@pbx.example that user in that domain. ExtensionRegex is an RE2
	// expression that must match the whole user, or the whole user@domain.
	Extension      string `json:"extension,omitempty" doc:"101 is user 101 of any domain, 101@pbx.example of that domain only"`
	ExtensionRegex string `json:"extension_regex,omitempty" doc:"Instead of extension: an RE2 regular expression that matches the whole extension"`

	// Types are words of [dialog.Type], answer-in and answer-out; at least one. URL is a template
	// if it has braces.
	Types   []string        `json:"types" doc:"Event types"`
	URL     string          `json:"url" doc:"Request URL, http or https, or a template of RFC 6570"`
	Method  string          `json:"method" enum:"GET,POST,PUT" doc:"HTTP method"`
	Dialect payload.Dialect `json:"dialect" enum:"unified,telphin,cti,json,cloudevents" doc:"Format of the callbacks"`
	Active  bool            `json:"active" doc:"Callbacks are switched on"`
	Note    string          `json:"note,omitempty" doc:"Note for people"`

	// Headers are sent with every attempt. Redacted keeps their names only, each with an empty
	// value.
	Headers map[string]string `json:"headers,omitempty" doc:"Header fields sent with every callback, each with an empty value: values are never returned"`

	// TLSCA, TLSCert and TLSKey apply to an https URL, in PEM. TLSCA replaces the CAs that the
	// machine trusts: one of its CAs must have signed the receiver's certificate. TLSCert and
	// TLSKey are the client certificate of bellhop. Redacted removes TLSKey.
	TLSCA   string     `json:"tls_ca,omitempty" doc:"PEM: CAs trusted for the receiver's certificate, instead of the system's"`
	TLSCert string     `json:"tls_cert,omitempty" doc:"PEM: client certificate that bellhop presents to the receiver, followed by its intermediates"`
	TLSKey  PrivateKey `json:"tls_key,omitempty" hidden:"true"`

	// Secret signs every attempt. OldSecret, the secret before a rotation, signs too until
	// OldSecretUntil; a zero time is no limit. Redacted removes both. A subscription without a
	// secret gets callbacks without a signature.
	Secret         Secret    `json:"secret,omitempty" doc:"Signing secret; returned only when it is new"`
	OldSecret      Secret    `json:"old_secret,omitempty" hidden:"true"`
	OldSecretUntil time.Time `json:"old_secret_until,omitzero" doc:"After a rotation: time until which callbacks are also signed with the old secret"`

	// The zero value of each field is its default.
	Extended    bool     `json:"extended,omitempty" doc:"telphin: fields that the original API does not have are sent too"`
	FlowCase    string   `json:"flow_case,omitempty" doc:"Case of the call flow, in or out: lower (default) or upper"`
	StatusWords string   `json:"status_words,omitempty" doc:"unified: only the statuses ANSWER and UNKNOWN are sent at hangup"`
	Group       string   `json:"group,omitempty" doc:"cti: one reports a call that rings several extensions as one call (default with extension_regex), each as one call per extension"`
	FollowURLs  bool     `json:"follow_urls,omitempty" doc:"cti: answer and hangup go to the onAnswer and onHangup URLs of the XML response to newCall"`
	LiveTTL     Duration `json:"live_ttl,omitempty" doc:"Time after which the callback of a live event, such as a dial or answer, expires; default 60s"`
	Timeout     Duration `json:"timeout,omitempty" doc:"Timeout of one attempt; default 5s for live events such as a dial or answer, else 15s"`
	MaxInFlight int      `json:"max_in_flight,omitempty" doc:"Maximum number of requests in flight; default 4"`

	// Began is since when the subscription asks for what it asks for now: its creation, its
	// activation, or its last change of types, extension, dialect or URL. Zero: use Created.
	Began time.Time `json:"began,omitzero" hidden:"true"`

	Created  time.Time `json:"created,omitzero" doc:"Time of creation"`
	Modified time.Time `json:"modified,omitzero" doc:"Time of the last change"`
	State    State     `json:"state" doc:"active; paused while its endpoint or URL fails; disabled: switched off, or its receiver answered 410 or failed for five days"`
	Why      string    `json:"why,omitempty" doc:"Reason of the state, if it is paused or disabled"`

	// Owner is the id of the token that created it, or that set its ExtensionRegex: the number
	// of subscriptions of a token is limited. "": unknown, or created without a token.
	Owner string `json:"owner,omitempty" doc:"ID of the token that created the subscription, or that set its extension_regex"`

	// Declared is the place in the config file that declares it; "": it is not declared. A
	// declared subscription can be changed only there.
	Declared string `json:"declared,omitempty" doc:"Place in the config file that declares the subscription, which can be changed only there"`

	Revision uint64 `json:"-"` // of the stored form; changes with every write
}

// New returns a subscription with the defaults: POST, json, active.
func New() Subscription {
	return Subscription{Method: http.MethodPost, Dialect: payload.JSON, Active: true}
}

// State is the state of a subscription. The text is stored: never change one, only add.
type State string

const (
	StateActive   State = "active"
	StatePaused   State = "paused"   // active, but its endpoint or its own URL fails; probed until that succeeds
	StateDisabled State = "disabled" // by a user, after a response of 410, or after five days of failures
)

// The words of Subscription.Group. They are stored: never change one, only add.
const (
	GroupOne  = "one"  // all parties that ring in a call form one call
	GroupEach = "each" // each party is a call of its own
)

// Duration is a time.Duration that is written as text, such as 1m30s.
type Duration time.Duration

func (d Duration) String() string               { return time.Duration(d).String() }
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Format returns the settings that shape callbacks.
func (s *Subscription) Format() payload.Format {
	return payload.Format{Dialect: s.Dialect, Method: s.Method, URL: s.URL, Extended: s.Extended, FlowCase: s.FlowCase, StatusWords: s.StatusWords}
}

// BaseURL returns the URL up to its first variable; scheme, host and port have none. It is
// nil if the URL is not valid.
func (s *Subscription) BaseURL() *url.URL {
	before, _, _ := strings.Cut(s.URL, "{")
	u, _ := url.Parse(before) // Validate has parsed it
	return u
}

// Redacted returns s without secrets and header values. It shares no memory that a caller
// might change.
func (s Subscription) Redacted() Subscription {
	s = s.Clone()
	s.TLSKey = ""
	s.Began = time.Time{}
	s.Secret, s.OldSecret = "", ""
	for name := range s.Headers {
		s.Headers[name] = ""
	}
	return s
}

// Clone returns a copy that shares no slice or map.
func (s Subscription) Clone() Subscription {
	s.Types = slices.Clone(s.Types)
	s.Headers = maps.Clone(s.Headers)
	return s
}
