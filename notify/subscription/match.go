package subscription

import (
	"maps"
	"regexp"
	"slices"
	"time"

	"bellhop/dialog"
)

// A Mask is a set of event types. The answer of a called and that of a calling extension
// are two.
type Mask uint32

// typeBits maps the words that a subscription may name to the types of events.
var typeBits = map[string]Mask{
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

// OptIn is the types that are published only while a subscription names them.
const OptIn Mask = 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14

// Words returns the words that [Subscription].Types may have, sorted.
func Words() []string { return slices.Sorted(maps.Keys(typeBits)) }

// MaskOf returns the types that words of [Subscription].Types name. A word that is none
// names no type.
func MaskOf(words ...string) (m Mask) {
	for _, word := range words {
		m |= typeBits[word]
	}
	return m
}

// EventMask returns the type of an event; that of an answer depends on its flow.
func EventMask(e *dialog.Event) Mask {
	switch {
	case e.Type == dialog.Answer && e.Flow == dialog.In:
		return typeBits["answer-in"]
	case e.Type == dialog.Answer && e.Flow == dialog.Out:
		return typeBits["answer-out"]
	}
	return typeBits[string(e.Type)]
}

// A Filter is what a subscription asks for. It never changes: any number of goroutines may
// use it.
type Filter struct {
	Types     Mask
	extension string
	regex     *regexp.Regexp // nil: the subscription names one extension
}

// Filter returns the filter of a valid subscription.
func (s *Subscription) Filter() Filter {
	f := Filter{Types: MaskOf(s.Types...), extension: s.Extension}
	if s.ExtensionRegex != "" {
		f.regex, _ = compileAnchored(s.ExtensionRegex) // Validate has compiled it
	}
	return f
}

// Covers reports whether the subscription is one of an extension.
func (f *Filter) Covers(e dialog.Extension) bool {
	if f.regex != nil {
		return f.regex.MatchString(e.User) || f.regex.MatchString(e.String())
	}
	return e.Is(f.extension)
}

// Matches reports whether the subscription asks for an event.
func (f *Filter) Matches(e *dialog.Event) bool {
	return f.Types&EventMask(e) != 0 && f.Covers(e.Extension)
}

// compileAnchored compiles an expression that must match from end to end.
func compileAnchored(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil { // otherwise 1)|(.* would compile within the group
		return nil, err
	}
	return regexp.Compile(`\A(?:` + expr + `)\z`)
}

// AskedSince returns since when s asks for what it asks for now.
func (s *Subscription) AskedSince() time.Time {
	if s.Began.IsZero() {
		return s.Created
	}
	return s.Began
}

// AsksAnew reports whether s asks for other events than old did, or at another URL.
func (s *Subscription) AsksAnew(old *Subscription) bool {
	return s.Active && !old.Active || s.Dialect != old.Dialect || s.URL != old.URL || MaskOf(s.Types...) != MaskOf(old.Types...) ||
		s.Extension != old.Extension || s.ExtensionRegex != old.ExtensionRegex
}

// FollowsURLs reports whether s lets its receiver name URLs.
func (s *Subscription) FollowsURLs() bool { return s.FollowURLs && s.Dialect == CTI }

// GroupsCalls reports whether the parties that ring in a call form one call for s.
func (s *Subscription) GroupsCalls() bool {
	return s.Dialect == CTI && (s.Group == GroupOne || s.Group == "" && s.ExtensionRegex != "")
}
