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
	sub, err := s.config.Notifier.RotateSecret(ctx, in.ID, old)
	if err != nil {
		return nil, s.problem(err)
	}
	s.log.Info("secret rotated", "subscriber", sub.ID, "extension", sub.Extension+sub.ExtensionRegex)
	return answer(sub), nil
}
