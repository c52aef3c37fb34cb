package subscription

import (
	"slices"
	"testing"

	"bellhop/notify/payload"
)

// There is no sample of a type that the dialect does not have.
func TestSamplesFitTheDialect(t *testing.T) {
	for dialect, missing := range map[payload.Dialect][]string{
		payload.JSON: nil, payload.CloudEvents: nil, payload.Telphin: nil, payload.Unified: {"subscription-state"},
		payload.CTI: {"ringing", "hold", "resume", "transfer", "message-in", "message-out", "voicemail", "registered", "unregistered", "subscription-state"},
	} {
		want := slices.DeleteFunc(Words(), func(t string) bool { return slices.Contains(missing, t) })
		got := (&Subscription{Dialect: dialect, Method: "POST", Extension: "101", Types: Words()}).SampleWords()
		if !slices.Equal(got, want) {
			t.Errorf("%s: sampled are %v, want %v", dialect, got, want)
		}
	}
}
