package subscription

import (
	"regexp"
	"slices"
	"time"

	"bellhop/dialog"
	"bellhop/notify/payload"
)

// A Mask is a set of event types. The answer of a called extension and the answer of a
// calling extension are different types.
type Mask uint32

// masks maps each word of [Subscription].Types to the types that it names. types maps the
// word to its event type, whatever the flow. words lists these words in the order of
// [dialog.Types].
var (
	masks           = make(map[string]Mask)
	types           = make(map[string]dialog.Type)
	words           []string
	inOnly, outOnly Mask // types that a subscription names for one flow alone
	optIn           Mask
)

func init() {
	bit := Mask(1)
	add := func(word string, t dialog.Type, m Mask) {
		words, masks[word], types[word] = append(words, word), m, t
	}
	for _, t := range dialog.Types {
		word, in, out := string(t.Type), bit, bit<<1
		switch {
		case t.ByFlow:
			add(word, t.Type, in|out)
			add(word+"-in", t.Type, in)
			add(word+"-out", t.Type, out)
			inOnly, outOnly = inOnly|in, outOnly|out
			bit <<= 2
		default:
			add(word, t.Type, in)
			bit <<= 1
		}
		if t.OptIn {
			optIn |= masks[word]
		}
	}
}

// Words returns the words that [Subscription].Types may have: the event types in the order
// of [dialog.Types]. A type that can be named for one flow alone has three words: answer,
// answer-in and answer-out.
func Words() []string { return slices.Clone(words) }

// OptIn returns the types that are published only if a subscription has named them.
func OptIn() Mask { return optIn }

// MaskOf returns the types that words of [Subscription].Types name. It ignores unknown
// words.
func MaskOf(words ...string) (m Mask) {
	for _, word := range words {
		m |= masks[word]
	}
	return m
}

// EventMask returns the type of an event. That of an answer depends on its flow.
func EventMask(e *dialog.Event) Mask {
	m := masks[string(e.Type)]
	switch e.Flow {
	case dialog.In:
		return m &^ outOnly
	case dialog.Out:
		return m &^ inOnly
	}
	return m
}

// A Filter selects the events of a subscription. It never changes, so any number of
// goroutines may use it.
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

// Covers reports whether the subscription covers extension e: it names e, or its regular
// expression matches e.
func (f *Filter) Covers(e dialog.Extension) bool {
	if f.regex != nil {
		return f.regex.MatchString(e.User) || f.regex.MatchString(e.String())
	}
	return e.Is(f.extension)
}

// Matches reports whether the subscription selects event e.
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

// AskedSince returns when s began to ask for its current events, see Began.
func (s *Subscription) AskedSince() time.Time {
	if s.Began.IsZero() {
		return s.Created
	}
	return s.Began
}

// AsksAnew reports whether the change from old to s is one that sets Began: an
// activation, or a change of types, extension, dialect or URL.
func (s *Subscription) AsksAnew(old *Subscription) bool {
	return s.Active && !old.Active || s.Dialect != old.Dialect || s.URL != old.URL || MaskOf(s.Types...) != MaskOf(old.Types...) ||
		s.Extension != old.Extension || s.ExtensionRegex != old.ExtensionRegex
}

// FollowsURLs reports whether the response to a newCall may name the URLs for answer and
// hangup.
func (s *Subscription) FollowsURLs() bool { return s.FollowURLs && s.Dialect == payload.CTI }

// GroupsCalls reports whether the parties that ring in a call form one call for s.
func (s *Subscription) GroupsCalls() bool {
	return s.Dialect == payload.CTI && (s.Group == GroupOne || s.Group == "" && s.ExtensionRegex != "")
}
