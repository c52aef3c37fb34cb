package admin

import (
	"context"
	"errors"
)

// failed reports whether bellhop could not do what a request asks for, so that its log
// must say why. A client that leaves cancels its request: that is no failure.
func failed(err error) bool { return !errors.Is(err, context.Canceled) }
