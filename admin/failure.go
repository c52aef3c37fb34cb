package admin

import (
	"context"
	"errors"
)

// isFailure reports whether err is a failure that the log must explain. A client that
// disconnects cancels its request: that is none.
func isFailure(err error) bool { return !errors.Is(err, context.Canceled) }
