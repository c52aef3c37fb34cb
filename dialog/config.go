package dialog

import (
	"regexp"
	"time"

	"bellhop/dialog/siptext"
)

// Config holds the settings of a Tracker that it cannot learn from messages.
type Config struct {
	Pattern    *regexp.Regexp // matches users that are extensions even before they register; nil: none
	Learn      bool           // a user that registers successfully is an extension
	Extensions []Declared     // extensions that cannot be learned

	// Correlate lists the methods that match legs with different Call-IDs to one call, in
	// order, as named in the configuration; nil: [DefaultCorrelate].
	Correlate []string

	// E164 returns the E.164 form of a dialed number, "" if it has none; nil: events carry
	// no E.164 numbers.
	E164 func(number string) string

	IgnorePrivacy bool // events carry the number of a caller that asks for privacy

	MaxDuration time.Duration  // an answered leg without a BYE ends after this time; 0: 4 hours
	Status      map[int]Status // status words for final responses; they override the built-in table

	// CallAPIID, CallBackID, RecID and Tag are names of header fields whose values go
	// into events; "": none. A name for which [CarriesCredentials] returns true is
	// ignored.
	CallAPIID, CallBackID, RecID, Tag string
	Headers                           []string // header fields of the INVITE, copied into its events
}

// CarriesCredentials reports whether a header field has credentials of the sender (RFC
// 3261 §22), or is X-Bellhop-Trunk, with which bellhop marks messages from a trunk.
func CarriesCredentials(name string) bool {
	return siptext.SameName(name, "Authorization") || siptext.SameName(name, "Proxy-Authorization") || siptext.SameName(name, "X-Bellhop-Trunk")
}

// talkLimit returns how long a leg may be answered before it ends without a BYE.
func (c *Config) talkLimit() time.Duration {
	if c.MaxDuration <= 0 {
		return 4 * time.Hour
	}
	return c.MaxDuration
}

// recordingID returns the value of the configured header field for recording ids, or "".
func (c *Config) recordingID(m *Message) string {
	if c.RecID == "" {
		return ""
	}
	return siptext.Field(m.Head, c.RecID)
}

// A Declared extension is one that the configuration names.
type Declared struct {
	Number string
	Kind   Kind     // "": Phone
	DID    []string // public numbers that lead to it
}
