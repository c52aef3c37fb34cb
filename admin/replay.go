package admin

import (
	"context"
	"time"
)

// Replay is the body of a request to replay a time range. Package notify validates it.
type Replay struct {
	From  time.Time `json:"from,omitzero" doc:"Start of the time range: events published then or later"`
	To    time.Time `json:"to,omitzero" doc:"End of the time range, not included; default now"`
	Types []string  `json:"types,omitempty" nullable:"false" doc:"Only these event types; default those of the subscription"`
}

// Replayed is the answer to a Replay.
type Replayed struct {
	Events int `json:"events" doc:"Number of events in the time range; those still waiting are not sent twice"`
}

func (s *Server) replay(ctx context.Context, in *struct {
	ID   string `path:"id" doc:"ID of the subscription"`
	Body Replay
}) (*struct{ Body Replayed }, error) {
	events, err := s.replayRange(ctx, in.ID, in.Body)
	if err != nil {
		return nil, s.apiError(err)
	}
	return &struct{ Body Replayed }{Replayed{events}}, nil
}

// replayRange replays a time range for the request of ctx, see
// [notify.Notifier.Replay].
func (s *Server) replayRange(ctx context.Context, id string, what Replay) (events int, err error) {
	if _, err := s.visibleSubscription(ctx, id); err != nil {
		return 0, err
	}
	events, err = s.config.Notifier.Replay(ctx, id, what.From, what.To, what.Types)
	if err == nil {
		s.recordAudit(ctx, "replay", id, nil, what)
	}
	return events, err
}
