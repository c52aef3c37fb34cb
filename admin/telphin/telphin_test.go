package telphin

import (
	"net/http/httptest"
	"strings"
	"testing"

	"bellhop/admin/dialect"
	"bellhop/notify"
)

// Clients keep the numbers of events: they never change.
func TestEventNumbersNeverChange(t *testing.T) {
	e := dialect.Event{Subscription: notify.Subscription{ID: "3fJ8"}, Sole: true}
	if eventNumber(e) != 2041062480 || legacyNumberBase(e) != 16720383914592 {
		t.Errorf("a number has changed: %d, %d", eventNumber(e), legacyNumberBase(e))
	}
	if _, err := soleEvent([]dialect.Event{e, e}); err != errTwoEvents {
		t.Errorf("two with one number: %v", err)
	}
}

func TestErrorFormats(t *testing.T) {
	for status, want := range map[int]string{
		401: `{"message":"Unauthorized","status":401}`,
		429: `{"message":"slower","status":"rate_limit_exceeded"}`,
		400: `{"message":"slower"}`,
	} {
		w := httptest.NewRecorder()
		WriteError(w, status, "slower")
		if got := strings.TrimSpace(w.Body.String()); w.Code != status || got != want {
			t.Errorf("%d %s, want %s", w.Code, got, want)
		}
	}
}
