// Package subscription defines subscriptions: which events of which extensions a receiver
// gets, at which URL and in which form.
//
// A [Subscription] has one form for the store, the API and the page.
// [Subscription.Normalize] sets defaults, and [Subscription.Validate] only checks. A
// [Filter] selects the events of a subscription. Nothing in this package does I/O.
package subscription

import (
	"fmt"
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
	Extension      string `json:"extension,omitempty" toml:"extension" doc:"101 is user 101 of any domain, 101@pbx.example of that domain only"`
	ExtensionRegex string `json:"extension_regex,omitempty" toml:"extension_regex" doc:"Instead of extension: an RE2 regular expression that matches the whole extension"`

	// Types are words of [dialog.Type], answer-in and answer-out; at least one. URL is a template
	// if it has braces.
	Types   []string        `json:"types" toml:"types" doc:"Event types" set:"Event types: dial-in, dial-out, answer (or answer-in, answer-out), hangup and others"`
	URL     string          `json:"url" toml:"url" doc:"Request URL, http or https, or a template of RFC 6570" set:"Request URL, http or https; may contain RFC 6570 variables named like the fields of the dialect"`
	Method  string          `json:"method" toml:"method" enum:"GET,POST,PUT" doc:"HTTP method" set:"HTTP method; default POST"`
	Dialect payload.Dialect `json:"dialect" toml:"dialect" enum:"unified,telphin,cti,json,cloudevents" doc:"Format of the callbacks" set:"Format of the callbacks; default json"`
	Active  bool            `json:"active" toml:"active" doc:"Callbacks are switched on" set:"false switches callbacks off; default true"`
	Note    string          `json:"note,omitempty" toml:"note" doc:"Note for people"`

	// Headers are sent with every attempt. Redacted keeps their names only, each with an empty
	// value.
	Headers Headers `json:"headers,omitempty" toml:"headers,ref" doc:"Header fields sent with every callback, each with an empty value: values are never returned" set:"Header fields sent with every callback. Their values are never returned; an empty value keeps the stored one"`

	// TLSCA, TLSCert and TLSKey apply to an https URL, in PEM. TLSCA replaces the CAs that the
	// machine trusts: one of its CAs must have signed the receiver's certificate. TLSCert and
	// TLSKey are the client certificate of bellhop. Redacted removes TLSKey.
	TLSCA   string     `json:"tls_ca,omitempty" toml:"tls_ca,ref" doc:"PEM: CAs trusted for the receiver's certificate, instead of the system's" set:"PEM: trust these CAs for the receiver's certificate, instead of the system's"`
	TLSCert string     `json:"tls_cert,omitempty" toml:"tls_cert,ref" doc:"PEM: client certificate that bellhop presents to the receiver, followed by its intermediates"`
	TLSKey  PrivateKey `json:"tls_key,omitempty" toml:"tls_key,ref" hidden:"true" set:"PEM: private key of tls_cert. Never returned; deleted when tls_cert is set to the empty string"`

	// Secret signs every attempt. OldSecret, the secret before a rotation, also signs
	// until OldSecretUntil, or without limit if that is zero. Redacted removes both.
	// Callbacks of a subscription without a secret are not signed.
	Secret         Secret    `json:"secret,omitempty" toml:"secret,ref" doc:"Signing secret; returned only when it is new" set:"Signing secret: whsec_ followed by the base64 of 24 to 64 bytes; generated if absent. A change rotates it"`
	OldSecret      Secret    `json:"old_secret,omitempty" toml:"old_secret,ref" set:"-" hidden:"true"`
	OldSecretUntil time.Time `json:"old_secret_until,omitzero" doc:"After a rotation: time until which callbacks are also signed with the old secret"`

	// The zero value of each field is its default.
	Extended    bool     `json:"extended,omitempty" toml:"extended" doc:"telphin: fields that the original API does not have are sent too" set:"telphin: also send fields that the original API does not have"`
	FlowCase    string   `json:"flow_case,omitempty" toml:"flow_case" doc:"Case of the call flow, in or out: lower (default) or upper"`
	StatusWords string   `json:"status_words,omitempty" toml:"status_words" doc:"unified: only the statuses ANSWER and UNKNOWN are sent at hangup" set:"unified: send only the statuses ANSWER and UNKNOWN at hangup"`
	Group       string   `json:"group,omitempty" toml:"group" doc:"cti: one reports a call that rings several extensions as one call (default with extension_regex), each as one call per extension"`
	FollowURLs  bool     `json:"follow_urls,omitempty" toml:"follow_urls" doc:"cti: answer and hangup go to the onAnswer and onHangup URLs of the XML response to newCall" set:"cti: send answer and hangup to the onAnswer and onHangup URLs of the XML response to newCall"`
	LiveTTL     Duration `json:"live_ttl,omitempty" toml:"live_ttl" doc:"Time after which the callback of a live event, such as a dial or answer, expires; default 60s" set:"Stop retrying live callbacks (dial, answer, ringing, hold, resume) after this long; default 60s"`
	Timeout     Duration `json:"timeout,omitempty" toml:"timeout" doc:"Timeout of one attempt; default 5s for live events such as a dial or answer, else 15s" set:"Timeout of one attempt; default 5s, and 15s for hangup, message and other durable events"`
	MaxInFlight int      `json:"max_in_flight,omitempty" toml:"max_in_flight" doc:"Maximum number of requests in flight; default 4"`

	// Began is when the subscription began to ask for its current events: at its
	// creation, its activation, or its last change of types, extension, dialect or URL.
	// Zero: use Created.
	Began time.Time `json:"began,omitzero" hidden:"true"`

	Created  time.Time `json:"created,omitzero" doc:"Time of creation"`
	Modified time.Time `json:"modified,omitzero" doc:"Time of the last change"`
	State    State     `json:"state" doc:"active; paused while its endpoint or URL fails; disabled: switched off, or its receiver answered 410 or failed for five days"`
	Why      string    `json:"why,omitempty" doc:"Reason of the state, if it is paused or disabled"`

	// Owner is the id of the token that created the subscription, or that set its
	// ExtensionRegex. It is needed to limit the number of subscriptions of a token. "":
	// unknown, or created without a token.
	Owner string `json:"owner,omitempty" doc:"ID of the token that created the subscription, or that set its extension_regex"`

	// Declared is the place in the config file that declares the subscription, or "" if
	// it is not declared. A declared subscription can be changed only there.
	Declared string `json:"declared,omitempty" doc:"Place in the config file that declares the subscription, which can be changed only there"`

	Revision uint64 `json:"-"` // of the stored form; changes with every write
}

// New returns a subscription with the defaults: POST, json, active.
func New() Subscription {
	return Subscription{Method: http.MethodPost, Dialect: payload.JSON, Active: true}
}

// State is the state of a subscription. States are stored: never change one, only add.
type State string

const (
	StateActive   State = "active"
	StatePaused   State = "paused"   // active, but its endpoint or its own URL fails; probed until that succeeds
	StateDisabled State = "disabled" // by a user, after a response of 410, or after five days of failures
)

// The values of Subscription.Group. They are stored: never change one, only add.
const (
	GroupOne  = "one"  // all parties that ring in a call form one call
	GroupEach = "each" // each party is a call of its own
)

// The values that fields of a Subscription may have; some fields may also be empty.
// StateEventWords are the states in events of type subscription-state.
var (
	FlowCases       = []string{"lower", "upper"}
	StatusSets      = []string{"unified"}
	Groups          = []string{GroupOne, GroupEach}
	States          = []State{StateActive, StatePaused, StateDisabled}
	StateEventWords = []State{StatePaused, "resumed", StateDisabled}
)

// Duration is a time.Duration that is written as text, such as 1m30s.
type Duration time.Duration

func (d Duration) String() string               { return time.Duration(d).String() }
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration: use a form like 100ms, 30s, 15m or 720h", b)
	}
	*d = Duration(v)
	return nil
}

// Format returns the settings that shape callbacks.
func (s *Subscription) Format() payload.Format {
	return payload.Format{Dialect: s.Dialect, Method: s.Method, URL: s.URL, Extended: s.Extended, FlowCase: s.FlowCase, StatusWords: s.StatusWords}
}

// BaseURL returns the URL up to its first variable. It has the scheme, host and port,
// because these contain no variable. It is nil if the URL is not valid.
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
