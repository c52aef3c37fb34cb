package admin

import (
	"context"
	"errors"
)

// failed reports whether bellhop could not do what a request asks for, so that its log
// must say why. A client that leaves cancels its request: that is no failure.
func isFailure(err error) bool { return !errors.Is(err, context.Canceled) }
