package subscription

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"bellhop/dialog"
	"bellhop/notify/payload"
)

// StateEvent returns the event of type subscription-state that reports a state of s. The
// extension of the event is that of s. If s has a regular expression instead, the
// expression takes its place.
func (s *Subscription) StateEvent(state State, why string, at time.Time) dialog.Event {
	user, domain, _ := strings.Cut(s.Extension, "@")
	if s.Extension == "" {
		user = s.ExtensionRegex
	}
	sum := sha256.Sum256([]byte(s.ID + " " + string(state) + " " + at.UTC().Format(time.RFC3339Nano)))
	return dialog.Event{
		ID: hex.EncodeToString(sum[:16]), At: at, Type: dialog.SubscriptionState,
		Extension:    dialog.Extension{User: user, Domain: domain},
		Subscription: &dialog.Subscription{ID: s.ID, State: string(state), Why: why},
	}
}

// SampleWords returns the types of s that its dialect carries, as words of Types, in the
// order in which their samples are sent.
func (s *Subscription) SampleWords() []string {
	return slices.DeleteFunc(Words(), func(word string) bool { return !slices.Contains(s.Types, word) || !s.Carries(word) })
}

// Sampler returns the sampler of the events that SampleWords names. Their ids depend on salt.
func (s *Subscription) Sampler(salt string, now time.Time) *payload.Sampler {
	return payload.NewSampler(s.Extension, s.SampleWords(), s.StateEvent("resumed", "", now), salt, now)
}
