package admin

import "context"

// rotateSecret answers with the subscription and its new secret.
func (s *Server) rotateSecret(ctx context.Context, in *struct {
	ID      string `path:"id"`
	IfMatch string `header:"If-Match" doc:"The ETag that it must have still"`
}) (*asked, error) {
	old, err := revision(in.IfMatch)
	if err != nil {
		return nil, s.problem(err)
	}
	before, err := s.subscription(ctx, in.ID)
	if err != nil {
		return nil, s.problem(err)
	}
	sub, err := s.config.Notifier.RotateSecret(ctx, in.ID, old)
	if err != nil {
		return nil, s.problem(err)
	}
	s.audit(ctx, "rotate-secret", sub.ID, before, masked(sub))
	return answer(sub), nil
}
