package admin

import (
	"context"

	"bellhop/notify"
)

// rotateSecret answers with the subscription and its new secret.
func (s *Server) rotateSecret(ctx context.Context, in *struct {
	ID      string `path:"id" doc:"ID of the subscription"`
	IfMatch string `header:"If-Match" doc:"Rotate only if the subscription still has this ETag"`
}) (*subscriptionResponse, error) {
	old, err := s.matchRevision(ctx, in.ID, in.IfMatch)
	if err != nil {
		return nil, s.apiError(err)
	}
	sub, err := s.rotateSigningSecret(ctx, in.ID, old)
	if err != nil {
		return nil, s.apiError(err)
	}
	return respondSubscription(sub), nil
}

// rotateSigningSecret rotates the secret for the request of ctx, see
// [notify.Notifier.RotateSecret].
func (s *Server) rotateSigningSecret(ctx context.Context, id string, revision uint64) (notify.Subscription, error) {
	before, err := s.visibleSubscription(ctx, id)
	if err != nil {
		return before, err
	}
	sub, err := s.config.Notifier.RotateSecret(ctx, id, revision)
	if err == nil {
		s.recordAudit(ctx, "rotate-secret", id, before, maskSecrets(sub))
	}
	return sub, err
}
