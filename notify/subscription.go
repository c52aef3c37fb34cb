package notify

import (
	"crypto/rand"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"bellhop/dialog"
)

// A Subscription selects events of an extension, and sets the URL and the form in which a
// receiver gets them. The JSON form is what the store keeps and the API shows: fields are
// only ever added.
type Subscription struct {
	ID string `json:"id" doc:"ID of the subscription"` // 30 of [A-Za-z0-9], set by Subscribe

	// Exactly one of Extension and ExtensionRegex is set. Extension is exact: 101 is the user
	// 101 in any domain, 101@pbx.example that user in that domain. ExtensionRegex is an RE2
	// expression that must match the whole user, or the whole user@domain.
	Extension      string `json:"extension,omitempty" doc:"101 is user 101 of any domain, 101@pbx.example of that domain only"`
	ExtensionRegex string `json:"extension_regex,omitempty" doc:"Instead of extension: an RE2 regular expression that matches the whole extension"`

	// Types are words of dialog.Type, answer-in and answer-out; at least one. URL is a template
	// if it has braces.
	Types   []string `json:"types" doc:"Event types"`
	URL     string   `json:"url" doc:"Request URL, http or https, or a template of RFC 6570"`
	Method  string   `json:"method" enum:"GET,POST,PUT" doc:"HTTP method"`
	Dialect Dialect  `json:"dialect" enum:"unified,telphin,cti,json,cloudevents" doc:"Format of the callbacks"`
	Active  bool     `json:"active" doc:"Callbacks are switched on"`
	Note    string   `json:"note,omitempty" doc:"Note for people"`

	// Headers are sent with every attempt. A Notifier returns their names only, each with an
	// empty value.
	Headers map[string]string `json:"headers,omitempty" doc:"Header fields sent with every callback, each with an empty value: values are never returned"`

	// TLSCA, TLSCert and TLSKey apply to an https URL, in PEM. TLSCA replaces the CAs that the
	// machine trusts: one of its CAs must have signed the receiver's certificate. TLSCert and
	// TLSKey are the client certificate of bellhop. A Notifier never returns TLSKey.
	TLSCA   string     `json:"tls_ca,omitempty" doc:"PEM: CAs trusted for the receiver's certificate, instead of the system's"`
	TLSCert string     `json:"tls_cert,omitempty" doc:"PEM: client certificate that bellhop presents to the receiver, followed by its intermediates"`
	TLSKey  PrivateKey `json:"tls_key,omitempty" hidden:"true"`

	// Secret signs every attempt. OldSecret, the secret before a rotation, signs too until
	// OldSecretUntil; a zero time is no limit. Subscribe creates a Secret if none is given. A
	// Notifier returns neither; only Subscribe and RotateSecret return the new Secret. A
	// subscription without a secret gets callbacks without a signature.
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

// NewSubscription returns a subscription with the defaults: POST, json, active.
func NewSubscription() Subscription {
	return Subscription{Method: http.MethodPost, Dialect: JSON, Active: true}
}

// State is the state of a subscription. The text is stored: never change one, only add.
type State string

const (
	StateActive   State = "active"
	StatePaused   State = "paused"   // active, but its endpoint or its own URL fails; probed until that succeeds
	StateDisabled State = "disabled" // by a user, after a response of 410, or after five days of failures
)

// Dialect selects the field names and quirks that a family of receivers expects. The text
// is stored: never change one, only add.
type Dialect string

const (
	Unified Dialect = "unified" // VoipNow UnifiedAPI
	Telphin Dialect = "telphin"
	CTI     Dialect = "cti"  // sipgate, Zammad's Generic CTI
	JSON    Dialect = "json" // Standard Webhooks envelope

	CloudEvents Dialect = "cloudevents" // CloudEvents 1.0, binary mode
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

// Invalid reports an invalid field of a Subscription. Field is its JSON name, and Why the
// rest of a sentence that begins with Field.
type Invalid struct {
	Field, Why string
}

func (e *Invalid) Error() string { return "subscription: " + e.Field + " " + e.Why }

const (
	maxURL     = 2048
	maxHeaders = 20
)

// Validate fills in defaults and returns the first invalid field as an *Invalid, or nil.
func (s *Subscription) Validate() error {
	for err := range s.Invalid() {
		return err
	}
	s.Note = clean(s.Note, 1000)
	return nil
}

// Invalid yields every invalid field that Validate checks for.
func (s *Subscription) Invalid() iter.Seq[*Invalid] {
	return func(yield func(*Invalid) bool) {
		for _, check := range []func(*Subscription) *Invalid{
			checkExtension, checkTypes, checkURL, checkChoices, checkUnified, checkCTI, checkCloudEvents, checkTemplate, checkHeaders, checkSecrets, checkTLS, checkLimits,
		} {
			if err := check(s); err != nil && !yield(err) {
				return
			}
		}
	}
}

func checkExtension(s *Subscription) *Invalid {
	switch {
	case s.Extension == "" && s.ExtensionRegex == "":
		return &Invalid{"extension", "is missing: name an extension, or give extension_regex"}
	case s.Extension != "" && s.ExtensionRegex != "":
		return &Invalid{"extension_regex", "and extension exclude each other"}
	case s.ExtensionRegex != "":
		if len(s.ExtensionRegex) > 1000 {
			return &Invalid{"extension_regex", "is longer than 1000 bytes"}
		}
		if _, err := compileAnchored(s.ExtensionRegex); err != nil {
			return &Invalid{"extension_regex", "is not an RE2 expression: " + err.Error()}
		}
	case len(s.Extension) > 256:
		return &Invalid{"extension", "is longer than 256 bytes"}
	case !utf8.ValidString(s.Extension) || strings.ContainsFunc(s.Extension, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}):
		return &Invalid{"extension", "has spaces, control characters or invalid UTF-8"}
	}
	user, domain, found := strings.Cut(s.Extension, "@")
	if s.Extension != "" && (user == "" || found && domain == "") {
		return &Invalid{"extension", "is neither user nor user@domain"}
	}
	return nil
}

func checkTypes(s *Subscription) *Invalid {
	if len(s.Types) == 0 {
		return &Invalid{"types", "is empty: name at least one event type"}
	}
	for _, t := range s.Types {
		if typeBits[t] == 0 {
			return &Invalid{"types", fmt.Sprintf("has %q, which is not an event type: they are %s",
				clean(t, 40), strings.Join(slices.Sorted(maps.Keys(typeBits)), ", "))}
		}
	}
	return nil
}

func checkURL(s *Subscription) *Invalid {
	switch {
	case s.URL == "":
		return &Invalid{"url", "is missing"}
	case len(s.URL) > maxURL:
		return &Invalid{"url", fmt.Sprintf("is longer than %d bytes", maxURL)}
	case strings.ContainsFunc(s.URL, func(r rune) bool { return r <= ' ' || r > '~' }):
		return &Invalid{"url", "has spaces, control characters or bytes beyond ASCII: percent-encode them"}
	case strings.ContainsAny(s.URL, "<>\"\\^`|"):
		return &Invalid{"url", "has a character that no URL may have: percent-encode it"}
	case isTemplate(s.URL):
		return nil // checkTemplate knows
	}
	return checkAddress(s.URL)
}

// checkAddress checks a URL without variables.
func checkAddress(s string) *Invalid {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return &Invalid{"url", "cannot be parsed"}
	case u.Scheme != "http" && u.Scheme != "https":
		return &Invalid{"url", "must begin with http:// or https://"}
	case u.User != nil:
		return &Invalid{"url", "has a user or password in it: send them in headers"}
	case u.Hostname() == "" || u.Opaque != "":
		return &Invalid{"url", "has no host"}
	case u.Fragment != "":
		return &Invalid{"url", "has a fragment, which is never sent"}
	case u.Port() != "" && !isPort(u.Port()):
		return &Invalid{"url", fmt.Sprintf("has the port %s: write 1 to 65535", clean(u.Port(), 20))}
	}
	return nil
}

// isPort reports whether s is a port number that can be connected to: 1 to 65535.
func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func checkChoices(s *Subscription) *Invalid {
	if s.Method == "" {
		s.Method = http.MethodPost
	}
	if s.Dialect == "" {
		s.Dialect = JSON
	}
	switch {
	case s.Method != http.MethodGet && s.Method != http.MethodPost && s.Method != http.MethodPut:
		return &Invalid{"method", "must be GET, POST or PUT"}
	case !slices.Contains([]Dialect{Unified, Telphin, CTI, JSON, CloudEvents}, s.Dialect):
		return &Invalid{"dialect", "must be unified, telphin, cti, json or cloudevents"}
	case s.FlowCase != "" && s.FlowCase != "lower" && s.FlowCase != "upper":
		return &Invalid{"flow_case", "must be lower or upper"}
	case s.StatusWords != "" && s.StatusWords != "unified":
		return &Invalid{"status_words", "must be unified, or left out"}
	case s.Group != "" && s.Group != groupOne && s.Group != groupEach:
		return &Invalid{"group", "must be one or each"}
	}
	return nil
}

// hopByHop are header fields of the connection, which a subscription may not set.
var hopByHop = []string{"Host", "Content-Length", "Transfer-Encoding", "Connection",
	"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade", "Expect"}

func checkHeaders(s *Subscription) *Invalid {
	if len(s.Headers) > maxHeaders {
		return &Invalid{"headers", fmt.Sprintf("has more than %d fields", maxHeaders)}
	}
	canonical := make(map[string]string, len(s.Headers))
	for name, value := range s.Headers {
		key := http.CanonicalHeaderKey(name)
		_, twice := canonical[key]
		switch {
		case !validHeaderName(name):
			return &Invalid{"headers", fmt.Sprintf("has %q, which is not a field name", clean(name, 40))}
		case twice:
			return &Invalid{"headers", "names " + key + " twice"}
		case slices.Contains(hopByHop, key) || strings.HasPrefix(key, "Webhook-"):
			return &Invalid{"headers", "must not set " + key}
		case len(value) > 4096:
			return &Invalid{"headers", "has a value longer than 4096 bytes: " + key}
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			return &Invalid{"headers", "has control characters in the value of " + key}
		}
		canonical[key] = value
	}
	if len(canonical) > 0 {
		s.Headers = canonical
	}
	return nil
}

func validHeaderName(s string) bool {
	return s != "" && len(s) <= 100 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

func checkLimits(s *Subscription) *Invalid {
	switch {
	case s.LiveTTL != 0 && (s.LiveTTL < Duration(time.Second) || s.LiveTTL > Duration(time.Hour)):
		return &Invalid{"live_ttl", "must be between 1s and 1h"}
	case s.Timeout != 0 && (s.Timeout < Duration(100*time.Millisecond) || s.Timeout > Duration(time.Minute)):
		return &Invalid{"timeout", "must be between 100ms and 1m"}
	case s.MaxInFlight < 0 || s.MaxInFlight > 100:
		return &Invalid{"max_in_flight", "must be between 1 and 100"}
	}
	return nil
}

// compileAnchored compiles an expression that must match from end to end.
func compileAnchored(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil { // otherwise 1)|(.* would compile within the group
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// typeBits maps the words that a subscription may name to the bits of [typeMask].
var typeBits = map[string]uint32{
	string(dialog.DialIn):       1 << 0,
	string(dialog.DialOut):      1 << 1,
	"answer-in":                 1 << 2,
	"answer-out":                1 << 3,
	string(dialog.Answer):       1<<2 | 1<<3,
	string(dialog.Hangup):       1 << 4,
	string(dialog.MessageIn):    1 << 5,
	string(dialog.MessageOut):   1 << 6,
	string(dialog.Voicemail):    1 << 7,
	string(dialog.Ringing):      1 << 8,
	string(dialog.Hold):         1 << 9,
	string(dialog.Resume):       1 << 10,
	string(dialog.Transfer):     1 << 11,
	string(dialog.Registered):   1 << 12,
	string(dialog.Unregistered): 1 << 13,

	string(dialog.SubscriptionState): 1 << 14,
}

// optInTypes are the types that are published only while a subscription names them.
const optInTypes uint32 = 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14

// typeMask returns the bits of types.
func typeMask(types []string) (bits uint32) {
	for _, t := range types {
		bits |= typeBits[t]
	}
	return bits
}

// eventBit returns the bit of an event; that of an answer depends on its flow.
func eventBit(e *dialog.Event) uint32 {
	switch {
	case e.Type == dialog.Answer && e.Flow == dialog.In:
		return typeBits["answer-in"]
	case e.Type == dialog.Answer && e.Flow == dialog.Out:
		return typeBits["answer-out"]
	}
	return typeBits[string(e.Type)]
}

// redacted returns s without secrets and header values. It shares no memory that a caller
// might change.
func (s Subscription) redacted() Subscription {
	s = s.clone()
	s.TLSKey = ""
	s.Began = time.Time{}
	s.Secret, s.OldSecret = "", ""
	for name := range s.Headers {
		s.Headers[name] = ""
	}
	return s
}

// askedSince returns since when s asks for what it asks for now.
func (s *Subscription) askedSince() time.Time {
	if s.Began.IsZero() {
		return s.Created
	}
	return s.Began
}

// asksAnew reports whether s asks for other events than old did, or at another URL.
func (s *Subscription) asksAnew(old *Subscription) bool {
	return s.Active && !old.Active || s.Dialect != old.Dialect || s.URL != old.URL || typeMask(s.Types) != typeMask(old.Types) ||
		s.Extension != old.Extension || s.ExtensionRegex != old.ExtensionRegex
}

// clone returns a copy that shares no slice or map.
func (s Subscription) clone() Subscription {
	s.Types = slices.Clone(s.Types)
	s.Headers = maps.Clone(s.Headers)
	return s
}

const idChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// newID returns 30 random characters of [A-Za-z0-9].
func newID() string {
	id := make([]byte, 0, 30)
	var b [64]byte
	for {
		rand.Read(b[:]) // never fails
		for _, c := range b {
			if c >= 4*byte(len(idChars)) {
				continue // would favor the first letters
			}
			if id = append(id, idChars[int(c)%len(idChars)]); len(id) == cap(id) {
				return string(id)
			}
		}
	}
}
