package admin

import (
	"context"
	"time"
)

// A Replay is what a client asks to be delivered again. What it may be, notify
// knows.
type Replay struct {
	From  time.Time `json:"from,omitzero" doc:"What was said then or later"`
	To    time.Time `json:"to,omitzero" doc:"And before this; now, if it is left out"`
	Types []string  `json:"types,omitempty" nullable:"false" doc:"Of these types; those of the subscription, if it is left out"`
}

// A Replayed says what came of that.
type Replayed struct {
	Events int `json:"events" doc:"How many are delivered again, but for those that still wait to be delivered"`
}

func (s *Server) replay(ctx context.Context, in *struct {
	ID   string `path:"id"`
	Body Replay
}) (*struct{ Body Replayed }, error) {
	if _, err := s.subscription(ctx, in.ID); err != nil {
		return nil, s.problem(err)
	}
	events, err := s.config.Notifier.Replay(ctx, in.ID, in.Body.From, in.Body.To, in.Body.Types)
	if err != nil {
		return nil, s.problem(err)
	}
	s.audit(ctx, "replay", in.ID, nil, in.Body)
	return &struct{ Body Replayed }{Replayed{events}}, nil
}
