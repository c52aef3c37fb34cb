package admin

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"bellhop/admin/ops"
	"bellhop/notify"
)

// Clients disconnect before their answer is read from the store; the log has no
// failure.
func TestCanceledRequestIsNoFailure(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{context.Canceled, false},
		{fmt.Errorf("read bellhop_audit: %w", context.Canceled), false},
		{fmt.Errorf("read bellhop_audit: %w", context.DeadlineExceeded), true},
		{errors.New("no space left on device"), true},
	} {
		if got := ops.IsFailure(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}

	r := newRig(t, Config{})
	left, leave := context.WithCancel(t.Context())
	leave()
	for name, read := range map[string]func(*notify.Notifier) error{
		"events": func(n *notify.Notifier) error {
			_, _, err := n.Events(left, notify.Query{Limit: 10})
			return err
		},
		"tail": func(n *notify.Notifier) error {
			_, err := n.EventLog.Tail(left, notify.Query{})
			return err
		},
		"number": func(n *notify.Notifier) error {
			_, err := n.Numbers.Allot(left, "199")
			return err
		},
		"extensions": func(*notify.Notifier) error {
			_, err := r.server.ops.Extensions(left)
			return err
		},
	} {
		if err := read(r.notifier); err != nil && ops.IsFailure(err) {
			t.Errorf("%s: a client that leaves is a failure: %v", name, err)
		}
	}
}
