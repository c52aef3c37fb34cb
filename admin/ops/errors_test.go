package ops

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"bellhop/admin/access"
	"bellhop/notify"
)

// Each kind of error has a status in each dialect. Programs read which setting is behind
// an error. A failure is logged, and its text hidden.
func TestErrorsHaveStatusInEachDialect(t *testing.T) {
	var log strings.Builder
	o := &Operations{log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, tt := range []struct {
		err  error
		want [4]int // by Dialect
		hint string // for programs
	}{
		{&notify.Invalid{Field: "url", Why: "is missing"}, [4]int{422, 400, 400, 422}, ""},
		{notify.ErrNotFound, [4]int{404, 400, 404, 404}, ""},
		{errNotBound, [4]int{403, 403, 403, 403}, ""},
		{notify.ErrDeclared, [4]int{409, 403, 409, 409}, ""},
		{ErrShared, [4]int{409, 403, 409, 409}, ""},
		{notify.ErrConflict, [4]int{412, 500, 409, 409}, ""},
		{notify.ErrLimit, [4]int{409, 403, 400, 409}, "notify.max_subscriptions"},
		{&quotaError{"this token has enough"}, [4]int{409, 403, 400, 409}, ""},
		{access.ErrTooMany, [4]int{409, 403, 400, 409}, ""},
		{errManyTests, [4]int{429, 429, 429, 429}, ""},
		{notify.ErrEventGone, [4]int{409, 409, 409, 409}, "notify.keep_events"},
		{notify.ErrCursor, [4]int{422, 400, 400, 400}, ""},
		{errors.New("secret"), [4]int{503, 500, 500, 503}, ""},
	} {
		for d, want := range tt.want {
			log.Reset()
			r := o.Explain(Dialect(d), fmt.Errorf("wrapped: %w", tt.err))
			failed := want >= 500
			if r.Status != want || (r.Kind == Failed) != failed || (log.Len() > 0) != failed || strings.Contains(r.Text, "wrapped") && failed {
				t.Errorf("%v in dialect %d: %+v, want %d; logged %q", tt.err, d, r, want, &log)
			}
			if hinted := strings.Contains(r.Text, "notify."); !failed && hinted != (tt.hint != "" && Dialect(d) != Page) || hinted && !strings.Contains(r.Text, tt.hint) {
				t.Errorf("%v in dialect %d: %q", tt.err, d, r.Text)
			}
		}
	}
}
