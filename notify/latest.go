package notify

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// Latest returns the newest events that q selects, newest first, at most Limit. It ignores
// Since and After. If few of very many events match, it searches only the end of the log.
func (n *Notifier) Latest(ctx context.Context, q Query) (events []dialog.Event, err error) {
	subjects := q.subjects()
	if len(subjects) == 0 {
		return nil, nil // a consumer without filters would read all
	}
	_, err = stream.ReadBackwards(ctx, n.events, subjects, 0, func(_ uint64, m jetstream.Msg) (bool, error) {
		var e dialog.Event
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			return false, fmt.Errorf("%s: %w", m.Subject(), err)
		}
		if q.matchesEvent(&e) {
			events = append(events, e)
		}
		return len(events) < q.Limit, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read bellhop_events: %w", err)
	}
	return events, nil
}
