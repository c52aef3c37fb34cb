package admin

import (
	"context"

	"bellhop/notify"
)

// rotateSecret answers with the subscription and its new secret.
func (s *Server) rotateSecret(ctx context.Context, in *struct {
	ID      string `path:"id"`
	IfMatch string `header:"If-Match" doc:"Rotate only if the subscription still has this ETag"`
}) (*asked, error) {
	old, err := s.revision(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, s.problem(err)
	}
	sub, err := s.rotate(ctx, in.ID, old)
	if err != nil {
		return nil, s.problem(err)
	}
	return answer(sub), nil
}

// rotate makes a new secret for who makes the request of ctx, see
// [notify.Notifier.RotateSecret].
func (s *Server) rotate(ctx context.Context, id string, revision uint64) (notify.Subscription, error) {
	before, err := s.subscription(ctx, id)
	if err != nil {
		return before, err
	}
	sub, err := s.config.Notifier.RotateSecret(ctx, id, revision)
	if err == nil {
		s.audit(ctx, "rotate-secret", id, before, masked(sub))
	}
	return sub, err
}
