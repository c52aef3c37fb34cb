package subscription

import (
	"reflect"
	"testing"
)

// Only Normalize changes a subscription: Validate leaves an invalid and a valid one as they are.
func TestValidateChangesNothing(t *testing.T) {
	s := Subscription{Extension: "101", Types: []string{"hangup"}, URL: "http://crm.example/", Note: " a\tnote", Headers: Headers{"x-key": "1"}}
	for _, normalized := range []bool{false, true} {
		if normalized {
			s.Normalize()
		}
		before := s.Clone()
		if err := s.Validate(); (err == nil) != normalized {
			t.Errorf("normalized %v: %v", normalized, err)
		}
		if !reflect.DeepEqual(s, before) {
			t.Errorf("Validate changed %+v to %+v", before, s)
		}
	}
	if s.Method != "POST" || s.Dialect != "json" || s.Headers["X-Key"] != "1" {
		t.Errorf("normalized to %+v", s)
	}
}
