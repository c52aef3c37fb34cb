package ops

import (
	"testing"
	"time"
)

func TestLossNamesRecordsAndTimes(t *testing.T) {
	at := time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC)
	for _, tt := range []struct {
		loss Loss
		want string
	}{
		{Loss{Stream: "bellhop_outbox", What: "records", Records: 1}, "store damaged: records of bellhop_outbox lost: 1"},
		{Loss{What: "events", Records: 2, From: at}, "store damaged: events lost: 2, after 2026-01-31T09:30:00Z"},
		{Loss{What: "events", Records: 2, To: at}, "store damaged: events lost: 2, before 2026-01-31T09:30:00Z"},
	} {
		if got := tt.loss.String(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
